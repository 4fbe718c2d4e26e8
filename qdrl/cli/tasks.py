"""`qdrl tasks`."""

import json
import traceback
from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--check", is_flag=True, help="Check that the task keeps its contract.")
def command(name: str | None, as_json: bool, check: bool) -> None:
    """List the built-in tasks, or describe the task NAME and its settings.

    With --check, NAME may also be an experiment file, whose settings of the task and the policy are used.

    \b
    Example:
      qdrl tasks
      qdrl tasks walker2d_uni
      qdrl tasks gym:Ant-v5
      qdrl tasks cart:Cart --check
    """
    if check:
        _check(name)
    elif name is None:
        _list(as_json=as_json)
    elif name.startswith("gym:"):
        _describe_environment(name, as_json=as_json)
    else:
        _describe(name, as_json=as_json)


def _check(name: str | None) -> None:
    """Check a task, by its name or as an experiment file sets it."""
    from qdrl.errors import UserError

    if name is None:
        raise UserError("--check needs the name of a task or an experiment file: qdrl tasks NAME --check")
    from qdrl.config import load_experiment
    from qdrl.tasks.base import TaskSetup
    from qdrl.tasks.check import check_task
    from qdrl.tasks.registry import build_task, make_task

    try:
        if name.endswith(".toml"):
            experiment = load_experiment(name)
            setup = TaskSetup(policy=experiment.policy, **experiment.compute.model_dump())
            task = build_task(experiment.task, setup)
        else:
            task = make_task(name)
        click.echo(f"ok: {task.spec.name}: {check_task(task)}")
    except UserError:
        raise
    except Exception as error:
        raise UserError(_line_that_raised(error)) from error


def _line_that_raised(error: Exception) -> str:
    """Return where in the user's code an exception came from, and what it says, in one line."""
    package = Path(__file__).parents[1]
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not Path(frame.filename).is_relative_to(package)]
    users = [frame for frame in own if "site-packages" not in frame.filename and Path(frame.filename).is_file()]
    place = (users or frames)[-1]
    text = " ".join(str(error).split())
    return f"{place.filename}:{place.lineno} in {place.name}: {type(error).__name__}: {text}"


def _list(*, as_json: bool) -> None:
    from qdrl.cli.catalogue import read_tasks

    tasks = read_tasks()
    if as_json:
        click.echo(json.dumps(tasks, indent=2))
    else:
        _print_table(tasks)


def _describe(name: str, *, as_json: bool) -> None:
    task = _description_of(name)
    if as_json:
        click.echo(json.dumps(task, indent=2))
        return
    lines = {
        "task": task["name"],
        "": task["summary"],
        "fitness": f"{task['fitness_name']} (maximised; QD score: {_offsets(task)})",
        "descriptor": "\n            ".join(_axis(axis) for axis in task["axes"]),
        "episode": f"at most {task['episode_length']} steps",
        "observation": f"{task['observation']} = {task['observation_size']}" if task["observation_size"] else "none",
        "action": f"{task['action_size']} numbers in [-1, 1], scaled to the range of the actuators"
        if task["action_size"]
        else "none: the genome is the solution",
        "start": task["initial_noise"],
        "reward": f"offset per step {_offset(task)}, for critics that need non-negative rewards (the rest is cut)",
        "gymnasium": json.dumps(task["gymnasium"]) if task["gymnasium"] else "no environment with the same physics",
    }
    _print_lines(lines)
    _print_settings(name)


def _description_of(name: str) -> dict[str, Any]:
    """Return the description of a task; only a task that is not built in is imported and made."""
    from qdrl.cli.catalogue import read_tasks
    from qdrl.tasks.registry import make_task, settings_class

    settings_class(name)  # an unknown name is an error before torch is imported
    built_in = {task["name"]: task for task in read_tasks()}
    return built_in[name] if name in built_in else make_task(name).spec.describe()


def _describe_environment(name: str, *, as_json: bool) -> None:
    """Print what is known of a Gymnasium environment without a descriptor function."""
    from qdrl.tasks.environments.ids import describe_environment

    described = describe_environment(name.removeprefix("gym:"))
    if as_json:
        click.echo(json.dumps({name or "summary": text for name, text in described.items()}, indent=2))
    else:
        _print_lines(described)
        _print_settings(name)


def _print_settings(name: str) -> None:
    from qdrl.settings.describe import as_text, describe
    from qdrl.tasks.registry import settings_class

    click.echo(f"\nSettings of [task]:\n{as_text(describe(settings_class(name)))}")


def _print_lines(lines: dict[str, str]) -> None:
    for heading, text in lines.items():
        click.echo(f"{heading:<12}{text}")


def _print_table(tasks: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("task", "observation", "action", "steps", "reward offset", "descriptor"):
        table.add_column(heading, no_wrap=heading in ("task", "descriptor"))
    for task in tasks:
        table.add_row(
            task["name"],
            str(task["observation_size"] or "-"),
            str(task["action_size"] or "-"),
            str(task["episode_length"]),
            _offset(task),
            escape("\n".join(_axis(axis) for axis in task["axes"])),
        )
    console = Console()
    console.width = max(console.width, 120)
    console.print(table)
    click.echo("\ngym:<id>         any Gymnasium environment; needs task.descriptor and task.axes")
    click.echo("atari:<game>     any Atari game, as in atari:frostbite; needs the extra 'atari'")


def _axis(axis: dict[str, Any]) -> str:
    return f"{axis['name']} [{axis['unit']}] in {axis['lower']:g}..{axis['upper']:g}"


def _offsets(task: dict[str, Any]) -> str:
    from qdrl.archives.statistics import Offsets

    return str(Offsets(task["qd_offset"], task["step_offset"], task["included_offset"]))


def _offset(task: dict[str, Any]) -> str:
    return "none" if task["reward_offset"] is None else f"{task['reward_offset']:g}"
