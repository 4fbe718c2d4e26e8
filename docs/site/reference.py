"""Generate the reference pages: settings from their models, verbs from click, the Python API from the public names."""

import re
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import qdrl
from qdrl.algorithms.registry import algorithm_class, algorithm_names
from qdrl.archives.registry import ARCHIVES
from qdrl.cli import qdrl as command_line
from qdrl.config import Experiment
from qdrl.policies.settings import ConvSettings, MlpSettings
from qdrl.tasks.registry import settings_class, task_names

API_SECTIONS = {
    "Tasks": ("make_task", "task_names"),
    "Archives": ("Archive", "NoveltyArchive", "Grid", "CentroidalVoronoi", "open_archive", "StoredArchive", "novelty"),
    "Algorithms": ("MapElites", "IsoLine", "Gaussian", "Candidates", "Evaluation", "Streams"),
    "Runs": ("Experiment", "evolve", "UserError"),
    "Analysis": ("replay", "reevaluate_elites", "reevaluate_actor", "ConditionedPolicy", "plot_heatmap"),
}
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
TYPES = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): ""}


def pages() -> dict[str, str]:
    """Return the generated pages: path in the site -> Markdown."""
    return {"reference/settings.md": settings(), "reference/cli.md": verbs(), "reference/api.md": api()}


def settings() -> str:
    """Return the page of all settings of an experiment file."""
    top = [
        "# Settings",
        "Generated from the models that check an experiment file. `qdrl algorithms NAME` and `qdrl tasks NAME` show "
        "one algorithm or task on the command line. A key that a table lacks has the default shown here.",
        "## Top level",
        _table(Experiment, leave_out=("task", "policy", "archive", "algorithm", "run", "compute")),
    ]
    tables = [
        "## `[task]`",
        *(_model(kind, f"`task.name = {names}`") for names, kind in _task_models()),
        "## `[policy]`",
        *(
            _model(kind, f'`policy.kind = "{get_args(kind.model_fields["kind"].annotation)[0]}"`')
            for kind in _policy_models()
        ),
        "## `[archive]`",
        *(_model(kind, f'`archive.kind = "{name}"`') for name, kind in sorted(ARCHIVES.items())),
        "## `[algorithm]`",
        *(_model(algorithm_class(each).Settings, f'`algorithm.name = "{each}"`') for each in sorted(algorithm_names())),
        "## `[run]`",
        _about(_only_model("run")),
        _table(_only_model("run")),
        "## `[compute]`",
        _about(_only_model("compute")),
        _table(_only_model("compute")),
    ]
    inner = ["## Tables inside tables", *(_model(kind, f"`{kind.__name__}`") for kind in _inner_models())]
    return "\n\n".join(part for part in [*top, *tables, *inner] if part) + "\n"


def _field(name: str) -> FieldInfo:
    return Experiment.model_fields[name]


def _only_model(name: str) -> type[BaseModel]:
    return _models(_field(name).annotation)[0]


def _task_models() -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield each settings class of a task with the names that it belongs to."""
    by_kind: dict[type[BaseModel], list[str]] = {}
    for name in [*task_names(), "gym:<id>", "atari:<game>"]:
        by_kind.setdefault(settings_class(name), []).append(f'"{name}"')
    for kind, names in by_kind.items():
        yield ", ".join(names), kind


def _policy_models() -> list[type[BaseModel]]:
    return [MlpSettings, ConvSettings]


def _inner_models() -> list[type[BaseModel]]:
    """Return the models of tables inside the algorithms' and tasks' tables, each once, with those inside them."""
    outer = [algorithm_class(name).Settings for name in algorithm_names()] + [kind for _, kind in _task_models()]
    found: dict[str, type[BaseModel]] = {}
    waiting = [inner for kind in [*outer, *_policy_models()] for inner in _inner(kind)]
    while waiting:
        kind = waiting.pop()
        if kind.__name__ not in found:
            found[kind.__name__] = kind
            waiting += _inner(kind)
    return [found[name] for name in sorted(found)]


def _inner(kind: type[BaseModel]) -> list[type[BaseModel]]:
    return [model for field in kind.model_fields.values() for model in _models(field.annotation)]


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _model(kind: type[BaseModel], heading: str) -> str:
    return f"### {heading}\n\n{_about(kind)}\n\n{_table(kind)}"


def _about(kind: type[BaseModel]) -> str:
    return (kind.__doc__ or "").partition("\n\n    ")[0].partition("\n\nAttributes:")[0].replace("\n    ", " ").strip()


def _table(kind: type[BaseModel], leave_out: tuple[str, ...] = ()) -> str:
    """Return the Markdown table of a model's fields."""
    described = _descriptions(kind)
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in kind.model_fields.items():
        if name not in leave_out:
            cells = (f"`{name}`", _type(field), _default(field), _escaped(field.description or described.get(name, "")))
            rows.append("| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |")
    return "\n".join(rows)


def _escaped(text: str) -> str:
    """Escape Markdown's emphasis outside of code."""
    return "".join(
        part if part.startswith("`") else re.sub(r"([_*<])", r"\\\1", part) for part in re.split(r"(`[^`]*`)", text)
    )


def _descriptions(kind: type[BaseModel]) -> dict[str, str]:
    """Return what the docstrings of a model and its bases say of each field, under `Attributes:`."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        section = re.search(
            r"\n\s*(?:Attributes|Args):\n(.*?)(?:\n\s*\n|\Z)", each.__dict__.get("__doc__") or "", re.DOTALL
        )
        for entry in re.finditer(
            r"^( {4,8})(\w+): (.*(?:\n\1 +.*)*)", section.group(1) if section else "", re.MULTILINE
        ):
            found[entry.group(2)] = entry.group(3)
    return found


def _type(field: FieldInfo) -> str:
    limits = [
        f"{words} {getattr(bound, short):,}"
        for bound in field.metadata
        for short, words in BOUNDS.items()
        if getattr(bound, short, None) is not None
    ]
    return " ".join([_type_name(field.annotation), ", ".join(limits)]).strip()


def _type_name(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in TYPES:
        return TYPES[annotation]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[table](#{annotation.__name__.lower()})"
    if origin is Literal:
        return ", ".join(f'"{value}"' if isinstance(value, str) else str(value) for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(name for name in map(_type_name, arguments) if name)
    if origin in (tuple, list):
        return f"list of {' and '.join(dict.fromkeys(_type_name(part) for part in arguments if part is not ...))}s"
    if origin is dict:
        return "table"
    return _type_name(arguments[0]) if arguments else getattr(annotation, "__name__", str(annotation))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None:
        return "none"
    if isinstance(value, BaseModel):
        name = getattr(value, "name", None)
        return f'`{{ name = "{name}" }}`' if name else "its defaults"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple | list):
        return f"`{list(value)}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value!r}`"


def verbs() -> str:
    """Return the page of all verbs, from the help that `qdrl VERB --help` prints."""
    parts = ["# Command line", "Generated from `qdrl --help` and `qdrl VERB --help`."]
    for path, command in _commands(command_line, "qdrl"):
        context = click.Context(command, info_name=path, terminal_width=100, max_content_width=100)
        parts += [f"## `{path}`", f"```text\n{command.get_help(context)}\n```"]
    return "\n\n".join(parts) + "\n"


def _commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """Yield a command and those inside it, with the words that call each."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None:
                yield from _commands(inner, f"{path} {name}")


def api() -> str:
    """Return the page of the public names, which mkdocstrings fills from their docstrings.

    Raises:
        ValueError: a public name has no section, or a section a name that is not public.
    """
    public, placed = set(qdrl.__all__) - {"__version__"}, {name for names in API_SECTIONS.values() for name in names}
    if public != placed:
        raise ValueError(f"API_SECTIONS of {__file__}: add or remove {sorted(public ^ placed)}")
    parts = [
        "# Python API",
        "Import every name below from `qdrl` itself: `from qdrl import Archive`. Other modules are internal and may "
        "change in any version.",
    ]
    for section, names in API_SECTIONS.items():
        parts += [f"## {section}", *(_object(name) for name in names)]
    return "\n\n".join(parts) + "\n"


def _object(name: str) -> str:
    found = getattr(qdrl, name)
    return f"::: {found.__module__}.{found.__qualname__}"
