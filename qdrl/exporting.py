"""One genome of an archive as plain arrays."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from qdrl.archives.files import replacing, writing
from qdrl.archives.stored import StoredArchive
from qdrl.decoding import champion_of, genomes_of, normalization_of, policy_of, task_of
from qdrl.errors import UserError
from qdrl.policies.normalizer import deviation_of
from qdrl.tasks.episodic import EpisodicTask


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
        who that is, in words; `genome` `(parameters,)`, and for policies `kernel_<i>` and `bias_<i>` of each layer, its
        `scale_<i>` and `offset_<i>` where it is normalised over a batch, and that `reference` batch `(n, observation)`;
        `mean` and `deviation` `(observation,)` where policies normalise what they see.

    Raises:
        UserError: the cell is empty, or the archive is, or its lineages cannot be decoded here, or the reference batch
            needs a task that cannot be made here.
    """
    if cell is None and archive.champion is not None:
        row, chosen, genome = None, "the champion", champion_of(archive)
    else:
        if len(archive) == 0:
            raise UserError("the archive is empty")
        row = int(archive.elites["fitness"].argmax()) if cell is None else archive.row_of(cell)
        chosen, genome = f"elite of cell {archive.elites['cell'][row]}", genomes_of(archive)[row : row + 1][0].numpy()
    weights = {"genome": genome}
    if archive.meta.get("policy") is None:
        return chosen, weights
    policy = policy_of(archive)
    if len(genome) != policy.parameters:
        raise UserError(f"genomes have {len(genome)} parameters but its policies have {policy.parameters}")
    for layer, parts in enumerate(policy.split(torch.from_numpy(genome)[None])):
        pairs = zip(("kernel", "bias", "scale", "offset"), parts, strict=False)
        weights |= {f"{name}_{layer}": part[0].numpy() for name, part in pairs}
    reference = _reference(archive, allow_code=allow_code, code_from=code_from)
    return chosen, weights | reference | _normalizer(archive, row)


def write_weights(path: Path, weights: dict[str, np.ndarray]) -> None:
    """Write arrays to a .npz file, whole or not at all.

    Raises:
        UserError: it cannot be written there.
    """
    arrays: dict[str, Any] = dict(weights)  # numpy's stub takes any of them for an option of its own
    with writing(path), replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


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
    return {"mean": mean.astype(np.float32), "deviation": deviation_of(var).numpy()}
