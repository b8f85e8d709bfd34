# Every target sets up what it needs in .venv; none assumes that another ran before.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --no-input
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help up test lint bench bench-node bench-log bench-replication bench-telemetry retrieval kill-node faults sim sim-forced fairness limits cache-bench chaos monitoring lock

help:  ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  ARGS=… is passed on:  make up ARGS=--exit-after-demo"

up: $(VENV)/.runtime  ## Start three regions here, ask each a question, keep them running
	@$(BIN)/meridian up $(ARGS)

test: $(VENV)/.dev  ## Run every test
	@.ci/node-sdks
	@.ci/promtool
	@$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.dev  ## Check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: bench-node bench-log bench-replication bench-telemetry retrieval  ## Run every benchmark

bench-node: $(VENV)/.dev  ## Recall, speed and size of the node: 100,000 x 384
	@$(BIN)/python -m bench.node $(ARGS)

bench-log: $(VENV)/.dev  ## Appends and reads of the change log on one server
	@$(BIN)/python -m bench.log $(ARGS)

bench-telemetry: $(VENV)/.dev  ## CPU a request with metrics, logs, traces at 1% and 100%
	@$(BIN)/python -m bench.telemetry $(ARGS)

bench-replication: $(VENV)/.dev  ## How late replicas are under sustained writes
	@$(BIN)/python -m bench.replication $(ARGS)

retrieval: $(VENV)/.dev  ## Retrieval quality on the bundled questions
	@$(BIN)/python -m gateway.quality.retrieval $(ARGS)

kill-node: $(VENV)/.dev  ## Kill the node 50 times under writes; count what is lost
	@$(BIN)/python -m bench.node_kill $(ARGS)

faults: $(VENV)/.dev  ## Make LLM endpoints and all else fail; judge what callers get
	@$(BIN)/python -m tests.faults.llm $(ARGS)

sim: $(VENV)/.dev  ## Replicate under faults in virtual time: SEEDS=1000 worlds
	@$(BIN)/python -m tests.simulation $(or $(SEEDS),1000)

sim-forced: $(VENV)/.dev  ## The same where a home is replaced by force; some worlds still fail
	@$(BIN)/python -m tests.simulation $(or $(SEEDS),300) --forced

limits: $(VENV)/.dev  ## Two gateways and one limit, while Valkey dies and hangs
	@$(BIN)/python -m bench.limits $(ARGS)

cache-bench: $(VENV)/.dev  ## What the prompt cache finds, saves and costs
	@$(BIN)/python -m bench.cache $(ARGS)

fairness: $(VENV)/.dev  ## What one tenant's flood, or an ingestion, does to others' answers
	@$(BIN)/python -m bench.fairness $(ARGS)

chaos: $(VENV)/.dev  ## Kill and cut three regions under writes; count what is lost
	@$(BIN)/python -m bench.chaos $(ARGS)

monitoring: $(VENV)/.runtime  ## Write helm/monitoring anew: alert rules and dashboards
	@$(BIN)/python -m gateway.monitoring

lock: $(VENV)/.lock-tool  ## Resolve the dependencies anew and write their hashes
	@mkdir -p requirements
	@$(COMPILE) pyproject.toml requirements/build.in -o requirements/runtime.txt
	@$(COMPILE) pyproject.toml requirements/build.in --group dev -o requirements/dev.txt
	@$(COMPILE) --no-deps requirements/local-llm.in -o requirements/local-llm.txt

COMPILE = $(BIN)/uv pip compile --quiet --generate-hashes --universal --no-header --no-annotate \
	--python-version 3.11

# A stamp is newer than its lock file for as long as the packages are those of the lock.

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11: install a newer one, or say make PYTHON=python3.12"; exit 2; }
	@begin=$$(date +%s); $(PYTHON) -m venv $(VENV) || \
		{ echo "cannot make a virtual environment: Debian keeps it in the package python3-venv"; exit 2; }; \
	echo "virtual environment: $$(( $$(date +%s) - begin )) s"

$(VENV)/.runtime: requirements/runtime.txt pyproject.toml | $(VENV)/bin/python
	@$(call install,requirements/runtime.txt)

$(VENV)/.dev: requirements/dev.txt pyproject.toml | $(VENV)/bin/python
	@$(call install,requirements/dev.txt)
	@touch $(VENV)/.runtime

$(VENV)/.lock-tool: | $(VENV)/bin/python
	@$(PIP) install --quiet uv
	@touch $@

define install
begin=$$(date +%s); \
echo "Installing the packages of $(1) into $(VENV) …"; \
$(PIP) install --progress-bar off --require-hashes -r $(1) && \
$(PIP) install --quiet --no-deps --no-build-isolation -e . && \
touch $@ && echo "packages: $$(( $$(date +%s) - begin )) s"
endef
