"""The held-out test of a run's champion: episodes whose seeds no training evaluation used."""

import numpy as np
import torch

from qdrl.evaluation import Candidates
from qdrl.genomes.repeated import RepeatedGenome
from qdrl.parallel.ranks import Ranks
from qdrl.run.build import Parts
from qdrl.streams import Streams


def champion_test(parts: Parts, ranks: Ranks, generation: int, episodes: int) -> np.ndarray:
    """Return the champion's fitness in held-out episodes, the same on any number of ranks. Collective.

    Args:
        parts: the parts of a run whose algorithm has a champion.
        ranks: the ranks that share the episodes.
        generation: the champion's; its observation statistics are those of the test.
        episodes: number of episodes.

    Returns:
        `(episodes,)` float64, NaN for a failed episode.

    Raises:
        UserError: the champion has no weights.
        RuntimeError: the task raised `SystemExit`.
    """
    rows = ranks.rows(episodes)
    seeds = Streams(parts.experiment.seed).held_out_seeds(episodes)
    candidates = Candidates(
        generation=generation,
        rows=rows,
        genomes=RepeatedGenome(parts.algorithm.champion_genome(), len(rows)),
        seeds=torch.from_numpy(seeds[rows.start : rows.stop]),
        emitter=torch.zeros(len(rows), dtype=torch.int64),
        parent_cell=torch.full((len(rows),), -1),
    )
    try:
        evaluation = parts.task.evaluate(candidates)
    except SystemExit as error:  # raised by a user's code; it would end the process as if the run had finished
        raise RuntimeError(f"the task raised SystemExit({error.code!r})") from error
    return ranks.share(evaluation, episodes).fitness.cpu().numpy()
