"""One job of a run, from its locked folder to its outcome; `start` and `resume` share it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qdrl.archives.seals import identity
from qdrl.engine import evolve
from qdrl.errors import RunFailed, UserError
from qdrl.parallel.ranks import Ranks, repeat_after_losses
from qdrl.provenance.software import git_commit
from qdrl.run.build import Parts
from qdrl.run.folder import prepare_folder
from qdrl.run.recorder import Recorder
from qdrl.run.restore import Restored


@dataclass(frozen=True)
class Outcome:
    """How a run, or a job of it, ended.

    Attributes:
        folder: the run folder.
        finished: whether a budget of the whole run is spent; otherwise the run was stopped and can be resumed.
        ended_by: the spent budgets, as `run.key = value`; or the signal or job limit that stopped the run.
        generations: the number of generations that this job ran; 0 where a resumed run had no budget left.
        tested: whether this job tested the champion in held-out episodes.
    """

    folder: Path
    finished: bool
    ended_by: str = ""
    generations: int = 0
    tested: bool = False

    @property
    def archive(self) -> Path:
        """The archive file."""
        return self.folder / "archive.h5"


def run_job(
    parts: Parts,
    ranks: Ranks,
    folder: Path,
    recorder: Recorder,
    *,
    restored: Restored | None = None,
    rewrites_config: bool = False,
) -> Outcome:
    """Run generations until a budget is spent, the run fails or a signal stops it. Collective.

    Args:
        parts: the parts of the run, restored where it is resumed.
        ranks: the ranks of the run.
        folder: the run folder.
        recorder: of this job.
        restored: the run before this job; None for a new run.
        rewrites_config: write the settings to config.toml first.

    Returns:
        How the job ended.

    Raises:
        UserError: another job writes the folder, or replaced the checkpoint that was restored.
        RunFailed: too many evaluations failed, or the last files cannot be written.
    """
    with _folder_locked(recorder, ranks):
        _refuse_newer_checkpoint(folder, restored)

        def prepare_on_first() -> None:
            ranks.wait_for_all()  # until all have read config.toml
            if ranks.first:
                copied, suffix = ((), "") if restored is None else (restored.replaced, restored.suffix)
                prepare_folder(folder, copied, suffix, parts.experiment if rewrites_config else None)
            ranks.wait_for_all()

        repeat_after_losses(prepare_on_first, lambda _: None)
        with recorder:
            _warn_before_generations(parts, ranks, recorder, restored)
            try:
                evolve(parts.algorithm, parts.task, recorder, ranks)
                recorder.test_champion()
            finally:
                parts.task.close()
    if recorder.failure is not None:
        raise RunFailed(
            f"{recorder.failure}; fix the cause, then continue: qdrl resume {folder}"
            f"{' (add --accept-changed-code if the fix is in your own code)' if parts.code else ''}"
        )
    return Outcome(folder, recorder.finished, recorder.ended_by, recorder.generations, recorder.tested)


def _warn_before_generations(parts: Parts, ranks: Ranks, recorder: Recorder, restored: Restored | None) -> None:
    """Log what differs from the restored run and what the task warns of; share the algorithm's tables. Collective."""
    for line in () if restored is None else (restored.warning, *restored.notes):
        if line is not None:
            recorder.warn(line)
    share = parts.algorithm.share_memory
    repeat_after_losses(lambda: share(ranks), lambda loss: recorder.warn(f"{loss}; the shared tables are rebuilt"))
    if ranks.first and (warning := parts.task.find_warning()):
        recorder.warn(warning)


def _refuse_newer_checkpoint(folder: Path, restored: Restored | None) -> None:
    """Refuse to continue from a checkpoint that another job replaced before this one had locked the folder."""
    read = None if restored is None else restored.identity
    if read is not None and read != identity(folder / "checkpoint.h5"):
        raise UserError(f"{folder}: another job saved a checkpoint while this one started; run `qdrl resume` again")


@contextmanager
def _folder_locked(recorder: Recorder, ranks: Ranks) -> Iterator[None]:
    """Lock the run folder against other jobs; a rank that replaces a lost first rank takes the lock. Collective."""
    found = repeat_after_losses(lambda: ranks.from_first(_take_lock(recorder) if ranks.first else None), lambda _: None)
    busy, recorder.commit = found
    if busy is not None:
        raise UserError(busy)
    try:
        yield
    finally:
        recorder.lock.release()


def _take_lock(recorder: Recorder) -> tuple[str | None, str]:
    """Take the folder's lock; return the error or None, and the commit of the source that runs."""
    try:
        recorder.lock.take()
    except UserError as error:
        return str(error), ""
    return None, git_commit()
