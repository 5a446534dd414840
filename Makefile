PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo picture test test-slow test-machines test-gpu gpu-report test-vllm chaos fuzz lint site clean

# The pinned set is for CPUs and the demo; see README, "Install", for CUDA.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "torch==2.13.0" --constraint constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[test,lint]"
	touch $@

setup: $(VENV)/.ready

demo: setup
	$(BIN)/automerge demo --budget 40

# README's picture, from today's version: a search of the demo, as `make demo` does it.
picture: setup
	$(BIN)/automerge demo --budget 40 --no-menu --out runs/picture
	$(BIN)/python -m experiments.readme_picture.draw runs/picture docs/front.svg

test: setup lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow and not gpu" -n 2 --dist loadfile --no-loadscope-reorder

test-slow: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "slow"

# What computes, as other processors, BLAS kernels, threads and quotas would run it; half an hour.
test-machines: setup
	$(BIN)/python -m tests.machines

# What only a GPU can show; no other tests need one.
test-gpu: setup
	$(BIN)/pytest -m "gpu"

# Tests and benchmarks on a GPU, in gpu-report.md; under eight minutes.
gpu-report: setup
	$(BIN)/python -m automerge.bench.gpu_report

# The laws of generators over vLLM's CPU build, in an environment of its own (3 GB, made once).
.vllm/.ready: tests/evaluation/vllm_environment.py | setup
	$(BIN)/python -m tests.evaluation.vllm_environment .vllm
	touch $@

test-vllm: .vllm/.ready
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/evaluation/test_vllm*.py

# Faults in numbers: kills, full disks (as root), lost nodes; a quarter of an hour.
chaos: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos.run

# Needs atheris; a minute a target.
fuzz: setup
	$(BIN)/python -m tests.fuzz.run

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The documentation as pages in site/, with mkdocs alone.
site: .venv-docs/.ready
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

.venv-docs/.ready: pyproject.toml
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/pip install --quiet "mkdocs-material>=9.6,<10"
	touch $@

clean:
	rm -rf $(VENV) .venv-docs site
