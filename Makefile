# Each target does all set-up itself: a virtual environment in .venv, made again when its inputs change.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: demo test test-fast lint format bench clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(READY)  ## The whole story on phantoms, in the folder demo
	$(BIN)/python -m scripts demo --out demo

test: $(READY)  ## All tests, whole paths included
	$(BIN)/python -m pytest

test-fast: $(READY)  ## Without the whole paths
	$(BIN)/python -m pytest -m 'not slow'

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## Timings; on idle cores only
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv demo runs
