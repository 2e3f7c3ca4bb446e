# Tollgate. `make` alone prints this menu.
#
# Everything is set up on first use: a virtual environment under .venv from hash-locked requirements.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := menu
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

# Compiled modules are kept: without them each start of a gateway takes half as long again, and each
# process of tests reads all tests anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: menu run demo test test-fast soak check fix docs loadtest lock clean

menu:
	@echo "Tollgate: what you can do here"
	@echo
	@echo "  make run         set up, then start the gateway on its embedded store"
	@echo "  make demo        watch a task being metered, stopped and freed again (fake provider)"
	@echo "  make test        set up, then all tests, lint, types, import contracts, coverage"
	@echo "  make test-fast   the tests that need no load, crash or soak"
	@echo "  make soak        the acceptance cases at their full size, load tests, snippets: most of an hour"
	@echo "  make check       lint, types, import contracts and configuration files only"
	@echo "  make fix         format, and mend what the linter can mend"
	@echo "  make loadtest    measure calls/s, CPU per call, added latency"
	@echo "  make lock        lock dependencies anew (with hashes)"
	@echo
	@echo "Options go in ARGS, e.g. make run ARGS='--port 9000 --workers 2'"

# A Python that is supported; the system's own comes first.
PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13; do \
	"$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	2>/dev/null && { echo "$$python"; break; }; done)

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed: install one, or set PYTHON"; exit 1; }
	@"$(PYTHON)" -m venv --help >/dev/null && "$(PYTHON)" -c 'import ensurepip' 2>/dev/null || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq python3-venv; }
	@"$(PYTHON)" -m venv $(VENV)

# Tests start a server of their own; Debian keeps its programs off the PATH.
HAVE_POSTGRES = { command -v postgres || ls /usr/lib/postgresql/*/bin/postgres; } >/dev/null 2>&1

# One stamp a lock file: changed locks are installed again, unchanged ones cost nothing.
$(VENV)/run.stamp: requirements/run.txt pyproject.toml | $(BIN)/python
	@echo "Setting up Tollgate in $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/dev.stamp: requirements/dev.txt $(VENV)/run.stamp
	@echo "Setting up what tests need ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(HAVE_POSTGRES) || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
		&& DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql >/dev/null; } \
		|| echo "Tests of the ledger need PostgreSQL: install the package postgresql"
	@touch $@

# Real npm clients stand before the gateway in the end-to-end tests; node 18 suffices.
$(VENV)/node.stamp: tests/node/package-lock.json $(VENV)/dev.stamp
	@command -v npm >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
		&& DEBIAN_FRONTEND=noninteractive apt-get install -y -qq nodejs npm >/dev/null; } \
		|| { echo "Tests of npm clients need node 18 or later, with npm"; exit 1; }
	@npm ci --prefix tests/node --ignore-scripts --no-audit --no-fund --silent
	@touch $@

run: $(VENV)/run.stamp
	@exec $(BIN)/tollgate serve --log-format text $(ARGS)

demo: $(VENV)/dev.stamp
	@$(BIN)/python -m loadtest.demo $(ARGS)

test: check $(VENV)/node.stamp
	@rm -f .coverage .coverage.*
	@$(BIN)/python -m pytest -m 'not trial' --numprocesses=4 --dist=worksteal --cov --cov-report= $(ARGS)
	@$(BIN)/coverage report
	@$(BIN)/coverage report --include='gateway/core/*' --fail-under=100

test-fast: $(VENV)/node.stamp
	@$(BIN)/python -m pytest -m 'not slow and not trial' $(ARGS)

soak: $(VENV)/node.stamp
	@$(BIN)/python -m pytest --soak -m 'soak or trial' -s --hypothesis-show-statistics --durations=0 $(ARGS)

check: $(VENV)/dev.stamp
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/tollgate check

fix: $(VENV)/dev.stamp
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

loadtest: $(VENV)/dev.stamp
	@$(BIN)/python -m loadtest.report $(ARGS)

lock: $(VENV)/dev.stamp
	@$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate --no-emit-index-url -o requirements/run.txt \
		pyproject.toml requirements/build.in
	@$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate --no-emit-index-url -c requirements/run.txt -o requirements/dev.txt \
		pyproject.toml requirements/build.in --group dev

clean:
	@rm -rf $(VENV) tests/node/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.*
