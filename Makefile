# Everything runs in .venv, which .ci/setup makes and repairs; nothing is installed twice.
PYTHON ?= python3
IN := .venv/bin/python
SETUP = @command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found; DUET needs Python 3.11 or later (make PYTHON=...)" >&2; exit 1; }; \
	$(PYTHON) .ci/setup
SLOW_TARGETS := $(shell sed -e 's/\#.*//' .ci/suites | while read -r name target rest; do echo "$$target"; done)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-integrations test-observability test-stores test-llama-cpp test-install test-clients test-description test-vllm test-training train-demo lint types targets imports docs recording bench releases dist walk notebooks pre-commit ci ci-all clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1|\2/p' $(firstword $(MAKEFILE_LIST)) | while IFS='|' read -r name what; do printf '  %-18s %s\n' "$$name" "$$what"; done

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

test-llama-cpp: ## run the tests against llama.cpp's own server (some seconds)
	$(SETUP) test
	export DUET_LLAMA_CPP_PYTHON && DUET_LLAMA_CPP_PYTHON=$$($(PYTHON) .ci/environment llama-cpp) && \
	$(IN) -m pytest tests/llama_cpp $(ARGS)

test-stores: ## kill processes while they use a ledger's store (needs redis-server; 1 to 3 minutes)
	$(SETUP) test
	@command -v redis-server >/dev/null || echo "redis-server was not found: half of this is skipped (apt-get install redis-server)"
	$(IN) -m pytest tests/stores $(ARGS)

test-observability: ## read traces back from a real Phoenix and MLflow, metrics from a real Prometheus (first some minutes, 1.7 GB)
	$(SETUP) test
	export DUET_PHOENIX_PYTHON DUET_MLFLOW_PYTHON && \
	DUET_PHOENIX_PYTHON=$$($(PYTHON) .ci/environment phoenix) && \
	DUET_MLFLOW_PYTHON=$$($(PYTHON) .ci/environment mlflow) && \
	$(IN) -m pytest tests/observability $(ARGS)

test-integrations: ## run each integration's tests in its framework's own environment, then against a real vLLM
	@for folder in integrations/$(or $(ONLY),*)/; do \
		name=$$(basename $$folder) && python=$$($(PYTHON) .ci/environment $$name) && echo "== $$name" && \
		(cd $$folder && PYTHONPATH=$(CURDIR):$(CURDIR)/$$folder "$$python" -m pytest $(ARGS)) || exit 1; \
	done
	$(SETUP) test
	export DUET_VLLM_PYTHON && DUET_VLLM_PYTHON=$$($(PYTHON) .ci/environment vllm) && \
	$(IN) -m pytest tests/frameworks $(if $(ONLY),-k $(ONLY)) $(ARGS)

test-description: ## ask the gateway what Schemathesis draws from its description (first some minute for its environment)
	@python=$$($(PYTHON) .ci/environment schemathesis) && export PYTHONPATH=$(CURDIR):$(CURDIR)/tests && \
	"$$python" -m pytest tests/description $(ARGS)

test-clients: ## ask a running gateway with other people's clients, each in an environment of its own (first some 6 minutes for those)
	$(SETUP) test
	export DUET_CLIENT_OPENAI_3_PYTHON DUET_CLIENT_OPENAI_2_PYTHON DUET_CLIENT_AIDER_PYTHON DUET_CLIENT_AGENTS && \
	DUET_CLIENT_OPENAI_3_PYTHON=$$($(PYTHON) .ci/environment client-openai-3) && \
	DUET_CLIENT_OPENAI_2_PYTHON=$$($(PYTHON) .ci/environment client-openai-2) && \
	DUET_CLIENT_AIDER_PYTHON=$$($(PYTHON) .ci/environment client-aider) && \
	DUET_CLIENT_AGENTS=$$($(PYTHON) .ci/agents) && \
	$(IN) -m pytest tests/clients $(ARGS)

lint: ## style and format, by ruff; words, by .ci/words; workflows, by zizmor
	$(SETUP) lint
	$(IN) -m ruff check . .ci/setup .ci/slow .ci/environment .ci/releases .ci/dist .ci/recording .ci/walk .ci/notebooks .ci/words .ci/agents
	$(IN) -m ruff format --check . .ci/setup .ci/slow .ci/environment .ci/releases .ci/dist .ci/recording .ci/walk .ci/notebooks .ci/words .ci/agents
	$(IN) .ci/words
	.venv/bin/zizmor --offline --quiet .github/workflows

train-demo: ## train a toy pair from nothing, measure it, and ask it (at most ten minutes; first some minutes for its environment)
	@python=$$($(PYTHON) .ci/environment train) && export PYTHONPATH=$(CURDIR) OMP_NUM_THREADS=2 && \
	"$$python" examples/train_demo.py $(ARGS) && \
	"$$python" -m duet_sdk ask "dial at four . monday add three , tuesday double . now ?" --pair build/train-demo/run/pair

test-training: ## tests of the trainer, two processes and kill -9 included, and a short train-demo (first some minutes for its environment)
	@python=$$($(PYTHON) .ci/environment train) && export PYTHONPATH=$(CURDIR) OMP_NUM_THREADS=1 && \
	"$$python" -m pytest tests/trainer_slow $(ARGS) && \
	"$$python" -m pytest tests/trainer $(ARGS) && \
	"$$python" -m pytest --doctest-modules duet_sdk/trainer $(ARGS) && \
	OMP_NUM_THREADS=2 "$$python" examples/train_demo.py --short --folder build/train-demo-short && \
	"$$python" -m duet_sdk pair check build/train-demo-short/run/pair --questions build/train-demo-short/held-out.jsonl --at-least 0.1 && \
	"$$python" -m duet_sdk train run build/train-demo-short/run.yaml output=build/train-demo-short/again training.rounds=2

types: ## types, by mypy
	$(SETUP) test lint
	$(IN) -m mypy

targets: ## lint and types once more, as later Pythons read the code (some minutes)
	$(SETUP) test lint
	for minor in 12 13 14; do \
		$(IN) -m ruff check --target-version py3$$minor --extend-ignore UP,B912,RUF100 . && $(IN) -m mypy --python-version 3.$$minor || exit 1; \
	done

imports: ## which module may import which, by import-linter
	$(SETUP) lint
	.venv/bin/lint-imports

docs: ## build the documentation into site/; any warning fails
	$(SETUP) docs
	NO_MKDOCS_2_WARNING=1 $(IN) -m mkdocs build --strict

recording: ## redo README's picture: run its commands in a terminal of their own
	$(SETUP) test
	$(IN) .ci/recording

bench: ## measure import and pipeline, then the calls against other libraries (first some 2 minutes for those)
	$(SETUP) demo
	$(IN) benchmarks/import_time.py
	$(IN) benchmarks/pipeline.py
	PYTHONPATH=. $(IN) benchmarks/telemetry.py
	@others=$$($(PYTHON) .ci/environment bench) && export PYTHONPATH=. && set -x && \
	$$others benchmarks/wire.py && $$others benchmarks/many.py

test-install: ## run every install line of every page in an empty environment (needs the index; some 5 minutes)
	$(SETUP) test
	$(IN) -m pytest tests/install $(ARGS)

releases: ## run each integration's tests on the newest releases, and tell which one broke what (ARGS=--record keeps the versions)
	$(PYTHON) .ci/releases $(ONLY) $(ARGS)

dist: ## build the SDK and the adapters into dist/, check them, install each in an empty environment (ARGS=--only-build)
	$(PYTHON) .ci/dist $(ONLY) $(ARGS)

walk: ## do what README and the task pages say, from clean clones in empty environments (ARGS="docs/tasks/first-pair.md")
	$(SETUP) demo
	$(PYTHON) .ci/walk $(ARGS)

notebooks: ## run the notebooks and compare what they show (ARGS=--write puts it into them; first some minutes)
	$(SETUP) demo
	$(IN) -c "from duet_sdk.models import embedded; embedded()"
	@python=$$($(PYTHON) .ci/environment notebooks) && PYTHONPATH=$(CURDIR) "$$python" .ci/notebooks $(ARGS)

pre-commit: ## run the hooks of .pre-commit-config.yaml over every file
	$(SETUP) test lint
	$(IN) -m pre_commit run --all-files

ci: test lint types imports docs ## test, lint, types, imports, docs

ci-all: ci $(SLOW_TARGETS) ## ci and every slow suite, changed or not

clean: ## remove caches and builds (.venv stays: rm -r .venv starts over)
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage site dist build
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
