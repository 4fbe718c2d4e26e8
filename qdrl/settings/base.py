"""The base of all settings models."""

from pydantic import BaseModel, ConfigDict


class SettingsModel(BaseModel):
    """A table of an experiment file: immutable, without unknown keys.

    The string under a field is its description. `qdrl settings`, `qdrl algorithms NAME`, `qdrl tasks NAME` and the
    settings reference show it:

        class MySettings(SettingsModel):
            batch_size: int = 256
            \"\"\"Genomes a generation.\"\"\"
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
