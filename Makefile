# Every target builds the environment it needs; a fresh clone needs only Python 3.11 or newer and a package registry.
PYTHON ?= python3
TORCH ?= 2.13.0
DEMO ?=
TUTORIALS ?= on

.DEFAULT_GOAL := help
.PHONY: help demo test lint slow bench test-tl3 docs clean

help: ## show the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 12
	@echo "variables: PYTHON=$(PYTHON) TORCH=$(TORCH) (the torch version, installed first) DEMO=(settings added to the demo)"

demo: .venv/installed ## find a family of orthogonal steering vectors in the embedded model and write its report
	.venv/bin/mi-ortho family $(DEMO)

test: .venv/installed ## all tests but the slow ones
	.venv/bin/pytest -q -m "not slow and not tl3"

lint: .venv/installed ## ruff, and pyright over library, tests, experiments and benchmarks
	.venv/bin/ruff check .
	.venv/bin/pyright

slow: .venv/installed ## the slow tests
	.venv/bin/pytest -q -m slow

bench: .venv/installed ## the published loops beside ours, in one process
	.venv/bin/python -m benchmarks

test-tl3: .venv-tl3/installed ## the hook-point and slice tests on a HookedTransformer of TransformerLens 3
	.venv-tl3/bin/pytest -q -m tl3 tests

docs: .venv/docs-installed ## build these pages into docs/_build/html, tutorials executed (TUTORIALS=off leaves their outputs out)
	TUTORIALS=$(TUTORIALS) .venv/bin/sphinx-build -q -W --keep-going -b html docs docs/_build/html
	@echo docs/_build/html/index.html

clean: ## remove the environments and caches
	rm -rf .venv .venv-tl3 .pytest_cache .ruff_cache .hypothesis

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "got $$($(PYTHON) --version); expected Python 3.11 or newer; run make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet torch==$(TORCH)
	.venv/bin/python -m pip install --quiet -e '.[dev,gguf]'
	touch $@

.venv/docs-installed: .venv/installed
	.venv/bin/python -m pip install --quiet -e '.[docs]'
	touch $@

.venv-tl3/installed: pyproject.toml
	$(PYTHON) -m venv .venv-tl3
	.venv-tl3/bin/python -m pip install --quiet torch==$(TORCH)
	.venv-tl3/bin/python -m pip install --quiet 'transformer-lens>=3.9,<4' circuitsvis matplotlib jinja2 cyclopts lazy-loader scipy pytest hypothesis pytest-timeout
	.venv-tl3/bin/python -m pip install --quiet --no-deps -e .
	touch $@
