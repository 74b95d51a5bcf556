PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
DEMO_INSTALLED := .venv/.demo-installed
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

# Packages are installed without bytecode: what is imported is compiled once, and kept.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all cuda cuda-quick lint space docs fuzz faults load mutants test-matrix audit release

demo: $(or $(wildcard $(INSTALLED)),$(DEMO_INSTALLED))
	$(BIN)/python examples/demo.py

test: $(INSTALLED)
	$(PYTEST) -m "not slow"

test-all: $(INSTALLED)
	$(PYTEST)

# What needs a GPU: tables within 8 minutes, then the tests. For a machine without a network: gpu.py --wheels.
cuda: $(INSTALLED)
	$(BIN)/python benchmarks/gpu.py
	$(BIN)/python -m pytest -m gpu

cuda-quick: $(INSTALLED)
	$(BIN)/python benchmarks/gpu.py --quick

space: $(INSTALLED)
	$(BIN)/python hub/space/app.py

docs: $(INSTALLED)
	$(BIN)/mkdocs build --strict

fuzz: $(INSTALLED)
	$(BIN)/python tools/fuzz_videos.py --keep fuzz-failures
	$(BIN)/python tools/fuzz_checkpoints.py --keep fuzz-failures
	HYPOTHESIS_PROFILE=fuzz $(PYTEST) tests/test_properties.py tests/models/test_schedules.py tests/test_structure.py

faults: $(INSTALLED)
	$(BIN)/python tools/faults.py

load: $(INSTALLED)
	$(BIN)/python tools/load.py
	$(BIN)/python -m pytest tests/hub/test_space.py -k users_at_once

mutants: $(INSTALLED)
	$(BIN)/python tools/mutants.py --again

test-matrix: $(INSTALLED)
	$(BIN)/python tools/matrix.py

# Builds sdist and wheel in dist/, tries both in empty environments, and uploads nothing.
release: $(INSTALLED)
	$(BIN)/python tools/release.py

audit: $(INSTALLED)
	$(BIN)/pip-audit --skip-editable

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What the demo imports, with pip's progress. Most of it is PyTorch, which is kept if it is there.
$(DEMO_INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --no-compile --editable '.[motiondigits]'
	touch $@

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[dev]'
	touch $@
