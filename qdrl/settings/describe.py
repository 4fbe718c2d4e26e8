"""Describe settings models: key, type, bounds, default and meaning of every setting."""

import json
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Len, Lt, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

_WIDTH = 100  # characters of a line of text
_WORDS = {int: "integer", float: "number", str: "string", bool: "boolean", dict: "table", Any: "any value"}


@dataclass(frozen=True)
class Setting:
    """One setting of a model, or of a table inside it.

    Attributes:
        key: dotted name within the model's table, for example `critic.steps`.
        type: what a value may be, bounds included, for example `integer, at least 1`.
        default: the default as TOML writes it; "required" without one, "none" where the setting may be left out.
        description: the meaning of the setting; empty where its model states none.
        choice: the condition under which the setting exists, for example `variation.name = "gaussian"`; else empty.
    """

    key: str
    type: str
    default: str
    description: str
    choice: str = ""


def describe(model: type[BaseModel]) -> list[Setting]:
    """Return all settings of a model in their order, those of tables inside it after the table itself.

    Args:
        model: the model of a table, for example `algorithm_class("dcrl_map_elites").Settings`.
    """
    settings = []
    for name, field in model.model_fields.items():
        settings.append(Setting(name, _type_of(field), _default_of(field), _description_of(model, name)))
        inner = _models_in(field.annotation)
        for table in inner:
            choice = _choice_of(name, table) if len(inner) > 1 else ""
            for setting in describe(table):
                if choice and setting.key == "name":
                    continue
                inner_choice = f"{name}.{setting.choice}" if setting.choice else choice
                settings.append(replace(setting, key=f"{name}.{setting.key}", choice=inner_choice))
    return settings


def as_text(settings: Iterable[Setting], indent: str = "  ") -> str:
    """Return settings as text for a terminal: key, type and default in a line, the description below.

    Args:
        settings: see `describe`.
        indent: put before every line.
    """
    lines, choice = [], ""
    for setting in settings:
        if setting.choice != choice and setting.choice:
            lines.append(f"{indent}with {setting.choice}:")
        choice = setting.choice
        margin = indent + ("  " if choice else "")
        default = setting.default if setting.default == "required" else f"default {setting.default}"
        lines.append(f"{margin}{setting.key}: {setting.type}; {default}")
        lines += textwrap.wrap(
            setting.description, _WIDTH, initial_indent=f"{margin}    ", subsequent_indent=f"{margin}    "
        )
    return "\n".join(lines)


def as_markdown(settings: Iterable[Setting]) -> str:
    """Return settings as a Markdown table with one row a setting.

    Args:
        settings: see `describe`.
    """
    rows = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    for setting in settings:
        condition = f"With `{setting.choice}`. " if setting.choice else ""
        meaning = f"{condition}{setting.description}".replace("|", "\\|")
        rows.append(f"| `{setting.key}` | {setting.type} | `{setting.default}` | {meaning} |")
    return "\n".join(rows) + "\n"


def _description_of(model: type[BaseModel], name: str) -> str:
    """Return a field's description in one line; a field that a subclass redefines keeps that of its base."""
    for kind in model.__mro__:
        if issubclass(kind, BaseModel) and name in kind.model_fields and (text := kind.model_fields[name].description):
            return " ".join(text.split())
    return ""


def _choice_of(key: str, model: type[BaseModel]) -> str:
    tag = "name" if "name" in model.model_fields else "kind"
    if (field := model.model_fields.get(tag)) is None:
        return ""
    value = get_args(field.annotation)[0] if get_origin(field.annotation) is Literal else field.default
    return f"{key}.{tag} = {json.dumps(value)}"


def _default_of(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return _toml(field.get_default(call_default_factory=True, validated_data={}))


def _toml(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, BaseModel):
        name = type(value).model_fields.get("name")
        return "as below" if name is None else json.dumps(name.default)
    if isinstance(value, bool | str):
        return json.dumps(value)
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    return f"{value:g}" if isinstance(value, float) and abs(value) < 1e5 else str(value)


def _type_of(field: FieldInfo) -> str:
    return _with_bounds(_text(field.annotation), field.metadata)


def _text(annotation: Any) -> str:
    """Return a type in the words of TOML."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _with_bounds(_text(arguments[0]), _constraints(arguments[1:]))
    if origin is Literal:
        return " or ".join(json.dumps(value) for value in arguments)
    if origin in (Union, UnionType):
        kinds = list(dict.fromkeys(_text(argument) for argument in arguments if argument is not NoneType))
        return " or ".join(kinds)
    if origin in (tuple, list):
        if Ellipsis in arguments or origin is list:
            entry = _text(arguments[0])
            return f"list of ({entry})" if ", " in entry else f"list of {entry}"
        return f"list of {len(arguments)}: {', '.join(map(_text, arguments))}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    return _WORDS.get(origin or annotation) or getattr(annotation, "__name__", str(annotation))


def _constraints(metadata: Iterable[Any]) -> list[Any]:
    """Return the bounds among an annotation's metadata, those inside pydantic's fields included."""
    return [part for entry in metadata for part in (entry.metadata if isinstance(entry, FieldInfo) else [entry])]


def _with_bounds(text: str, constraints: Iterable[Any]) -> str:
    return ", ".join([text, *filter(None, map(_bound, constraints))])


def _bound(constraint: Any) -> str:
    words = {Ge: ("ge", "at least"), Gt: ("gt", "above"), Le: ("le", "at most"), Lt: ("lt", "below")}
    for kind, (name, word) in words.items():
        if isinstance(constraint, kind):
            limit = getattr(constraint, name)
            return f"{word} {limit:,.15g}" if abs(limit) < 2**62 else ""
    if isinstance(constraint, Len | MinLen) and constraint.min_length:
        return f"at least {constraint.min_length} long"
    return f"at most {constraint.max_length} long" if isinstance(constraint, MaxLen) else ""


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that an annotation names, in a union, a tuple or alone."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
