"""Our adapters' signatures against vLLM's and SGLang's own source, read out of their wheels.

Nothing is installed or imported: the wheels are downloaded once (`STARLOOM_WHEELS`, else the user's
cache), and their files are parsed.
"""

import ast
import dataclasses
import inspect
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from starloom.kv.connectors import sglang_storage, vllm_connector, vllm_shapes, vllm_tier

pytestmark = pytest.mark.peers

PINS = {"vllm": "0.33.0", "sglang": "0.5.23"}
WHEELS = Path(os.environ.get("STARLOOM_WHEELS", Path.home() / ".cache" / "starloom" / "wheels"))


def wheel(name: str) -> zipfile.ZipFile:
    WHEELS.mkdir(parents=True, exist_ok=True)
    pattern = f"{name}-{PINS[name]}-*.whl"
    if not list(WHEELS.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(WHEELS)]
        ran = subprocess.run(
            [*command, f"{name}=={PINS[name]}"], capture_output=True, text=True, timeout=900
        )
        if ran.returncode:
            pytest.skip(f"{name}=={PINS[name]} cannot be downloaded: {ran.stderr[-200:]}")
    return zipfile.ZipFile(next(WHEELS.glob(pattern)))


class Source:
    """Classes of one file."""

    def __init__(self, package: str, path: str) -> None:
        tree = ast.parse(wheel(package).read(path))
        self.classes = {
            node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
        }

    def methods(self, name: str) -> dict[str, list[str]]:
        """Parameters of each method, without self; `*` and `**` are marked."""
        return {
            node.name: parameters(node)
            for node in self.classes[name].body
            if isinstance(node, ast.FunctionDef)
        }

    def abstract(self, name: str) -> set[str]:
        return {
            node.name
            for node in self.classes[name].body
            if isinstance(node, ast.FunctionDef)
            and any("abstractmethod" in ast.unparse(each) for each in node.decorator_list)
        }

    def fields(self, name: str) -> list[str]:
        """Names that a dataclass, a named tuple or an enum declares."""
        found = []
        for node in self.classes[name].body:
            if isinstance(node, ast.AnnAssign):
                found.append(node.target.id)
            elif isinstance(node, ast.Assign):
                found += [each.id for each in node.targets]
        return found


def parameters(node: ast.FunctionDef) -> list[str]:
    arguments = node.args
    names = [each.arg for each in [*arguments.posonlyargs, *arguments.args]][1:]
    names += [f"*{arguments.vararg.arg}"] if arguments.vararg else []
    names += [each.arg for each in arguments.kwonlyargs]
    return names + ([f"**{arguments.kwarg.arg}"] if arguments.kwarg else [])


def ours(kind: type, name: str) -> list[str]:
    marks = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    method = vars(kind)[name]
    plain = method.__func__ if isinstance(method, classmethod) else method
    found = list(inspect.signature(plain).parameters.values())
    return [marks.get(each.kind, "") + each.name for each in found[1:]]


def check_methods(kind: type, source: Source, base: str) -> None:
    """All abstract methods are there, and every method of the base that we define matches."""
    theirs = source.methods(base)
    missing = source.abstract(base) - set(vars(kind))
    assert not missing, f"{kind.__name__} lacks {missing}"
    for name in set(vars(kind)) & set(theirs) - {"__init__"}:
        if isinstance(vars(kind)[name], property):
            continue
        assert ours(kind, name) == theirs[name], f"{kind.__name__}.{name}"


class TestVllmTier:
    """`vllm/v1/kv_offload`."""

    def test_the_tier(self):
        """Methods, and a constructor that takes what the factory gives."""
        source = Source("vllm", "vllm/v1/kv_offload/tiering/base.py")
        check_methods(vllm_tier.StarloomTier, source, "SecondaryTierManager")
        theirs = source.methods("SecondaryTierManager")["__init__"]
        assert ours(vllm_tier.StarloomTier, "__init__")[: len(theirs)] == theirs
        factory = wheel("vllm").read("vllm/v1/kv_offload/tiering/factory.py").decode()
        given = {
            word.arg
            for node in ast.walk(ast.parse(factory))
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "tier_cls"
            for word in node.keywords
            if word.arg
        }
        assert given == set(theirs)

    def test_stand_ins(self):
        """Names and their order are vLLM's."""
        base = Source("vllm", "vllm/v1/kv_offload/base.py")
        tiering = Source("vllm", "vllm/v1/kv_offload/tiering/base.py")
        assert [each.name for each in vllm_shapes.LookupResult] == base.fields("LookupResult")
        assert [each.name for each in vllm_shapes.Medium] == base.fields("Medium")
        found = [each.name for each in dataclasses.fields(vllm_shapes.JobResult)]
        assert found == tiering.fields("JobResult")
        assert {"job_id", "keys", "chunk_ids"} <= set(tiering.fields("TransferJob"))


class TestVllmConnector:
    """`vllm/distributed/kv_transfer/kv_connector/v1/base.py`."""

    BASE = "vllm/distributed/kv_transfer/kv_connector/v1/base.py"

    def test_the_connector(self):
        source = Source("vllm", self.BASE)
        check_methods(vllm_connector.StarloomConnector, source, "KVConnectorBase_V1")
        theirs = source.methods("KVConnectorBase_V1")["__init__"]
        assert ours(vllm_connector.StarloomConnector, "__init__") == theirs
        assert source.fields("KVConnectorRole") == ["SCHEDULER", "WORKER"]

    def test_what_it_reads_is_there(self):
        """Fields of the scheduler's output and of requests, configs and blocks."""
        output = Source("vllm", "vllm/v1/core/sched/output.py")
        for name, used in {
            "SchedulerOutput": {
                "scheduled_new_reqs",
                "scheduled_cached_reqs",
                "num_scheduled_tokens",
            },
            "NewRequestData": {"req_id", "block_ids", "num_computed_tokens"},
            "CachedRequestData": {
                "req_ids",
                "resumed_req_ids",
                "new_block_ids",
                "num_computed_tokens",
            },
        }.items():
            assert used <= set(output.fields(name)), name
        request = wheel("vllm").read("vllm/v1/request.py").decode()
        for name in ("prompt_token_ids", "mm_features", "cache_salt", "lora_request"):
            assert f"self.{name}" in request
        cache = Source("vllm", "vllm/v1/kv_cache_interface.py")
        assert "num_blocks" in cache.fields("KVCacheConfig")
        manager = Source("vllm", "vllm/v1/core/kv_cache_manager.py")
        assert "get_block_ids" in manager.methods("KVCacheBlocks")
        transfer = Source("vllm", "vllm/config/kv_transfer.py").fields("KVTransferConfig")
        used = {"kv_connector_extra_config", "kv_connector_module_path", "kv_load_failure_policy"}
        assert used <= set(transfer)
        parallel = Source("vllm", "vllm/config/parallel.py").fields("ParallelConfig")
        assert {"rank", "world_size", "tensor_parallel_size"} <= set(parallel)
        assert {"block_size", "cache_dtype"} <= set(
            Source("vllm", "vllm/config/cache.py").fields("CacheConfig")
        )


class TestSglang:
    """`sglang/srt/mem_cache`."""

    def test_the_storage(self):
        source = Source("sglang", "sglang/srt/mem_cache/hicache_storage.py")
        check_methods(sglang_storage.StarloomStorage, source, "HiCacheStorage")
        config = set(source.fields("HiCacheStorageConfig"))
        used = {"tp_rank", "tp_size", "pp_rank", "pp_size", "is_mla_model", "model_name"}
        assert used | {"extra_config", "is_page_first_layout", "dcp_rank", "attn_cp_rank"} <= config

    def test_the_factory(self):
        """It calls a dynamic backend with its configuration and a dictionary."""
        path = "sglang/srt/mem_cache/storage/backend_factory.py"
        text = wheel("sglang").read(path).decode()
        assert "return backend_class(storage_config, kwargs)" in text
        for name in ("backend_name", "module_path", "class_name"):
            assert f'"{name}"' in text
        assert ours(sglang_storage.StarloomStorage, "__init__") == ["storage_config", "kwargs"]

    def test_the_host_pool(self):
        """Where pages are is asked of it by this name, with the indices of their tokens."""
        source = Source("sglang", "sglang/srt/mem_cache/pool_host/mha.py")
        [found] = [
            source.methods(name)["get_page_buffer_meta"]
            for name in source.classes
            if "get_page_buffer_meta" in source.methods(name)
        ][:1]
        assert found == ["indices"]
