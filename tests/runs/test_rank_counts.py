"""Runs of every kind of algorithm: the same archive on any number of ranks, and after a kill on other ranks.

`test_run.py` shows the same for `qdrl evolve` and `qdrl resume` under mpirun.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
from numpy.testing import assert_equal

from qdrl.analysis.decode import champion_genome
from qdrl.archives.hdf5 import content_digest, open_archive, validate
from qdrl.run.resume import load
from tests.helpers.once import made_once
from tests.helpers.processes import mpirun, run_python, run_until_killed

HOPPER = """
seed = 3
[task]
name = "hopper_uni"
episode_length = 30
[policy]
hidden_sizes = {hidden_sizes}
normalize_observations = true
[archive]
{archive}
[algorithm]
{algorithm}
[run]
generations = {generations}
test_episodes = 3
checkpoint_seconds = 0
[compute]
worlds = 8
"""
CELLS = "cells = 32\nsamples = 2000"
CRITIC = """batch_size = 12
replay_capacity = 700
critic = { steps = 20, batch_size = 16, hidden_sizes = [16, 16] }
gradient = { steps = 5, batch_size = 16 }"""
GA = """name = "deep_ga"
batch_size = 25
parents = 2
candidates = 3
candidate_episodes = 4
mutation = { sigma = 0.2 }
rebase_depth = 2
noise = { name = "table", size = 20_000 }"""

POINT = """
seed = 6
[task]
name = "point_omni"
episode_length = 20
[policy]
hidden_sizes = [3]
normalize_observations = true
[archive]
kind = "grid"
shape = [12, 12]
[algorithm]
name = "evotorch"
batch_size = 26
searcher = {{ {searcher} }}
[run]
generations = 20
checkpoint_seconds = 0
"""
SEARCHERS = {
    "pgpe": 'name = "pgpe"',
    "pgpe_adam": 'name = "pgpe", optimizer = { name = "adam" }, initial_stdev = 0.1',
    "snes": 'name = "snes", initial_stdev = 0.1',
    "xnes": 'name = "xnes", initial_stdev = 0.1',
    "cem": 'name = "cem", initial_stdev = 0.1, parenthood_ratio = 0.3',
    "cmaes": 'name = "cmaes", initial_stdev = 0.1',
}


def experiment(algorithm: str, archive: str = CELLS, hidden_sizes: str = "[]", generations: int = 6) -> str:
    return HOPPER.format(algorithm=algorithm, archive=archive, hidden_sizes=hidden_sizes, generations=generations)


def critic(name: str, options: str) -> str:
    """Return an experiment of an algorithm with a critic."""
    return experiment(f'name = "{name}"\n{options}\n{CRITIC}', hidden_sizes="[8, 8]")


EXPERIMENTS = {
    "pga_map_elites": critic("pga_map_elites", "gradient_rows = 5\nactor_rows = 1"),
    "dcg_map_elites": critic("dcg_map_elites", "gradient_rows = 6\nprobe_rows = 12"),
    "actor_of_other_layers": critic(
        "dcg_map_elites", 'gradient_rows = 6\nprobe_rows = 9\nprobe_order = "after_children"'
    ).replace("critic = {", "critic = { actor_hidden_sizes = [10, 6],"),
    "dcrl_map_elites": critic("dcrl_map_elites", "gradient_rows = 3\nactor_rows = 3"),
    "four_learners": critic("dcrl_map_elites", "gradient_rows = 3\nactor_rows = 3\nlearners = 4"),
    "openai_es": experiment('name = "openai_es"\nbatch_size = 14\ngradient_parts = 16'),
    "fewer_parts_than_ranks": experiment('name = "openai_es"\nbatch_size = 14\ngradient_parts = 2'),
    "novelty_es": experiment(
        'name = "novelty_es"\nbatch_size = 10\nmeans = 2\nmean_rows = 3', 'kind = "novelty"\nrule = "all"'
    ),
    "novelty_archive": experiment(
        "batch_size = 15",
        'kind = "novelty"\nrule = "threshold"\nthreshold = 0.05\nthreshold_k = 1\ncapacity = 8',
        hidden_sizes="[8]",
        generations=5,
    ),
    "deep_ga": experiment(GA, hidden_sizes="[8]", generations=14),
    "children_of_two_episodes": experiment(f"{GA}\nepisodes_per_child = 2\ncopy_elite = true", hidden_sizes="[8]"),
    "rerolled_means": experiment(
        'name = "novelty_es"\nbatch_size = 10\nmeans = 2\nmean_rows = 3\nreroll_means = true',
        'kind = "novelty"\nrule = "all"',
    ),
    **{name: POINT.format(searcher=searcher) for name, searcher in SEARCHERS.items()},
    "pgpe_growing": POINT.format(searcher=SEARCHERS["pgpe"]).replace("= 26", "= 26\nsteps_per_update = 1200"),
}
SLOW = (
    "deep_ga",
    "dcg_map_elites",
    "actor_of_other_layers",
    "novelty_es",
    "pga_map_elites",
    "dcrl_map_elites",
    "openai_es",
    "fewer_parts_than_ranks",
    "novelty_archive",
    "pgpe_growing",
    "children_of_two_episodes",
    "rerolled_means",
    *SEARCHERS,
)
NAMES = [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in EXPERIMENTS]
CRITICS = ("pga_map_elites", "dcg_map_elites", "dcrl_map_elites", "four_learners")


def _write(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        (folder / name).mkdir()
        (folder / name / "config.toml").write_text(EXPERIMENTS[name])


def _run_alone(folder: Path, names: Sequence[str]) -> None:
    _write(folder, names)
    run_python(["-m", "tests.programs.rank_counts", "alone", folder], check=True)


def _run_on_ranks(folder: Path, names: Sequence[str]) -> None:
    _write(folder, names)
    for index, name in enumerate(names):
        run = folder / name
        run_until_killed(
            ["-m", "qdrl", "evolve", run / "config.toml", "--output", run / "killed"], run / "killed", 3 + index % 2
        )
        killed = load(run / "killed")
        assert killed.algorithm.generation < (killed.experiment.run.generations or 0)
    job = mpirun(4, ["-m", "tests.programs.rank_counts", "split", folder], timeout=600)
    assert job.returncode == 0, job.stderr
    assert job.stdout == ""  # EvoTorch logs there by default


def _made_once(
    factory: pytest.TempPathFactory, name: str, title: str, make: Callable[[Path, Sequence[str]], None]
) -> Path:
    """Return the folder of an experiment, made together with all others of the same speed."""
    names = [other for other in EXPERIMENTS if (other in SLOW) == (name in SLOW)]
    title += "-slow" * (name in SLOW)
    return made_once(factory, title, lambda folder: make(folder, names)) / name


@pytest.fixture
def alone(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    """Return the folder of an experiment: its file, and its run in one process without MPI."""
    return _made_once(tmp_path_factory, name, "alone", _run_alone)


@pytest.fixture
def ranks(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    """Return the same folder with runs on 1 to 4 ranks, and a run that was killed and resumed on three."""
    return _made_once(tmp_path_factory, name, "ranks", _run_on_ranks)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_of_one_process_writes_a_valid_archive(alone: Path, name: str) -> None:
    path = alone / "alone" / "archive.h5"
    assert validate(path) == []
    archive = open_archive(path)
    if name in CRITICS:
        assert archive.history["critic_steps"].tolist() == [20] * 6
    if name == "actor_of_other_layers":
        assert archive.history["critic_steps"].tolist() == [0, 20] * 3
        assert (archive.actor or {})["layers"].tolist() == [11, 10, 6, 3]
    if name in ("openai_es", "fewer_parts_than_ranks"):
        assert champion_genome(archive).shape == (11 * 3 + 3,)
    if name == "novelty_archive":
        assert archive.cells > len(archive) == 8
    on_point = name in (*SEARCHERS, "pgpe_growing")
    if archive.champion is not None and not on_point:
        assert archive.champion["test_fitness"].shape == (3,)
    if on_point:
        assert len(archive.history["skipped_updates"]) == 20
    if name == "pgpe_growing":  # 520 steps a generation
        assert archive.history["waiting_rows"].tolist() == [26, 52, 0] * 6 + [26, 52]


@pytest.mark.mpi
@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("name", NAMES)
def test_the_archive_is_the_same_for_any_number_of_ranks(alone: Path, ranks: Path, count: int) -> None:
    path = ranks / str(count) / "archive.h5"
    assert content_digest(path) == content_digest(alone / "alone" / "archive.h5")
    assert open_archive(path).meta["command"]["ranks"] == count


@pytest.mark.mpi
@pytest.mark.parametrize("name", NAMES)
def test_a_killed_run_resumes_on_other_ranks_to_the_same_archive(alone: Path, ranks: Path) -> None:
    assert content_digest(ranks / "killed" / "archive.h5") == content_digest(alone / "alone" / "archive.h5")
    assert open_archive(ranks / "killed" / "archive.h5").meta["command"]["ranks"] == 3
    resumed, whole = (load(run).algorithm.state_dict() for run in (ranks / "killed", alone / "alone"))
    assert_equal(resumed, whole)


@pytest.mark.slow
def test_searchers_of_evotorch_make_archives_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    runs = [_made_once(tmp_path_factory, name, "alone", _run_alone) / "alone" for name in SEARCHERS]
    assert len({content_digest(run / "archive.h5") for run in runs}) == len(SEARCHERS)
