# make run     set up and run the quick start (no download, no GPU needed)
# make test    set up and run the tests              make check   style, types, layers
# make wheel-test    what a user installs: every command, from the built wheel alone
# Settings:    PYTHON=python3.12   ARGS="..." for the quick start or pytest
#              TORCH_INDEX=https://download.pytorch.org/whl/cpu   torch without the GPU libraries on Linux

PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3 python; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$name" && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
INPUTS := pyproject.toml constraints.txt
JOBS ?= 2

.PHONY: run setup test check docs wheel-test clean
.DELETE_ON_ERROR:

run: .venv/.installed-run
	$(BIN)/graft quickstart $(ARGS)

setup: .venv/.installed-dev

test: .venv/.installed-dev
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

check: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer was not found; say where it is: make $(MAKECMDGOALS) PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv .venv

# torch first and alone, so that TORCH_INDEX is asked for nothing else.
.venv/.installed-torch: $(INPUTS) | .venv/bin/python
	$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	@touch $@

.venv/.installed-run: .venv/.installed-torch
	$(PIP) -e .
	@touch $@

.venv/.installed-dev: .venv/.installed-torch
	$(PIP) -e '.[dev]'
	@touch $@ .venv/.installed-run

docs: .venv/.installed-dev
	$(BIN)/sphinx-build -W --keep-going -n -q docs docs/_build

# Nothing of the checkout is on the path there but the file of tests itself.
wheel-test: .venv/.installed-dev
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	pip="$$folder/venv/bin/python -m pip --disable-pip-version-check install --quiet --no-compile -c constraints.txt" && \
	$(BIN)/python -m hatchling build -t wheel -d "$$folder" && \
	$(BIN)/python -m venv "$$folder/venv" && \
	$$pip $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch && \
	$$pip "$$folder"/*.whl && \
	"$$folder/venv/bin/python" tests/installed.py

# The runs in runs/ are results, not rubbish: they stay.
clean:
	rm -rf .venv build dist docs/_build docs/settings.md .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find pipeline recipes tests -name __pycache__ -type d -prune -exec rm -rf {} +
