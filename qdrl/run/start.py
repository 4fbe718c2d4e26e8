"""Start a run in a new folder."""

import shutil
from pathlib import Path

from qdrl.archives.strict_json import to_json
from qdrl.archives.trees import check_storable
from qdrl.config import Experiment
from qdrl.errors import UserError
from qdrl.parallel.ranks import Ranks
from qdrl.run.build import Parts, build
from qdrl.run.folder import make_folder
from qdrl.run.job import Outcome, run_job
from qdrl.run.recorder import Recorder


def start(
    experiment: Experiment,
    ranks: Ranks,
    *,
    folder: Path | None = None,
    modules: Path | None = None,
    progress: bool | None = None,
    handle_signals: bool = True,
) -> Outcome:
    """Run an experiment from its first generation in a new folder. Collective.

    Args:
        experiment: the settings.
        ranks: the ranks of the run.
        folder: the run folder; made under `experiment.run.folder` when left out.
        modules: the folder of the experiment file, where `resume` searches the user's modules too.
        progress: whether to draw a live bar; only for a single process on a terminal when left out.
        handle_signals: whether SIGINT, SIGTERM and SIGUSR1 stop the run after the current generation. Never in a thread
            other than the main one.

    Returns:
        How the run ended.

    Raises:
        UserError: the folder exists already, or the parts of the experiment do not fit or cannot be saved. A run that
            could not begin leaves no files.
        RunFailed: too many evaluations failed, or the last files cannot be written.
    """
    parts = build(experiment)
    parts.task.prepare()
    _refuse_unstorable(parts)
    made = make_folder(folder, parts.experiment, ranks, modules if parts.code else None)
    recorder = Recorder(parts, ranks, made, progress=progress, handle_signals=handle_signals)
    try:
        return run_job(parts, ranks, made, recorder)
    except UserError:
        if ranks.first and not recorder.begun:
            shutil.rmtree(made, ignore_errors=True)
        raise


def _refuse_unstorable(parts: Parts) -> None:
    """Refuse an experiment whose files could not be written, before a folder is made."""
    check_storable(parts.algorithm.state_dict(), f"algorithm '{parts.algorithm_name}': state_dict")
    for what, value in (("spec", parts.task.spec.describe()), ("policy", parts.task.describe_policy())):
        try:
            to_json(value)
        except (TypeError, ValueError) as error:
            raise UserError(f"task '{parts.task.spec.name}': its {what} cannot be stored as JSON: {error}") from error
