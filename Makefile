# `make demo` and `make test` work from a fresh clone with nothing but Python 3.11 or newer: each makes VENV if it is
# absent and installs what it needs, again only when pyproject.toml or CONSTRAINTS changes.
# Another interpreter: make demo PYTHON=python3.12. Another build of torch: see constraints.txt.

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
OUT ?= demo-out
WORKERS ?= 2
ARGS ?=
KILLS ?= 500
SEED ?= 0

BIN := $(VENV)/bin
DEMO := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
DOCS := $(VENV)/.installed-docs
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS)
# A file's tests stay together, because they share what a fixture made; the longest files come first (conftest.py).
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# A worker's threads would only fight the other worker's.
test check golden torture: export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint types check golden torture docs clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(DEV)  ## the environment for development, in VENV

demo: $(DEMO)  ## find a ticket, test it against the baselines, write OUT/report.html
	$(BIN)/vltickets demo --out $(OUT)

test: $(DEV)  ## every test; ARGS="-k mask" chooses
	$(PYTEST) $(ARGS)

lint: $(DEV)  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV)  ## mypy, strict
	$(BIN)/mypy

check: lint types  ## before a commit: lint, types, unit tests (no study)
	$(PYTEST) -m "not study" $(ARGS)

torture: $(DEV)  ## kill a small study KILLS times (500) at random places; it must end with the same bits
	PYTHONPATH=src:tests/helpers $(BIN)/python tests/helpers/torture.py --kills $(KILLS) --seed $(SEED)

golden: $(DEV)  ## the tests against ../shared: official modules' outputs, samples of the public data
	$(PYTEST) -m shared $(ARGS)

docs: $(DOCS)  ## the documents as a site, in site/: open site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

clean:  ## remove what the targets wrote; VENV and stores of results stay
	rm -rf $(OUT) build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "vltickets needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0] + ": name another with make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(DEMO): pyproject.toml $(CONSTRAINTS) | $(BIN)/pip
	@echo "Installing vltickets and what it needs into $(VENV): over a gigabyte, a minute or a few."
	$(INSTALL) -e .
	@touch $@

# The development extras hold everything the demo needs, so both stamps are set.
$(DEV): pyproject.toml $(CONSTRAINTS) | $(BIN)/pip
	@echo "Installing vltickets and its development tools into $(VENV): over a gigabyte, a minute or a few."
	$(INSTALL) -e ".[dev]"
	@touch $(DEMO) $@

$(DOCS): pyproject.toml $(CONSTRAINTS) | $(BIN)/pip
	$(INSTALL) -e ".[docs]"
	@touch $(DEMO) $@
