"""The file of a Deep GA run, read by every verb. `test_rank_counts.py` runs it on several ranks."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from qdrl.analysis.decode import champion_genome, genome_of, genomes_of, task_of
from qdrl.analysis.export import weights_of
from qdrl.analysis.rerun import replay
from qdrl.archives.hdf5 import open_archive, validate, write_archive
from qdrl.cli import qdrl
from qdrl.config import load_experiment, parse_experiment
from qdrl.errors import UserError
from qdrl.genomes.ancestry import Ancestry
from qdrl.parallel.ranks import OneProcess
from qdrl.run.start import start
from qdrl.tasks.episodic import EpisodicTask
from tests.archives.builders import damaged
from tests.helpers.processes import run_qdrl

CONFIG = """
name = "ga"
seed = 3
[task]
name = "hopper_uni"
episode_length = 30
[policy]
hidden_sizes = [8]
normalize_observations = true
[archive]
cells = 32
samples = 2000
[algorithm]
name = "deep_ga"
batch_size = 25
parents = 2
candidates = 3
candidate_episodes = 4
mutation = { sigma = 0.2 }
rebase_depth = 2
noise = { name = "table", size = 20_000 }
[run]
generations = 14
checkpoint_seconds = 0
[compute]
worlds = 8
"""


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ga")
    (folder / "config.toml").write_text(CONFIG)
    return start(load_experiment(folder / "config.toml"), OneProcess(), folder=folder / "run", progress=False).archive


def test_elites_replay_from_their_lineages(archive: Path) -> None:
    stored = open_archive(archive)
    assert validate(archive) == []
    assert stored.lineages is not None
    assert len(stored.lineages.keyframes) > 0
    assert all(replay(stored, int(cell)).same for cell in stored.elites["cell"])


def test_elites_use_the_initialisation_and_the_normaliser_of_their_file(tmp_path: Path) -> None:
    published = 'initialization = "normalized_columns"\nobservation_clip = 1.5\ndeviation_floor = 0.5\n[archive]'
    (tmp_path / "config.toml").write_text(CONFIG.replace("[archive]", published).replace("rebase_depth = 2\n", ""))
    run = start(load_experiment(tmp_path / "config.toml"), OneProcess(), folder=tmp_path / "run", progress=False)
    stored = open_archive(run.archive)
    cells = [int(cell) for cell in stored.elites["cell"]]
    assert all(replay(stored, cell).same for cell in cells)
    _, weights = weights_of(stored, cells[0])
    assert (weights["observation_clip"], weights["deviation_floor"]) == (1.5, 0.5)
    assert weights["deviation"].min() >= 0.5
    for name in ("initialization", "observation_clip", "deviation_floor"):
        policy = {key: value for key, value in stored.meta["policy"].items() if key != name}
        other = replace(stored, meta=stored.meta | {"policy": policy})
        assert not all(replay(other, cell).same for cell in cells), f"replay does not use {name}"


def test_info_and_show_describe_lineages(archive: Path, tmp_path: Path) -> None:
    facts = json.loads(CliRunner().invoke(qdrl, ["archive", "info", str(archive), "--json"]).stdout)
    assert facts["lineages"]["noise"] == {"name": "table", "size": 20_000, "seed": 123}
    assert facts["lineages"]["weight_bytes"] == 4 * facts["genome_parameters"] * facts["statistics"]["elites"]
    assert facts["champion"]["episodes"] == 4
    cell = str(open_archive(archive).elites["cell"][0])
    assert "lineage_mutations" in CliRunner().invoke(qdrl, ["archive", "show", str(archive), cell]).stdout
    assert CliRunner().invoke(qdrl, ["archive", "reevaluate", str(archive)]).exit_code == 0


def test_one_lineage_is_decoded_without_the_others(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = open_archive(archive)
    expected = genomes_of(stored)[0 : len(stored)].numpy()
    monkeypatch.delattr(Ancestry, "insert_all")
    np.testing.assert_array_equal([genome_of(stored, row) for row in range(len(stored))], expected)


def test_export_decodes_the_champion_and_elites(archive: Path, tmp_path: Path) -> None:
    stored = open_archive(archive)
    for options, genome in (
        ([], champion_genome(stored)),
        (["--cell", str(stored.elites["cell"][3])], genomes_of(stored)[3:4][0].numpy()),
    ):
        done = CliRunner().invoke(qdrl, ["export", str(archive), str(tmp_path / "w.npz"), *options])
        assert done.exit_code == 0, done.output
        weights = arrays_of(tmp_path / "w.npz")
        assert np.array_equal(weights["genome"], genome)
        assert weights["kernel_0"].shape == (11, 8)
        assert weights["mean"].shape == weights["deviation"].shape == (11,)
        layers = [weights[f"{part}_{layer}"].ravel() for layer in (0, 1) for part in ("kernel", "bias")]
        assert np.array_equal(np.concatenate(layers), genome)


def test_faults_of_stored_lineages_are_errors_of_one_line(archive: Path, tmp_path: Path) -> None:
    stored = open_archive(archive)
    with pytest.raises(UserError, match="holds lineages"):
        stored.genome(row=0)
    with pytest.raises(UserError, match=r"must end in \.npz"):
        CliRunner().invoke(qdrl, ["export", str(archive), str(tmp_path / "w.txt")], catch_exceptions=False)
    bad = tmp_path / "bad.h5"
    for name, change, message in (
        ("sigmas", lambda values: np.full_like(values, np.inf), "a power is not finite, or a keyframe is missing"),
        ("keyframe_numbers", lambda values: values + 100, "a power is not finite, or a keyframe is missing"),
        ("offsets", lambda values: values[:-1], "offsets: must be"),
        ("seeds", lambda values: values[1:], "must have"),
    ):
        bad.write_bytes(archive.read_bytes())
        with damaged(bad) as file:
            values = change(file[f"elites/lineage/{name}"][()])
            del file[f"elites/lineage/{name}"]
            file[f"elites/lineage/{name}"] = values
        assert any(message in problem for problem in validate(bad)), name


def test_lineages_that_cannot_be_decoded_here_are_refused(archive: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.h5"
    for change, message in (
        ({"noise": '{"name": "table", "size": 50}'}, "a noise table of 50 numbers is too short"),
        ({"noise": '{"name": "dice"}'}, "unknown noise 'dice'; known: keyed, table"),
    ):
        bad.write_bytes(archive.read_bytes())
        with damaged(bad) as file:
            file["elites/lineage"].attrs.update(change)
        with pytest.raises(UserError, match=message):
            genomes_of(open_archive(bad))[0:30]
    bad.write_bytes(archive.read_bytes())
    with damaged(bad) as file:
        keyframes = file["elites/lineage/keyframes"][()][:, 1:]
        del file["elites/lineage/keyframes"]
        file["elites/lineage/keyframes"] = keyframes
    with pytest.raises(UserError, match=r"genomes have \d+ parameters but its policies have"):
        champion_genome(open_archive(bad))


def test_a_damaged_champion_is_named(archive: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.h5"
    for name, values, message in (
        ("fitness", np.array([np.nan]), "/champion/fitness: not finite"),
        ("generation", None, "expected fitness, generation and a genome or lineage"),
    ):
        bad.write_bytes(archive.read_bytes())
        with damaged(bad) as file:
            del file[f"champion/{name}"]
            if values is not None:
                file[f"champion/{name}"] = values
        assert any(message in problem for problem in validate(bad)), name


def test_lineages_of_genomes_that_are_not_policies_are_shown_and_exported(tmp_path: Path) -> None:
    run, config = tmp_path / "run", tmp_path / "arm.toml"
    config.write_text(
        '[task]\nname = "arm"\n[algorithm]\nname = "deep_ga"\nbatch_size = 20\nparents = 3\ncandidate_episodes = 0\n'
        '[archive]\nkind = "grid"\nshape = [4, 4]\n[run]\ngenerations = 3\n'
    )
    commands = (["evolve", config, "--output", run], ["archive", "info", run], ["export", run, tmp_path / "w.npz"])
    for command in commands:
        run_qdrl(*command, check=True)
    weights = arrays_of(tmp_path / "w.npz")
    assert str(weights["task_name"]) == "arm"
    assert not weights.keys() & {"layers", "policy", "kernel_0"}


def test_a_network_with_virtual_batch_norm_is_exported_with_its_reference_batch(tmp_path: Path) -> None:
    config = {
        "name": "maze",
        "task": {"name": "image_hard_maze", "episode_length": 20},
        "policy": {
            "kind": "conv",
            "convolutions": [{"filters": 2, "size": 8, "stride": 8}],
            "hidden_sizes": [4],
            "virtual_batch_norm": 5,
        },
        "archive": {"kind": "grid", "shape": [3, 3]},
        "algorithm": {"name": "deep_ga", "batch_size": 4, "parents": 2, "candidate_episodes": 0},
        "run": {"generations": 2},
        "compute": {"worlds": 4},
    }
    run = start(parse_experiment(config), OneProcess(), folder=tmp_path / "run", progress=False)
    stored = open_archive(run.archive)
    _, weights = weights_of(stored)
    assert weights["reference"].shape == (5, 4 * 84 * 84)
    task = task_of(stored)
    assert isinstance(task, EpisodicTask)
    network = task.rollout_in(task.make_worlds(1))._population
    network.load([0], torch.from_numpy(weights["genome"])[None])
    seen = torch.rand(1, 4 * 84 * 84, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(network.act(seen), acted(weights, seen))


def acted(weights: dict[str, np.ndarray], seen: torch.Tensor) -> torch.Tensor:
    """Compute actions from exported weights as described in archives/README.md."""
    parts = {name: torch.from_numpy(values) for name, values in weights.items() if values.dtype.kind == "f"}
    values = torch.cat([parts["reference"], seen]).view(-1, 4, 84, 84)
    for layer in range(3):
        kernel, bias = parts[f"kernel_{layer}"], parts[f"bias_{layer}"]
        if layer == 0:
            values = torch.nn.functional.conv2d(torch.nn.functional.pad(values, (2, 2, 2, 2)), kernel, bias, stride=8)
        else:
            values = values.flatten(1) @ kernel + bias
        if layer < 2:
            axes, shape = ((0, 2, 3), (-1, 1, 1)) if layer == 0 else ((0,), (-1,))
            mean, variance = values[:-1].mean(axes), values[:-1].var(axes, unbiased=False)
            factor = parts[f"scale_{layer}"] / (variance + 0.001).sqrt()
            values = (values - mean.view(shape)) * factor.view(shape) + parts[f"offset_{layer}"].view(shape)
            values = values.relu()
    return values[-1:].tanh()


def test_an_archive_without_a_champion_exports_its_best_elite(tmp_path: Path) -> None:
    reference = Path(__file__).parents[2] / "archives" / "reference" / "walker2d_uni.h5"
    done = CliRunner().invoke(qdrl, ["export", str(reference), str(tmp_path / "w.npz")])
    assert done.exit_code == 0, done.output
    stored = open_archive(reference)
    best = int(stored.elites["fitness"].argmax())
    assert np.array_equal(arrays_of(tmp_path / "w.npz")["genome"], stored.genome(row=best))
    assert task_of(stored).parameters == stored.parameters
    with pytest.raises(UserError, match="has no champion"):
        champion_genome(stored)
    write_archive(tmp_path / "copy.h5", stored)
