"""Print constraints that pin each dependency to the lowest version that pyproject.toml allows (`make test-lowest`)."""

import re
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
EXTRAS = ("mpi", "dev")


def main() -> None:
    wanted = [*PROJECT["dependencies"], *(line for extra in EXTRAS for line in PROJECT["optional-dependencies"][extra])]
    print("\n".join(re.sub(">=", "==", line) for line in wanted))


if __name__ == "__main__":
    main()
