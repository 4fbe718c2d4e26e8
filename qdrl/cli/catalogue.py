"""Descriptions of the built-in tasks and algorithms in JSON files, so that listing them imports no torch.

`tasks.json` holds each task's description, `algorithms.json` each algorithm's settings. After a task, an algorithm or
its settings changed, `python -m qdrl.cli.catalogue` writes both files again. A test compares them with the code.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qdrl.settings.describe import Setting, describe

_FOLDER = Path(__file__).parent


def read_tasks() -> list[dict[str, Any]]:
    """Return the description of each built-in task, see `qdrl.tasks.base.TaskSpec.describe`."""
    return _read("tasks")


def read_algorithms() -> dict[str, list[Setting]]:
    """Return the settings of each built-in algorithm by its name."""
    return {name: [Setting(**each) for each in settings] for name, settings in _read("algorithms").items()}


def make_tasks() -> list[dict[str, Any]]:
    """Build each built-in task and return their descriptions as JSON holds them. Imports torch."""
    from qdrl.tasks.registry import make_task, task_names

    return json.loads(json.dumps([make_task(name).spec.describe() for name in task_names()]))


def make_algorithms() -> dict[str, list[Setting]]:
    """Return the settings of each built-in algorithm from its class. Imports torch."""
    from qdrl.algorithms.registry import algorithm_class, algorithm_names

    return {name: describe(algorithm_class(name).Settings) for name in algorithm_names()}


def _read(name: str) -> Any:
    return json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def _write(name: str, content: Any) -> None:
    (_FOLDER / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Write both files."""
    _write("tasks", make_tasks())
    algorithms = make_algorithms()
    _write("algorithms", {name: [asdict(each) for each in settings] for name, settings in algorithms.items()})


if __name__ == "__main__":
    main()
