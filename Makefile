# The front door. `make demo` and `make test` each do all the set-up that they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# torch is pinned exactly and installed first: losskit is then built against it, without build isolation.
TORCH := torch==2.13.0
PIP = $(1)/bin/python -m pip --quiet --disable-pip-version-check
DEMO := $(VENV)/.ready-demo
READY := $(VENV)/.ready
HOSTS := .venv-hosts
PEERS := .parity
BUILT_FROM := pyproject.toml setup.py $(wildcard backend/*.py binding/* csrc/*.h csrc/*.cpp csrc/generated/*) \
	src/losskit/kernels/compiler.py
PAGE := src/losskit_guide/explorer/index.html
PAGE_FROM := $(shell find explorer -type f -not -path '*/node_modules/*' -not -path '*/generated/*') \
	src/losskit_guide/catalogue.json

.PHONY: help setup demo test test-all test-gpu mutants versions hosts parity check bench bench-gpu docs site explorer browser wheel clean

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## make .venv with torch, losskit and the tools

$(DEMO): $(BUILT_FROM)
	@test -x $(BIN)/python || { $(PYTHON) -m venv $(VENV); \
		echo "Installing $(TORCH) in $(VENV): 0.2 GB to download for the CPU, 2.7 GB with CUDA ..."; }
	@$(call PIP,$(VENV)) install $(TORCH) "pip>=25.1" "setuptools>=77"
	@echo "Compiling losskit's kernels, and installing what the demo needs: 0.1 GB to download, two minutes ..."
	@$(call PIP,$(VENV)) install --no-build-isolation --editable ".[demo]"
	@touch $(DEMO)

$(READY): $(DEMO)
	@echo "Installing what tests and checks need: 0.4 GB to download, about a minute ..."
	@$(call PIP,$(VENV)) install --no-build-isolation --editable ".[demo,bench,test,check]"
	@touch $(READY)

demo: $(DEMO) ## what losskit is for, on real data: one report in demo_output/
	$(BIN)/python demo

test: $(READY) ## the tests: every loss, every path of a few
	$(BIN)/python -m pytest -m "not full"

test-all: $(READY) ## the whole test suite; on machine 2 of 4: make test-all SHARD=2/4
	SHARD=$(SHARD) $(BIN)/python -m pytest

test-gpu: $(READY) ## the whole suite of the GPU kernels on this machine's GPU; without one, in Triton's interpreter
	$(BIN)/python -m pytest tests/gpu -n 0

mutants: $(READY) ## break the C++ loops, one operator at a time, and see whether a test notices; half an hour
	$(BIN)/python tools/mutants.py

versions: ## a short suite under Python 3.10, 3.12 and 3.13, each where it is there, in environments of its own (.versions/)
	$(PYTHON) tools/versions.py

hosts: $(HOSTS)/.ready ## train other people's programs (transformers, lightning, fastai ...) with losskit in them
	$(HOSTS)/bin/python -m pytest -c tests/hosts/pytest.ini tests/hosts

# torch is named again beside the hosts: without that pip would exchange it for the newest one.
$(HOSTS)/.ready: $(BUILT_FROM)
	@test -x $(HOSTS)/bin/python || { $(PYTHON) -m venv $(HOSTS); \
		echo "Installing $(TORCH) and the hosts in $(HOSTS): three minutes, 2 GB on disk ..."; }
	@$(call PIP,$(HOSTS)) install $(TORCH) "pip>=25.1" "setuptools>=77"
	@$(call PIP,$(HOSTS)) install $(TORCH) --group hosts
	@$(call PIP,$(HOSTS)) install --no-build-isolation --no-deps --editable .
	@touch $(HOSTS)/.ready

parity: $(PEERS)/.ready ## compute the same losses in other libraries (keras, monai, torchvision ...): docs/parity.json, docs/peers/
	$(PEERS)/bin/python tools/parity.py
	$(if $(wildcard $(READY)),$(BIN)/python tools/generate.py)

# torchvision is named with the torch that it belongs to: without that pip would fetch the newest of both.
$(PEERS)/.ready: $(BUILT_FROM)
	@test -x $(PEERS)/bin/python || { $(PYTHON) -m venv $(PEERS); \
		echo "Installing $(TORCH) and the libraries in $(PEERS): five minutes, 3 GB on disk ..."; }
	@$(call PIP,$(PEERS)) install $(TORCH) "pip>=25.1" "setuptools>=77"
	@$(call PIP,$(PEERS)) install $(TORCH) --group parity
	@$(call PIP,$(PEERS)) install --no-build-isolation --no-deps --editable .
	@touch $(PEERS)/.ready

check: $(READY) ## lint, formatting, types, freshness of generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror binding/*.h binding/*.cpp csrc/*.h csrc/*.cpp
	$(BIN)/python tools/generate.py --check
	$(BIN)/python tools/readme.py --check

bench: $(READY) ## measure every loss against torch eager, torch.compile and JAX on this machine: docs/speed.md, README's table
	@$(call PIP,$(VENV)) install --group peers
	$(BIN)/python benchmarks/run.py; wrong=$$?; \
		$(BIN)/python benchmarks/heads.py || wrong=1; \
		$(BIN)/python benchmarks/memory.py || wrong=1; \
		$(BIN)/python tools/readme.py && exit $$wrong

bench-gpu: $(READY) ## measure the GPU kernels against torch, torch.compile, Liger and cut cross entropy
	@$(call PIP,$(VENV)) install --group gpu-peers
	$(BIN)/python benchmarks/gpu.py

docs: $(READY) ## print the generated files anew from the declarations, and measure the accuracy
	$(BIN)/python tools/generate.py
	$(BIN)/python tools/accuracy.py
	$(BIN)/python tools/picture.py
	$(BIN)/python tools/tutorial.py
	$(BIN)/python tools/readme.py

explorer: ## build the explorer's page with npm, and compare its numbers with Python's
	cd explorer && npm ci --silent && npm test

browser: explorer ## use the explorer's page in headless Chromium
	cd explorer && npm run browser

site: $(READY) explorer ## build the documentation site into site/, strictly, and follow its links; needs npm
	@$(call PIP,$(VENV)) install --group docs
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --quiet
	LOSSKIT_SITE=site $(BIN)/python -m pytest -n 0 tests/test_docs.py -k the_site

# auditwheel says with the wheel's name how old a Linux it runs on; libtorch_cpu.so is there when losskit is loaded.
wheel: $(DEMO) $(PAGE) ## build a wheel with the explorer in it, which serves every Python
	@echo "Building the wheel: two minutes ..."
	@rm -rf build/wheel dist/losskit-*.whl
	@$(call PIP,$(VENV)) wheel --no-build-isolation --no-deps --wheel-dir build/wheel .
	@if [ "$$(uname)" = Linux ]; then $(call PIP,$(VENV)) install --group wheel; \
		PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair --exclude libtorch_cpu.so --exclude libtorch_python.so --exclude libc10.so --wheel-dir dist build/wheel/*.whl \
		> build/wheel/auditwheel.log 2>&1 || { cat build/wheel/auditwheel.log; exit 1; }; \
		else mkdir -p dist && cp build/wheel/*.whl dist; fi
	@ls -sh dist/losskit-*.whl

$(PAGE): $(PAGE_FROM)
	@command -v npm > /dev/null || { echo "The explorer's page needs npm (Node.js 20 or newer)."; exit 1; }
	@echo "Building the explorer's page with npm: a few seconds ..."
	@cd explorer && npm ci --silent && npm run --silent build

clean: ## remove what was built
	rm -rf $(VENV) $(HOSTS) $(PEERS) .versions build dist site src/losskit/lib src/losskit_guide/explorer src/*.egg-info demo_output explorer/node_modules explorer/generated
