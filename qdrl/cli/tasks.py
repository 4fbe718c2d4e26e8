"""`qdrl tasks`."""

import json

import click


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(name: str | None, as_json: bool) -> None:
    """List the tasks, or describe the one NAMEd.

    \b
    Example:
      qdrl tasks
      qdrl tasks walker2d_uni
      qdrl tasks gym:Ant-v5
    """
    if name is not None and name.startswith("gym:"):
        _describe_environment(name.removeprefix("gym:"), as_json=as_json)
        return
    from qdrl.tasks.registry import make_task, task_names

    names = task_names() if name is None else (name,)
    described = [make_task(each).spec.describe() for each in names]
    if as_json:
        click.echo(json.dumps(described if name is None else described[0], indent=2))
    elif name is None:
        _list(described)
    else:
        _describe(described[0])


def _describe_environment(environment_id: str, *, as_json: bool) -> None:
    """Print what can be known of an environment without a descriptor."""
    from qdrl.tasks.environments.ids import describe_environment

    described = describe_environment(environment_id)
    if as_json:
        click.echo(json.dumps({name or "summary": text for name, text in described.items()}, indent=2))
    else:
        _print_lines(described)


def _print_lines(lines: dict[str, str]) -> None:
    for heading, text in lines.items():
        click.echo(f"{heading:<12}{text}")


def _list(tasks: list[dict]) -> None:
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


def _describe(task: dict) -> None:
    lines = {
        "task": task["name"],
        "": task["summary"],
        "fitness": f"{task['fitness_name']} (maximised; QD score offset {task['qd_offset']:g})",
        "descriptor": "\n            ".join(_axis(axis) for axis in task["axes"]),
        "episode": f"at most {task['episode_length']} steps",
        "observation": f"{task['observation']} = {task['observation_size']}" if task["observation_size"] else "none",
        "action": f"{task['action_size']} numbers in [-1, 1], stretched over the actuators' range"
        if task["action_size"]
        else "none: the genome is the solution",
        "start": task["initial_noise"],
        "reward": f"offset per step {_offset(task)}, for critics that need non-negative rewards (the rest is cut)",
        "options": json.dumps(task["options"]),
        "gymnasium": json.dumps(task["gymnasium"]) if task["gymnasium"] else "no twin",
    }
    _print_lines(lines)


def _axis(axis: dict) -> str:
    return f"{axis['name']} [{axis['unit']}] in {axis['lower']:g}..{axis['upper']:g}"


def _offset(task: dict) -> str:
    return "none" if task["reward_offset"] is None else f"{task['reward_offset']:g}"
