"""Overrides of an experiment file on the command line: `--set table.key=value` and `--unset table.key`."""

import tomllib
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from qdrl.errors import UserError
from qdrl.naming import suggest


def changed(data: dict[str, Any], overrides: Sequence[str] = (), unset: Sequence[str] = ()) -> dict[str, Any]:
    """Return nested settings with some removed and then others set.

    Args:
        data: nested mappings, as TOML reads them; not changed.
        overrides: `table.key=value` each, the value written as in TOML (quotes around a string may be left out).
        unset: `table.key` each, settings to remove.

    Raises:
        UserError: a setting to remove is not there, or a text is not `table.key=value`.
    """
    data = deepcopy(data)
    for key in unset:
        _remove(data, key)
    for override in overrides:
        _apply(data, override)
    return data


def _apply(data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not all(part.strip() for part in key.split(".")) or "\n" in override:
        raise UserError(f"--set {override!r}: expected table.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
        if value.lower() in ("", "none", "null"):
            name = key.strip()
            raise UserError(f"--set {override}: has no value; to remove the setting: --unset {name}") from None
    *tables, last = key.strip().split(".")
    for table in tables:
        data = data.setdefault(table, {})
        if not isinstance(data, dict):
            raise UserError(f"--set {override}: '{table}' is not a table")
    data[last] = value


def _remove(data: dict[str, Any], key: str) -> None:
    """Remove a setting that the data hold."""
    *tables, last = (part.strip() for part in key.split("."))
    for table in tables:
        data = data.get(table, {})
        if not isinstance(data, dict):
            raise UserError(f"--unset {key}: '{table}' is not a table")
    if last not in data:
        raise UserError(f"--unset {key}: the experiment does not set it{suggest(last, data)}")
    del data[last]
