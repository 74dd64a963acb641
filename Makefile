# The front door. `make demo` and `make test` each do all the set-up that they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# torch is pinned exactly and installed first: losskit is then built against it, without build isolation.
TORCH := torch==2.13.0
READY := $(VENV)/.ready
HOSTS := .venv-hosts
BUILT_FROM := pyproject.toml setup.py src/losskit/kernels/compiler.py $(wildcard csrc/*.h csrc/*.cpp csrc/generated/*.cpp)

.PHONY: help setup demo test test-gpu versions hosts check bench bench-gpu docs site explorer browser wheel clean

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## make .venv with torch, losskit and the tools

$(READY): $(BUILT_FROM)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH) "pip>=25.1" "setuptools>=77" wheel
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[demo,bench,test,check]"
	touch $(READY)

demo: $(READY) ## what losskit is for, on real data: one report in demo_output/
	$(BIN)/python demo

test: $(READY) ## the whole test suite
	$(BIN)/python -m pytest

test-gpu: $(READY) ## the suite of the GPU kernels on this machine's GPU; without one, in Triton's interpreter
	$(BIN)/python -m pytest tests/gpu -n 0

versions: ## a short suite under Python 3.10, 3.12 and 3.13, each where it is there, in environments of its own (.versions/)
	$(PYTHON) tools/versions.py

hosts: $(HOSTS)/.ready ## train other people's programs (transformers, lightning, fastai ...) with losskit in them
	$(HOSTS)/bin/python -m pytest -c tests/hosts/pytest.ini tests/hosts

# torch is named again beside the hosts: without that pip would exchange it for the newest one.
$(HOSTS)/.ready: $(BUILT_FROM)
	test -x $(HOSTS)/bin/python || $(PYTHON) -m venv $(HOSTS)
	$(HOSTS)/bin/python -m pip install --quiet $(TORCH) "pip>=25.1" "setuptools>=77" wheel
	$(HOSTS)/bin/python -m pip install --quiet $(TORCH) --group hosts
	$(HOSTS)/bin/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	touch $(HOSTS)/.ready

check: $(READY) ## lint, formatting, types, freshness of generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror csrc/*.h csrc/*.cpp
	$(BIN)/python tools/generate.py --check

bench: $(READY) ## measure against torch eager, torch.compile and JAX on this machine
	$(BIN)/python -m pip install --quiet --group peers
	$(BIN)/python benchmarks/run.py

bench-gpu: $(READY) ## measure the GPU kernels against torch, torch.compile, Liger and cut cross entropy
	$(BIN)/python -m pip install --quiet --group gpu-peers
	$(BIN)/python benchmarks/gpu.py

docs: $(READY) ## print the generated files anew from the declarations, and measure the accuracy
	$(BIN)/python tools/generate.py
	$(BIN)/python tools/accuracy.py

explorer: ## build the explorer's page with npm, and compare its numbers with Python's
	cd explorer && npm ci --silent && npm test

browser: explorer ## use the explorer's page in headless Chromium
	cd explorer && npm run browser

site: $(READY) explorer ## build the documentation site into site/, strictly, and follow its links; needs npm
	$(BIN)/python -m pip install --quiet --group docs
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --quiet
	LOSSKIT_SITE=site $(BIN)/python -m pytest -n 0 tests/test_docs.py -k the_site

wheel: $(READY) ## build a wheel that serves every Python
	$(BIN)/python -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir dist .

clean: ## remove what was built
	rm -rf $(VENV) $(HOSTS) .versions build dist site src/losskit/lib src/losskit_guide/explorer src/*.egg-info demo_output explorer/node_modules explorer/generated
