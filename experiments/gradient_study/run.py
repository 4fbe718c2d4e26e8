"""Run MAP-Elites, PGA-, DCG- and DCRL-MAP-Elites on each task; README.md has commands and costs.

Each task and algorithm is run with several seeds, each in a process with one thread. Interrupted runs are resumed and
finished runs are kept.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tomli_w

from experiments.gradient_study.studies import DEFAULT, STUDIES, folder_of
from experiments.reports import run_to_end


def main() -> None:
    parser = argparse.ArgumentParser(description="Run ME, PGA, DCG and DCRL; see README.md.")
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=DEFAULT)
    parser.add_argument("--seeds", type=int, help="number of seeds, in place of each study's default")
    parser.add_argument("--workers", type=int, default=2, help="number of runs in parallel, one thread each")
    parser.add_argument("--runs", type=Path, default=Path("runs/gradient_study"), help="folder of the runs")
    arguments = parser.parse_args()
    for name in arguments.studies:
        seeds = range(arguments.seeds or STUDIES[name].seeds)
        jobs = [(name, algorithm, seed, arguments.runs) for seed in seeds for algorithm in STUDIES[name].algorithms]
        with ThreadPoolExecutor(arguments.workers) as pool:
            list(pool.map(lambda job: run(*job), jobs))


def run(study: str, algorithm: str, seed: int, runs: Path) -> None:
    """Write the experiment file of a run beside its folder, and run it."""
    folder = folder_of(runs, study, algorithm, seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    config = folder.with_suffix(".toml")
    config.write_text(tomli_w.dumps(STUDIES[study].experiment(algorithm)), encoding="utf-8")
    run_to_end(config, seed, folder)


if __name__ == "__main__":
    main()
