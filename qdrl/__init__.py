"""qdrl: evolve neural policies and illuminate behaviour spaces on real physics.

Every public name is listed here and imported when it is first used, so that
`import qdrl` costs milliseconds and never loads torch, MuJoCo or MPI by itself.
"""

from importlib import import_module
from typing import Any

from qdrl.optional import missing_package as _missing_package

__version__ = "0.1.0"

_PUBLIC = {
    "Archive": "qdrl.archives.archive",
    "Candidates": "qdrl.evaluation",
    "CentroidalVoronoi": "qdrl.archives.cvt",
    "ConditionedPolicy": "qdrl.analysis.conditioned",
    "Evaluation": "qdrl.evaluation",
    "Experiment": "qdrl.config",
    "Gaussian": "qdrl.genomes.variation",
    "Grid": "qdrl.archives.grid",
    "IsoLine": "qdrl.genomes.variation",
    "MapElites": "qdrl.algorithms.map_elites",
    "NoveltyArchive": "qdrl.archives.novelty_archive",
    "StoredArchive": "qdrl.archives.stored",
    "Streams": "qdrl.streams",
    "UserError": "qdrl.errors",
    "evolve": "qdrl.engine",
    "make_task": "qdrl.tasks.registry",
    "novelty": "qdrl.archives.novelty",
    "open_archive": "qdrl.archives.hdf5",
    "plot_heatmap": "qdrl.report.heatmap",
    "reevaluate_actor": "qdrl.analysis.reevaluate",
    "reevaluate_elites": "qdrl.analysis.reevaluate",
    "replay": "qdrl.analysis.rerun",
    "task_names": "qdrl.tasks.registry",
}

__all__ = sorted([*_PUBLIC, "__version__"])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562).

    Raises:
        ImportError: a package that it needs is not installed.
    """
    if name in _PUBLIC:
        try:
            return getattr(import_module(_PUBLIC[name]), name)
        except ModuleNotFoundError as error:
            if (line := _missing_package(error, f"qdrl.{name}")) is None:
                raise
            raise ImportError(line) from error
    raise AttributeError(f"module 'qdrl' has no attribute {name!r}; public names: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
