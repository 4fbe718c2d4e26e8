"""Export one genome of an archive as plain arrays that can be used without qdrl.

`docs/how-to/export.md` lists the arrays.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qdrl.analysis.decode import champion_genome, genome_of, normalization_of, policy_of, task_of
from qdrl.archives.atomic import replacing, writing
from qdrl.archives.stored import StoredArchive
from qdrl.archives.strict_json import jsonable
from qdrl.errors import UserError
from qdrl.policies.normalizer import deviation_of
from qdrl.policies.settings import MlpSettings, PolicySettings
from qdrl.tasks.episodic import EpisodicTask

FORMAT = "qdrl-weights 1.0"


def weights_of(
    archive: StoredArchive,
    cell: int | None = None,
    *,
    allow_code: bool = False,
    code_from: str | Path | None = None,
) -> tuple[str, dict[str, np.ndarray]]:
    """Return the weights of an elite, by default of the champion or, without one, of the best elite.

    Args:
        archive: whose weights.
        cell: of the elite; the champion or the best elite when left out.
        allow_code: import and run the code that the file names, if a reference batch needs its task.
        code_from: a folder that is searched first for modules; implies `allow_code`.

    Returns:
        a phrase that names the genome; arrays by name, as `docs/how-to/export.md` lists them.

    Raises:
        UserError: the cell or the archive is empty, its lineages cannot be decoded here, or the reference batch needs a
            task that cannot be made here.
    """
    if cell is None and archive.champion is not None:
        row, chosen, genome = None, "the champion", champion_genome(archive)
    else:
        row = archive.row_of(archive.best_cell if cell is None else cell)
        chosen, genome = f"elite of cell {archive.elites['cell'][row]}", genome_of(archive, row)
    weights = {"format": np.array(FORMAT), "genome": genome, **_evaluation(archive, row), **_origin(archive)}
    if archive.meta.get("policy") is None:
        return chosen, weights
    policy = policy_of(archive)
    if len(genome) != policy.parameters:
        raise UserError(f"genomes have {len(genome)} parameters but its policies have {policy.parameters}")
    for layer, parts in enumerate(policy.split(torch.from_numpy(genome)[None])):
        pairs = zip(("kernel", "bias", "scale", "offset"), parts, strict=False)
        weights |= {f"{name}_{layer}": part[0].numpy() for name, part in pairs}
    reference = _reference(archive, allow_code=allow_code, code_from=code_from)
    return chosen, weights | _policy(archive) | reference | _normalizer(archive, row, policy.settings)


def write_weights(path: Path, weights: dict[str, np.ndarray]) -> None:
    """Write arrays to a .npz file, atomically.

    Raises:
        UserError: the file cannot be written.
    """
    arrays: dict[str, Any] = dict(weights)  # numpy's stub treats any of them as an option
    with writing(path), replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def _evaluation(archive: StoredArchive, row: int | None) -> dict[str, np.ndarray]:
    """Return the fitness, and of an elite also cell, descriptor and evaluation; `row` is None for the champion."""
    named = {"fitness_name": np.array(archive.fitness_name)}
    if row is None:
        scores = (archive.champion or {})["fitness"]
        return named | {"fitness": np.array(scores.mean()), "n_evaluations": np.array(len(scores))}
    columns = ("cell", "fitness", "descriptor", "evaluation_seed", "generation", "n_evaluations")
    return named | {name: np.array(archive.elites[name][row]) for name in columns}


def _origin(archive: StoredArchive) -> dict[str, np.ndarray]:
    """Return the descriptor's axes, the task and the origin of the archive."""
    task = archive.meta.get("task") or {}
    return {
        "descriptor_names": np.array([axis.name for axis in archive.axes]),
        "descriptor_units": np.array([axis.unit for axis in archive.axes]),
        "descriptor_lower": np.array([axis.lower for axis in archive.axes]),
        "descriptor_upper": np.array([axis.upper for axis in archive.axes]),
        "task_name": np.array(str(task.get("name", ""))),
        "task": np.array(json.dumps(task)),
        "origin": np.array(json.dumps(jsonable(archive.attributes))),
    }


def _policy(archive: StoredArchive) -> dict[str, np.ndarray]:
    """Return sizes and functions of the layers, and the whole policy as JSON."""
    policy = archive.meta["policy"]
    texts = {name: np.array(str(policy[name])) for name in ("kind", "activation", "output", "order") if name in policy}
    return texts | {"layers": np.array(policy["layers"], np.int64), "policy": np.array(json.dumps(jsonable(policy)))}


def _reference(archive: StoredArchive, **permission: Any) -> dict[str, np.ndarray]:
    """Return the reference batch of virtual batch normalisation."""
    if not (archive.meta["policy"] or {}).get("virtual_batch_norm"):
        return {}
    task = task_of(archive, **permission)
    return {"reference": task.reference().numpy()} if isinstance(task, EpisodicTask) else {}


def _normalizer(archive: StoredArchive, row: int | None, policy: PolicySettings) -> dict[str, np.ndarray]:
    """Return the observation statistics of the elite's, or the champion's, evaluation, and their bounds."""
    if archive.normalizer is None or not isinstance(policy, MlpSettings):
        return {}
    champion = archive.champion or {}
    generation = champion["generation"][0] if row is None else archive.elites["generation"][row]
    mean, var = normalization_of(archive, int(generation)) or (archive.normalizer["mean"], archive.normalizer["var"])
    return {
        "mean": mean.astype(np.float32),
        "deviation": deviation_of(var, policy.deviation_floor).numpy(),
        "deviation_floor": np.array(policy.deviation_floor),
        "observation_clip": np.array(policy.observation_clip),
    }
