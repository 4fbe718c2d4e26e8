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
    "Archives": (
        "Archive",
        "NoveltyArchive",
        "Grid",
        "CentroidalVoronoi",
        "open_archive",
        "StoredArchive",
        "Offsets",
        "novelty",
    ),
    "Algorithms": ("Algorithm", "MapElites", "IsoLine", "Gaussian", "Candidates", "Evaluation", "Streams"),
    "Runs": ("Experiment", "evolve", "UserError"),
    "Analysis": (
        "replay",
        "reevaluate_elites",
        "reevaluate_actor",
        "reevaluate_champion",
        "ConditionedPolicy",
        "plot_heatmap",
        "figure_of_heatmap",
    ),
}
"""Names that `qdrl` exports, by section."""

EXTENSION_SECTIONS = {
    "Writing a task": (
        "qdrl.tasks.base.Task",
        "qdrl.tasks.base.TaskSpec",
        "qdrl.tasks.base.TaskSetup",
        "qdrl.tasks.settings.TaskSettings",
        "qdrl.tasks.functions.FunctionTask",
        "qdrl.tasks.episodic.EpisodicTask",
        "qdrl.tasks.episodes.worlds.EpisodeWorlds",
        "qdrl.tasks.locomotion.robot.Robot",
        "qdrl.tasks.locomotion.robot.RobotSettings",
        "qdrl.tasks.locomotion.robot.Step",
        "qdrl.tasks.locomotion.behaviour.Behaviour",
        "qdrl.archives.axes.Axis",
        "qdrl.evaluation.evaluated",
        "qdrl.streams.generator_from_seed",
        "qdrl.physics.STATE_FIELDS",
    ),
    "Writing an algorithm": (
        "qdrl.parallel.exchange.Exchange",
        "qdrl.parallel.exchange.LOCAL",
        "qdrl.settings.base.SettingsModel",
        "qdrl.streams.Purpose",
        "qdrl.streams.UserPurpose",
    ),
    "Writing an archive": (
        "qdrl.archives.settings.ArchiveSettings",
        "qdrl.archives.settings.ArchiveRequest",
        "qdrl.archives.base.AnyArchive",
        "qdrl.archives.admission.Rule",
        "qdrl.archives.admission.Threshold",
        "qdrl.archives.admission.Adaptation",
    ),
    "Writing a verb": (
        "qdrl.cli.qdrl",
        "qdrl.cli.archive.paths.archive_argument",
        "qdrl.cli.archive.facts.axes_of",
        "qdrl.cli.archive.facts.elite_of",
        "qdrl.cli.archive.facts.print_elites",
        "qdrl.cli.archive.printing.print_json",
        "qdrl.cli.archive.printing.print_table",
        "qdrl.cli.numbers.Integer",
    ),
    "Running experiments from Python": (
        "qdrl.config.load_experiment",
        "qdrl.run.start.start",
        "qdrl.run.resume.resume",
        "qdrl.run.resume.load",
        "qdrl.run.job.Outcome",
    ),
}
"""Names that the guides import from modules of `qdrl`, by section."""


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
        "Import the names of the first part from `qdrl` itself: `from qdrl import Archive`. Import those under "
        "[Extending qdrl](#extending-qdrl) from the module that is shown with them: `from qdrl.archives.axes import "
        "Axis`. All other names are internal and may change in any version.",
    ]
    for section, names in (API_SECTIONS | ({"Other": others} if others else {})).items():
        parts += [f"## {section}", *(_object(name) for name in names if name in qdrl.__all__)]
    parts += ["## Extending qdrl", "The [guides](../how-to/index.md) show how to use these names."]
    for section, paths in EXTENSION_SECTIONS.items():
        parts += [f"### {section}", *(f"::: {path}\n{_FULL_PATH}" for path in paths)]
    return "\n\n".join(parts) + "\n"


_FULL_PATH = "    options:\n      heading_level: 4\n      show_root_full_path: true"


def _object(name: str) -> str:
    found = getattr(qdrl, name)
    return f"::: {found.__module__}.{found.__qualname__}"
