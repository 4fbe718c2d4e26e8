"""What an experiment file may say, and the one line a user gets when it says something else.

An experiment is TOML. Each table is checked by the model that owns it: the task's, the algorithm's, the policy's.
Nothing is written and no MPI is started before the whole file has passed.
"""

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic_core import to_jsonable_python

from qdrl.algorithms import algorithm_class
from qdrl.errors import UserError
from qdrl.naming import suggest
from qdrl.plain import from_json, to_json
from qdrl.policies.base import PolicySettings, policy_settings
from qdrl.policies.mlp import MlpSettings
from qdrl.tasks import settings_class

MOST_CELLS = 10_000_000


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GridSettings(_Settings):
    """A grid archive.

    Attributes:
        kind: "grid".
        shape: cells along each axis of the descriptor.
    """

    kind: Literal["grid"]
    shape: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]

    @field_validator("shape")
    @classmethod
    def _fits(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        if prod(shape) > MOST_CELLS:
            raise ValueError(f"at most {MOST_CELLS} cells in all")
        return shape


class CvtSettings(_Settings):
    """An archive of centroidal Voronoi cells.

    Attributes:
        kind: "cvt".
        cells: how many.
        centroid_seed: seed of the centroids alone, so that runs of different seeds share their cells.
        samples: uniform samples that k-means places the centroids by.
    """

    kind: Literal["cvt"] = "cvt"
    cells: Annotated[int, Field(ge=1, le=MOST_CELLS)] = 1024
    centroid_seed: Annotated[int, Field(ge=0)] = 0
    samples: Annotated[int, Field(ge=1, le=100_000_000)] = 50_000

    @model_validator(mode="after")
    def _enough_samples(self) -> "CvtSettings":
        if self.samples < self.cells:
            raise ValueError(f"archive.samples ({self.samples}) must be at least archive.cells ({self.cells})")
        return self


class NoveltySettings(_Settings):
    """An archive without cells, whose entries are let in by a rule; see `qdrl.archives.admission`.

    Attributes:
        kind: "novelty".
        k: neighbours that count for novelty: 15 (Lehman and Stanley 2011), 10 (NS-ES), 25 (GA-NS).
        rule: who is let in: "all" valid rows, each with a "probability", or those above a "threshold" of novelty.
        probability: the chance of each row.
        threshold: novelty that a row must exceed, in the units of the task's axes; 6 is for a maze 200 units wide.
        threshold_k: neighbours that count for the threshold; k when left out.
        adaptive: whether the threshold follows what enters.
        raise_above: more entries than this in a generation raise the threshold,
        raise_factor: by this factor.
        lower_after: so many generations without an entry lower it,
        lower_factor: by this factor,
        floor: but not below this.
        capacity: most entries held, the oldest are dropped; without it the archive grows as long as the run.
    """

    kind: Literal["novelty"]
    k: Annotated[int, Field(ge=1, le=1_000_000)] = 15
    rule: Literal["all", "probability", "threshold"] = "probability"
    probability: Annotated[float, Field(gt=0, le=1)] = 0.01
    threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 6.0
    threshold_k: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    adaptive: bool = True
    raise_above: Annotated[int, Field(ge=0)] = 4
    raise_factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.2
    lower_after: Annotated[int, Field(ge=1)] = 10
    lower_factor: Annotated[float, Field(gt=0, le=1)] = 0.95
    floor: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    capacity: Annotated[int, Field(ge=1, le=MOST_CELLS)] | None = None


class RunSettings(_Settings):
    """When a run ends and how often it is saved. It ends with the generation that reaches any of its budgets.

    Attributes:
        generations: budget of generations.
        evaluations: budget of evaluations.
        env_steps: budget of control steps in all worlds, those that only teach a critic included.
        frames: the same in frames of a game, where a control step takes several.
        target_fitness: end with the first generation in which an evaluation reaches it, a budget or not.
        minutes: budget of wall-clock time of the whole run, over all resumptions. The end then depends on the machine.
        job_minutes: wall-clock time of one job, since its start or resumption. A job that reaches it saves and exits
            with code 75; `qdrl resume` continues the run.
        max_failed_share: a generation ends the run with exit code 1 when a larger share of its evaluations failed. A
            generation in which all failed always does.
        checkpoint_seconds: time between checkpoints.
        log_seconds: time between progress lines.
        folder: where run folders go.
    """

    generations: Annotated[int, Field(ge=1)] | None = None
    evaluations: Annotated[int, Field(ge=1)] | None = None
    env_steps: Annotated[int, Field(ge=1)] | None = None
    frames: Annotated[int, Field(ge=1)] | None = None
    target_fitness: Annotated[float, Field(allow_inf_nan=False)] | None = None
    minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    job_minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    max_failed_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    checkpoint_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 60.0
    log_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 10.0
    folder: str = "runs"


class ComputeSettings(_Settings):
    """How each rank computes; of these only `device` changes results.

    Attributes:
        worlds: worlds a rank simulates at once.
        threads: threads a rank steps them with, on the CPU.
        device: where locomotion is simulated: "cpu", by C MuJoCo, as Gymnasium does bit for bit; "cuda", by MuJoCo Warp
            in float32, each rank of a node on the next GPU; "warp-cpu", the same on the CPU, slowly.
    """

    worlds: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    device: Literal["cpu", "cuda", "warp-cpu"] = "cpu"


class Experiment(_Settings):
    """A whole experiment, checked.

    Attributes:
        name: names the run folder.
        seed: the run's seed.
        task: the task's settings.
        policy: shape of the policies; unused where genomes are not policies.
        archive: its cells, or who is let in.
        algorithm: the algorithm's settings.
        run: budgets and intervals.
        compute: worlds and threads.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    task: BaseModel
    policy: PolicySettings = MlpSettings()
    archive: GridSettings | CvtSettings | NoveltySettings = CvtSettings()
    algorithm: BaseModel
    run: RunSettings
    compute: ComputeSettings = ComputeSettings()

    def resolved(self) -> dict[str, Any]:
        """Return all settings, defaults included, as TOML holds them; `qdrl.plain` writes them as JSON.

        Raises:
            pydantic_core.PydanticSerializationError: a settings class of a user's holds what neither can express.
        """
        plain = {
            key: value.model_dump(exclude_none=True) if isinstance(value, BaseModel) else value for key, value in self
        }
        return to_jsonable_python(plain, inf_nan_mode="constants")


def load_experiment(
    path: str | Path, overrides: Sequence[str] = (), seed: int | None = None, *, unset: Sequence[str] = ()
) -> Experiment:
    """Read and check an experiment file.

    Args:
        path: a TOML file.
        overrides: `table.key=value` each, the value written as in TOML (quotes around a string may be left out).
        seed: replaces the file's seed.
        unset: `table.key` each, settings of the file to remove; the default applies, for a budget none.

    Raises:
        UserError: one line that names the key and the nearest right one.
    """
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read experiment file {path}: {getattr(error, 'strerror', error)}") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not TOML: {error}") from error
    data.setdefault("name", path.resolve().parent.name if path.stem == "config" else path.stem)
    data = changed(data, overrides, unset)
    if seed is not None:
        data["seed"] = seed
    return parse_experiment(data)


def changed(data: dict[str, Any], overrides: Sequence[str] = (), unset: Sequence[str] = ()) -> dict[str, Any]:
    """Return nested settings with some removed and then others set; see `load_experiment`.

    Raises:
        UserError: a setting to remove is not there, or a text is not `table.key=value`.
    """
    data = deepcopy(data)
    for key in unset:
        _remove(data, key)
    for override in overrides:
        _apply(data, override)
    return data


def parse_experiment(data: Mapping[str, Any]) -> Experiment:
    """Check an experiment given as nested mappings, as TOML reads it.

    Raises:
        UserError: one line that names the key and the nearest right one, or a setting that a run could not store.
    """
    experiment = _parse(data)
    _check_storable(experiment)
    return experiment


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
    if unknown := [key for key in data if key not in Experiment.model_fields]:
        raise UserError(f"unknown key '{unknown[0]}'{suggest(unknown[0], Experiment.model_fields)}")
    task = _table(data, "task", required=True)
    algorithm = {"name": "map_elites"} | _table(data, "algorithm")
    sections = {
        "task": _check(settings_class(_name(task, "task")), task, "task"),
        "policy": _check(policy_settings(_table(data, "policy")), _table(data, "policy"), "policy"),
        "archive": _check(_archive_class(_table(data, "archive")), _table(data, "archive"), "archive"),
        "algorithm": _check(algorithm_class(_name(algorithm, "algorithm")).Settings, algorithm, "algorithm"),
        "run": _check(RunSettings, _table(data, "run"), "run"),
        "compute": _check(ComputeSettings, _table(data, "compute"), "compute"),
    }
    run = sections["run"]
    budgets = ("generations", "evaluations", "env_steps", "frames", "minutes")
    if all(getattr(run, name) is None for name in budgets):
        raise UserError(f"run: no budget; set one of {', '.join(f'run.{name}' for name in budgets)}")
    plain = {key: value for key, value in data.items() if not isinstance(value, Mapping)}
    return _check(Experiment, plain | sections, "")


def _table(data: Mapping[str, Any], key: str, *, required: bool = False) -> dict[str, Any]:
    if required and key not in data:
        raise UserError(f"table [{key}] is missing; it needs at least a name")
    table = data.get(key, {})
    if not isinstance(table, Mapping):
        raise UserError(f"'{key}' must be a table, got {table!r}")
    return dict(table)


def _name(table: Mapping[str, Any], key: str) -> str:
    name = table.get("name")
    if not isinstance(name, str):
        raise UserError(f"{key}.name must be a string, got {name!r}")
    return name


def _archive_class(table: Mapping[str, Any]) -> type[BaseModel]:
    kinds: dict[str, type[BaseModel]] = {"grid": GridSettings, "cvt": CvtSettings, "novelty": NoveltySettings}
    kind = str(table.get("kind", "cvt"))
    if kind not in kinds:
        raise UserError(f"archive.kind: no archive '{kind}'{suggest(kind, kinds)}")
    return kinds[kind]


def _check(model: type[BaseModel], data: Mapping[str, Any], table: str) -> Any:
    try:
        if model is Experiment:
            return TypeAdapter(model).validate_python(data, strict=True)
        # Strict as JSON is: no number out of a string or a truth value, but a list may become a tuple.
        return TypeAdapter(model).validate_json(json.dumps(data), strict=True)
    except TypeError as error:
        raise UserError(f"[{table}]: {error}; expected strings, numbers, truth values, lists and tables") from error
    except ValidationError as error:
        raise UserError(_explain(error, model, table)) from error


def _explain(error: ValidationError, model: type[BaseModel], table: str) -> str:
    """The first mistake in one line: where, what came, what was expected."""
    detail = error.errors(include_url=False)[0]
    path = [str(part) for part in detail["loc"]]
    place = ".".join(part for part in (table, *path) if part)
    if detail["type"] == "extra_forbidden":
        return f"unknown key '{place}'{suggest(path[-1], _known_keys(model, path[:-1]))}"
    if detail["type"] == "missing":
        return f"{place} is missing"
    reason = detail["msg"].removeprefix("Value error, ")
    return f"{place}: {reason[0].lower()}{reason[1:]}, got {detail['input']!r}"


def _known_keys(model: type[BaseModel], path: Iterable[str]) -> list[str]:
    """Keys that were possible at a place inside a model: pydantic names fields, and the tag of a union's member."""
    models = [model]
    for part in path:
        fields = [kind.model_fields[part] for kind in models if part in kind.model_fields]
        inner = [kind for field in fields for kind in get_args(field.annotation) or (field.annotation,)]
        tagged = [kind for kind in models if "name" in kind.model_fields and kind.model_fields["name"].default == part]
        models = [kind for kind in inner if isinstance(kind, type) and issubclass(kind, BaseModel)] or tagged or models
    return [key for kind in models for key in kind.model_fields]


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
            raise UserError(f"--set {override}: not a value; to remove the setting write --unset {name}") from None
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
