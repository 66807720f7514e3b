# Two commands do all the set-up: `make run` (the quickstart campaign on real text) and `make test`.
# Both create .venv from the pinned constraints and need Python >= 3.11, make and a package index.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: run test quick lint types clean

run: $(VENV)/.core  ## the quickstart: search, fit and recommend on real text
	$(BIN)/moe-search run experiments/presets/quickstart.yaml

test: lint types  ## everything: lint, types, import directions, all tests
	$(BIN)/python -m pytest -n 2 --dist worksteal

quick: $(VENV)/.dev  ## the inner loop
	$(BIN)/python -m pytest -m "not slow" -n 2

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.dev
	$(BIN)/mypy

# torch first and pinned: an unpinned torch may bring gigabytes of CUDA.
$(VENV)/.core: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) torch==2.13.0
	$(INSTALL) --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(INSTALL) --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist
