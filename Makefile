# Everything runs in .venv, which .ci/setup makes and repairs; nothing is installed twice.
PYTHON ?= python3
IN := .venv/bin/python
SETUP = @command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found; DUET needs Python 3.11 or later (make PYTHON=...)" >&2; exit 1; }; \
	$(PYTHON) .ci/setup
SLOW_TARGETS := $(shell sed -e 's/\#.*//' .ci/suites | while read -r name target rest; do echo "$$target"; done)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-vllm lint types imports docs bench pre-commit ci ci-all clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1|\2/p' $(firstword $(MAKEFILE_LIST)) | while IFS='|' read -r name what; do printf '  %-12s %s\n' "$$name" "$$what"; done

setup: ## install what all the targets below need
	$(SETUP) demo test lint docs

demo: ## ask the embedded pair of models one question, on this machine
	$(SETUP) demo
	$(IN) examples/demo.py

test: ## run the tests (ARGS="-k signal" passes options on)
	$(SETUP) test
	$(IN) -m pytest $(ARGS)

test-vllm: ## run the tests against a real vLLM (first some 4 minutes for its environment, 3.5 GB)
	$(SETUP) test
	export DUET_VLLM_PYTHON && DUET_VLLM_PYTHON=$$($(PYTHON) .ci/environment vllm) && \
	$(IN) -m pytest tests/vllm $(ARGS) && "$$DUET_VLLM_PYTHON" -m pytest tests/vllm_engine $(ARGS)

lint: ## style and format, by ruff
	$(SETUP) lint
	$(IN) -m ruff check . .ci/setup .ci/slow .ci/environment
	$(IN) -m ruff format --check . .ci/setup .ci/slow .ci/environment

types: ## types, by mypy
	$(SETUP) test lint
	$(IN) -m mypy

imports: ## which module may import which, by import-linter
	$(SETUP) lint
	.venv/bin/lint-imports

docs: ## build the documentation into site/; any warning fails
	$(SETUP) docs
	NO_MKDOCS_2_WARNING=1 $(IN) -m mkdocs build --strict

bench: ## measure import and pipeline, then the calls against other libraries (first some 2 minutes for those)
	$(SETUP) demo
	$(IN) benchmarks/import_time.py
	$(IN) benchmarks/pipeline.py
	PYTHONPATH=. $(IN) benchmarks/telemetry.py
	@others=$$($(PYTHON) .ci/environment bench) && export PYTHONPATH=. && set -x && \
	$$others benchmarks/wire.py && $$others benchmarks/many.py

pre-commit: ## run the hooks of .pre-commit-config.yaml over every file
	$(SETUP) test lint
	$(IN) -m pre_commit run --all-files

ci: test lint types imports docs ## test, lint, types, imports, docs

ci-all: ci $(SLOW_TARGETS) ## ci and every slow suite, changed or not

clean: ## remove caches and builds (.venv stays: rm -r .venv starts over)
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage site dist build
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
