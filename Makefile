# `make demo` and `make test` each do all their own set-up: a virtual environment in .venv with the
# versions of constraints.txt. PYTHON chooses the interpreter, PIP_ARGS adds pip options (a mirror).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_ARGS ?=

.PHONY: setup demo test lint types docs build check clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(PIP_ARGS) --editable '.[dev]'
	touch $@

# The main job: say what is on ten real images, and with which weights.
demo: setup
	$(BIN)/allcnn-zoo predict examples/images/*.png

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

# Figures in README and docs are those of the results files.
docs: setup
	$(BIN)/python docs/generate.py --check

# A wheel and an sdist, as they would be published.
build: setup
	$(BIN)/python -m build --quiet
	$(BIN)/twine check dist/*

check: lint types docs test build

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
