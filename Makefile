# Outrider's front door. Each target does the set-up that it needs; a second run starts at once.
# `make help` lists them. Variables: ARGS (for demo, test, bench), PYTHON (a Python 3.11), VENV.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

VENV ?= .venv
ARGS ?=
LOCKS := requirements
BIN := $(VENV)/bin
UV := VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv

find_python = $(shell ./$(LOCKS)/find-python.sh $(1))
PYTHON ?= $(call find_python,3.11)

.PHONY: help setup demo test lint types tests agent-tests bench fuzz-compiler fuzz-ota docs lock test-deps clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# --- environments --------------------------------------------------------------------------------

$(VENV)/.tools: $(LOCKS)/tools.lock
	@test -n "$(PYTHON)" || { echo "expected a working Python 3.11, found none: install it, or run make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "setting up $(VENV) with $(PYTHON)"
	@"$(PYTHON)" -m venv --clear $(VENV) || { echo "this Python cannot make environments: install its venv module (Debian: python3.11-venv), or run make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCKS)/tools.lock
	@touch $@

$(VENV)/.run: $(LOCKS)/run.lock $(VENV)/.tools
	@$(UV) pip install --require-hashes -r $(LOCKS)/run.lock
	@touch $@

$(VENV)/.dev: $(LOCKS)/dev.lock $(VENV)/.run
	@$(UV) pip install --require-hashes -r $(LOCKS)/dev.lock
	@touch $@

$(VENV)/.self: pyproject.toml $(VENV)/.run
	@$(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# --- what people run -----------------------------------------------------------------------------

setup: $(VENV)/.self ## Set up the environment; its commands are in .venv/bin.
	@echo 'ready: export PATH="$(CURDIR)/$(BIN):$$PATH"'

toolchains: $(VENV)/.self ## Install the compilers' environments, locked; what is there is left alone.
	@$(BIN)/outrider toolchain install --json > /dev/null

demo: $(VENV)/.self toolchains ## Tell the whole story on this machine (ARGS=--once: without waiting, and exit).
	@PATH="$(CURDIR)/$(BIN):$$PATH" outrider demo $(ARGS)

test: lint types ## Lint, types, import contracts, all tests, and beside them the agent's under Python 3.10 and 3.12.
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target tests agent-tests

lint: $(VENV)/.dev $(VENV)/.self ## Style, formatting and the layers' contracts.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

types: $(VENV)/.dev $(VENV)/.self ## Static types, strict.
	@$(BIN)/mypy

tests: $(VENV)/.dev $(VENV)/.self toolchains ## All tests under Python 3.11 (ARGS: pytest options).
	@PATH="$(CURDIR)/$(BIN):$$PATH" pytest -n 2 --durations=15 $(ARGS)

agent-tests: ## What a device imports, under the interpreters that devices bring.
	@$(MAKE) --no-print-directory agent-tests-3.10
	@$(MAKE) --no-print-directory agent-tests-3.12

agent-tests-%: $(VENV)/.tools
	@python="$(call find_python,$*)"; \
	if [ -z "$$python" ]; then \
		echo "agent tests under Python $*: skipped, no such interpreter on PATH or in ~/.pyenv"; \
		if [ "$*" = 3.10 ] && [ -n "$${OUTRIDER_CI:-}" ]; then echo "in CI Python 3.10 must be found" >&2; exit 1; fi; \
	else \
		$(MAKE) --no-print-directory $(VENV)-$*/.self AGENT_PYTHON="$$python"; \
		echo "agent tests under Python $* ($$python)"; \
		$(VENV)-$*/bin/python -m pytest -q -p no:cacheprovider -m agent $(ARGS); \
	fi

$(VENV)-%/.self: $(LOCKS)/agent-test-%.lock pyproject.toml $(VENV)/.tools
	@$(BIN)/uv venv --quiet --clear --python "$(AGENT_PYTHON)" $(VENV)-$*
	@$(BIN)/uv pip install --python $(VENV)-$*/bin/python --require-hashes -r $<
	@$(BIN)/uv pip install --python $(VENV)-$*/bin/python --quiet --no-deps --no-build-isolation --editable .
	@touch $@

bench: $(VENV)/.dev $(VENV)/.self ## Measure against peers in the same run; figures go to docs/benchmarks/ (ARGS: names, e.g. telemetry).
	@for name in $(or $(ARGS),telemetry serving verify); do PYTHONPATH=tests/bench $(BIN)/python tests/bench/bench_$$name.py; done

bench-%: $(VENV)/.dev $(VENV)/.self toolchains ## One benchmark with its own options, e.g. bench-compiler, bench-coverage (ARGS: see its --help).
	@PYTHONPATH=tests/bench $(BIN)/python tests/bench/bench_$*.py $(ARGS)

fuzz-ota: $(VENV)/.dev $(VENV)/.self ## Feed mutated metadata, assignments and blocks to a device (ARGS: --inputs N --seed N, kinds).
	@PYTHONPATH=tests $(BIN)/python tests/fuzz/fuzz_ota.py $(ARGS)

fuzz-compiler: $(VENV)/.dev $(VENV)/.self ## Read 100,000 mutated models, data and descriptions; outcomes go to docs/benchmarks/ (ARGS: e.g. --seed 7).
	@nice $(BIN)/python -W ignore tests/fuzz/fuzz_compiler.py --out docs/benchmarks/fuzz-compiler.json $(ARGS)

docs: $(VENV)/.dev $(VENV)/.self ## Build the documentation into site/.
	@$(BIN)/python docs/generator
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "documentation: site/index.html"

lock: $(VENV)/.tools ## Resolve all dependencies anew (needs a package index; writes no index into the locks).
	@./$(LOCKS)/compile.sh $(BIN)/uv

test-deps: ## Install the Debian packages that some tests need (as root; otherwise those tests are skipped).
	@missing=(); for pair in chromium:chromium chromedriver:chromium-driver curl:curl mosquitto:mosquitto initdb:postgresql softhsm2-util:softhsm2; do \
		PATH="$$PATH:/usr/sbin:$$(echo /usr/lib/postgresql/*/bin | tr ' ' :)" command -v "$${pair%%:*}" >/dev/null || missing+=("$${pair##*:}"); done; \
	if [ "$${#missing[@]}" = 0 ]; then echo "test-deps: all there"; \
	elif [ "$$(id -u)" != 0 ]; then echo "test-deps: $${missing[*]} missing, and installing them needs root; their tests will be skipped"; \
	else apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$${missing[@]}"; fi

clean: ## Remove what the other targets made here.
	@rm -rf $(VENV) $(VENV)-3.10 $(VENV)-3.12 build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
