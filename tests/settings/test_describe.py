"""Descriptions of settings: complete for every table of an experiment file, without internal names."""

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from qdrl.config import TABLES, describe_table, models_of
from qdrl.settings.base import SettingsModel
from qdrl.settings.describe import Setting, as_markdown, as_text, describe

MODELS = [
    pytest.param(model, id=f"{table} {name}".strip()) for table in TABLES for name, model in models_of(table).items()
]


class Inner(SettingsModel):
    name: Literal["inner"] = "inner"
    size: Annotated[int, Field(ge=1, le=4096)] = 7
    """Number of entries,
    in two lines."""


class Larger(Inner):
    size: Annotated[int, Field(ge=8)] = 8


class Other(SettingsModel):
    name: Literal["other"] = "other"


class Everything(SettingsModel):
    whole: Annotated[int, Field(ge=1)]
    """A number of things."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    maybe: bool | None = None
    word: Literal["a", "b"] = "a"
    shape: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (3, 4)
    pair: tuple[float, float] = (0.0, 1e-9)
    chosen: Annotated[Inner | Other, Field(discriminator="name")] = Inner()


@pytest.mark.parametrize("model", MODELS)
def test_every_setting_of_every_table_has_a_description_and_a_type(model: type[BaseModel]) -> None:
    settings = describe(model)
    assert settings
    assert [setting.key for setting in settings if not setting.description] == []
    for setting in settings:
        assert setting.description.endswith((".", ")")), setting
        assert not any(word in setting.type for word in ("typing", "<class", "Annotated", "qdrl")), setting


def test_keys_outside_all_tables_are_described_without_the_tables() -> None:
    assert [setting.key for setting in describe_table("experiment")[""]] == ["name", "title", "license", "seed"]


def test_a_description_states_key_type_bounds_default_and_meaning() -> None:
    found = {setting.key: setting for setting in describe(Everything)}
    assert found["whole"] == Setting("whole", "integer, at least 1", "required", "A number of things.")
    assert found["share"].type == "number, above 0, below 1"
    assert found["maybe"] == Setting("maybe", "boolean", "none", "")
    assert (found["word"].type, found["word"].default) == ('"a" or "b"', '"a"')
    assert found["shape"].type == "list of (integer, at least 1), at least 1 long"
    assert found["shape"].default == "[3, 4]"
    assert (found["pair"].type, found["pair"].default) == ("list of 2: number, number", "[0, 1e-09]")
    assert (found["chosen"].type, found["chosen"].default) == ("table", '"inner"')
    size = Setting(
        "chosen.size",
        "integer, at least 1, at most 4,096",
        "7",
        "Number of entries, in two lines.",
        'chosen.name = "inner"',
    )
    assert found["chosen.size"] == size


def test_a_field_that_a_subclass_redefines_keeps_its_description() -> None:
    size = describe(Larger)[1]
    assert (size.default, size.description) == ("8", "Number of entries, in two lines.")


def test_text_and_markdown_show_every_setting() -> None:
    settings = describe(Everything)
    text, markdown = as_text(settings), as_markdown(settings)
    assert "  whole: integer, at least 1; required\n      A number of things.\n" in text
    assert '  with chosen.name = "inner":\n    chosen.size: integer' in text
    assert len(markdown.splitlines()) == 2 + len(settings)
    assert (
        '| `chosen.size` | integer, at least 1, at most 4,096 | `7` | With `chosen.name = "inner"`. Number' in markdown
    )
