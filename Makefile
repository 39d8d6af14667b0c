# Every target sets up .venv by itself; all that it needs is a python3 with venv.
# On a machine with a GPU: make demo EXTRAS=gpu,dev,docs,report TORCH=torch
PYTHON ?= python3
EXTRAS ?= cpu,dev,docs,report
# Processes that run the tests; auto: one for each core.
JOBS ?= auto

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip
TORCH_VERSION := $(shell sed -n 's/^torch==//p' constraints.txt)
# On Linux the plain wheel brings gigabytes of CUDA along; the build tagged +cpu does not.
ifeq ($(shell uname -s),Linux)
TORCH ?= torch==$(TORCH_VERSION)+cpu
else
TORCH ?= torch==$(TORCH_VERSION)
endif
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: help demo docs test fuzz fuzz-onnx matrix lint format bench clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' Makefile

demo: $(STAMP) ## compile the models of the zoo, export them, write laser-demo/
	$(BIN)/laser-fx demo

docs: $(STAMP) ## build the documentation as a site, strictly: build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

test: $(STAMP) ## run the tests and the examples in docstrings
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile

fuzz: $(STAMP) ## run 10,000 random loop nests; a failing one leaves a script in .fuzz/
	$(BIN)/python -m tests.fuzz.run --cases 10000 --json benchmarks/results/fuzz.json

fuzz-onnx: $(STAMP) ## export 200 random loop nests in every form, beside eager
	$(BIN)/python -m tests.fuzz.run_onnx --cases 200 --json benchmarks/results/fuzz_onnx.json
	$(BIN)/python -m tests.fuzz.run_onnx --cases 200 --forms step --json benchmarks/results/fuzz_onnx_step.json

matrix: $(STAMP) ## every family in every form, dtype and low rank, as a file beside eager
	$(BIN)/python -m tests.export.matrix --json benchmarks/results/matrix.json

lint: $(STAMP) ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## rewrite the code as ruff formats it
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(STAMP) ## run the benchmarks
	$(BIN)/python -m pytest benchmarks

clean: ## remove .venv, caches and builds
	rm -rf $(VENV) build dist laser-demo .fuzz .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: sudo apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "laser-fx needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) cannot make a virtual environment: sudo apt-get install python3-venv" >&2; exit 1; }

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt '$(TORCH)' 2>/dev/null \
	  || $(PIP) install --quiet -c constraints.txt --extra-index-url $(TORCH_INDEX) '$(TORCH)'
	$(PIP) install --quiet -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@
