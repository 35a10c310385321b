# `make demo` and `make test` each do all their own set-up: a virtual environment in .venv with the
# versions of constraints.txt. PYTHON chooses the interpreter, PIP_ARGS adds pip options (a mirror).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_ARGS ?=

.PHONY: setup demo test lint types docs figures speed page test-page build release-check check clean

INSTALL = $(BIN)/python -m pip install --quiet --constraint constraints.txt $(PIP_ARGS) --editable

setup: $(VENV)/.ready

# What the library itself needs, and no more: a first prediction should not wait for our tools.
$(VENV)/.library: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) .
	touch $@

$(VENV)/.ready: $(VENV)/.library
	$(INSTALL) '.[dev]'
	touch $@

# The main job: classify ten real images.
demo: $(VENV)/.library
	$(BIN)/allcnn-zoo predict --weights cifar10_best examples/images/*.png

test: setup
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The package, and a program that uses it as its users do.
types: setup
	$(BIN)/mypy
	$(BIN)/mypy tests/typing/consumer.py
	if $(BIN)/pyright --version >/dev/null 2>&1; then $(BIN)/pyright --pythonpath $(BIN)/python tests/typing; \
	else echo "no pyright: it comes from npm, which cannot be reached"; fi

# Tables and pictures in README and docs are those of the results files; the site is in build/site.
docs: setup
	$(BIN)/python docs/generate.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# After changing weights or modules: measure the bundled weights on the test images, which are in the
# folder that ALLCNN_ZOO_DATA names, draw every picture, write every table.
figures: setup
	$(BIN)/python benchmarks/weights.py
	$(BIN)/python docs/figures.py
	$(BIN)/python docs/draw_architecture.py
	$(BIN)/python docs/generate.py

# Measures speed on an idle machine with CIFAR-10, and puts the figures into README and docs.
speed: setup
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --editable '.[bench]'
	$(BIN)/python benchmarks/start_up.py
	$(BIN)/python benchmarks/training_step.py
	$(BIN)/python benchmarks/inference.py
	$(BIN)/python docs/figures.py speed.svg
	$(BIN)/python docs/generate.py

# The page that runs the model in a browser, one file: build/page/index.html. It needs npm.
page: setup docs/page/node_modules/.package-lock.json
	$(BIN)/python docs/build_page.py

docs/page/node_modules/.package-lock.json: docs/page/package-lock.json
	npm --prefix docs/page ci --ignore-scripts --no-audit --no-fund
	touch $@

# The page and the site in Chromium and Firefox, opened from their files.
test-page: page
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(PIP_ARGS) --editable '.[page]'
	$(BIN)/python -m pytest tests/page

# A wheel and an sdist, as they would be published.
build: setup
	$(BIN)/python -m build --quiet
	$(BIN)/twine check dist/*

# What is published holds what it should, and works elsewhere; the notebook runs.
release-check: setup
	ALLCNN_ZOO_TEST_RELEASE=1 $(BIN)/python -m pytest tests/release

check: lint types docs test build release-check

clean:
	rm -rf $(VENV) build dist docs/page/node_modules .mypy_cache .pytest_cache .ruff_cache
