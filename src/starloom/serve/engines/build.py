"""A worker's engine out of its line in the site file."""

import logging
from collections.abc import Callable
from functools import partial

from tokenizers import Tokenizer

from starloom.kv import PoolClient
from starloom.kv.base import Pool
from starloom.serve.engines.core import EngineCore
from starloom.serve.engines.emulated import EmulatedExecutor, ordinary_words
from starloom.serve.engines.executor import Executor
from starloom.serve.engines.handover import Desk, listen_tcp, listen_unix
from starloom.serve.models import BadModelFolder, ModelFiles
from starloom.serve.rundir import RunDir
from starloom.site import EmbeddedWorker, EmulatedWorker, Site

_log = logging.getLogger(__name__)

_GIB = 1 << 30


def build_core(
    site: Site, rundir: RunDir, name: str, sleep: Callable[[float], object]
) -> EngineCore:
    """The core of worker `name`. Raises `BadModelFolder`, or KeyError for an unknown name.

    `sleep` is what an emulated engine spends its time in.
    """
    worker = site.worker(name)
    files = ModelFiles(site, worker.model)
    tokenizer = load_tokenizer(files)
    executor: Executor
    if isinstance(worker, EmulatedWorker):
        executor = _emulated(site, worker, files, tokenizer, sleep)
        eos: frozenset[int] = frozenset()
    elif isinstance(worker, EmbeddedWorker):
        executor, eos = _embedded(worker, files)
    else:
        raise BadModelFolder(f"worker {name!r} is a server elsewhere, not a process of ours")
    _log.info("worker %s: model %s, %d KV blocks", name, worker.model, executor.num_blocks)
    return EngineCore(
        executor,
        tokenizer,
        block_tokens=files.model.block_tokens,
        max_batch=worker.max_batch,
        max_batch_tokens=worker.max_batch_tokens,
        max_waiting=worker.max_waiting,
        context_tokens=files.model.context_tokens,
        eos=eos,
        open_pool=_pool(site, rundir),
        desk=_desk(site, rundir, worker, files, executor),
    )


def load_tokenizer(files: ModelFiles) -> Tokenizer:
    """The tokenizer of a model. Raises `BadModelFolder`."""
    if files.tokenizer_folder is None:
        raise BadModelFolder(f"model {files.model.name!r} has neither `tokenizer` nor `path`")
    path = files.tokenizer_folder / "tokenizer.json"
    if not path.is_file():
        raise BadModelFolder(f"{path} is not there")
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _emulated(
    site: Site,
    worker: EmulatedWorker,
    files: ModelFiles,
    tokenizer: Tokenizer,
    sleep: Callable[[float], object],
) -> EmulatedExecutor:
    num_blocks = int(worker.kv_cache_gib * _GIB) // files.block_bytes
    if not num_blocks:
        raise BadModelFolder(_too_small(worker, files))
    return EmulatedExecutor(
        chip=site.chip(worker.node),
        shape=files.shape,
        words=ordinary_words(tokenizer),
        num_blocks=num_blocks,
        block_tokens=files.model.block_tokens,
        seed=worker.seed,
        time_scale=worker.time_scale,
        sleep=sleep,
        handover_gb_per_s=worker.handover_gb_per_s,
    )


def _embedded(worker: EmbeddedWorker, files: ModelFiles) -> tuple[Executor, frozenset[int]]:
    try:
        from starloom.serve.engines.embedded import EmbeddedExecutor
    except ImportError as error:
        raise BadModelFolder(
            f"worker {worker.name!r} needs torch: pip install 'starloom[engine]' ({error})"
        ) from error
    if files.folder is None:
        raise BadModelFolder(f"model {files.model.name!r} has no `path` to load weights from")
    cache = int(worker.kv_cache_gib * _GIB)
    if cache < files.block_bytes:
        raise BadModelFolder(_too_small(worker, files))
    executor = EmbeddedExecutor(
        files.folder,
        kv_cache_bytes=cache,
        block_tokens=files.model.block_tokens,
        context_tokens=files.model.context_tokens,
        threads=worker.threads,
        device=worker.device,
    )
    if executor.block_bytes != files.block_bytes:
        raise BadModelFolder(
            f"model {files.model.name!r}: `shape` gives KV blocks of {files.block_bytes} bytes, "
            f"its folder in float32 {executor.block_bytes}; leave `shape` out"
        )
    return executor, executor.eos


def _desk(
    site: Site,
    rundir: RunDir,
    worker: EmbeddedWorker | EmulatedWorker,
    files: ModelFiles,
    executor: Executor,
) -> Desk | None:
    """Raises OSError where the address to listen on is taken."""
    if not site.hands_over(worker.model):
        return None
    if worker.handover == "unix":
        listener, address = listen_unix(rundir.handover_socket(worker.name))
    else:
        listener, address = listen_tcp(worker.handover_host, worker.handover_port)
    block_tokens = files.model.block_tokens
    layout = f"{files.fingerprint}/{block_tokens}"
    return Desk(executor, layout, block_tokens, listener, address)


def _too_small(worker: EmbeddedWorker | EmulatedWorker, files: ModelFiles) -> str:
    return (
        f"worker {worker.name!r}: kv_cache_gib of {worker.kv_cache_gib} holds no block of "
        f"{files.block_bytes} bytes"
    )


def _pool(site: Site, rundir: RunDir) -> Callable[[], Pool] | None:
    if site.pool is None:
        return None
    return partial(PoolClient, rundir.pool_socket, site.pool.timeout_s)
