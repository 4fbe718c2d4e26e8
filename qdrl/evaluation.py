"""What travels round the loop: candidates out of `ask`, an evaluation into `tell`.

Both are batches of rows. Row r of generation g is the same genome, judged by the same random numbers, whichever
process computes it; a process holds its own rows until `ranks.share` gives everyone the small columns of all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from qdrl.limits import MAGNITUDE
from qdrl.parallel.learners import Learners, OneLearner, block


class Genomes(Protocol):
    """Rows of genomes that are made when they are asked for; a tensor is one too."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Tensor:
        """`(rows, parameters)` float32."""
        ...


@dataclass(frozen=True)
class Candidates:
    """Genomes that wait for an evaluation.

    Attributes:
        generation: the generation they belong to.
        rows: which rows of the generation these are.
        genomes: `(rows, parameters)` float32, or what makes them row by row.
        seeds: `(rows,)` int64, the seed of each evaluation's own random stream.
        emitter: `(rows,)` int64, index into the algorithm's `emitters`.
        parent_cell: `(rows,)` int64, cell of the first parent, -1 for none.
        wants_transitions: whether the evaluation shall keep every control step.
    """

    generation: int
    rows: range
    genomes: Tensor | Genomes
    seeds: Tensor
    emitter: Tensor
    parent_cell: Tensor
    wants_transitions: bool = False


@dataclass(frozen=True)
class Transitions:
    """Control steps of whole episodes, ordered by row and then by time; each observation is stored once.

    Attributes:
        row: `(n,)` int64, the row of the generation that ran the episode.
        observations: `(m, observation)` float32, as the policy saw them: for an episode of k steps k + 1 consecutive
            rows, the last of which no action followed.
        index: `(n,)` int64, the row of `observations` before each step; the row after it is the next observation.
        action: `(n, action)` float32, output of the policy.
        reward: `(n,)` float32, the task's own, no offset added.
        terminated: `(n,)` bool, whether the task ended the episode with this step.
        truncated: `(n,)` bool, whether the episode's length ended it with this step, and the task did not.
    """

    row: Tensor
    observations: Tensor
    index: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor

    def __len__(self) -> int:
        return len(self.row)

    @property
    def observation(self) -> Tensor:
        """Return a copy of the observation before each step, `(n, observation)`."""
        return self.observations[self.index]

    @property
    def next_observation(self) -> Tensor:
        """Return a copy of the observation after each step, `(n, observation)`."""
        return self.observations[self.index + 1]

    def select(self, steps: Tensor | slice) -> "Transitions":
        """Return some of the steps, by a mask, positions or a slice; observations are shared."""
        columns = {name: column[steps] for name, column in vars(self).items() if name != "observations"}
        return Transitions(observations=self.observations, **columns)

    def within(self, rows: range) -> "Transitions":
        """Return the transitions of some rows of the generation as views."""
        edges = torch.tensor([rows.start, rows.stop], device=self.row.device)
        start, end = torch.searchsorted(self.row.contiguous(), edges).tolist()
        first, stop = (int(self.index[start]), int(self.index[end - 1]) + 2) if start < end else (0, 0)
        part = self.select(slice(start, end))
        return replace(part, observations=self.observations[first:stop], index=part.index - first)

    @staticmethod
    def join(parts: "Sequence[Transitions]") -> "Transitions":
        """Return the transitions of several ranges of rows, given in the order of rows; a single part is not copied."""
        if len(parts) == 1:
            return parts[0]
        starts = accumulate((len(part.observations) for part in parts), initial=0)
        shifted = [replace(part, index=part.index + start) for part, start in zip(parts, starts, strict=False)]
        names = [field.name for field in fields(Transitions)]
        return Transitions(**{name: torch.cat([getattr(part, name) for part in shifted]) for name in names})


Learned = dict[str, np.ndarray]
"""What learners tell the other ranks: arrays by name."""
Lesson = Callable[[Sequence[Transitions], Learners], Learned]
"""What learners do with the transitions of each shard that they hold."""


def _add_up_here(part: Callable[[int], Tensor], blocks: int) -> Tensor:
    total = part(0).clone()
    for index in range(1, blocks):
        total += part(index)
    return total


def _learn_here(lesson: Lesson, shards: Sequence[Transitions]) -> Learned:
    return lesson(shards, OneLearner(len(shards)))


@dataclass(frozen=True)
class ObservationMoments:
    """Count, mean and sum of squared deviations of each row's observations, for the running normaliser.

    Attributes:
        count: `(rows,)` int64 observations seen in the row's episode.
        mean: `(rows, observation)` float64.
        deviation: `(rows, observation)` float64, sum of squared deviations from the row's mean.
    """

    count: Tensor
    mean: Tensor
    deviation: Tensor


@dataclass(frozen=True)
class Evaluation:
    """What the episodes of a batch of rows gave.

    Attributes:
        generation: the generation evaluated.
        rows: which rows these are: a rank's own before `ranks.share`, all of them after.
        fitness: `(rows,)` float64, to be maximised; NaN where failed.
        descriptor: `(rows, d)` float64; NaN where failed.
        failed: `(rows,)` bool: the physics or a user's code failed, or a number is not `usable`;
            such a row never enters an archive.
        steps: `(rows,)` int64 environment steps.
        seeds: `(rows,)` int64 evaluation seeds.
        emitter: `(rows,)` int64.
        parent_cell: `(rows,)` int64, -1 for none.
        take_genomes: gives the genomes of the asked rows, ascending `(k,)` int64 -> `(k, parameters)` float32.
            After `ranks.share` a call is collective: every rank calls it with the same rows.
        observations: moments of the observations, when the policy normalises them.
        transitions: every control step of this rank's own rows, when the candidates wanted them.
        add_up: `add_up(part, blocks)` is the sum of `part(0)`, ..., `part(blocks - 1)`, float32 tensors of one shape,
            added in this order on every rank, whichever worked them out. After `ranks.share` collective.
        teach: gives a lesson this rank's transitions of each shard; after `ranks.share` collective, see `learn`.
    """

    generation: int
    rows: range
    fitness: Tensor
    descriptor: Tensor
    failed: Tensor
    steps: Tensor
    seeds: Tensor
    emitter: Tensor
    parent_cell: Tensor
    take_genomes: Callable[[Tensor], Tensor]
    observations: ObservationMoments | None = None
    transitions: Transitions | None = None
    add_up: Callable[[Callable[[int], Tensor], int], Tensor] = _add_up_here
    teach: Callable[[Lesson, Sequence[Transitions]], Learned] = _learn_here

    def learn(self, lesson: Lesson, shards: int = 1) -> Learned:
        """Collective. Learners are given the transitions of all rows, every rank what they learned from them.

        Args:
            lesson: called on each learner; what it returns on the first one goes to every rank.
            shards: contiguous blocks of rows, each of which goes to one learner; there are as many learners, or as
                many as there are ranks.

        Raises:
            ValueError: the candidates did not want transitions.
        """
        if self.transitions is None:
            raise ValueError("nothing to learn from: the candidates did not want transitions")
        rows = [block(shard, shards, len(self.rows)) for shard in range(shards)]
        return self.teach(lesson, [self.transitions.within(part) for part in rows])

    def columns(self) -> dict[str, Tensor]:
        """The small per-row tensors by name, everything but the genomes."""
        columns = {f.name: v for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        if self.observations is not None:
            columns |= {f"observations.{name}": value for name, value in vars(self.observations).items()}
        return columns

    def with_columns(
        self,
        rows: range,
        columns: Mapping[str, Tensor],
        take_genomes: Callable[[Tensor], Tensor],
        add_up: Callable[[Callable[[int], Tensor], int], Tensor],
        teach: Callable[[Lesson, Sequence[Transitions]], Learned],
    ) -> "Evaluation":
        """The same evaluation over other rows: the counterpart of `columns`."""
        prefix = "observations."
        moments = {name.removeprefix(prefix): v for name, v in columns.items() if name.startswith(prefix)}
        plain = {name: value for name, value in columns.items() if not name.startswith(prefix)}
        observations = ObservationMoments(**moments) if moments else None
        calls = {"take_genomes": take_genomes, "add_up": add_up, "teach": teach}
        return replace(self, rows=rows, observations=observations, **calls, **plain)


def usable(fitness: Tensor, descriptor: Tensor) -> Tensor:
    """Return whether each row's fitness and descriptor are finite and of a magnitude up to 1e30, `(rows,)` bool.

    Larger numbers are of no use: sums over an archive and the critics' float32 overflow.

    Args:
        fitness: `(rows,)`.
        descriptor: `(rows, d)`.
    """
    return (fitness.abs() <= MAGNITUDE) & (descriptor.abs() <= MAGNITUDE).all(dim=1)


def evaluated(
    candidates: Candidates,
    *,
    fitness: Tensor,
    descriptor: Tensor,
    steps: Tensor,
    failed: Tensor | None = None,
    observations: ObservationMoments | None = None,
) -> Evaluation:
    """Put a task's results beside the candidates they belong to.

    Rows whose fitness or descriptor is not `usable` or whose genome is not finite count as failed, besides those that
    `failed` names; a failed row's fitness and descriptor become NaN.

    Args:
        candidates: what was evaluated.
        fitness: `(rows,)`.
        descriptor: `(rows, d)`.
        steps: `(rows,)` environment steps.
        failed: `(rows,)` bool, rows known to have failed.
        observations: moments of the observations of each row.
    """
    broken = ~usable(fitness, descriptor)
    first, genomes = candidates.rows.start, candidates.genomes
    if isinstance(genomes, Tensor):  # others are finite by making
        broken |= ~torch.isfinite(genomes).all(dim=1).to(broken.device)
    if failed is not None:
        broken |= failed
    return Evaluation(
        generation=candidates.generation,
        rows=candidates.rows,
        fitness=fitness.double().masked_fill(broken, torch.nan),
        descriptor=descriptor.double().masked_fill(broken[:, None], torch.nan),
        failed=broken,
        steps=steps,
        seeds=candidates.seeds,
        emitter=candidates.emitter,
        parent_cell=candidates.parent_cell,
        take_genomes=lambda rows: _rows_of(genomes, rows - first),
        observations=observations,
    )


def _rows_of(genomes: Tensor | Genomes, rows: Tensor) -> Tensor:
    if isinstance(genomes, Tensor):
        return genomes[rows]
    return torch.cat([genomes[row : row + 1] for row in rows.tolist()] or [genomes[:1][:0]])
