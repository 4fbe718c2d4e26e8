# `make` alone prints this list. Everything runs in .venv, made from constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
RANKS ?= 2
WORKERS ?= 2
PYTEST := -m pytest -q -n $(WORKERS) --dist worksteal

# Open MPI refuses to run as root (as in a container) unless told twice.
ifeq ($(shell id -u),0)
export OMPI_ALLOW_RUN_AS_ROOT := 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM := 1
endif

.DEFAULT_GOAL := help
.PHONY: help env demo test test-slow test-all campaign test-lowest check format docs wheel benchmarks figures reference clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: .venv/installed ## make .venv with the tested versions, MPI included

.venv/installed: pyproject.toml setup.cfg constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("qdrl needs Python 3.11 or newer, not " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[mpi,dev,docs]'
	@touch $@

demo: env ## evolve Walker2d gaits on 2 ranks (at most 3 minutes) and draw the archive
	$(BIN)/mpirun -n $(RANKS) --oversubscribe $(BIN)/qdrl evolve experiments/quickstart/config.toml

test: env ## the test-suite, in WORKERS processes
	$(BIN)/python $(PYTEST) -m 'not slow'

test-slow: env ## the slow tests, which the test-suite leaves out
	$(BIN)/python $(PYTEST) -m 'slow and not campaign'

test-all: test test-slow ## the test-suite and its slow tests

campaign: env ## the test on ten thousand hostile files; an hour
	$(BIN)/python -m pytest -q -m campaign

test-lowest: ## the test-suite with the lowest versions that pyproject.toml allows, in .venv-lowest; by hand, half an hour
	$(PYTHON) -m venv .venv-lowest
	$(PYTHON) tests/programs/lowest.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-lowest/constraints.txt -e '.[mpi,dev]'
	.venv-lowest/bin/python $(PYTEST) -W default -m 'not slow'

check: env ## lint, format, types, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: env ## fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: env ## the documentation site, into build/docs; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -f docs/site/mkdocs.yml

wheel: env ## the wheel of this version, into dist/
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

benchmarks: env ## print `name value unit` lines; takes half an hour, use an idle machine
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python experiments/benchmarks/archives.py
	$(BIN)/python experiments/benchmarks/novelty.py
	$(BIN)/python experiments/benchmarks/evaluation.py
	$(BIN)/python experiments/benchmarks/training.py
	$(BIN)/python experiments/benchmarks/generation.py
	$(BIN)/python experiments/benchmarks/transitions.py
	$(BIN)/python experiments/benchmarks/neuroevolution.py
	$(BIN)/python -m experiments.benchmarks.decisions

figures: env ## draw every figure and write every table of experiments/ again, from its results/*.csv
	set -e; for study in experiments/*/figures.py; do \
	  $(BIN)/python -m experiments.$$(basename $$(dirname $$study)).figures; done

reference: env ## make the portable archives of archives/reference again, into runs/
	$(BIN)/mpirun -n $(RANKS) --oversubscribe $(BIN)/qdrl evolve experiments/reference/config.toml
	$(BIN)/mpirun -n $(RANKS) --oversubscribe $(BIN)/qdrl evolve experiments/reference/ant.toml

clean: ## remove environments and caches; runs/ stays
	rm -rf .venv .venv-lowest build *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
