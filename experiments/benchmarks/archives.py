"""Our archive compared with pyribs' GridArchive, on one thread: `python experiments/benchmarks/archives.py`.

Two sizes, each with the same archive and the same batches for both:

- `grid_256x20000`: 256 rows of 20,000 parameters (a generation of small networks) into 32 x 32 cells;
- `grid_100000x10`: 100,000 rows of 10 parameters (a batch of a toy task) into 100 x 100 cells.

Genomes are float32, fitness and descriptors float64, in both. `times_pyribs_*` is pyribs' seconds over ours, above 1
if ours is faster. pyribs updates its statistics in every add; ours are computed after each add and included.

- `add`: the first batch into a new archive. For both this includes the first access to new memory.
- `add_steady`: the next batch into a full archive; most rows replace their elites.
- `sample`: 256 elites with their genomes, from a full archive. `copy_seconds` is one plain copy of the same number of
  bytes into new memory, the lower bound of any sampling.

`cvt_1024x2`: placing 1,024 centroids in the unit square from 50,000 samples, compared with pyribs' `k_means_centroids`
with scikit-learn's k-means, initialised in the same way (k-means++) and by pyribs' default (random samples).
`quantisation_error_*` is the mean squared distance of 200,000 other samples to their centroids, in units of 1e-6.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from measure import alternate, compare, line, seconds
from ribs.archives import GridArchive, k_means_centroids
from threadpoolctl import threadpool_limits

from qdrl.archives.archive import Archive
from qdrl.archives.cvt import CentroidalVoronoi, place_centroids
from qdrl.archives.grid import Grid


@dataclass(frozen=True)
class Case:
    """Sizes of a benchmark; the archive has `side` x `side` cells over the unit square."""

    name: str
    rows: int
    parameters: int
    side: int

    def ours(self) -> Archive:
        return Archive(Grid([0, 0], [1, 1], [self.side, self.side]), self.parameters)

    def peer(self) -> GridArchive:
        return GridArchive(
            solution_dim=self.parameters,
            dims=[self.side, self.side],
            ranges=[(0, 1), (0, 1)],
            seed=0,
            solution_dtype=np.float32,
            objective_dtype=np.float64,
            measures_dtype=np.float64,
        )

    def batch(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return genomes, fitness and descriptors; later batches have higher fitness, so they replace elites."""
        generator = np.random.default_rng(number)
        genomes = generator.standard_normal((self.rows, self.parameters), np.float32)
        return genomes, generator.random(self.rows) + number / 2, generator.random((self.rows, 2))


CASES = [Case("grid_256x20000", 256, 20_000, 32), Case("grid_100000x10", 100_000, 10, 100)]


def main() -> None:
    torch.set_num_threads(1)
    for case in CASES:
        compare(case.name, "pyribs", "add", *add_to_new(case))
        ours, peer = full_archives(case)
        compare(case.name, "pyribs", "add_steady", *add_to_full(case, ours, peer))
        compare(case.name, "pyribs", "sample", *sample(ours, peer))
        line(f"{case.name}.copy_seconds", genome_copy_seconds(ours), "s")
    with threadpool_limits(1):
        place()


def add_to_new(case: Case) -> tuple[float, float]:
    batch = case.batch(0)
    return alternate(lambda _: our_add(case.ours(), batch), lambda _: peer_add(case.peer(), batch))


def add_to_full(case: Case, ours: Archive, peer: GridArchive) -> tuple[float, float]:
    return alternate(
        lambda repeat: our_add(ours, case.batch(repeat + 1)), lambda repeat: peer_add(peer, case.batch(repeat + 1))
    )


def sample(ours: Archive, peer: GridArchive) -> tuple[float, float]:
    generator = np.random.default_rng(0)
    return alternate(
        lambda _: lambda: ours.genomes_of(ours.sample(generator, 256)),
        lambda _: lambda: peer.sample_elites(256),
        repeats=101,
    )


def genome_copy_seconds(archive: Archive) -> float:
    """Return the seconds to copy 256 neighbouring genomes, different ones each time, so that none are in a cache."""
    parts = [part.numpy() for part in archive.genomes.split(256)]
    return statistics.median(seconds(parts[repeat % len(parts)].copy) for repeat in range(101))


def place() -> None:
    """Print the time of one run of each and the quantisation errors of the results."""
    others = torch.from_numpy(np.random.default_rng(1).random((200_000, 2)))
    placed: dict[str, np.ndarray] = {}

    def ours() -> None:
        placed["ours"] = place_centroids(np.random.default_rng(0), 1024, [0, 0], [1, 1])

    def peer(init: str) -> None:
        options = {"init": init}
        box = [(0.0, 1.0), (0.0, 1.0)]
        placed[init] = k_means_centroids(centroids=1024, ranges=box, samples=50_000, seed=0, k_means_kwargs=options)[0]

    name = "cvt_1024x2"
    our_seconds = seconds(ours)
    line(f"{name}.place_seconds", our_seconds, "s")
    for init in ("k-means++", "random"):
        peer_seconds = seconds(lambda init=init: peer(init))
        line(f"{name}.pyribs_{init}_place_seconds", peer_seconds, "s")
        line(f"{name}.times_pyribs_{init}_place", peer_seconds / our_seconds, "x")
    for key, centroids in placed.items():
        cells = CentroidalVoronoi(centroids, [0, 0], [1, 1]).cell_of(others)
        error = (others - torch.from_numpy(centroids)[cells]).square().sum(dim=1).mean()
        line(f"{name}.quantisation_error_{key}", 1e6 * float(error), "1e-6")


def full_archives(case: Case) -> tuple[Archive, GridArchive]:
    """Return both archives with an elite in every cell."""
    ours, peer = case.ours(), case.peer()
    centres = np.concatenate([ours.geometry.centroids] * -(-case.rows // ours.geometry.cells))
    for start in range(0, len(centres), case.rows):
        genomes, fitness, _ = case.batch(0)
        descriptor = centres[start : start + case.rows]
        batch = genomes[: len(descriptor)], fitness[: len(descriptor)], descriptor
        our_add(ours, batch)()
        peer_add(peer, batch)()
    if not len(ours) == len(peer) == ours.geometry.cells:
        raise AssertionError(f"archives hold {len(ours)} and {len(peer)} of {ours.geometry.cells} elites")
    return ours, peer


def our_add(archive: Archive, batch: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Callable[[], object]:
    genomes, fitness, descriptor = (torch.from_numpy(part) for part in batch)

    def work() -> None:
        archive.add(genomes, fitness, descriptor)
        archive.statistics()

    return work


def peer_add(archive: GridArchive, batch: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Callable[[], object]:
    return lambda: archive.add(*batch)


if __name__ == "__main__":
    main()
