"""The data of a generation: candidates from `ask`, an evaluation for `tell`.

Both are batches of rows. Row r of generation g is the same genome, evaluated with the same random numbers, whichever
process computes it. A process evaluates its own rows; `ranks.share` then gives every process the small columns of all
rows. Genomes and transitions stay where they were made until `qdrl.parallel.exchange.Exchange` moves them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

from qdrl.limits import MAGNITUDE

_COLUMNS = ("fitness", "descriptor", "failed", "steps", "seeds", "emitter", "parent_cell")
_MOMENTS = "observations."  # prefix of the columns of `ObservationMoments`


class Genomes(Protocol):
    """Rows of genomes, made on access; a `(rows, parameters)` tensor is one too."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Tensor:
        """Return these rows, `(rows, parameters)` float32."""
        ...


@dataclass(frozen=True)
class Candidates:
    """Genomes to be evaluated.

    Attributes:
        generation: the generation they belong to.
        rows: their rows of the generation.
        genomes: `(rows, parameters)` float32, or an object that makes them row by row.
        seeds: `(rows,)` int64, the seed of each evaluation's own random stream.
        emitter: `(rows,)` int64, index into the algorithm's `emitters`.
        parent_cell: `(rows,)` int64, cell of the first parent, -1 for none.
        wants_transitions: whether the evaluation keeps every control step.
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

    def to(self, device: torch.device) -> "Transitions":
        """Return the transitions on a device; those that are there already are not copied."""
        return Transitions(**{name: column.to(device) for name, column in vars(self).items()})

    @staticmethod
    def join(parts: "Sequence[Transitions]") -> "Transitions":
        """Return the transitions of several ranges of rows, given in the order of rows; a single part is not copied."""
        if len(parts) == 1:
            return parts[0]
        starts = accumulate((len(part.observations) for part in parts), initial=0)
        shifted = [replace(part, index=part.index + start) for part, start in zip(parts, starts, strict=False)]
        names = [field.name for field in fields(Transitions)]
        return Transitions(**{name: torch.cat([getattr(part, name) for part in shifted]) for name in names})


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
    """Results of the episodes of a batch of rows.

    Attributes:
        generation: the generation evaluated.
        rows: the rows of the columns below: a rank's own before `ranks.share`, all of them after.
        fitness: `(rows,)` float64, to be maximised; NaN where failed.
        descriptor: `(rows, d)` float64; NaN where failed.
        failed: `(rows,)` bool: the physics or a user's code failed, or a number is not `usable`;
            such a row never enters an archive.
        steps: `(rows,)` int64 environment steps.
        seeds: `(rows,)` int64 evaluation seeds.
        emitter: `(rows,)` int64, index into the algorithm's `emitters`.
        parent_cell: `(rows,)` int64, -1 for none.
        own_rows: the rows that this process evaluated; `genomes` and `transitions` are those of these rows.
        genomes: `(own rows, parameters)` float32, or an object that makes them row by row.
        observations: moments of the observations, when the policy normalises them.
        transitions: every control step of the own rows, when the candidates wanted them.
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
    own_rows: range
    genomes: Tensor | Genomes
    observations: ObservationMoments | None = None
    transitions: Transitions | None = None

    def own_genomes(self, rows: Tensor) -> Tensor:
        """Return the genomes of some of this process's own rows.

        Args:
            rows: `(k,)` int64 rows of the generation, all within `own_rows`.

        Returns:
            `(k, parameters)` float32.
        """
        local = rows - self.own_rows.start
        if isinstance(self.genomes, Tensor):
            return self.genomes[local]
        made = [self.genomes[row : row + 1] for row in local.tolist()]
        return torch.cat(made or [self.genomes[:1][:0]])

    def columns(self) -> dict[str, Tensor]:
        """Return the small per-row tensors by name: everything that `ranks.share` gives to all ranks."""
        columns = {name: getattr(self, name) for name in _COLUMNS}
        if self.observations is not None:
            columns |= {_MOMENTS + name: value for name, value in vars(self.observations).items()}
        return columns

    def with_columns(self, rows: range, columns: Mapping[str, Tensor]) -> "Evaluation":
        """Return this evaluation with the columns of other rows: the counterpart of `columns`."""
        moments = {name.removeprefix(_MOMENTS): v for name, v in columns.items() if name.startswith(_MOMENTS)}
        plain = {name: value for name, value in columns.items() if not name.startswith(_MOMENTS)}
        return replace(self, rows=rows, observations=ObservationMoments(**moments) if moments else None, **plain)


def check_rows(evaluation: Evaluation, expected: range) -> None:
    """Check that a task evaluated the rows that it was given.

    Raises:
        ValueError: the rows are others.
    """
    if evaluation.rows != expected:
        raise ValueError(
            f"the task returned rows {evaluation.rows.start} to {evaluation.rows.stop} of the generation, expected"
            f" {expected.start} to {expected.stop}: evaluate all candidates, in their order"
        )


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
    """Combine a task's results with the candidates they belong to.

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
    genomes = candidates.genomes
    if isinstance(genomes, Tensor):  # genomes made on access are finite by construction
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
        own_rows=candidates.rows,
        genomes=genomes,
        observations=observations,
    )
