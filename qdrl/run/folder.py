"""Run folders: how a new one is made, the experiment that one holds, and what is kept before a resumed run writes.

`runs/<experiment>/<UTC>_seed<k>/` holds config.toml, archive.h5, checkpoint.h5, metrics.csv, log.txt and figures/.
A start never writes into a folder that exists.
"""

import os
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import tomli_w

from qdrl.archives.atomic import keep_copy, reason_of, write_text
from qdrl.config import Experiment, load_experiment, parse_experiment
from qdrl.errors import UserError
from qdrl.naming import search_also
from qdrl.parallel.ranks import Ranks, repeat_after_losses
from qdrl.run.restore import stored_settings
from qdrl.settings.overrides import changed

_MODULES = ".modules"  # names the folder of the user's modules


def make_folder(folder: Path | None, experiment: Experiment, ranks: Ranks, modules: Path | None) -> Path:
    """Make the run folder on the first rank, or on the next one if that is lost. Collective.

    Args:
        folder: the run folder; a new one under `experiment.run.folder` when left out.
        experiment: the settings that config.toml states.
        ranks: the ranks of the run.
        modules: the folder where `experiment_of` searches the user's modules too.

    Returns:
        The run folder.

    Raises:
        UserError: it exists already or cannot be written.
    """
    made: list[Path | str] = []

    def make_on_first() -> Path | str:
        if ranks.first and not made:
            made.append(_make(folder, experiment, modules))
        return ranks.from_first(made[0] if ranks.first else None)

    path = repeat_after_losses(make_on_first, lambda _: None)
    if isinstance(path, str):
        raise UserError(path)
    return path


def experiment_of(folder: Path, overrides: Sequence[str] = (), unset: Sequence[str] = ()) -> Experiment:
    """Return a run folder's experiment, from config.toml or, where that was lost, from the run's other files.

    Args:
        folder: the run folder.
        overrides: settings to change, `table.key=value` each.
        unset: settings to remove first, `table.key` each.

    Raises:
        UserError: the folder is no run, or its settings are not valid.
    """
    if folder.is_file():
        raise UserError(f"{folder} is a file; to continue its run: qdrl resume {folder.parent}")
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such run folder")
    if (folder / _MODULES).is_file():
        search_also(Path((folder / _MODULES).read_text(encoding="utf-8")))
    if (folder / "config.toml").is_file():
        return load_experiment(folder / "config.toml", overrides, unset=unset)
    return parse_experiment(changed(stored_settings(folder), overrides, unset))


def prepare_folder(folder: Path, copied: Sequence[Path], suffix: str, experiment: Experiment | None) -> None:
    """Copy files that a resumed run would lose and write changed settings, before it writes anything else.

    Args:
        folder: the run folder.
        copied: the files to copy.
        suffix: names the copies.
        experiment: the settings to write to config.toml; None to leave it as it is.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        for path in copied:
            keep_copy(path, suffix)
        if experiment is not None:
            write_text(folder / "config.toml", tomli_w.dumps(experiment.resolved()))
    except OSError as error:
        raise UserError(f"cannot write into run folder {folder}: {reason_of(error)}") from error


def _make(folder: Path | None, experiment: Experiment, modules: Path | None) -> Path | str:
    """Make a run folder with its config; return its path, or why it cannot be made."""
    candidates = [folder] if folder else _new_names(experiment)
    for candidate in candidates:
        try:
            if _place(candidate, experiment, modules):
                return candidate
        except OSError as error:
            return f"cannot make a run folder: {reason_of(error)}: {candidate}"
    return f"{candidates[0]} exists; continue its run with qdrl resume {candidates[0]}, or give another --output"


def _place(folder: Path, experiment: Experiment, modules: Path | None) -> bool:
    """Make a run folder atomically, config included; return False where the folder exists."""
    if folder.exists():
        return False
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        (temporary / "figures").mkdir(parents=True)
        write_text(temporary / "config.toml", tomli_w.dumps(experiment.resolved()))
        if modules is not None:
            write_text(temporary / _MODULES, str(modules.absolute()))
        temporary.rename(folder)
    except OSError:
        if folder.exists():  # another run was quicker
            return False
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True


def _new_names(experiment: Experiment) -> list[Path]:
    """Return names for a new run folder: runs that start in the same second get numbers."""
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    name = f"{moment}_seed{experiment.seed}"
    parent = Path(experiment.run.folder) / experiment.name
    return [parent / name, *(parent / f"{name}-{number}" for number in range(2, 100))]
