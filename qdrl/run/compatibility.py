"""Refuse to continue a run whose results would mix two experiments: other settings, other policies, other code."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from qdrl.archives.stored import StoredArchive
from qdrl.archives.strict_json import from_json, to_json
from qdrl.config import Experiment
from qdrl.errors import UserError
from qdrl.provenance.source_code import changed_sources
from qdrl.run.build import Parts
from qdrl.tasks.registry import is_users_task


def refuse_another_experiment(before: Mapping[str, Any], experiment: Experiment, file: str) -> None:
    """Raise an error for settings that differ from the file's. The tables run and compute and the licence may change.

    Args:
        before: the settings that the file stores.
        experiment: the settings of the run that continues.
        file: what the error calls the file.

    Raises:
        UserError: a setting differs, or the device of the physics does.
    """
    now = from_json(to_json(experiment.resolved()))
    device = before.get("compute", {}).get("device", "cpu")
    if device != experiment.compute.device:
        raise UserError(
            f"compute.device: the {file} was made on '{device}', whose results differ from those of"
            f" '{experiment.compute.device}'; start a new run instead"
        )
    for table in sorted({*before, *now} - {"run", "compute", "license"}):
        old, new = before.get(table), now.get(table)
        old = _with_later_settings(old, new, getattr(experiment, table, None))
        if table == "task" and isinstance(old, dict) and isinstance(new, dict) and _made_later(old, new):
            old = old | {"name": new.get("name")}
        if to_json(_ordered(old)) != to_json(_ordered(new)):  # NaN equals itself there
            raise UserError(
                f"config.toml differs from the {file} in '{table}': {new!r}, it was {old!r};"
                " resuming would mix two experiments, start a new run instead"
            )


def refuse_other_evaluations(stored: StoredArchive, parts: Parts, *, accept_changed_code: bool) -> list[str]:
    """Raise an error if evaluations would differ from those of the stored run.

    Args:
        stored: the run's file.
        parts: the parts of the run that continues.
        accept_changed_code: accept that the source of the user's own code has changed.

    Returns:
        The names of changed code that was accepted.

    Raises:
        UserError: policies have another output function, or code has changed and that is not accepted.
    """
    before, now = stored.meta.get("policy") or {}, parts.task.describe_policy() or {}
    if before.get("output") != now.get("output"):
        raise UserError(
            f"the stored policies have policy.output '{before.get('output')}', this version gives them"
            f" '{now.get('output')}', as all policies of discrete actions since archive format 1.2; start a new run"
        )
    names = changed_sources(stored.meta.get("code"), parts.code)
    model = stored.meta.get("mjcf"), stored.meta.get("assets") or {}
    if is_users_task(parts.task.spec.name) and model != (parts.task.mjcf, dict(parts.task.assets)):
        names.append("the MuJoCo model")
    if names and not accept_changed_code:
        raise UserError(
            f"the source of {', '.join(names)} has changed since the run was saved: resuming would mix two experiments;"
            " restore it, start a new run, or add --accept-changed-code"
        )
    return names


def notes_on_code(names: Sequence[str]) -> list[str]:
    """Return the log line about accepted changed code; no line without such code."""
    if not names:
        return []
    return [
        f"the source of {', '.join(names)} has changed since the run was saved: earlier and later elites are evaluated"
        " by different code"
    ]


def _with_later_settings(old: Any, new: Any, settings: Any) -> Any:
    """Return a stored table with the settings that a later version added, where the experiment has their defaults.

    Args:
        old: the table in the file.
        new: the table of the experiment that continues.
        settings: the same as an instance of its settings class.
    """
    if not (isinstance(old, Mapping) and isinstance(new, Mapping) and isinstance(settings, BaseModel)):
        return old
    chosen = settings.model_dump(exclude_defaults=True)
    later = {name: value for name, value in new.items() if name not in old and name not in chosen}
    known = {
        name: _with_later_settings(value, new.get(name), getattr(settings, name, None)) for name, value in old.items()
    }
    return {**known, **later}


def _made_later(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Return whether the names of two tasks differ only in the version, which files before format 1.2 may lack."""
    return re.fullmatch(re.escape(str(old.get("name"))) + r"-v\d+", str(new.get("name"))) is not None


def _ordered(value: Any) -> Any:
    """Return a value with the keys of its mappings in order."""
    if isinstance(value, Mapping):
        return {name: _ordered(value[name]) for name in sorted(value)}
    return [_ordered(entry) for entry in value] if isinstance(value, list | tuple) else value
