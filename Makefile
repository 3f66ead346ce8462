# Two commands: `make demo` and `make test`. Both make .venv first; nothing outside the Python packages is needed.
PYTHON ?= python3
EXTRAS ?= realsense
# What the tests need beside it; the demo does without these and their 1.2 GB.
TEST_EXTRAS ?= dev,open3d,dask,view,s3,docs
OUT ?= demo
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Tests import onnxruntime by themselves; see stores/no_telemetry.py.
export ORT_DISABLE_TELEMETRY := 1

# Without an NVIDIA driver the CPU wheel of torch is enough and saves gigabytes. TORCH_INDEX= (empty) takes pip's
# own index; TORCH_INDEX=URL takes another one, a mirror say.
TORCH_INDEX ?= $(if $(wildcard /proc/driver/nvidia/version),,https://download.pytorch.org/whl/cpu)
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)

.PHONY: help demo test test-all lint types docs bench clean

help:
	@echo "make demo      install into .venv and run the whole loop: $(OUT)/report.html"
	@echo "make test      install into .venv, then lint, types and tests (5 minutes at most)"
	@echo "make test-all  the same with the slow tests"
	@echo "make docs      write the pages and the reference of the Python API: build/docs/index.html"
	@echo "make bench     measure the budgets; see benchmarks/RESULTS.md"
	@echo "make clean     remove .venv, builds and caches"

demo: $(VENV)/.installed
	$(BIN)/handloom quickstart --out $(OUT)

test: lint types
	$(BIN)/python -m pytest

test-all: lint types
	$(BIN)/python -m pytest -m ""

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

docs: $(VENV)/.installed-dev
	$(BIN)/python docs/build.py build/docs

# Those that need a folder or a model, or hours.
LONG := calibration_coverage fit palm_training arm_sessions gap gap_figure paper shares hand_check gan_options \
        crossing_steps tracking_hour

bench: $(VENV)/.installed-dev
	for script in $(filter-out $(LONG:%=benchmarks/%.py),$(wildcard benchmarks/*.py)); do $(BIN)/python $$script || exit 1; done
	$(if $(NYU),$(BIN)/python benchmarks/fit.py $(NYU),@echo "benchmarks/fit.py needs NYU's test labels: make bench NYU=FILE.npz")

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Handloom needs Python 3.11 or newer: set PYTHON=python3.11, say"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "This Python has no venv module. On Debian or Ubuntu: sudo apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# torch goes first: whatever is installed after it finds it there and brings no other build.
$(VENV)/.torch: $(VENV)/bin/python constraints.txt
	@$(if $(TORCH_INDEX),$(PIP) install -q --retries 0 --timeout 60 --no-deps --index-url $(TORCH_INDEX) $(TORCH) || \
	  echo "No torch at $(TORCH_INDEX): taking the one pip finds",true)
	@$(PIP) install -q -c constraints.txt $(TORCH)
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(PIP) install -q -c constraints.txt -e '.$(if $(EXTRAS),[$(EXTRAS)])'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install -q -c constraints.txt -e '.[$(TEST_EXTRAS)$(if $(EXTRAS),$(comma)$(EXTRAS))]'
	@touch $@

comma := ,

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
