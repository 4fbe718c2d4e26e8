"""Resume a run from its folder, or load it to look at."""

from collections.abc import Sequence
from pathlib import Path

from qdrl.errors import UserError
from qdrl.parallel.ranks import Ranks
from qdrl.run.build import Parts, build
from qdrl.run.folder import experiment_of
from qdrl.run.job import Outcome, run_job
from qdrl.run.recorder import Recorder
from qdrl.run.restore import read_checkpoint_of, restore_checkpoint, restore_run, stored_arithmetic


def load(folder: str | Path) -> Parts:
    """Return the parts of a run as its last checkpoint left them. Writes nothing.

    `parts.algorithm.ask()` proposes the next generation. A run on a GPU can be loaded on any machine; evaluating with
    its task needs its device.

    Args:
        folder: the run folder.

    Raises:
        UserError: the folder is no run, has no checkpoint, or the checkpoint is damaged.
    """
    folder = Path(folder)
    parts = build(experiment_of(folder), on_host=True, arithmetic=stored_arithmetic(folder))
    restore_checkpoint(parts, *read_checkpoint_of(folder))
    return parts


def resume(
    folder: Path,
    ranks: Ranks,
    *,
    overrides: Sequence[str] = (),
    unset: Sequence[str] = (),
    from_archive: bool = False,
    accept_changed_code: bool = False,
    progress: bool | None = None,
    handle_signals: bool = True,
) -> Outcome:
    """Continue a run from its last checkpoint, on any number of ranks. Collective.

    The final archive is bit-identical to that of the uninterrupted run. A run that ended before its first save starts
    again.

    Args:
        folder: the run folder.
        ranks: the ranks of this job.
        overrides: `run.key=value` or `compute.key=value` each, for example a larger budget.
        unset: `run.key` or `compute.key` each, for example a budget to remove.
        from_archive: continue from the elites of archive.h5, which is not exact; only for a run without a readable
            checkpoint. Copies of the archive and of metrics.csv are kept beside them.
        accept_changed_code: continue although the source of the user's own code has changed.
        progress: whether to draw a live bar; only for a single process on a terminal when left out.
        handle_signals: whether SIGINT, SIGTERM and SIGUSR1 stop the run after the current generation. Never in a thread
            other than the main one.

    Returns:
        How the job ended.

    Raises:
        UserError: the folder is no run, its checkpoint is missing or damaged, an override would change results, or the
            user's own code has changed.
        RunFailed: too many evaluations failed, or the last files cannot be written.
    """
    for option, changes in (("--set", overrides), ("--unset", unset)):
        for change in changes:
            if change.partition(".")[0].strip() not in ("run", "compute"):
                raise UserError(f"{option} {change}: only run.* and compute.* may change when resuming")
    parts = build(experiment_of(folder, overrides, unset), arithmetic=stored_arithmetic(folder))
    parts.task.prepare()
    restored = restore_run(parts, folder, from_archive=from_archive, accept_changed_code=accept_changed_code)
    recorder = Recorder(parts, ranks, folder, restored.past, progress=progress, handle_signals=handle_signals)
    rewrites_config = bool(overrides or unset) or not (folder / "config.toml").is_file()
    return run_job(parts, ranks, folder, recorder, restored=restored, rewrites_config=rewrites_config)
