"""One genome of an archive as plain arrays, with what it takes to use them without qdrl.

`docs/how-to/export.md` lists the arrays.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qdrl.analysis.decode import champion_of, genome_of, normalization_of, policy_of, task_of
from qdrl.archives.files import replacing, writing
from qdrl.archives.stored import StoredArchive
from qdrl.archives.strict_json import jsonable
from qdrl.errors import UserError
from qdrl.policies.normalizer import CLIP, FLOOR, deviation_of
from qdrl.tasks.episodic import EpisodicTask

FORMAT = "qdrl-weights 1.0"


def weights_of(
    archive: StoredArchive,
    cell: int | None = None,
    *,
    allow_code: bool = False,
    code_from: str | Path | None = None,
) -> tuple[str, dict[str, np.ndarray]]:
    """Return the weights of an elite, of the champion, or, where there is none, of the best elite.

    Args:
        archive: whose weights.
        cell: of the elite; of the champion, or else the best elite, when left out.
        allow_code: run what the file names where a reference batch needs its task.
        code_from: a folder that is searched first for it; implies `allow_code`.

    Returns:
        a phrase that names the genome; arrays by name, as `docs/how-to/export.md` lists them.

    Raises:
        UserError: the cell is empty, or the archive is, or its lineages cannot be decoded here, or the reference batch
            needs a task that cannot be made here.
    """
    if cell is None and archive.champion is not None:
        row, chosen, genome = None, "the champion", champion_of(archive)
    else:
        row = archive.row_of(archive.best_cell if cell is None else cell)
        chosen, genome = f"elite of cell {archive.elites['cell'][row]}", genome_of(archive, row)
    weights = {"format": np.array(FORMAT), "genome": genome, **_worth(archive, row), **_origin(archive)}
    if archive.meta.get("policy") is None:
        return chosen, weights
    policy = policy_of(archive)
    if len(genome) != policy.parameters:
        raise UserError(f"genomes have {len(genome)} parameters but its policies have {policy.parameters}")
    for layer, parts in enumerate(policy.split(torch.from_numpy(genome)[None])):
        pairs = zip(("kernel", "bias", "scale", "offset"), parts, strict=False)
        weights |= {f"{name}_{layer}": part[0].numpy() for name, part in pairs}
    reference = _reference(archive, allow_code=allow_code, code_from=code_from)
    return chosen, weights | _policy(archive) | reference | _normalizer(archive, row)


def write_weights(path: Path, weights: dict[str, np.ndarray]) -> None:
    """Write arrays to a .npz file, whole or not at all.

    Raises:
        UserError: it cannot be written there.
    """
    arrays: dict[str, Any] = dict(weights)  # numpy's stub takes any of them for an option of its own
    with writing(path), replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def _worth(archive: StoredArchive, row: int | None) -> dict[str, np.ndarray]:
    """Return fitness, and of an elite its cell, descriptor and evaluation; `row` is None for the champion."""
    named = {"fitness_name": np.array(archive.fitness_name)}
    if row is None:
        scores = (archive.champion or {})["fitness"]
        return named | {"fitness": np.array(scores.mean()), "n_evaluations": np.array(len(scores))}
    columns = ("cell", "fitness", "descriptor", "evaluation_seed", "generation", "n_evaluations")
    return named | {name: np.array(archive.elites[name][row]) for name in columns}


def _origin(archive: StoredArchive) -> dict[str, np.ndarray]:
    """Return the descriptor's axes, the task, and where the archive comes from."""
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
    """Return what the weights mean: sizes and functions of the layers, and all of it as JSON."""
    policy = archive.meta["policy"]
    texts = {name: np.array(str(policy[name])) for name in ("kind", "activation", "output", "order") if name in policy}
    return texts | {"layers": np.array(policy["layers"], np.int64), "policy": np.array(json.dumps(policy))}


def _reference(archive: StoredArchive, **permission: Any) -> dict[str, np.ndarray]:
    """Return the observations that virtual batch normalisation is over."""
    if not (archive.meta["policy"] or {}).get("virtual_batch_norm"):
        return {}
    task = task_of(archive, **permission)
    return {"reference": task.reference().numpy()} if isinstance(task, EpisodicTask) else {}


def _normalizer(archive: StoredArchive, row: int | None) -> dict[str, np.ndarray]:
    """Statistics that an elite, or the champion, was evaluated with."""
    if archive.normalizer is None:
        return {}
    champion = archive.champion or {}
    generation = champion["generation"][0] if row is None else archive.elites["generation"][row]
    mean, var = normalization_of(archive, int(generation)) or (archive.normalizer["mean"], archive.normalizer["var"])
    return {
        "mean": mean.astype(np.float32),
        "deviation": deviation_of(var).numpy(),
        "deviation_floor": np.array(FLOOR),
        "observation_clip": np.array(CLIP),
    }
