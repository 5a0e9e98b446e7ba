# The two commands that matter: make quickstart, make test.
ACCELERATOR ?= auto
VENV ?= .venv
export VENV

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-fast test-slow check benchmark benchmark-data \
	benchmark-training benchmark-evaluation test-compose clean

help:  ## show this help
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup:  ## make the virtual environment, or bring it up to date
	@scripts/setup --accelerator $(ACCELERATOR) --venv $(VENV)

quickstart: setup  ## run a whole study in a few minutes, no GPU and no download needed
	$(VENV)/bin/hpo run quickstart

# vLLM changes its process for good (threads, random state): its tests have their own.
# Tests wait for processes and databases much of their time, so several run at once.
test: setup check  ## style, types, import contracts and all tests
	$(VENV)/bin/pytest -n 3 --dist worksteal -m "not engine and not exhaustive"
	$(VENV)/bin/pytest -n 2 --dist worksteal -m "engine and not exhaustive"

test-fast: setup  ## the fast tests alone
	$(VENV)/bin/pytest tests/unit -m "not exhaustive"

test-slow: setup  ## more cases and repetitions of what make test proves
	$(VENV)/bin/pytest -n 3 --dist worksteal -m "not engine and exhaustive"
	$(VENV)/bin/pytest -n 2 --dist worksteal -m "engine and exhaustive"

check: setup  ## style, types and import contracts
	scripts/check

benchmark: setup  ## measure against the plain way, side by side
	$(VENV)/bin/python -m benchmarks

benchmark-data: setup  ## prepare a million rows both ways; GSM8K names the folder with train.jsonl
	$(VENV)/bin/python -m benchmarks.data $(GSM8K)/train.jsonl --rows 1000000

benchmark-training: setup  ## training, its switch and its losses; GSM8K as above
	$(VENV)/bin/python -m benchmarks.training $(GSM8K)

benchmark-evaluation: setup  ## evaluations, their generation and loss; GSM8K as above
	$(VENV)/bin/python -m benchmarks.evaluation $(GSM8K)

test-compose: setup  ## bring the compose services up on a real Docker engine
	tests/compose/run

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
