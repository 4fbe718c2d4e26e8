"""Decode a stored archive: its task, its policies, the weights of its genomes."""

import os
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from qdrl.analysis.permissions import Permission
from qdrl.archives.lineages import StoredLineages
from qdrl.archives.stored import StoredArchive
from qdrl.compute.arithmetic import BLAS, Arithmetic
from qdrl.errors import UserError
from qdrl.genomes.ancestry import Ancestry, Lineage
from qdrl.genomes.lineage_weights import Decoder, Initial, Offspring
from qdrl.genomes.noise import KeyedNoise, TableNoise, source_for
from qdrl.physics.mjcf import ModelSource, stored_source
from qdrl.policies.base import make_policy
from qdrl.policies.conv import Conv
from qdrl.policies.mlp import Mlp
from qdrl.policies.settings import ConvSettings, policy_settings
from qdrl.tasks.base import Task, TaskSetup
from qdrl.tasks.registry import is_users_task, make_task

# Arguments of `make_task` that are not options of a task.
_RESERVED = {item.name for item in fields(TaskSetup)}


def policy_of(archive: StoredArchive) -> Mlp | Conv:
    """Return the policy that an archive's genomes are weights of.

    Raises:
        UserError: its genomes are not policies, or the file does not describe them completely.
    """
    policy = archive.meta.get("policy")
    if policy is None:
        raise UserError(f"{archive.path}: its genomes are not policies")
    try:
        settings = policy_settings(policy)(**_shape(policy))
        inputs, *_, outputs = policy["layers"]
        channels, height, width = policy.get("image") or (0, 0, 0)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError("/meta/policy: the description of the policies is incomplete") from error
    image = (channels, height, width) if channels else None
    return make_policy(settings, inputs, outputs, image, arithmetic_of(archive))


def task_of(
    archive: StoredArchive, worlds: int = 1, *, allow_code: bool = False, code_from: str | Path | None = None
) -> Task:
    """Return the task on which an archive was made, with its policies.

    Args:
        archive: whose task.
        worlds: number of worlds simulated at once.
        allow_code: import and run the code that the file names: descriptor functions, modules of environments.
        code_from: a folder that is searched first for these modules; implies `allow_code`.

    Raises:
        UserError: the file does not describe the task, this installation cannot make it, or it needs code that is not
            allowed.
    """
    task, policy = archive.meta.get("task") or {}, archive.meta.get("policy")
    permission = Permission(allow_code, code_from)
    try:
        options = dict(task["options"])
        name, shape = str(options.pop("name")), None if policy is None else _shape(policy)
    except (KeyError, TypeError) as error:
        raise UserError("/meta/task, /meta/policy: the description of task and policies is incomplete") from error
    if reserved := options.keys() & _RESERVED:
        raise UserError(f"/meta/task: options may not set {', '.join(sorted(reserved))}")
    permission.require(task["options"])
    arithmetic = arithmetic_of(archive)
    with permission.searching():
        made = make_task(
            name,
            policy=shape,
            worlds=worlds,
            arithmetic=arithmetic,
            policy_as_given=True,
            model=_model_of(archive) if is_users_task(name) else None,
            **options,
        )
    parameters = archive.parameters if len(archive) else made.parameters
    if made.parameters != parameters:
        raise UserError(
            f"genomes have {parameters} parameters but task '{name}' now needs {made.parameters};"
            " install the package versions that `qdrl archive info` lists"
        )
    return made


def _model_of(archive: StoredArchive) -> ModelSource | None:
    """Return the MuJoCo model that an archive holds; it reads no other file."""
    mjcf = archive.meta.get("mjcf")
    return None if mjcf is None else stored_source(mjcf, archive.meta.get("assets") or {})


def arithmetic_of(archive: StoredArchive) -> Arithmetic:
    """Return the arithmetic that an archive's elites were evaluated in; "blas" where a file of 1.0 or 1.1 names none.

    Raises:
        UserError: this version of qdrl does not know it.
    """
    described = archive.meta.get("policy") or archive.meta.get("task")
    name = described.get("arithmetic", BLAS) if isinstance(described, dict) else BLAS
    if name not in get_args(Arithmetic):
        raise UserError(
            f"{archive.path}: unknown arithmetic {name!r}; known: {', '.join(get_args(Arithmetic))};"
            " install the version of qdrl that `qdrl archive info` lists"
        )
    return name


def normalization_of(archive: StoredArchive, generation: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the observation mean and variance of a generation's evaluations; None if policies do not normalise.

    Raises:
        UserError: the file has no statistics of that generation.
    """
    if archive.normalizer is None:
        return None
    rows = np.flatnonzero(archive.normalizer["at.generation"] == generation)
    if len(rows) == 0:
        raise UserError(f"/normalizer/at: no observation statistics of generation {generation}")
    return archive.normalizer["at.mean"][rows[0]], archive.normalizer["at.var"][rows[0]]


def evaluated_on(archive: StoredArchive) -> str:
    """Return the device on which an archive's elites were evaluated: `compute.device` of the run, or "cpu"."""
    config = archive.meta.get("config") or {}
    return str(config.get("compute", {}).get("device", "cpu"))


def genomes_of(archive: StoredArchive) -> Tensor | Offspring:
    """Return the weights of all elites, `(n, parameters)` float32; lineages are decoded when they are read.

    Raises:
        UserError: the lineages cannot be decoded with what the file states, or by this installation.
    """
    if archive.lineages is None:
        genomes = archive.all_genomes()
        return torch.from_numpy(genomes if archive.genomes is None else genomes.copy())
    decoder, ancestry = _decoder(archive, archive.lineages)
    nodes = ancestry.insert_all(archive.lineages.offsets, archive.lineages.seeds, archive.lineages.sigmas).tolist()
    return Offspring(decoder, nodes, [0] * len(nodes), [0.0] * len(nodes))


def genome_of(archive: StoredArchive, row: int) -> np.ndarray:
    """Return the weights of one elite, `(parameters,)` float32, without reading other genomes.

    Args:
        archive: whose elite.
        row: of the elite, `archive.row_of(cell)`.

    Raises:
        UserError: the lineage cannot be decoded with what the file states, or by this installation.
    """
    if archive.lineages is None:
        return archive.genome(row=row)
    decoder, ancestry = _decoder(archive, archive.lineages)
    return decoder.genome(ancestry.insert(Lineage(*archive.lineages.of(row))))


def champion_genome(archive: StoredArchive) -> np.ndarray:
    """Return the weights of the champion, `(parameters,)` float32.

    Raises:
        UserError: the archive has no champion, or its lineage cannot be decoded here.
    """
    champion, lineages = archive.champion, archive.lineages
    if champion is None:
        raise UserError("this archive has no champion; only algorithms that optimise a single genome store one")
    if lineages is None or "genome" in champion:
        return champion["genome"]
    decoder, ancestry = _decoder(archive, lineages)
    return decoder.genome(ancestry.insert(Lineage(champion["seeds"], champion["sigmas"])))


def _decoder(archive: StoredArchive, lineages: StoredLineages) -> tuple[Decoder, Ancestry]:
    """Return a decoder of an archive's lineages, and the tree to insert them into, which holds the keyframes only."""
    parameters, initial = _first_genomes(archive)
    if archive.parameters != parameters and len(lineages.keyframes):
        raise UserError(f"genomes have {archive.parameters} parameters but its policies have {parameters}")
    ancestry = Ancestry()
    ancestry.keyframes.update(zip(lineages.keyframe_numbers.tolist(), lineages.keyframes, strict=True))
    kinds: dict[Any, Any] = {"keyed": KeyedNoise, "table": TableNoise}
    if not isinstance(name := lineages.noise.get("name"), str) or name not in kinds:
        raise UserError(f"/elites/lineage: unknown noise {name!r}; known: {', '.join(kinds)}")
    try:
        noise = kinds[name](**lineages.noise)
    except (TypeError, ValueError) as error:
        raise UserError(f"/elites/lineage: invalid settings of the noise: {lineages.noise!r}") from error
    _refuse_what_memory_cannot_hold(parameters + getattr(noise, "size", 0))
    return Decoder(ancestry, initial, source_for(noise, parameters)), ancestry


def _first_genomes(archive: StoredArchive) -> tuple[int, Initial]:
    """Return the length of an archive's genomes and the function that draws initial ones; policies need no task."""
    drawn = task_of(archive) if archive.meta.get("policy") is None else policy_of(archive)
    return drawn.parameters, drawn.initial


def _refuse_what_memory_cannot_hold(numbers: int) -> None:
    """Raise an error if a genome and a noise table need too much memory; a file states only their sizes."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if 4 * numbers > there // 4:
        raise UserError(
            f"decoding the file's lineages needs {4 * numbers / 2**30:.1f} GiB, more than a quarter of this machine's"
            f" {there / 2**30:.1f} GiB"
        )


def _shape(policy: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the policies that a file describes."""
    if policy.get("kind") == "conv":
        return {name: policy[name] for name in ConvSettings.model_fields}
    shape = {name: policy[name] for name in ("activation", "output", "normalize_observations")}
    since = ("initialization", "observation_clip", "deviation_floor")  # absent in files of 1.0 and 1.1: the defaults
    return {"hidden_sizes": policy["layers"][1:-1], **shape, **{name: policy[name] for name in since if name in policy}}
