"""Experiment files: their settings, and one-line errors for what does not fit.

An experiment is TOML. Each table is checked by the model that owns it: the task's, the algorithm's, the policy's.
Nothing is written and no MPI is started before the whole file has passed.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tomli_w
from pydantic import BaseModel, Field, field_validator
from pydantic_core import to_jsonable_python

from qdrl.algorithms.registry import algorithm_class, algorithm_names
from qdrl.archives.registry import ARCHIVES, archive_kind, archive_settings, refuse_keys_of_another_kind
from qdrl.archives.seals import is_hdf5
from qdrl.archives.settings import ArchiveSettings, CvtSettings
from qdrl.archives.strict_json import from_json, to_json
from qdrl.errors import UserError
from qdrl.naming import nearest, run_name, search_also, suggest
from qdrl.policies.settings import MlpSettings, PolicySettings, policy_settings
from qdrl.provenance.software import as_unicode
from qdrl.settings.base import SettingsModel
from qdrl.settings.describe import Setting, describe
from qdrl.settings.overrides import changed
from qdrl.settings.run import ComputeSettings, RunSettings
from qdrl.settings.tables import check, check_whole, dotted_keys, unknown_key
from qdrl.tasks.registry import settings_class, task_names


class Experiment(SettingsModel):
    """A whole experiment file."""

    name: str
    """Name of the run, which its folder gets: letters, digits, ".", "_" and "-". When left out, the name of the file
    (of its folder for `config.toml`), without accents and with "_" for every other character."""
    title: Annotated[str, Field(min_length=1)] | None = None
    """Name of the run for people, any text. When left out, the name of the file or folder where `name` differs from it.
    """
    license: Annotated[str, Field(min_length=1)] | None = None
    """Licence under which the files of the run may be used, as an SPDX expression such as "CC-BY-4.0". Files carry no
    licence when left out."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of all random numbers of the run."""
    task: BaseModel
    """Settings of the task."""
    policy: PolicySettings = MlpSettings()
    """Shape of the policies; not used by tasks whose genomes are not policies."""
    archive: ArchiveSettings = CvtSettings()
    """Kind and cells of the archive."""
    algorithm: BaseModel
    """Settings of the algorithm."""
    run: RunSettings
    """Budgets and intervals of the run."""
    compute: ComputeSettings = ComputeSettings()
    """Worlds, threads and device of each rank."""

    @field_validator("name")
    @classmethod
    def _is_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError("a run's name may have only letters, digits, '.', '_' and '-'; use title for other text")
        return name

    @property
    def task_name(self) -> str:
        """Name of the task, or reference of a user's."""
        task: Any = self.task  # every settings class of a task has the field
        return task.name

    @property
    def algorithm_name(self) -> str:
        """Name of the algorithm, or reference of a user's."""
        algorithm: Any = self.algorithm  # every settings class of an algorithm has the field
        return algorithm.name

    def resolved(self) -> dict[str, Any]:
        """Return all settings, defaults included, as TOML holds them; `qdrl.archives.strict_json` writes them as JSON.

        Raises:
            pydantic_core.PydanticSerializationError: a settings class of a user's holds what neither can express.
        """
        plain = {
            key: value.model_dump(exclude_none=True) if isinstance(value, BaseModel) else value
            for key, value in self
            if value is not None
        }
        return to_jsonable_python(plain, inf_nan_mode="constants")


def load_experiment(
    path: str | Path, overrides: Sequence[str] = (), seed: int | None = None, *, unset: Sequence[str] = ()
) -> Experiment:
    """Read and check an experiment file. Modules that it names are also searched in its folder.

    Args:
        path: a TOML file.
        overrides: `table.key=value` each, the value written as in TOML (quotes around a string may be left out).
        seed: replaces the file's seed.
        unset: `table.key` each, settings of the file to remove; the default applies, for a budget none.

    Raises:
        UserError: one line that names the key and the nearest right one.
    """
    path = Path(path)
    data = _read(path)
    display = as_unicode(path.resolve().parent.name if path.stem == "config" else path.stem)
    if "name" not in data:
        data["name"] = run_name(display)
        if data["name"] != display:
            data.setdefault("title", display)
    search_also(path.parent)
    data = changed(data, overrides, unset)
    if seed is not None:
        data["seed"] = seed
    return parse_experiment(data)


def parse_experiment(data: Mapping[str, Any]) -> Experiment:
    """Check an experiment given as nested mappings, as TOML reads it.

    Raises:
        UserError: one line that names the key and the nearest right one, or a setting that a run could not store.
    """
    experiment = _parse(data)
    _check_storable(experiment)
    return experiment


TABLES = {
    "experiment": "Keys outside all tables: name, title, license, seed.",
    "task": "What genomes are evaluated on; `qdrl tasks` lists the names.",
    "policy": "Shape of the policies.",
    "archive": "Kind and cells of the archive.",
    "algorithm": "What proposes genomes; `qdrl algorithms` lists the names.",
    "run": "Budgets and intervals of the run.",
    "compute": "Worlds, threads and device of each rank.",
}
"""Summary of each table of an experiment file."""


def models_of(table: str) -> dict[str, type[BaseModel]]:
    """Return the models of a table of an experiment file by what they are for: names of tasks, kinds of archives.

    Args:
        table: a name of `TABLES`. The key is empty where a table has one model.

    Raises:
        UserError: there is no such table.
    """
    match table:
        case "experiment":
            return {"": Experiment}
        case "task":
            names: dict[type[BaseModel], list[str]] = {}
            for name in (*task_names(), "gym:<id>", "atari:<game>"):
                names.setdefault(settings_class(name), []).append(name)
            return {", ".join(each): model for model, each in names.items()}
        case "policy":
            return {kind: policy_settings({"kind": kind}) for kind in ("mlp", "conv")}
        case "archive":
            return dict(ARCHIVES)
        case "algorithm":
            return {name: algorithm_class(name).Settings for name in algorithm_names()}
        case "run":
            return {"": RunSettings}
        case "compute":
            return {"": ComputeSettings}
    raise UserError(f"no table '{table}'{suggest(table, TABLES)}")


def describe_table(table: str) -> dict[str, list[Setting]]:
    """Return the settings of a table of an experiment file, by what they are for; see `models_of`.

    Raises:
        UserError: there is no such table.
    """
    described = {name: describe(model) for name, model in models_of(table).items()}
    if table != "experiment":
        return described
    return {"": [setting for setting in described[""] if setting.key not in TABLES and "." not in setting.key]}


def _check_storable(experiment: Experiment) -> None:
    """Refuse settings that config.toml and archives cannot hold: a run would be lost at its first save."""
    try:
        settings = experiment.resolved()
        stored = from_json(to_json(settings))
        again = _parse(tomllib.loads(tomli_w.dumps(settings))).resolved()
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"a setting cannot be stored as TOML and JSON: {reason}") from error
    for table, values in settings.items():
        if not to_json(values) == to_json(stored[table]) == to_json(again.get(table)):
            raise UserError(
                f"[{table}] cannot be stored: {values!r} is read back from config.toml as {again.get(table)!r}"
            )


def _parse(data: Mapping[str, Any]) -> Experiment:
    known = _all_keys(data)
    if unknown := [key for key in data if key not in Experiment.model_fields]:
        raise UserError(unknown_key(unknown[0], Experiment.model_fields, known))
    task = _table(data, "task", required=True)
    algorithm = {"name": "map_elites"} | _table(data, "algorithm")
    policy, archive = _table(data, "policy"), _table(data, "archive")
    kind = archive_kind(archive)
    refuse_keys_of_another_kind(archive, kind)
    sections = {
        "task": check(settings_class(_name(task, "task")), task, "task", known),
        "policy": check(policy_settings(policy), policy, "policy", known),
        "archive": check(archive_settings(kind), {"kind": kind} | archive, "archive", known),
        "algorithm": check(algorithm_class(_name(algorithm, "algorithm")).Settings, algorithm, "algorithm", known),
        "run": check(RunSettings, _table(data, "run"), "run", known),
        "compute": check(ComputeSettings, _table(data, "compute"), "compute", known),
    }
    run = sections["run"]
    budgets = ("generations", "evaluations", "env_steps", "frames", "minutes")
    if all(getattr(run, name) is None for name in budgets):
        raise UserError(f"run: no budget; set one of {', '.join(f'run.{name}' for name in budgets)}")
    plain = {key: value for key, value in data.items() if not isinstance(value, Mapping)}
    return check_whole(Experiment, plain | sections, known)


_MAIN_KEYS = {"task": "name", "algorithm": "name", "archive": "kind", "policy": "kind"}


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file in UTF-8, with or without a byte order mark."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(_cannot_read(path, error)) from error
    if is_hdf5(raw):
        raise UserError(f"{path} is an HDF5 file, not an experiment; to look into it: qdrl archive info {path}")
    try:
        return tomllib.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text; save it as UTF-8 (byte {error.start} is not)") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not TOML: {error}") from error


def _cannot_read(path: Path, error: OSError) -> str:
    """Return why an experiment file cannot be read, and what was probably meant."""
    inside = path / "config.toml"
    if not path.is_dir():
        near = nearest(path.name, [file.name for file in path.parent.glob("*.toml")])
        meant = f"; did you mean '{path.parent / near}'?" if near and near != path.name else ""
        return f"cannot read experiment file {path}: {error.strerror}{meant}"
    if any((path / name).exists() for name in ("checkpoint.h5", "archive.h5", "log.txt")):
        return f"{path} is a run folder; to continue it: qdrl resume {path}; to start a new run: qdrl evolve {inside}"
    return f"{path} is a folder; give the experiment file{f', {inside}' if inside.is_file() else ' in it'}"


def _table(data: Mapping[str, Any], key: str, *, required: bool = False) -> dict[str, Any]:
    if required and key not in data:
        raise UserError(f"table [{key}] is missing; it needs at least a name")
    table = data.get(key, {})
    if not isinstance(table, Mapping):
        main = _MAIN_KEYS.get(key)
        remedy = f"; set {key}.{main}={table}" if main and isinstance(table, str) else ""
        raise UserError(f"'{key}' must be a table, got {table!r}{remedy}")
    return dict(table)


def _name(table: Mapping[str, Any], key: str) -> str:
    name = table.get("name")
    if not isinstance(name, str):
        raise UserError(f"{key}.name must be a string, got {name!r}")
    return name


def _all_keys(data: Mapping[str, Any]) -> list[str]:
    """Return the dotted keys that the file may have, as far as the names of its task and algorithm are known."""
    models: dict[str, list[type[BaseModel]]] = {
        "run": [RunSettings],
        "compute": [ComputeSettings],
        "archive": list(ARCHIVES.values()),
        "policy": [MlpSettings],
    }
    for key, default, find in (
        ("task", "", settings_class),
        ("algorithm", "map_elites", lambda name: algorithm_class(name).Settings),
    ):
        table = data.get(key, {})
        try:
            models[key] = [find(str(table.get("name", default)))] if isinstance(table, Mapping) else []
        except UserError:  # reported when the table itself is checked
            models[key] = []
    keys = [each for table, kinds in models.items() for kind in kinds for each in dotted_keys(kind, table)]
    return list(dict.fromkeys(keys))
