# Two commands do all the set-up: `make up` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
TORCH := 2.13.0
KV_NEEDS := blake3 msgspec numpy prometheus-client typing-extensions xxhash

.PHONY: up test test-all soak check bench bench-peers setup-test clean

up: .venv/engine
	$(BIN)/starloom up $(SITE)

test: setup-test check
	$(BIN)/pytest

test-all: setup-test check .venv-aiperf/ready .venv-schemathesis/ready
	$(BIN)/pytest -m 'slow or peers or not slow'

# Half an hour; STARLOOM_SOAK_MINUTES=3 for a look.
soak: .venv/test
	$(BIN)/pytest -s -m 'slow or not slow' tests/system/test_soak.py

check: .venv/test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/engine
	$(BIN)/starloom bench serve

# One pinned environment a peer, since they do not live together.
bench-peers: .venv-gnpy/ready .venv-aiperf/ready .venv-dynamo/ready .venv-sglang-router/ready .venv-litellm/ready \
  .venv-cisco/ready .venv-schemathesis/ready .venv-lmcache/ready .venv-mooncake/ready .venv-nixl/ready
	command -v fio >/dev/null || apt-get install -y -qq fio || echo "bench kv wants fio: apt install fio"

.venv-gnpy/ready:
	$(PYTHON) -m venv .venv-gnpy
	.venv-gnpy/bin/pip install -q gnpy==3.0.1
	touch $@

.venv-aiperf/ready:
	$(PYTHON) -m venv .venv-aiperf
	.venv-aiperf/bin/pip install -q aiperf==0.13.0
	touch $@

.venv-cisco/ready:
	$(PYTHON) -m venv .venv-cisco
	.venv-cisco/bin/pip install -q cisco-ai-skill-scanner==2.3.2
	touch $@

.venv-schemathesis/ready:
	$(PYTHON) -m venv .venv-schemathesis
	.venv-schemathesis/bin/pip install -q schemathesis==4.32.5
	touch $@

.venv-sglang-router/ready:
	$(PYTHON) -m venv .venv-sglang-router
	.venv-sglang-router/bin/pip install -q sglang-router==0.3.2
	touch $@

.venv-litellm/ready:
	$(PYTHON) -m venv .venv-litellm
	.venv-litellm/bin/pip install -q 'litellm[proxy]==1.108.7'
	touch $@

# Without what wants a GPU: cupy, cuda-python, cufile-python.
.venv-lmcache/ready:
	$(PYTHON) -m venv .venv-lmcache
	.venv-lmcache/bin/pip install -q --no-deps lmcache==0.5.6
	.venv-lmcache/bin/pip install -q 'torch==$(TORCH)+cpu' 2>/dev/null || \
	  .venv-lmcache/bin/pip install -q torch==$(TORCH) --index-url https://download.pytorch.org/whl/cpu
	.venv-lmcache/bin/pip install -q aiofile aiofiles aiohttp blake3 cachetools cryptography fastapi \
	  grpcio httpx msgspec numba numpy nvtx opentelemetry-api opentelemetry-sdk \
	  opentelemetry-exporter-otlp opentelemetry-exporter-prometheus prometheus_client protobuf psutil \
	  py-cpuinfo pyyaml pyzmq redis safetensors sortedcontainers transformers uvicorn
	touch $@

# The adapters' tests run our code there too: hence the second line of each.
.venv-mooncake/ready:
	$(PYTHON) -m venv .venv-mooncake
	.venv-mooncake/bin/pip install -q mooncake-transfer-engine-non-cuda==0.3.13.post1
	.venv-mooncake/bin/pip install -q --no-deps -e . $(KV_NEEDS)
	touch $@

# The bindings alone: the rest of NIXL wants torch and GPUs.
.venv-nixl/ready:
	$(PYTHON) -m venv .venv-nixl
	.venv-nixl/bin/pip install -q --no-deps nixl==1.5.1 nixl-cu12==1.5.1
	.venv-nixl/bin/pip install -q --no-deps -e . $(KV_NEEDS)
	touch $@

# The replay alone: --no-deps, since the rest of Dynamo wants GPUs.
.venv-dynamo/ready:
	$(PYTHON) -m venv .venv-dynamo
	.venv-dynamo/bin/pip install -q --no-deps ai-dynamo==1.1.1 ai-dynamo-runtime==1.1.1 \
	  annotated-types msgspec prometheus-client pydantic pydantic-core pyzmq tqdm \
	  typing-extensions typing-inspection uvloop
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
