PYTHON ?= python3
ARGS ?=
BENCHMARKS ?= registering querying start schedule commits reading loading tokens ranks resume adapting
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test soak bench notebooks reference lint format

help: ## Print this help.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

demo: .venv/core.stamp ## Install Mixlake and run its demo; ARGS="…" are passed on to it.
	$(BIN)/mixlake demo $(ARGS)

test: lint ## Install the development tools too and run every check, the tests and the doctests.
	$(BIN)/pytest --numprocesses=auto --dist=loadfile

soak: .venv/dev.stamp ## Kill some hundred processes while they change a catalog or schedule, elsewhere each time.
	MIXLAKE_KILLS=240 MIXLAKE_SEED=$$(date +%s) $(BIN)/pytest -s tests/catalog/test_time_travel.py tests/mixing/test_scheduler_kills.py

lint: .venv/dev.stamp ## Check formatting, lint and types.
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

format: .venv/dev.stamp ## Format the code and apply the safe lint fixes.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: .venv/dev.stamp ## Measure Mixlake beside its limits; BENCHMARKS="…" chooses which.
	@set -e; for name in $(BENCHMARKS); do $(BIN)/python -m tests.benchmarks.$$name; done

notebooks: .venv/dev.stamp ## Run the notebooks and render them, with what they show, as pages in build/notebooks.
	$(BIN)/jupyter-nbconvert --log-level WARN --execute --to html --output-dir build/notebooks notebooks/*.ipynb

reference: .venv/core.stamp ## Write the reference pages in docs/ anew: tables, config groups, commands.
	$(BIN)/python -m mixlake.conf.reference docs

# One stamp for each set of requirements: installed again only when what is declared has changed.
.venv/core.stamp: REQUIREMENT := .
.venv/dev.stamp: REQUIREMENT := .[dev]
.venv/%.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '$(REQUIREMENT)'
	@touch $@
