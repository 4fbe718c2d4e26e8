"""Settings of archives: the table `[archive]` of an experiment, one class a kind. Needs no torch until one is built.

`qdrl.archives.registry` finds a kind's class by its name, or by the reference `package.module:Class` of a user's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from qdrl.errors import UserError
from qdrl.settings.base import SettingsModel
from qdrl.streams import Purpose, Streams

if TYPE_CHECKING:
    import torch

    from qdrl.archives.admission import Rule
    from qdrl.archives.base import AnyArchive, Geometry
    from qdrl.archives.statistics import Offsets

MOST_CELLS = 10_000_000


@dataclass(frozen=True)
class ArchiveRequest:
    """The archive that a run needs.

    Attributes:
        axes: names of the descriptor's axes.
        lower: lower bound of each axis, in its unit.
        upper: upper bound of each axis.
        parameters: numbers in a genome; 1 for lineages, which the archive holds by number.
        offsets: of the QD score; pass them to the archive.
        dtype: of genomes: float32, int64 for lineages.
        device: where genomes live.
        seed: the run's seed.
    """

    axes: tuple[str, ...]
    lower: Sequence[float]
    upper: Sequence[float]
    parameters: int
    offsets: "Offsets"
    dtype: "torch.dtype"
    device: "torch.device"
    seed: int


class ArchiveSettings(SettingsModel):
    """Base class of an archive's settings; a class of a user's own adds its settings and overrides `build`."""

    limited_by: ClassVar[str] = "kind"
    """Name of the setting that limits the number of elites."""
    kind: str
    """Name or reference of the kind."""

    @property
    def most_elites(self) -> int:
        """The number of cells, or the capacity; 0 where nothing limits the number of elites."""
        return 0

    def build(self, request: ArchiveRequest) -> "AnyArchive":
        """Return an empty archive.

        Its `geometry.kind` must be "grid", "cvt" or "novelty": files describe the archive as one of these. Whatever
        it remembers besides its elites belongs into an attribute `rule` with `state_dict` and `load_state_dict`, which
        checkpoints keep.

        Args:
            request: the descriptor's bounds, the form of genomes and the run's seed.

        Raises:
            UserError: the settings do not fit the request.
        """
        raise NotImplementedError(f"{type(self).__name__} must override build(request)")


class GridSettings(ArchiveSettings):
    """A grid archive."""

    limited_by: ClassVar[str] = "shape"
    kind: Literal["grid"]  # pyright: ignore[reportIncompatibleVariableOverride]
    """Kind of archive: "grid"."""
    shape: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
    """Cells along each axis of the descriptor."""

    @field_validator("shape")
    @classmethod
    def _fits(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        if prod(shape) > MOST_CELLS:
            raise ValueError(f"a grid has at most {MOST_CELLS} cells, got {prod(shape)}")
        return shape

    @property
    def most_elites(self) -> int:
        """The number of cells."""
        return prod(self.shape)

    def build(self, request: ArchiveRequest) -> "AnyArchive":
        """Return an empty grid archive.

        Raises:
            UserError: `shape` has another number of axes than the descriptor.
        """
        from qdrl.archives.grid import Grid

        if len(self.shape) != len(request.axes):
            axes = ", ".join(request.axes)
            needs = f"a number of cells for each of {len(request.axes)} axes ({axes})"
            raise UserError(f"archive.shape: needs {needs}, got {list(self.shape)}")
        return _archive(Grid(request.lower, request.upper, self.shape), request)


class CvtSettings(ArchiveSettings):
    """An archive of centroidal Voronoi cells."""

    limited_by: ClassVar[str] = "cells"
    kind: Literal["cvt"] = "cvt"  # pyright: ignore[reportIncompatibleVariableOverride]
    """Kind of archive: "cvt"."""
    cells: Annotated[int, Field(ge=1, le=MOST_CELLS)] = 1024
    """Number of cells."""
    centroid_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the centroids alone, so that runs of different seeds share their cells."""
    samples: Annotated[int, Field(ge=1, le=100_000_000)] = 50_000
    """Number of uniform samples from which k-means places the centroids."""

    @model_validator(mode="after")
    def _enough_samples(self) -> "CvtSettings":
        if self.samples < self.cells:
            raise ValueError(f"archive.samples ({self.samples}) must be at least archive.cells ({self.cells})")
        return self

    @property
    def most_elites(self) -> int:
        """The number of cells."""
        return self.cells

    def build(self, request: ArchiveRequest) -> "AnyArchive":
        """Return an empty archive over centroids that depend on `centroid_seed` alone."""
        from qdrl.archives.cvt import CentroidalVoronoi, place_centroids

        generator = Streams(self.centroid_seed).generator(Purpose.CENTROIDS)
        centroids = place_centroids(generator, self.cells, request.lower, request.upper, samples=self.samples)
        return _archive(CentroidalVoronoi(centroids, request.lower, request.upper), request)


class NoveltySettings(ArchiveSettings):
    """An archive without cells, whose entries are admitted by a rule; see `qdrl.archives.admission`."""

    limited_by: ClassVar[str] = "capacity"
    kind: Literal["novelty"]  # pyright: ignore[reportIncompatibleVariableOverride]
    """Kind of archive: "novelty"."""
    k: Annotated[int, Field(ge=1, le=1_000_000)] = 15
    """Number of neighbours over which novelty is averaged: 15 (Lehman and Stanley 2011), 10 (NS-ES), 25 (GA-NS)."""
    rule: Literal["all", "probability", "threshold"] = "probability"
    """Which valid rows are admitted: "all", each with a "probability", or those whose novelty is above a "threshold".
    """
    probability: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Probability with which a row is admitted, of rule "probability"."""
    threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 6.0
    """Novelty that a row must exceed, in the units of the task's axes; 6 is for a maze 200 units wide."""
    threshold_k: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Number of neighbours for the threshold; `k` when left out."""
    adaptive: bool = True
    """Whether the threshold is adapted to the number of admitted rows."""
    raise_above: Annotated[int, Field(ge=0)] = 4
    """Number of rows admitted in one generation above which the threshold is raised."""
    raise_factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.2
    """Factor by which the threshold is raised."""
    lower_after: Annotated[int, Field(ge=1)] = 10
    """Number of successive generations without an admitted row after which the threshold is lowered."""
    lower_factor: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Factor by which the threshold is lowered."""
    floor: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Value below which the threshold is never lowered."""
    capacity: Annotated[int, Field(ge=1, le=MOST_CELLS)] | None = None
    """Number of entries held at most; the oldest are dropped. Unlimited when left out."""

    @property
    def most_elites(self) -> int:
        """The capacity; 0 without one."""
        return self.capacity or 0

    def build(self, request: ArchiveRequest) -> "AnyArchive":
        """Return an empty novelty archive, in the host's memory."""
        from qdrl.archives.novelty_archive import NoveltyArchive

        return NoveltyArchive(
            request.lower,
            request.upper,
            request.parameters,
            k=self.k,
            rule=self._rule(request.seed),
            capacity=self.capacity,
            offsets=request.offsets,
            dtype=request.dtype,
        )

    def _rule(self, seed: int) -> "Rule":
        from qdrl.archives.admission import Adaptation, All, Probability, Threshold

        if self.rule == "all":
            return All()
        if self.rule == "probability":
            return Probability(self.probability, Streams(seed))
        adaptation = Adaptation(self.raise_above, self.raise_factor, self.lower_after, self.lower_factor, self.floor)
        return Threshold(self.threshold, neighbours=self.threshold_k, adaptation=adaptation if self.adaptive else None)


def _archive(geometry: "Geometry", request: ArchiveRequest) -> "AnyArchive":
    """Return an empty archive of cells, after a check that it fits into the memory of a GPU."""
    from qdrl.archives.archive import Archive
    from qdrl.compute.devices import check_archive

    if request.device.type == "cuda":
        check_archive(geometry.cells, request.parameters, request.device)
    form = {"offsets": request.offsets, "dtype": request.dtype, "device": request.device}
    return Archive(geometry, request.parameters, **form)
