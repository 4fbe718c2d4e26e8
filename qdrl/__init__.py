"""qdrl: evolve neural policies and illuminate behaviour spaces on real physics.

Every public name is listed here and imported when it is first used, so that
`import qdrl` costs milliseconds and never loads torch, MuJoCo or MPI by itself.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qdrl.optional import missing_package as _missing_package

__version__ = "0.1.0"

if TYPE_CHECKING:  # the types of the public names; keep equal to _PUBLIC
    from qdrl.algorithms.base import Algorithm as Algorithm
    from qdrl.algorithms.map_elites import MapElites as MapElites
    from qdrl.analysis.conditioned import ConditionedPolicy as ConditionedPolicy
    from qdrl.analysis.reevaluate import reevaluate_actor as reevaluate_actor
    from qdrl.analysis.reevaluate import reevaluate_champion as reevaluate_champion
    from qdrl.analysis.reevaluate import reevaluate_elites as reevaluate_elites
    from qdrl.analysis.rerun import replay as replay
    from qdrl.archives.archive import Archive as Archive
    from qdrl.archives.cvt import CentroidalVoronoi as CentroidalVoronoi
    from qdrl.archives.grid import Grid as Grid
    from qdrl.archives.hdf5 import open_archive as open_archive
    from qdrl.archives.novelty import novelty as novelty
    from qdrl.archives.novelty_archive import NoveltyArchive as NoveltyArchive
    from qdrl.archives.statistics import Offsets as Offsets
    from qdrl.archives.stored import StoredArchive as StoredArchive
    from qdrl.config import Experiment as Experiment
    from qdrl.engine import evolve as evolve
    from qdrl.errors import UserError as UserError
    from qdrl.evaluation import Candidates as Candidates
    from qdrl.evaluation import Evaluation as Evaluation
    from qdrl.genomes.variation import Gaussian as Gaussian
    from qdrl.genomes.variation import IsoLine as IsoLine
    from qdrl.report.heatmap import figure_of_heatmap as figure_of_heatmap
    from qdrl.report.heatmap import plot_heatmap as plot_heatmap
    from qdrl.streams import Streams as Streams
    from qdrl.tasks.check import check_task as check_task
    from qdrl.tasks.registry import make_task as make_task
    from qdrl.tasks.registry import task_names as task_names

_PUBLIC = {
    "Algorithm": "qdrl.algorithms.base",
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
    "Offsets": "qdrl.archives.statistics",
    "StoredArchive": "qdrl.archives.stored",
    "Streams": "qdrl.streams",
    "UserError": "qdrl.errors",
    "check_task": "qdrl.tasks.check",
    "evolve": "qdrl.engine",
    "figure_of_heatmap": "qdrl.report.heatmap",
    "make_task": "qdrl.tasks.registry",
    "novelty": "qdrl.archives.novelty",
    "open_archive": "qdrl.archives.hdf5",
    "plot_heatmap": "qdrl.report.heatmap",
    "reevaluate_actor": "qdrl.analysis.reevaluate",
    "reevaluate_champion": "qdrl.analysis.reevaluate",
    "reevaluate_elites": "qdrl.analysis.reevaluate",
    "replay": "qdrl.analysis.rerun",
    "task_names": "qdrl.tasks.registry",
}

__all__ = sorted([*_PUBLIC, "__version__"])  # pyright: ignore[reportUnsupportedDunderAll]

if not TYPE_CHECKING:  # with a __getattr__, type checkers would accept any name

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
