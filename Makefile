# Every target does its own set-up, with pip alone, in $(VENV); it is repeated when pyproject.toml changes.

PYTHON ?= python3
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check --no-input
ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-oldest test-frameworks lint format bench clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo  ## Run the whole chain here, without a broker (EVENTBUS_URL=amqp://... for RabbitMQ)
	$(VENV)/bin/python -m examples.demo $(ARGS)

test: $(VENV)/.dev  ## Run all tests; ARGS="tests/unit -k naming" for some
	$(VENV)/bin/python -m pytest --numprocesses=3 --dist=worksteal $(ARGS)

test-oldest: $(VENV)-oldest/.test  ## Run units, contracts and capture with the oldest versions that pyproject.toml allows
	$(VENV)-oldest/bin/python -m pytest --numprocesses=3 --dist=worksteal \
	  tests/unit tests/contract tests/integration/test_capture_*.py tests/integration/test_statement_lists.py $(ARGS)

test-frameworks: $(VENV)-frameworks/.test  ## Run the examples for FastAPI, Flask, Litestar, Celery, ... under their real servers
	for release in '<2.1' '>=2.1'; do \
	  $(VENV)-frameworks/bin/python -m pip --disable-pip-version-check --no-input install --quiet "sqlalchemy$$release" || exit 1; \
	  $(VENV)-frameworks/bin/python -m pytest tests/frameworks $(ARGS) || exit 1; \
	done

lint: $(VENV)/.dev  ## Check rules, format, types and layers
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/.dev  ## Put the code into ruff's format
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(VENV)-bench/.bench  ## Measure everything beside its peers; ARGS="--quick", "--only latency", "--missing"
	$(VENV)-bench/bin/python -m benchmarks $(ARGS)

clean:  ## Remove the virtual environment and the caches
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-frameworks $(VENV)-bench .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

# -- set-up: a stamp file for each set of extras ------------------------------------------------------------------------

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or later is needed; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "No virtual environment could be made. On Debian or Ubuntu: apt-get install python3-venv"; exit 1; }

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	@echo "Installing what the demo needs into $(VENV) ..."
	@$(PIP) install --quiet --editable '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	@echo "Installing what development needs into $(VENV) (some minutes without a pip cache) ..."
	@$(PIP) install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.demo

# The lower bounds of the packages that every service installs become pins.
$(VENV)-oldest/.test: pyproject.toml
	@echo "Installing the oldest versions into $(VENV)-oldest ..."
	@$(PYTHON) -m venv --clear $(VENV)-oldest
	@sed -n '/^dependencies/,/^]/s/^ *"\(.*\)>=\([^"]*\)".*/\1==\2/p' pyproject.toml > $(VENV)-oldest/constraints.txt
	@$(VENV)-oldest/bin/python -m pip --disable-pip-version-check --no-input install --quiet \
	  --constraint $(VENV)-oldest/constraints.txt --editable '.[test]'
	@touch $@

$(VENV)-frameworks/.test: pyproject.toml
	@echo "Installing the frameworks into $(VENV)-frameworks ..."
	@$(PYTHON) -m venv --clear $(VENV)-frameworks
	@$(VENV)-frameworks/bin/python -m pip --disable-pip-version-check --no-input install --quiet --editable '.[frameworks]'
	@touch $@

$(VENV)-bench/.bench: pyproject.toml
	@echo "Installing eventbus and its peers into $(VENV)-bench ..."
	@$(PYTHON) -m venv --clear $(VENV)-bench
	@$(VENV)-bench/bin/python -m pip --disable-pip-version-check --no-input install --quiet --editable '.[bench]'
	@touch $@
