"""The end of a run: its cause, messages and exit code."""

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner, Result

from qdrl.archives.hdf5 import content_digest, open_archive, validate
from qdrl.cli import qdrl
from qdrl.config import load_experiment, parse_experiment
from qdrl.errors import RunFailed, UserError
from qdrl.parallel.ranks import OneProcess
from qdrl.run.job import Outcome
from qdrl.run.resume import resume
from qdrl.run.start import start
from tests.helpers.processes import mpirun

ARM = {
    "name": "arm",
    "seed": 5,
    "task": {"name": "arm"},
    "archive": {"kind": "grid", "shape": [8, 8]},
    "algorithm": {"name": "map_elites", "batch_size": 16},
    "run": {"generations": 3},
}
PENDULUM = {
    "name": "pendulum",
    "task": {
        "name": "gym:Pendulum-v1",
        "descriptor": "tests.run.test_endings:typo",
        "axes": [{"name": "angle", "unit": "rad", "lower": -3.2, "upper": 3.2}],
        "episode_length": 3,
        "qd_offset": -100.0,
    },
    "policy": {"hidden_sizes": [4]},
    "archive": {"kind": "grid", "shape": [10]},
    "algorithm": {"name": "map_elites", "batch_size": 16},
    "run": {"generations": 3},
}
ENDLESS = {"generations": 10**9, "checkpoint_seconds": 1000}


def typo(trajectory: Any) -> list[float]:
    return trajectory.observation[-1]


def only_on_the_right(trajectory: Any) -> list[float]:
    _, sine, _ = trajectory.observations[-1]
    if sine < 0:
        raise RuntimeError("on purpose")
    return [0.0]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(qdrl, [str(argument) for argument in arguments])


def begin(folder: Path, experiment: dict[str, Any]) -> Outcome:
    return start(parse_experiment(experiment), OneProcess(), folder=folder, progress=False)


@pytest.mark.parametrize(
    ("budget", "ended_by"),
    [
        ({"generations": 2}, "run.generations = 2"),
        ({"evaluations": 20}, "run.evaluations = 20"),
        ({"env_steps": 20}, "run.env_steps = 20"),
        ({"generations": 9, "target_fitness": -9.0}, "run.target_fitness = -9"),
        ({"minutes": 1e-9}, "run.minutes = 1e-09"),
        ({"generations": 2, "evaluations": 32}, "run.generations = 2, run.evaluations = 32"),
    ],
)
def test_an_outcome_names_the_budgets_that_are_spent(tmp_path: Path, budget: dict, ended_by: str) -> None:
    outcome = begin(tmp_path / "run", ARM | {"run": budget})
    assert outcome.finished
    assert outcome.ended_by == ended_by
    assert f"finished: {ended_by}" in (outcome.folder / "log.txt").read_text()


def test_the_time_of_a_job_stops_it_before_its_budget_and_is_counted_anew(tmp_path: Path) -> None:
    outcome = begin(tmp_path / "run", ARM | {"run": ENDLESS | {"job_minutes": 0.003}})
    assert not outcome.finished
    assert outcome.ended_by == "run.job_minutes = 0.003"
    assert outcome.generations > 0
    again = resume(outcome.folder, OneProcess(), progress=False)
    assert not again.finished
    assert again.generations > 0
    assert len(open_archive(again.archive).history["generation"]) == outcome.generations + again.generations


def test_a_stopped_and_a_finished_run_have_different_exit_codes_and_messages(tmp_path: Path) -> None:
    config, run = tmp_path / "arm.toml", tmp_path / "run"
    config.write_text('[task]\nname = "arm"\n[archive]\nkind = "grid"\nshape = [4, 4]\n[run]\nminutes = 100.0\n')
    more = ["--set", "algorithm.batch_size=4", "--set", "run.generations=2", "--output", run]
    stopped = call("evolve", config, *more, "--set", "run.job_minutes=1e-9")
    assert stopped.exit_code == 75
    assert "ended by     run.job_minutes = 1e-09" in stopped.stdout
    assert f"stopped before its budget; continue with: qdrl resume {run}" in stopped.stdout
    finished = call("resume", run, "--unset", "run.job_minutes")
    assert finished.exit_code == 0
    assert "ended by     run.generations = 2" in finished.stdout
    assert "nothing to do" not in finished.stderr
    idle = call("resume", run, "--set", "run.evaluations=1000")
    assert idle.exit_code == 0
    (line,) = [line for line in idle.stderr.splitlines() if "nothing to do" in line]
    assert "run.generations = 2 is spent; raise it (--set run.generations=...)" in line
    assert "remove it (--unset run.generations)" in line
    unset = call("resume", run, "--unset", "run.generations", "--set", "run.evaluations=20")
    assert unset.exit_code == 0
    assert "ended by     run.evaluations = 20" in unset.stdout
    assert load_experiment(run / "config.toml").run.generations is None


@pytest.mark.parametrize("value", ["", " ", "none", "None", "null"])
def test_the_error_for_a_setting_without_a_value_names_unset(tmp_path: Path, value: str) -> None:
    (tmp_path / "c.toml").write_text('[task]\nname = "arm"\n[run]\ngenerations = 5\nminutes = 3.0\n')
    with pytest.raises(UserError, match=r"--unset run\.minutes"):
        load_experiment(tmp_path / "c.toml", [f"run.minutes={value}"])


def test_a_setting_can_be_removed_and_a_name_that_is_not_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[task]\nname = "arm"\n[run]\ngenerations = 5\nminutes = 3.0\n')
    assert load_experiment(tmp_path / "c.toml", unset=["run.minutes"]).run.minutes is None
    with pytest.raises(UserError, match=r"run\.minuts: the experiment does not set it; did you mean 'minutes'"):
        load_experiment(tmp_path / "c.toml", unset=["run.minuts"])
    with pytest.raises(UserError, match="does not set it"):
        load_experiment(tmp_path / "c.toml", unset=["compute.worlds"])
    with pytest.raises(UserError, match="is not a table"):
        load_experiment(tmp_path / "c.toml", unset=["task.name.deeper"])
    with pytest.raises(UserError, match="no budget"):
        load_experiment(tmp_path / "c.toml", ["run.job_minutes=3"], unset=["run.minutes", "run.generations"])


def test_only_run_and_compute_can_be_unset_when_resuming(tmp_path: Path) -> None:
    outcome = begin(tmp_path / "run", ARM)
    with pytest.raises(UserError, match=r"--unset archive\.shape: only run"):
        resume(outcome.folder, OneProcess(), unset=["archive.shape"])


def test_a_generation_in_which_every_evaluation_failed_ends_the_run_with_the_first_reason(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="generation 0: all 16 evaluations failed") as caught:
        begin(tmp_path / "run", PENDULUM)
    assert "the descriptor function raised AttributeError" in str(caught.value)
    assert "\n" not in str(caught.value)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "in typo" in log
    assert str(caught.value).partition(";")[0] in log
    assert open_archive(tmp_path / "run" / "archive.h5").history["failed"].tolist() == [16]
    assert validate(tmp_path / "run" / "checkpoint.h5") == []


def test_too_large_a_share_of_failed_evaluations_ends_the_run_and_it_can_be_resumed(tmp_path: Path) -> None:
    sometimes = PENDULUM | {"task": PENDULUM["task"] | {"descriptor": "tests.run.test_endings:only_on_the_right"}}
    strict = sometimes | {"run": {"generations": 3, "max_failed_share": 0.05}}
    with pytest.raises(RunFailed, match=r"of 16 evaluations failed, more than run\.max_failed_share = 0\.05"):
        begin(tmp_path / "run", strict)
    resume(tmp_path / "run", OneProcess(), overrides=["run.max_failed_share=1"], progress=False)
    whole = begin(tmp_path / "whole", sometimes)
    assert content_digest(tmp_path / "run" / "archive.h5") == content_digest(whole.archive)


@pytest.mark.mpi
def test_all_ranks_end_when_every_evaluation_failed_or_the_time_of_the_job_is_over(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    axes = '[[task.axes]]\nname = "angle"\nlower = -4\nupper = 4\n'
    config.write_text(
        f'[task]\nname = "gym:Pendulum-v1"\ndescriptor = "tests.run.test_endings:typo"\nepisode_length = 3\n{axes}'
        "[archive]\ncells = 4\n[algorithm]\nbatch_size = 3\n[run]\ngenerations = 3\n"
    )
    job = mpirun(2, ["-m", "qdrl", "evolve", config, "--output", tmp_path / "failed"], timeout=120)
    assert job.returncode == 1
    assert "qdrl: generation 0: all 3 evaluations failed" in job.stderr
    assert "has no attribute 'observation'" in job.stderr
    assert validate(tmp_path / "failed" / "archive.h5") == []
    config.write_text('[task]\nname = "arm"\n[archive]\ncells = 4\n[run]\ngenerations = 1000000\njob_minutes = 1e-9\n')
    job = mpirun(2, ["-m", "qdrl", "evolve", config, "--output", tmp_path / "stopped"], timeout=120)
    assert job.returncode == 75
    assert (tmp_path / "stopped" / "figures").is_dir()
    assert "stopped before its budget" in job.stdout


def test_a_run_starts_and_resumes_in_a_thread_that_is_not_the_main_one(tmp_path: Path) -> None:
    outcomes: list[Outcome] = []

    def work() -> None:
        outcomes.append(begin(tmp_path / "run", ARM))
        outcomes.append(resume(tmp_path / "run", OneProcess(), overrides=["run.generations=5"], progress=False))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [outcome.generations for outcome in outcomes] == [3, 2]


def test_signal_handlers_are_not_installed_with_handle_signals_false(tmp_path: Path) -> None:
    class Watching(OneProcess):
        handlers: ClassVar[list[Any]] = []

        def any_of(self, *flags: bool) -> tuple[bool, ...]:
            self.handlers.append(signal.getsignal(signal.SIGTERM))
            return super().any_of(*flags)

    before = signal.getsignal(signal.SIGTERM)
    start(parse_experiment(ARM), Watching(), folder=tmp_path / "run", progress=False, handle_signals=False)
    assert set(Watching.handlers) == {before}
    Watching.handlers.clear()
    start(parse_experiment(ARM), Watching(), folder=tmp_path / "handled", progress=False)
    assert before not in Watching.handlers
    assert signal.getsignal(signal.SIGTERM) == before


def test_figures_that_cannot_be_written_are_a_warning(tmp_path: Path) -> None:
    config = tmp_path / "arm.toml"
    config.write_text('[task]\nname = "arm"\n[archive]\nkind = "grid"\nshape = [4, 4]\n[run]\ngenerations = 1\n')
    run = tmp_path / "run"
    assert call("evolve", config, "--output", run).exit_code == 0
    (run / "figures" / "heatmap.png").unlink()
    (run / "figures" / "heatmap.png").mkdir()
    done = call("resume", run)
    assert done.exit_code == 0
    assert "qdrl: no heatmap: cannot write" in done.stderr
    assert "curves.png" in done.stdout


def test_output_into_a_full_disk_is_one_line_and_exit_code_one() -> None:
    command = f"{sys.executable} -m qdrl tasks > /dev/full"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "qdrl: cannot write: No space left on device\n"
