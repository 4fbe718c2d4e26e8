"""Write the table of kills that docs/concepts/reliability.md shows; reads `results/kills.csv` only."""

import argparse
from collections import Counter
from pathlib import Path

from experiments.reports import markdown_table, read_rows

RESULTS = Path(__file__).parent / "results"
MODES = {
    "process": "a process",
    "forked process": "a forked process",
    "mpirun": "one of three ranks, or mpirun",
    "mpirun, ULFM": "one or two of three ranks, or mpirun, `--with-ft ulfm`",
}
MOMENTS = ("start", "generations", "write", "last save", "figures")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the table of kills from results/kills.csv.")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the table")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    (output / "kills.md").write_text(table(read_rows(RESULTS / "kills.csv")), encoding="utf-8")


def table(kills: list[dict[str, str]]) -> str:
    """Return a Markdown table of the number of kills by mode and moment, and their verdicts."""
    body = [[words, *counts([row for row in kills if row["mode"] == mode])] for mode, words in MODES.items()]
    body.append(["all", *counts(kills)])
    lines = markdown_table(["killed", *MOMENTS, "all", "identical", "hangs"], body)
    ended = Counter(row["ended"] for row in kills)
    lines += ["", f"{ended['survived']} runs survived the kill without a resume."]
    lines += [f"{ended['started again']} were killed before their first checkpoint and were started again."]
    return "\n".join(lines) + "\n"


def counts(kills: list[dict[str, str]]) -> list[str]:
    """Return the cells of a row."""
    moments = Counter(row["moment"] for row in kills)
    verdicts = Counter(row["verdict"] for row in kills)
    at = [str(moments[moment] or "") for moment in MOMENTS]
    return [*at, str(len(kills)), str(verdicts["identical"]), str(verdicts["HANG"])]


if __name__ == "__main__":
    main()
