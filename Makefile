# Everything from a fresh clone: `make demo` shows the platform, `make test` checks it. Both install what they need into .venv first.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory --no-builtin-rules
.DEFAULT_GOAL := help
.PHONY: help setup demo up test test-all soak fuzz lint format bench bench-gpu sdk-types lock clean

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

help:  ## Show this list.
	@echo 'LLM platform: fine-tune language models on Dagster.'
	@echo
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

setup: $(STAMP)  ## Install everything into .venv, pinned by constraints.txt; done again only when the pins change.

demo: $(STAMP)  ## Start the platform, fine-tune a model, show what came out, stop (some minutes, more the first time).
	@$(BIN)/llm-platform demo

up: $(STAMP)  ## Keep the platform running, until Ctrl-C: API on port 8000, Dagster UI, MLflow UI.
	@$(BIN)/llm-platform up

test: $(STAMP)  ## Run the test suite.
	@$(BIN)/python -m llm_platform.training.tiny_llama
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow'

test-all: $(STAMP)  ## Run the test suite with what takes long.
	@$(BIN)/python -m pytest

soak: $(STAMP)  ## Kill trainings, then processes of a platform, at random moments: so many as KILLS says (100), drawn by SEED (1).
	@LLM_PLATFORM_TEST_KILLS=$(or $(KILLS),100) $(BIN)/python -m pytest tests/training/test_training_kills.py
	@$(BIN)/python -m tests.faults.soak --kills $(or $(KILLS),100) --seed $(or $(SEED),1)

fuzz: $(STAMP)  ## Send the API so many generated requests as REQUESTS says (10000).
	@LLM_PLATFORM_TEST_FUZZ=$(or $(REQUESTS),10000) $(BIN)/python -m pytest -s tests/api/test_api_fuzz.py

lint: $(STAMP)  ## Check style, formatting and types.
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/pyright

format: $(STAMP)  ## Put imports and code into form.
	@$(BIN)/ruff check --select I --fix
	@$(BIN)/ruff format

bench: $(STAMP)  ## Run every benchmark that needs no GPU; keeps the output in benchmarks/results.
	@$(BIN)/python -m benchmarks

bench-gpu: $(STAMP)  ## Train at the shape of Llama 8B against TRL on this machine's GPU; without one, at toy size.
	@$(BIN)/python -m benchmarks gpu

sdk-types: $(STAMP)  ## Renew what the JavaScript SDK knows of the API: its OpenAPI snapshot and the types made from it.
	@$(BIN)/python -m tests.client.test_client_openapi_snapshot
	@cd sdk/js && npm ci --omit=optional --ignore-scripts --no-audit --no-fund --loglevel=error && npm run --silent build

lock: $(STAMP)  ## Write what is installed to constraints.txt.
	@{ grep '^#' constraints.txt; $(BIN)/pip freeze --exclude-editable | sed -E 's/^(torch==[0-9.]+)\+.*/\1/'; } > $(VENV)/constraints.txt
	@mv $(VENV)/constraints.txt constraints.txt
	@touch $(STAMP)

clean:  ## Remove the environment and what tools left here; the platform's data (.home) stays.
	@rm -rf $(VENV) build .pytest_cache .ruff_cache *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@if [ ! -x $(BIN)/python ]; then \
	  for python in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi; python=; done; \
	  if [ -z "$$python" ]; then echo 'Python 3.11 or newer is needed: make setup PYTHON=/path/to/python3' >&2; exit 1; fi; \
	  echo "Creating $(VENV) with $$($$python --version) ..."; \
	  $$python -m venv $(VENV); fi
	@echo "Installing $$(grep -c == constraints.txt) packages into $(VENV); a few minutes the first time ..."
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[all]' 2>&1 | tee $(VENV)/setup.log \
	  | sed -u -nE 's/^ *Downloading ([^ ]+-[0-9][^ ]*) \((.* [MG]B)\).*/  downloading \1 (\2)/p; s/^Installing collected.*/  unpacking/p' \
	  || { tail -n 20 $(VENV)/setup.log >&2; exit 1; }
	@touch $@
	@echo 'Installed.'
