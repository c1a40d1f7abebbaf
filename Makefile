# Everything runs in .venv, made here from python3 alone.
#   make test TORCH=2.11.0      another PyTorch        make test ARGS="-k cache -x"      arguments for pytest

PYTHON ?= python3
TORCH ?= 2.13.0
RTX ?= 1.7.1.116
VENV ?= .venv
ARGS ?=
WORKERS ?= auto

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
READY := $(VENV)/.ready-torch-$(TORCH)-rtx-$(RTX)

.PHONY: demo test test-gpu prebuilt lint format docs dist clean

demo: $(READY)            ## train, compile, retrain: examples/quickstart.py
	$(BIN)/python examples/quickstart.py

test: $(READY)            ## all tests that need no GPU
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

test-gpu: $(READY)        ## all tests that need one
	$(BIN)/python -m pytest -m gpu $(ARGS)

# The engines of tests/gpu/test_prebuild_gpu.py, by the TensorRT-RTX that its machine has, in an environment of its own.
PREBUILT_RTX ?= 1.6.1.120
PREBUILT_VENV := .venv-rtx-$(PREBUILT_RTX)

prebuilt: $(PREBUILT_VENV)/.ready-torch-$(TORCH)    ## engines for the tests that need a GPU, built without one
	$(PREBUILT_VENV)/bin/python -m tests.tools.prebuilt .gpu/prebuilt.pack.xz

$(PREBUILT_VENV)/.ready-torch-$(TORCH): pyproject.toml
	$(PYTHON) -m venv $(PREBUILT_VENV)
	$(PREBUILT_VENV)/bin/python -m pip install --quiet "torch==$(TORCH)"
	$(PREBUILT_VENV)/bin/python -m pip install --quiet --editable . "torch==$(TORCH)"
	$(PREBUILT_VENV)/bin/python -m pip install --quiet --no-deps \
	    "tensorrt-rtx-cu12-libs==$(PREBUILT_RTX)" "tensorrt-rtx-cu12-bindings==$(PREBUILT_RTX)"
	touch $@

lint: $(READY)            ## style, types, TensorRT names in every known version, generated tables
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m tests.check_api
	$(BIN)/python -m tests.tools.readme --check

format: $(READY)          ## what ruff can mend, and the README's tables
	$(BIN)/ruff check --fix .
	$(BIN)/python -m tests.tools.readme

docs: $(READY)            ## the documentation, into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

dist: $(READY)            ## sdist and wheel, tried in an empty environment
	$(BIN)/python -m tests.tools.dist dist

# PyTorch first and by its exact version: anything that merely depends on it would fetch gigabytes of CUDA libraries
# where a CPU wheel is at hand.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) "torch==$(TORCH)"
	$(PIP) "tensorrt-rtx==$(RTX)"
	$(PIP) --editable ".[test,lint,docs,dist]" "torch==$(TORCH)"
	touch $@

clean:
	rm -rf $(VENV) $(PREBUILT_VENV) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
