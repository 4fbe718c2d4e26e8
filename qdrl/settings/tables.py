"""Check tables of an experiment file against their models, with one-line errors.

Two things are accepted that pydantic refuses: a whole number written as a float (`1e6`), and a table of a union without
its `name`. Otherwise tables are read as strict JSON: no number out of a string or a truth value, but a list may become
a tuple.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, time
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError

from qdrl.errors import UserError
from qdrl.naming import nearest, suggest

_REPAIR_ROUNDS = 8  # each repairs all that it can
_MINIMUM_SIMILARITY = 0.75  # least similarity of a key in another table that is worth naming
_MAXIMUM_CHARACTERS = 80  # characters of a value in a message
_WORDS = {
    "tuple_type": "expected a list such as [10, 10]",
    "model_type": "expected a table",
    "model_attributes_type": "expected a table",
    "dict_type": "expected a table",
}


def check(model: type[BaseModel], data: Mapping[str, Any], table: str, elsewhere: Iterable[str] = ()) -> Any:
    """Return the model's instance for a table of an experiment file.

    Args:
        model: whose fields the table may have.
        data: the table as TOML reads it.
        table: its dotted name, for messages; empty for the whole file.
        elsewhere: dotted keys of other tables, to suggest.

    Raises:
        UserError: one line that names the key, what came and what was expected.
    """
    try:
        plain = json.loads(json.dumps(data))
    except TypeError as error:
        key = next(key for key, value in data.items() if not _is_plain(value))
        reason = "dates and times are not supported" if isinstance(data[key], date | time) else str(error)
        raise UserError(f"{table}.{key}: {reason}, got {data[key]}") from error
    adapter = TypeAdapter(model)
    return _validated(lambda: adapter.validate_json(json.dumps(plain), strict=True), model, plain, table, elsewhere)


def check_whole(model: type[BaseModel], data: Mapping[str, Any], elsewhere: Iterable[str] = ()) -> Any:
    """Return the model's instance for a whole file whose tables have been checked.

    Args:
        model: of the file.
        data: numbers and strings of its top level, instances of models for its tables.
        elsewhere: see `check`.

    Raises:
        UserError: see `check`.
    """
    adapter, plain = TypeAdapter(model), dict(data)
    return _validated(lambda: adapter.validate_python(plain, strict=True), model, plain, "", elsewhere)


def explain(
    error: ValidationError,
    model: type[BaseModel],
    data: Mapping[str, Any],
    table: str = "",
    elsewhere: Iterable[str] = (),
) -> str:
    """Return the first mistake that pydantic found, in one line with the nearest known name.

    Args:
        error: of the validation.
        model: that validated.
        data: what it validated.
        table: dotted name of the data in the message; empty for none.
        elsewhere: names outside of the data, to suggest.
    """
    return _explain(error.errors(include_url=False)[0], model, data, table, elsewhere)


def dotted_keys(model: type[BaseModel], table: str) -> list[str]:
    """Return all keys that a table may have, those of tables inside it included: `table.key`, `table.inner.key`."""
    keys = []
    for name, field in model.model_fields.items():
        keys.append(f"{table}.{name}")
        for inner in _models_in(field.annotation):
            keys += dotted_keys(inner, f"{table}.{name}")
    return list(dict.fromkeys(keys))


def unknown_key(place: str, here: Iterable[str], elsewhere: Iterable[str]) -> str:
    """Return the error for an unknown key, with the key that was probably meant.

    Args:
        place: the dotted key.
        here: keys that its table may have.
        elsewhere: dotted keys of all tables.
    """
    key = place.rpartition(".")[2]
    others = [other for other in elsewhere if other.rpartition(".")[2] == key]
    if others:
        return f"unknown key '{place}'; did you mean {' or '.join(repr(other) for other in others[:3])}?"
    here = list(here)
    if nearest(key, here) is None:
        last = {other.rpartition(".")[2]: other for other in elsewhere}
        if (near := nearest(key, last, cutoff=_MINIMUM_SIMILARITY)) is not None:
            return f"unknown key '{place}'; did you mean '{last[near]}'?"
    return f"unknown key '{place}'{suggest(key, here)}"


def fitting(kinds: Mapping[str, type[BaseModel]], keys: Iterable[str], default: str) -> str:
    """Return the one kind that has all these keys; the default where it has them, or where not exactly one does."""
    wanted = set(keys)
    fits = [name for name, kind in kinds.items() if wanted <= set(kind.model_fields)]
    return fits[0] if len(fits) == 1 else default


def _validated(validate: Any, model: type[BaseModel], data: Any, table: str, elsewhere: Iterable[str]) -> Any:
    for _ in range(_REPAIR_ROUNDS):
        try:
            return validate()
        except ValidationError as error:
            details = error.errors(include_url=False)
            repaired = [_repair(model, data, detail) for detail in details]
            if not any(repaired):
                raise UserError(_explain(details[0], model, data, table, elsewhere)) from error
    raise UserError(f"[{table}]: cannot be read")


def _repair(model: type[BaseModel], data: Any, detail: Mapping[str, Any]) -> bool:
    """Correct a value that a person would not call a mistake, and return whether it was one."""
    path = detail["loc"]
    holder, value = _holder(data, path), detail["input"]
    if detail["type"] in ("int_type", "int_from_float") and isinstance(value, float) and value.is_integer():
        holder[path[-1]] = int(value)
        return True
    if detail["type"] == "union_tag_not_found" and isinstance(value, dict) and "name" not in value:
        members, default = _members(model, path)
        if default is not None:
            value = holder[path[-1]]
            value["name"] = fitting(members, value, default)
            return True
    return False


def _members(model: type[BaseModel], path: Sequence[Any]) -> tuple[dict[str, type[BaseModel]], str | None]:
    """Members of the union at a place, by their name, and the name of the default one."""
    for kind in _models_at(model, path[:-1]):
        if (field := kind.model_fields.get(str(path[-1]))) is not None:
            members = {str(inner.model_fields["name"].default): inner for inner in _models_in(field.annotation)}
            return members, getattr(field.get_default(call_default_factory=True, validated_data={}), "name", None)
    return {}, None


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True


def _holder(data: Any, path: Sequence[Any]) -> Any:
    """Return the container of the value at a path. Pydantic's paths also name union members, which data lack."""
    for part in path[:-1]:
        if _has(data, part):
            data = data[part]
    return data


def _has(data: Any, part: Any) -> bool:
    return (isinstance(data, Mapping) and part in data) or (
        isinstance(data, list) and isinstance(part, int) and part < len(data)
    )


def _explain(detail: Mapping[str, Any], model: type[BaseModel], data: Any, table: str, elsewhere: Iterable[str]) -> str:
    """Return a mistake in one line: where it is, what came, what was expected."""
    path = list(detail["loc"])
    place = ".".join([*([table] if table else []), *_written(data, path)])
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return unknown_key(place, _known_keys(model, path[:-1]), elsewhere)
    if kind == "missing":
        return f"{place} is missing"
    if kind == "union_tag_invalid":
        return f"{place}.name: no '{context['tag']}'{suggest(context['tag'], _members(model, path)[0])}"
    reason = _WORDS.get(kind) or str(detail["msg"]).removeprefix("Value error, ")
    reason = f"{reason[0].lower()}{reason[1:]}"
    if isinstance(value, Mapping | BaseModel):  # a rule over several keys, which the reason names
        return f"{place}: {reason}" if place else reason
    text = repr(value)
    return f"{place}: {reason}, got {text if len(text) <= _MAXIMUM_CHARACTERS else text[:_MAXIMUM_CHARACTERS] + '...'}"


def _written(data: Any, path: Sequence[Any]) -> list[str]:
    """Return the path as the user wrote it, without the names of union members."""
    parts = []
    for index, part in enumerate(path):
        if _has(data, part):
            data = data[part]
        elif index < len(path) - 1:
            continue
        parts.append(str(part))
    return parts


def _known_keys(model: type[BaseModel], path: Sequence[Any]) -> list[str]:
    return [key for kind in _models_at(model, path) for key in kind.model_fields]


def _models_at(model: type[BaseModel], path: Sequence[Any]) -> list[type[BaseModel]]:
    """Models that are possible at a place: pydantic's paths name fields, and the tag of a union's member."""
    models = [model]
    for part in map(str, path):
        fields = [kind.model_fields[part] for kind in models if part in kind.model_fields]
        inner = [kind for field in fields for kind in _models_in(field.annotation)]
        tagged = [kind for kind in models if "name" in kind.model_fields and kind.model_fields["name"].default == part]
        models = inner or tagged or models
    return models


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Models that an annotation names, in a union, a tuple or alone."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
