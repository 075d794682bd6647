# make run    sets up and runs the main job: camera 0 (the test card where there is none) into a before/after file
# make test   sets up and passes lint, types and tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= out

.PHONY: run test lint format picture train-setup clean

run: $(VENV)/.installed
	@mkdir -p $(OUT)
	@if $(BIN)/sharpcam devices --json | $(BIN)/python -c 'import json, sys; sys.exit(not json.load(sys.stdin)["cameras"])'; \
	then source="--device 0"; else echo "no camera here: the test card stands in"; source="--source testcard"; fi; \
	$(BIN)/sharpcam run $$source --split --duration 10 --sink $(OUT)/before-after.mp4 --report $(OUT)/report.json
	@echo "left half before, right half after: $(abspath $(OUT))/before-after.mp4"
	@cat $(OUT)/report.json

test: $(VENV)/.installed-dev lint
	$(BIN)/python -m pytest -q

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

train-setup: $(VENV)/bin/python
	$(BIN)/pip install -q -c constraints.txt -e '.[training]'

picture: $(VENV)/.installed
	$(BIN)/python -m benchmarks.picture docs/before-after.png

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("SharpCam needs Python 3.11 or later: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/pip install -q -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(OUT) build dist .pytest_cache .mypy_cache .ruff_cache
