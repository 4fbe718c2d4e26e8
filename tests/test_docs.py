"""Examples of README and docs run as written."""

import inspect
import os
import re
import subprocess
import sys
import types
from importlib import import_module
from pathlib import Path

import pytest

from qdrl.archives.hdf5 import content_digest
from tests.helpers.processes import run_qdrl

ROOT = Path(__file__).parents[1]


def _blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


def _files(document: str) -> dict[str, str]:
    """Return the blocks that have a title, the files for the reader to create, by title."""
    return dict(re.findall(r'```\w+ title="([^"]+)"\n(.*?)```', (ROOT / document).read_text(), re.DOTALL))


def _run_blocks(document: str, folder: Path) -> str:
    """Run the untitled bash blocks of a page in order, in a folder that holds the page's titled files."""
    for name, text in _files(document).items():
        if "/" not in name and " " not in name:
            (folder / name).write_text(text)
    script = "set -euo pipefail\n" + "\n".join(_blocks(document, "bash"))
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"  # the machine may have one core
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.mpi
def test_the_tutorial_runs_as_written(tmp_path: Path) -> None:
    printed = _run_blocks("docs/tutorial.md", tmp_path)
    assert printed.count("the same, bit for bit") == 1
    assert "ended by     run.evaluations = 2048" in printed
    assert printed.endswith("True\n")
    assert (tmp_path / "walker.gif").stat().st_size > 10_000


@pytest.mark.slow
def test_the_guide_to_archives_runs_as_written(tmp_path: Path) -> None:
    (tmp_path / "archives").symlink_to(ROOT / "archives")
    assert "the same, bit for bit" in _run_blocks("docs/how-to/archive.md", tmp_path)
    assert (tmp_path / "figures" / "walker2d_uni_portable_heatmap.png").stat().st_size > 10_000
    for name in ("read.py", "plain.py"):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, name], cwd=tmp_path, env=environment, check=True)


def test_the_verb_of_the_docs_passes_its_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import qdrl.cli.archive as group

    files = _files("docs/how-to/cli-verb.md")
    verb = types.ModuleType("qdrl.cli.archive.top")
    exec(files["qdrl/cli/archive/top.py"], verb.__dict__)
    monkeypatch.setitem(sys.modules, verb.__name__, verb)
    verbs = eval("{" + files["qdrl/cli/archive/__init__.py"] + "}")
    monkeypatch.setattr(group.command, "_verbs", group.command._verbs | verbs)  # pyright: ignore[reportAttributeAccessIssue]
    tests: dict[str, object] = {"__file__": str(ROOT / "tests" / "cli" / "test_top.py")}
    exec(files["tests/cli/test_top.py"], tests)
    functions = [run for name, run in tests.items() if name.startswith("test_") and callable(run)]
    passed = [run(*[tmp_path][: len(inspect.signature(run).parameters)]) for run in functions]
    assert len(passed) == 4


def test_the_python_example_of_the_readme_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = _blocks("README.md", "python")
    assert len(example.strip().splitlines()) <= 18
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "coverage=0." in printed
    assert printed.endswith("\nTrue\n")
    assert (tmp_path / "arm.png").stat().st_size > 10_000


def test_the_experiment_of_the_readme_is_valid() -> None:
    import tomllib

    from qdrl.config import parse_experiment

    (example,) = _blocks("README.md", "toml")
    assert parse_experiment(tomllib.loads(example)).name == "gaits"


def test_the_examples_of_novelty_archives_run(capsys: pytest.CaptureFixture[str]) -> None:
    import tomllib

    from qdrl.config import parse_experiment

    ((table,), (example,)) = (_blocks("docs/concepts/novelty.md", language) for language in ("toml", "python"))
    parse_experiment({"name": "x", "task": {"name": "arm"}, "run": {"generations": 1}} | tomllib.loads(table))
    exec(compile(example, "docs/concepts/novelty.md", "exec"), {})
    entries, novelty = capsys.readouterr().out.split()
    assert int(entries) > 1
    assert 0 < float(novelty) < 100


def test_the_experiment_of_evolution_strategies_is_valid() -> None:
    import tomllib

    from qdrl.config import parse_experiment

    (example,) = _blocks("docs/concepts/evolution-strategies.md", "toml")
    rest = {"name": "es", "task": {"name": "walker2d_uni"}, "run": {"generations": 1}}
    settings = parse_experiment(rest | tomllib.loads(example)).algorithm.model_dump()
    assert settings["searcher"]["optimizer"]["max_speed"] == 0.015


def test_the_reading_example_of_the_format_needs_only_h5py() -> None:
    (example,) = _blocks("archives/README.md", "python")
    done = subprocess.run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "[17, 6, 6]" in done.stdout


@pytest.mark.slow
@pytest.mark.mpi
def test_the_guide_to_algorithms_runs_as_written(tmp_path: Path) -> None:
    assert "3 passed" in _run_blocks("docs/how-to/algorithm.md", tmp_path)
    assert content_digest(tmp_path / "runs/one/archive.h5") == content_digest(tmp_path / "runs/two/archive.h5")


@pytest.mark.slow
def test_the_guide_to_environments_runs_as_written(tmp_path: Path) -> None:
    assert "ended by     run.generations = 20" in _run_blocks("docs/how-to/gymnasium.md", tmp_path)


def test_the_algorithm_and_the_environment_of_the_docs_run_together(tmp_path: Path) -> None:
    files = _files("docs/how-to/algorithm.md") | _files("docs/how-to/gymnasium.md")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    overrides = ["algorithm.name=tournament:Tournament", "algorithm.batch_size=8", "task.episode_length=10"]
    settings = [word for each in (*overrides, "run.generations=2") for word in ("--set", each)]
    run_qdrl("evolve", "swing.toml", "--output", "run", *settings, folder=tmp_path, check=True)


def test_the_archive_of_the_docs_runs(tmp_path: Path) -> None:
    ((table,), (module,)) = (_blocks("docs/how-to/archive-kind.md", language) for language in ("toml", "python"))
    (tmp_path / "mine.py").write_text(module)
    rest = '[task]\nname = "arm"\n[algorithm]\nbatch_size = 8\n[run]\ngenerations = 2\n'
    (tmp_path / "mine.toml").write_text(table + rest)
    run_qdrl("evolve", "mine.toml", "--output", "run", folder=tmp_path, check=True)


def test_the_requeue_script_of_the_docs_starts_again_while_the_exit_code_is_75(tmp_path: Path) -> None:
    script = _files("docs/how-to/cluster.md")["job.sh"]
    count = 'mkdir -p runs/gaits/study; printf "%s\\n" "$*" >> calls'
    mpirun = f'#!/bin/bash\n{count}\n[ "$(wc -l < calls)" -gt 1 ] || exit 75\n'
    for name, text in (("mpirun", mpirun), ("scontrol", '#!/bin/bash\necho "$@" >> calls; exec bash script\n')):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "script").write_text(script)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    subprocess.run(["bash", "script"], cwd=tmp_path, env=environment, check=False)
    assert (tmp_path / "calls").read_text().splitlines() == [
        "-n 64 qdrl evolve study.toml --output runs/gaits/study --set run.job_minutes=230",
        "requeue 7",
        "-n 64 qdrl resume runs/gaits/study",
    ]


_DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "archives/*.md", "experiments/*.md", "experiments/*/*.md")
    for path in ROOT.glob(pattern)
)


@pytest.mark.parametrize("document", _DOCUMENTS)
def test_every_link_into_the_repository_leads_somewhere(document: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / document).read_text(), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text) if "://" not in link]
    generated = {"settings.md", "cli.md", "api.md", "archive-format.md"}  # pages of the site in docs/reference
    missing = [link for link in links if not ((ROOT / document).parent / link).exists()]
    assert [link for link in missing if Path(link).name not in generated] == []


_IMPORT = re.compile(r"^ *from (qdrl[\w.]*) import ([\w, ]+)$", re.MULTILINE)


def test_the_api_page_has_every_name_that_the_docs_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs" / "site")
    page = import_module("reference").api()
    paths = re.findall(r"^::: (\S+)$", page, re.MULTILINE)
    listed = {id(getattr(import_module(module), name)) for module, _, name in (path.rpartition(".") for path in paths)}
    documents = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
    imports = [found for document in documents for found in _IMPORT.findall(document.read_text())]
    names = {(module, name.strip()) for module, text in imports for name in text.split(",")}
    assert len(names) > 20
    assert sorted(each for each in names if id(getattr(import_module(each[0]), each[1])) not in listed) == []


def test_the_readme_names_every_verb() -> None:
    text = (ROOT / "README.md").read_text()
    help_text = run_qdrl("--help").stdout
    verbs = re.findall(r"^  ([a-z]+)  ", help_text.partition("Verbs:")[2], re.MULTILINE)
    assert len(verbs) == 9
    assert all(f"`qdrl {verb}" in text for verb in verbs)
