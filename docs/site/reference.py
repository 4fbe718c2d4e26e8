"""Generate the reference pages: settings from their models, verbs from click, the Python API from the public names."""

import re
from collections.abc import Iterator
from dataclasses import replace

import click
from pydantic import BaseModel

import qdrl
from qdrl.cli import qdrl as command_line
from qdrl.config import TABLES, describe_table, models_of
from qdrl.settings.describe import Setting, as_markdown

API_SECTIONS = {
    "Tasks": ("make_task", "check_task", "task_names"),
    "Archives": ("Archive", "NoveltyArchive", "Grid", "CentroidalVoronoi", "open_archive", "StoredArchive", "novelty"),
    "Algorithms": ("Algorithm", "MapElites", "IsoLine", "Gaussian", "Candidates", "Evaluation", "Streams"),
    "Runs": ("Experiment", "evolve", "UserError"),
    "Analysis": ("replay", "reevaluate_elites", "reevaluate_actor", "ConditionedPolicy", "plot_heatmap"),
}


def pages() -> dict[str, str]:
    """Return the generated pages: path in the site -> Markdown."""
    return {"reference/settings.md": settings(), "reference/cli.md": verbs(), "reference/api.md": api()}


def settings() -> str:
    """Return the page of all settings of an experiment file."""
    parts = [
        "# Settings",
        "Every key of an experiment file. `qdrl settings TABLE` prints the same. A key that a table "
        "lacks has the default shown here; `none` means that it may be left out. The tables are generated from the "
        "models that check an experiment file.",
    ]
    for table in TABLES:
        models = models_of(table)
        parts.append("## Top level" if table == "experiment" else f"## `[{table}]`")
        for choice, described in describe_table(table).items():
            if choice:
                key = "kind" if table in ("policy", "archive") else "name"
                names = ", ".join(f'"{name}"' for name in choice.split(", "))
                parts.append(f"### `{table}.{key} = {names}`")
            parts += [_about(models[choice]), as_markdown(map(_escaped, described))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _about(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").partition("\n\n")[0].split())


def _escaped(setting: Setting) -> Setting:
    """Return the setting with Markdown's emphasis escaped outside of code."""
    parts = re.split(r"(`[^`]*`)", setting.description)
    text = "".join(part if part.startswith("`") else re.sub(r"([_*<])", r"\\\1", part) for part in parts)
    return replace(setting, description=text)


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
    """Return the page of the public names, which mkdocstrings fills from their docstrings."""
    placed = {name for names in API_SECTIONS.values() for name in names}
    others = tuple(sorted(set(qdrl.__all__) - placed - {"__version__"}))
    parts = [
        "# Python API",
        "Import every name below from `qdrl` itself: `from qdrl import Archive`. Other modules are internal and may "
        "change in any version.",
    ]
    for section, names in (API_SECTIONS | ({"Other": others} if others else {})).items():
        parts += [f"## {section}", *(_object(name) for name in names if name in qdrl.__all__)]
    return "\n\n".join(parts) + "\n"


def _object(name: str) -> str:
    found = getattr(qdrl, name)
    return f"::: {found.__module__}.{found.__qualname__}"
