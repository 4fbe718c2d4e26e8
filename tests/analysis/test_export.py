"""The file of `qdrl export` is sufficient to act without qdrl; `test_ga_runs.py` tests lineages and champions."""

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from qdrl.analysis.decode import normalization_of, policy_of
from qdrl.analysis.export import weights_of
from qdrl.archives.hdf5 import open_archive, write_archive
from qdrl.cli import qdrl
from qdrl.policies.normalizer import deviation_of, normalize_
from tests.archives.builders import small_archive

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "archives" / "reference" / "walker2d_uni.h5"


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(qdrl, ["export", str(REFERENCE), "walker.npz", "--cell", "100"], catch_exceptions=False)
    assert done.output == "walker.npz: elite of cell 100, 150 weights\n"
    return tmp_path / "walker.npz"


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def test_the_example_of_the_docs_acts_as_the_elite_with_numpy_alone(exported: Path) -> None:
    text = (ROOT / "docs" / "how-to" / "export.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert re.findall(r"^import (\w+)", example, re.MULTILINE) == ["numpy"]
    names: dict = {}
    exec(compile(example, "exporting.md", "exec"), names)
    archive = open_archive(REFERENCE)
    row = archive.row_of(100)
    population = policy_of(archive).population(1)
    population.load([0], torch.from_numpy(archive.genome(100))[None])
    mean, var = normalization_of(archive, int(archive.elites["generation"][row])) or (np.zeros(17), np.ones(17))
    for scale in (0.1, 1.0, 1000.0):  # the last scale reaches the limit of normalised observations
        observation = scale * np.random.default_rng(0).standard_normal(17, np.float32)
        seen = normalize_(
            torch.from_numpy(observation.copy())[None], torch.from_numpy(mean).float(), deviation_of(var, 0.01), 10.0
        )
        np.testing.assert_allclose(names["act"](observation), population.act(seen)[0].numpy(), atol=2e-6)


def test_the_exported_file_describes_the_weights(exported: Path) -> None:
    archive, weights = open_archive(REFERENCE), arrays_of(exported)
    row = archive.row_of(100)
    assert str(weights["format"]) == "qdrl-weights 1.0"
    assert weights["layers"].tolist() == [17, 6, 6]
    assert (str(weights["kind"]), str(weights["output"])) == ("mlp", archive.meta["policy"]["output"])
    assert str(weights["activation"]) == archive.meta["policy"]["activation"]
    assert json.loads(str(weights["policy"])) == archive.meta["policy"]
    assert json.loads(str(weights["task"])) == archive.meta["task"]
    assert str(weights["task_name"]) == "walker2d_uni"
    assert json.loads(str(weights["origin"])) == archive.attributes
    assert (weights["observation_clip"], weights["deviation_floor"]) == (10, 0.01)
    for name in ("cell", "fitness", "descriptor", "evaluation_seed", "generation", "n_evaluations"):
        np.testing.assert_array_equal(weights[name], archive.elites[name][row])
    assert weights["descriptor_names"].tolist() == ["right foot contact", "left foot contact"]
    assert weights["descriptor_units"].tolist() == ["1", "1"]
    assert (weights["descriptor_lower"].tolist(), weights["descriptor_upper"].tolist()) == ([0, 0], [1, 1])


def test_every_array_is_in_the_docs_and_none_needs_pickle(exported: Path) -> None:
    documented = set(re.findall(r"`(\w+?)(?:_<i>)?`", (ROOT / "docs" / "how-to" / "export.md").read_text()))
    weights = arrays_of(exported)
    assert {re.sub(r"_\d+$", "", name) for name in weights} <= documented
    assert all(values.dtype.kind in "fiU" for values in weights.values())


def test_genomes_that_are_not_policies_are_exported_with_their_fitness() -> None:
    archive = small_archive()
    archive.meta["policy"] = None
    chosen, weights = weights_of(archive)
    assert chosen == f"elite of cell {archive.best_cell}"
    assert weights["fitness"] == archive.elites["fitness"].max()
    assert "layers" not in weights
    np.testing.assert_array_equal(weights["genome"], archive.genome(archive.best_cell))


def test_attributes_that_another_program_added_are_exported(tmp_path: Path) -> None:
    write_archive(tmp_path / "a.h5", small_archive())
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file.attrs["sites"] = np.array(["north", "south"], dtype=object)
        file.attrs["limits"] = [0.5, np.inf]
        file.attrs["raw"] = np.bytes_(b"caf\xe9")
    archive = open_archive(tmp_path / "a.h5")
    archive.meta["policy"] = None
    _, weights = weights_of(archive)
    origin = json.loads(str(weights["origin"]))
    assert (origin["sites"], origin["limits"], origin["raw"]) == (["north", "south"], [0.5, None], "caf\ufffd")
