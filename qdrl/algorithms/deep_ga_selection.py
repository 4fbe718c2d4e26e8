"""How Deep GA and GA-NS rank children and compare candidates."""

import numpy as np

from qdrl.archives.novelty import novelty
from qdrl.archives.novelty_archive import NoveltyArchive
from qdrl.evaluation import Evaluation


def best_first(scores: np.ndarray) -> np.ndarray:
    """Return rows by descending score, the lower row first among equal ones; NaN rows are omitted."""
    order = np.argsort(-scores, kind="stable")
    return order[~np.isnan(scores[order])]


def best_candidate(scores: np.ndarray) -> tuple[int, np.ndarray]:
    """Return the candidate with the highest mean, the first of equal ones, and its episodes that did not fail.

    Args:
        scores: `(candidates, episodes)` fitness; a failed episode is not finite and does not count.
    """
    known = np.isfinite(scores)
    means = np.where(known, scores, 0).sum(1) / np.maximum(known.sum(1), 1)
    means[~known.any(1)] = -np.inf
    best = int(means.argmax())
    return best, scores[best][known[best]]


def novelty_of_rows(evaluation: Evaluation, archive: NoveltyArchive, *, squared: bool) -> np.ndarray:
    """Return the mean distance of each row to its neighbours among entries and rows, `(rows,)`, NaN for failed rows.

    Args:
        evaluation: all rows of a generation, before they enter the archive.
        archive: gives entries and the number of neighbours.
        squared: whether distances are squared.
    """
    descriptor, alive = evaluation.descriptor.cpu().numpy(), np.flatnonzero(~evaluation.failed.cpu().numpy())
    known, found = archive.descriptor.cpu().numpy(), np.full(len(descriptor), np.nan)
    references, own = np.concatenate([known, descriptor[alive]]), len(known) + np.arange(len(alive))
    found[alive] = novelty(descriptor[alive], references, archive.k, own=own, squared=squared)
    return found
