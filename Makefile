# Two commands do all the set-up: `make up` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
TORCH := 2.13.0

.PHONY: up test test-all check bench bench-peers setup-test clean

up: .venv/engine
	$(BIN)/starloom up $(SITE)

test: setup-test check
	$(BIN)/pytest

test-all: setup-test check .venv-aiperf/ready
	$(BIN)/pytest -m 'slow or peers or not slow'

check: .venv/test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/engine
	$(BIN)/starloom bench serve

# One pinned environment a peer, since they do not live together.
bench-peers: .venv-aiperf/ready

.venv-aiperf/ready:
	$(PYTHON) -m venv .venv-aiperf
	.venv-aiperf/bin/pip install -q aiperf==0.13.0
	touch $@

setup-test: .venv/test
	tools/system-packages

# torch's CPU build unless a GPU is found: from the local wheels or the default index where they have
# it, else from torch's own index; where there is no such build (macOS, aarch64) the plain one is it.
.venv/engine: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "starloom needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	if command -v nvidia-smi >/dev/null; then $(BIN)/pip install -q torch; else \
	  $(BIN)/pip install -q 'torch==$(TORCH)+cpu' 2>/dev/null || \
	  $(BIN)/pip install -q torch==$(TORCH) --index-url https://download.pytorch.org/whl/cpu || \
	  $(BIN)/pip install -q torch==$(TORCH); fi
	$(BIN)/pip install -q -e '.[engine]'
	touch $@

.venv/test: .venv/engine
	$(BIN)/pip install -q -e '.[engine,test]'
	touch $@

clean:
	rm -rf .venv .venv-* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
