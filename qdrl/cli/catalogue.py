"""Descriptions of the built-in tasks in tasks.json, so that `qdrl tasks` builds no task and imports no torch.

After a task was added or changed, `python -m qdrl.cli.catalogue` writes the file again. A test compares the two.
"""

import json
from pathlib import Path
from typing import Any

_PATH = Path(__file__).with_name("tasks.json")


def read_catalogue() -> list[dict[str, Any]]:
    """Return the description of each built-in task, see `qdrl.tasks.base.TaskSpec.describe`."""
    return json.loads(_PATH.read_text(encoding="utf-8"))


def make_catalogue() -> list[dict[str, Any]]:
    """Build each built-in task and return their descriptions as JSON holds them."""
    from qdrl.tasks.registry import make_task, task_names

    return json.loads(json.dumps([make_task(name).spec.describe() for name in task_names()]))


if __name__ == "__main__":
    _PATH.write_text(json.dumps(make_catalogue(), indent=1) + "\n", encoding="utf-8")
