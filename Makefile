# Each target does all set-up itself: a virtual environment in .venv, made again when its inputs change.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
# two processes that each take whole files, so that what a file's tests share is made once; one thread each, or the
# threads of the two and of what they start would wait for each other
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 25 --durations-min 5

.PHONY: demo test test-fast lint format bench docs clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	touch $@

demo: $(READY)  ## The whole story on phantoms, in the folder demo
	$(BIN)/python -m scripts demo --out demo

test: $(READY)  ## All tests, whole paths included
	$(PYTEST)

test-fast: $(READY)  ## Without the whole paths
	$(PYTEST) -m 'not slow'

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## Timings; on idle cores only
	$(BIN)/python -m benchmarks

docs: $(READY)  ## The pages of docs as a site, in the folder site
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv demo runs site
