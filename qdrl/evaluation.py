"""The data of a generation: candidates from `ask`, an evaluation for `tell`.

Both are batches of rows. Row r of generation g has the same genome and the same random numbers on whichever process
evaluates it. A process evaluates its own rows; `ranks.share` then sends the small columns of all rows to every process.
Genomes and transitions stay on the process that made them until `qdrl.parallel.exchange.Exchange` moves them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from math import inf, isfinite
from typing import Protocol

import torch
from torch import Tensor

from qdrl.limits import MAGNITUDE

_COLUMNS = ("fitness", "descriptor", "failed", "steps", "seeds", "emitter", "parent_cell")
_MOMENTS = "observations."  # prefix of the column names of `ObservationMoments`


class Genomes(Protocol):
    """Rows of genomes that are made on access. A `(rows, parameters)` tensor satisfies this protocol too."""

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def __getitem__(self, rows: slice, /) -> Tensor:
        """Return these rows, `(rows, parameters)` float32."""
        ...


@dataclass(frozen=True)
class Candidates:
    """Genomes to be evaluated.

    Attributes:
        generation: number of their generation.
        rows: their rows of the generation.
        genomes: `(rows, parameters)` float32, or an object that makes the rows on access.
        seeds: `(rows,)` int64, the seed of each evaluation's random stream.
        emitter: `(rows,)` int64, index into the algorithm's `emitters`.
        parent_cell: `(rows,)` int64, cell of the first parent; -1 for none.
        wants_transitions: whether the evaluation stores every control step.
        hidden_sizes: units of each hidden layer of the networks that these genomes are weights of; None for those of
            the task's policies.
    """

    generation: int
    rows: range
    genomes: Tensor | Genomes
    seeds: Tensor
    emitter: Tensor
    parent_cell: Tensor
    wants_transitions: bool = False
    hidden_sizes: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Transitions:
    """Control steps of whole episodes, ordered by row and then by time; each observation is stored once.

    Attributes:
        row: `(n,)` int64, the row of the generation that ran the episode.
        observations: `(m, observation)` float32, as the policy received them. An episode of k steps has k + 1
            consecutive rows, the last of which is the observation after the last step.
        index: `(n,)` int64, the row of `observations` before each step. The next row is the next observation.
        action: `(n, action)` float32, output of the policy.
        reward: `(n,)` float32, the task's reward without an offset.
        terminated: `(n,)` bool, whether the task ended the episode with this step.
        truncated: `(n,)` bool, whether the limit of the episode's length ended it with this step and the task did not.
    """

    row: Tensor
    observations: Tensor
    index: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor

    def __len__(self) -> int:
        """Return the number of steps."""
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
        """Return some of the steps, selected by a mask, positions or a slice; observations are shared."""
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
        """Return the transitions on a device; columns that are on it already are not copied."""
        return Transitions(**{name: column.to(device) for name, column in vars(self).items()})

    @staticmethod
    def join(parts: "Sequence[Transitions]") -> "Transitions":
        """Return the transitions of several ranges of rows.

        Args:
            parts: at least one, in the order of rows. A single part is not copied.
        """
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
        count: `(rows,)` int64, number of observations of the row's episode.
        mean: `(rows, observation)` float64, mean of the row's observations.
        deviation: `(rows, observation)` float64, sum of squared deviations from the row's mean.
    """

    count: Tensor
    mean: Tensor
    deviation: Tensor


@dataclass(frozen=True)
class Evaluation:
    """Results of the episodes of a batch of rows.

    Attributes:
        generation: number of the generation.
        rows: the rows of the columns below: a rank's own before `ranks.share`, all rows after it.
        fitness: `(rows,)` float64, to be maximised; NaN where failed.
        descriptor: `(rows, d)` float64; NaN where failed.
        failed: `(rows,)` bool, whether the physics or a user's code failed, or a number is not `usable`.
            Such a row never enters an archive.
        steps: `(rows,)` int64, number of environment steps.
        seeds: `(rows,)` int64, seed of each evaluation's random stream.
        emitter: `(rows,)` int64, index into the algorithm's `emitters`.
        parent_cell: `(rows,)` int64, cell of the first parent; -1 for none.
        own_rows: the rows that this process evaluated; `genomes` and `transitions` are those of these rows.
        genomes: `(own rows, parameters)` float32, or an object that makes the rows on access.
        observations: moments of the observations where the policy normalises them, otherwise None.
        transitions: every control step of the own rows where the candidates want transitions, otherwise None.
        first_failure: why the first failed row of the own rows failed, in one line; None if none failed.
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
    first_failure: str | None = None

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
        """Return the small per-row tensors by name: those that `ranks.share` sends to all ranks."""
        columns = {name: getattr(self, name) for name in _COLUMNS}
        if self.observations is not None:
            columns |= {_MOMENTS + name: value for name, value in vars(self.observations).items()}
        return columns

    def with_columns(self, rows: range, columns: Mapping[str, Tensor]) -> "Evaluation":
        """Return this evaluation with the columns of other rows; the counterpart of `columns`.

        Args:
            rows: the rows of the columns.
            columns: tensors by name, as `columns` returns them.
        """
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
    """Return whether each row's fitness and descriptor are finite and at most 1e30 in magnitude.

    With larger numbers sums over an archive and the critics' float32 would overflow.

    Args:
        fitness: `(rows,)`.
        descriptor: `(rows, d)`.

    Returns:
        `(rows,)` bool.
    """
    return (fitness.abs() <= MAGNITUDE) & (descriptor.abs() <= MAGNITUDE).all(dim=1)


def unusable_number(name: str, values: Tensor) -> str | None:
    """Return the first number that makes a row fail, as in "descriptor[1] is inf"; None if all are usable.

    Args:
        name: "genome", "fitness" or "descriptor". Numbers of a genome must be finite, the others also `usable`.
        values: the row's number, or `(n,)` numbers.
    """
    limit = inf if name == "genome" else MAGNITUDE
    bad = ~(torch.isfinite(values) & (values.abs() <= limit))
    if not bad.any():
        return None
    place = f"[{int(bad.int().argmax())}]" if values.dim() else ""
    value = float(values[bad][0])
    too_large = f", more than {limit:g} in magnitude" if isfinite(value) else ""
    return f"{name}{place} is {value:g}{too_large}"


def evaluated(
    candidates: Candidates,
    *,
    fitness: Tensor,
    descriptor: Tensor,
    steps: Tensor,
    failed: Tensor | None = None,
    observations: ObservationMoments | None = None,
) -> Evaluation:
    """Return the evaluation of candidates from a task's results.

    A row is failed where `failed` is set, its fitness or descriptor is not `usable`, or its genome is not finite. The
    fitness and descriptor of a failed row become NaN.

    Args:
        candidates: the candidates that were evaluated.
        fitness: `(rows,)`.
        descriptor: `(rows, d)`.
        steps: `(rows,)` number of environment steps.
        failed: `(rows,)` bool, rows that failed during the evaluation; none when left out.
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
        first_failure=_first_failure(candidates, broken, failed, fitness, descriptor, steps),
    )


def _first_failure(
    candidates: Candidates, broken: Tensor, failed: Tensor | None, fitness: Tensor, descriptor: Tensor, steps: Tensor
) -> str | None:
    """Return why the first of the broken rows failed, with its seed; None if no row is broken."""
    if not broken.any():
        return None
    row = int(broken.int().argmax())
    numbers = {"fitness": fitness[row], "descriptor": descriptor[row]}
    if isinstance(candidates.genomes, Tensor):
        numbers = {"genome": candidates.genomes[row]} | numbers
    reasons = ["the task reported a failure"] if failed is not None and failed[row] else []
    reasons += [text for name, values in numbers.items() if (text := unusable_number(name, values)) is not None]
    seed, count = int(candidates.seeds[row]), int(steps[row])
    return f"the evaluation with seed {seed} failed after {count} steps: {'; '.join(reasons)}"
