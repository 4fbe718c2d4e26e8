"""Users' archive kinds, referenced in experiments."""

from typing import Any

import numpy as np

from qdrl.archives.archive import Archive
from qdrl.archives.base import AnyArchive
from qdrl.archives.cvt import CentroidalVoronoi
from qdrl.archives.novelty_archive import NoveltyArchive
from qdrl.archives.settings import ArchiveRequest, ArchiveSettings


class Ring(ArchiveSettings):
    """Cells in a ring around the centre of a two-dimensional descriptor."""

    limited_by = "cells"
    cells: int = 12

    @property
    def most_elites(self) -> int:
        return self.cells

    def build(self, request: ArchiveRequest) -> AnyArchive:
        angle = 2 * np.pi * np.arange(self.cells) / self.cells
        geometry = CentroidalVoronoi(np.stack([np.cos(angle), np.sin(angle)], 1), request.lower, request.upper)
        return Archive(geometry, request.parameters, offsets=request.offsets, dtype=request.dtype)


class Alternate:
    """Admits the rows of every other batch."""

    def __init__(self) -> None:
        self.batch = 0

    def admitted(self, descriptor: np.ndarray, valid: np.ndarray, entries: np.ndarray, k: int) -> np.ndarray:
        return valid & (self.batch % 2 == 0)

    def count(self, entered: int) -> None:
        self.batch += 1

    def state_dict(self) -> dict[str, Any]:
        return {"batch": self.batch}

    def load_state_dict(self, state: Any) -> None:
        self.batch = int(state["batch"])


class AlternateSettings(ArchiveSettings):
    def build(self, request: ArchiveRequest) -> AnyArchive:
        return NoveltyArchive(request.lower, request.upper, request.parameters, rule=Alternate())


class Odd(Ring):
    def build(self, request: ArchiveRequest) -> AnyArchive:
        archive = super().build(request)
        archive.geometry.kind = "ring"
        return archive
