# What a developer runs. `make` alone lists the targets.
# A machine needs make, git and Python 3.11 or newer (with its venv module); everything else goes into .venv.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PINNED := --constraint constraints.txt --build-constraint constraints.txt
EXTRAS := demo,customer-service,llm,otlp,otlp-grpc,fast
INSTALLED := $(VENV)/.installed
ARGS ?=
SEEDS ?= 200
WORKERS ?= 3
KILLS ?= 100
COUNT ?= 100000
SEED ?= 1

.DEFAULT_GOAL := help
.PHONY: help install demo customer-service autogpt test print-parallel lint format bench bench-load bench-takeover bench-replan bench-tracing simulate chaos fuzz wheel constraints clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' Makefile

install: $(INSTALLED) ## make .venv and install the project with everything for developing it

demo: $(INSTALLED) ## run the demo: a NATS server, agents, coordinators, one real task
	$(BIN)/agentexecutor demo $(ARGS)

customer-service: $(INSTALLED) ## customers, 16 agents, a conversation (ARGS=chat to talk yourself, ARGS=report for how good it is)
	$(BIN)/python -m examples.customer_service $(or $(ARGS),story)

autogpt: $(INSTALLED) ## a goal that a model plans for: tools, a critic, a budget (a scripted model; AGENTEXECUTOR_LLM_MODEL=... for a real one)
	$(BIN)/python examples/autogpt/run.py

# Whole files go to one worker each, in the order of tests/conftest.py: much of the time goes by in waiting for real processes.
PARALLEL := --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
test: $(INSTALLED) ## run all tests (ARGS="tests/unit -k name" for some of them, in one process)
	$(BIN)/python -m pytest $(or $(ARGS),$(PARALLEL))

print-parallel:
	@echo "$(PARALLEL)"

lint: $(INSTALLED) ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED) ## format and sort imports
	$(BIN)/ruff format .
	$(BIN)/ruff check --select I --fix .

bench: $(INSTALLED) ## compare with the floor (ARGS="--rounds 1 --seconds 2" for a short look)
	$(BIN)/python benchmarks/run.py $(ARGS)

bench-load: $(INSTALLED) ## 100,000 tasks at once for a slow pool (ARGS="--tasks 10000" for a short look)
	$(BIN)/python benchmarks/load.py $(ARGS)

bench-takeover: $(INSTALLED) ## processes and servers are killed: how long work stands still (ARGS="--kills 5 --restarts 2" for a short look)
	$(BIN)/python benchmarks/takeover.py $(ARGS)

bench-replan: $(INSTALLED) ## from feedback to the new version of the plan
	$(BIN)/python benchmarks/replan.py $(ARGS)

bench-tracing: $(INSTALLED) ## what spans and metrics cost, with a collector and with none there
	$(BIN)/python benchmarks/tracing.py $(ARGS)

simulate: $(INSTALLED) ## coordinators, agents and clients in virtual time under faults (SEEDS=2000)
	$(BIN)/python tests/simulation/simulate.py --seeds $(SEEDS)

chaos: $(INSTALLED) ## processes and servers are killed and stopped while tasks flow (KILLS=1000, ARGS=--cluster)
	$(BIN)/python tests/chaos/chaos.py --kills $(KILLS) $(ARGS)

fuzz: $(INSTALLED) ## hostile messages for a coordinator on a real server (COUNT=100000 SEED=2)
	FUZZ_COUNT=$(COUNT) FUZZ_SEED=$(SEED) $(BIN)/python -m pytest -s tests/fuzz $(ARGS)

wheel: $(INSTALLED) ## build the wheel and try it in an environment of its own
	./.ci/wheel $(BIN)/python

# Everything again from the package index, unpinned; look at the difference before committing it.
constraints: ## renew constraints.txt
	rm -rf build/constraints
	$(call find_python) && "$$python" -m venv build/constraints
	build/constraints/bin/python -m pip install --quiet --upgrade pip
	build/constraints/bin/python -m pip install --quiet --group dev '.[$(EXTRAS)]'
	{ sed -n '/^#/p' constraints.txt; \
	  { build/constraints/bin/python -m pip list --format=freeze --exclude agentexecutor --exclude setuptools; \
	    build/constraints/bin/python -m pip install --quiet hatchling editables; \
	    build/constraints/bin/python -m pip list --format=freeze --exclude agentexecutor --exclude setuptools; } \
	  | LC_ALL=C sort -fu; } > build/constraints.new
	mv build/constraints.new constraints.txt

clean: ## remove .venv and everything that was built
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is newer than what it was made from: a second run does nothing.
$(INSTALLED): pyproject.toml constraints.txt $(BIN)/python
	@echo "installing what constraints.txt names into $(VENV) (the first time: about a minute)"
	$(PIP) install --quiet --constraint constraints.txt --upgrade pip
	$(PIP) install --quiet $(PINNED) --group dev --editable '.[$(EXTRAS)]'
	@touch $@

$(BIN)/python:
	$(call find_python) && echo "using $$python: $$("$$python" --version)" && "$$python" -m venv --clear $(VENV)

# PYTHON=... names one; else the first that runs, is new enough and can make environments.
define find_python
	@for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11 python; do \
	  if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then echo "No Python 3.11 or newer with venv was found. Install one (Debian: apt install python3-venv) or run: make PYTHON=/path/to/python" >&2; exit 1; fi; \
	python=$$found
endef
