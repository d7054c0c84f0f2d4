# Works with GNU make 3.81 (macOS) and newer.
# `make demo PYTHON=python3.12` picks the interpreter. The first one gets .venv, each other version a
# folder of its own, such as .venv-3.12.

PYTHON ?= python3
PYTHONS ?= python3.11 python3.12
WORKERS ?= auto
VERSION := import sys; print("%d.%d" % sys.version_info[:2])
ASKED := $(shell "$(PYTHON)" -c '$(VERSION)' 2>/dev/null)
FIRST := $(shell .venv/bin/python -c '$(VERSION)' 2>/dev/null)
VENV := .venv$(if $(FIRST),$(addprefix -,$(filter-out $(FIRST),$(ASKED))))
BIN := $(VENV)/bin
READY := $(VENV)/.installed
PYTEST = $(BIN)/pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal

# Programs that tests start compile nnfunc once, not each for itself.
export PYTHONDONTWRITEBYTECODE =

# Larger data sets (MNIST, text) lie beside the checkout, or where NNFUNC_DATA says.
ifndef NNFUNC_DATA
ifneq ($(wildcard ../shared/data/.),)
export NNFUNC_DATA := $(abspath ../shared/data)
endif
endif

.DEFAULT_GOAL := help
.PHONY: help demo test test-compiler test-export test-matrix test-slow lint types format bench clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' Makefile

demo: $(READY) ## train on handwritten digits and print the test accuracy
	$(BIN)/nnfunc train configs/digits_mlp.toml

test: lint types ## lint, types and the tests that are not slow (what CI runs)
	NNFUNC_TEST_COMPILER=quick $(PYTEST) -m "not slow"
	NNFUNC_TEST_COMPILER=users $(PYTEST) -m "not slow"

test-compiler: $(READY) ## laws and layers with the compiler as users have it (conftest.py)
	NNFUNC_TEST_COMPILER=users $(PYTEST)

test-export: $(VENV)/.export ## exports in ONNX Runtime and LiteRT, which make test skips where they are not installed
	NNFUNC_TEST_COMPILER=quick $(PYTEST) tests/interop tests/commands/test_export_command.py

test-matrix: ## the same with each of PYTHONS, which have to be there
	set -e; for python in $(PYTHONS); do $(MAKE) test PYTHON=$$python; done

test-slow: $(READY) ## the slow tests: killed processes, whole trainings, large models
	NNFUNC_LONG=1 NNFUNC_TEST_COMPILER=quick $(PYTEST) -m slow
	NNFUNC_LONG=1 NNFUNC_TEST_COMPILER=users $(PYTEST) -m slow

lint: $(READY) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## pyright
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

format: $(READY) ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.bench ## train steps against Flax, Equinox, Haiku and PyTorch (ten minutes)
	$(BIN)/python scripts/bench.py peers --rounds 15

clean: ## remove the environments and the caches; runs/ stays
	rm -rf .venv .venv-* build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp comes last, so an install that was cut short is begun again from an empty folder.
$(READY): pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "nnfunc needs Python 3.11 or newer, and $(PYTHON) is older, or not there." >&2; \
	  echo "Name another: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@echo "Installing into $(VENV), once (`"$(PYTHON)" --version`)"
	@set -e; if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --clear --python "$(PYTHON)" $(VENV); \
	  uv pip install --quiet --python $(BIN)/python --editable '.[all,test]'; \
	else \
	  "$(PYTHON)" -m venv --clear $(VENV); \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[all,test]'; \
	fi
	@touch $@

$(VENV)/.export: $(READY)
	@echo "Installing jax2onnx, ONNX Runtime and LiteRT into $(VENV), once"
	@if command -v uv >/dev/null 2>&1; then \
	  uv pip install --quiet --python $(BIN)/python --editable '.[onnx,litert]'; \
	else \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[onnx,litert]'; \
	fi
	@touch $@

$(VENV)/.bench: $(READY)
	@echo "Installing the other libraries into $(VENV), once"
	@if command -v uv >/dev/null 2>&1; then \
	  uv pip install --quiet --python $(BIN)/python --editable '.[bench]'; \
	else \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'; \
	fi
	@touch $@
