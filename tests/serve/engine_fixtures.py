"""What the tests of engines share: a byte tokenizer, random model folders, a pool, a site."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from starloom.kv import PoolUnavailable, block_keys, root_key
from starloom.serve.base import Delta, EngineRequest, Sampling
from starloom.serve.engines.core import EngineCore
from starloom.serve.engines.emulated import EmulatedExecutor, ordinary_words
from starloom.serve.rundir import RunDir
from starloom.site import Chip, ModelShape, Site

END = 256
"""Id of the byte tokenizer's end token."""
VOCAB = 260

CHIP = Chip(
    name="chip",
    fp32_tflops=1,
    bf16_tflops=1,
    memory_gib=1,
    memory_gb_per_s=100,
    source="made up",
    verified="no",
)
SHAPE = ModelShape(
    layers=2, hidden=64, heads=4, kv_heads=2, head_dim=16, intermediate=128, vocab=VOCAB, kv_bytes=4
)


def byte_tokenizer() -> Tokenizer:
    """256 byte tokens, whose id is the byte, and four special ones."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    vocab = {chr(byte): byte for byte in printable}
    vocab |= {chr(0x100 + i): byte for i, byte in enumerate(others)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>", "<|user|>", "<|bot|>", "<|pad|>"])
    return tokenizer


def request(
    name: str,
    tokens: Sequence[int],
    *,
    block_tokens: int = 4,
    salt: str | None = "tenant",
    priority: int = 0,
    **sampling: object,
) -> EngineRequest:
    """A request with keys as the gateway makes them; `salt=None` switches reuse off."""
    sampling.setdefault("max_tokens", 4)
    sampling.setdefault("temperature", 0)
    root = b"" if salt is None else root_key(fingerprint="f", block_tokens=block_tokens, salt=salt)
    return EngineRequest(
        id=name,
        model="m",
        tokens=list(tokens),
        keys=[] if salt is None else block_keys(root, list(tokens), block_tokens),
        root=root,
        sampling=Sampling(**sampling),
        priority=priority,
    )


def emulated(num_blocks: int = 64, block_tokens: int = 4, **options: object) -> EmulatedExecutor:
    settings = {
        "chip": CHIP,
        "shape": SHAPE,
        "words": ordinary_words(byte_tokenizer()),
        "seed": 0,
        "time_scale": 0.0,
        "sleep": lambda _: None,
    }
    return EmulatedExecutor(num_blocks=num_blocks, block_tokens=block_tokens, **settings | options)


def core_of(executor: object, *, block_tokens: int = 4, **options: object) -> EngineCore:
    settings = {"max_batch": 8, "max_batch_tokens": 16, "eos": (END,)}
    tokenizer = byte_tokenizer()
    return EngineCore(executor, tokenizer, block_tokens=block_tokens, **settings | options)


def run_all(core: EngineCore, *requests: EngineRequest) -> dict[str, list[Delta]]:
    """Submit, then step until nothing is left; deltas by request."""
    answers: dict[str, list[Delta]] = {r.id: [] for r in requests}
    for one in requests:
        if (delta := core.submit(one)) is not None:
            answers[one.id].append(delta)
    while not core.idle:
        for delta in core.step():
            answers[delta.id].append(delta)
        core.check_integrity()
    return answers


def text_of(deltas: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


class MemoryPool:
    """A `Pool` in a dict. `broken` makes every call fail."""

    def __init__(self) -> None:
        self.blocks: dict[bytes, bytes] = {}
        self.broken = False
        self.calls = 0

    def _check(self) -> None:
        self.calls += 1
        if self.broken:
            raise PoolUnavailable("the pool is away")

    def longest_prefix(self, keys: Sequence[bytes]) -> int:
        self._check()
        return next((i for i, key in enumerate(keys) if key not in self.blocks), len(keys))

    def get(self, keys: Sequence[bytes]) -> "MemoryLease":
        count = self.longest_prefix(keys)
        return MemoryLease([memoryview(self.blocks[key]) for key in keys[:count]])

    def put(self, blocks: Sequence[tuple[bytes, bytes]]) -> int:
        self._check()
        new = {key: bytes(data) for key, data in blocks if key not in self.blocks}
        self.blocks |= new
        return len(new)

    def close(self) -> None:
        """Kept open: tests look inside afterwards."""


class MemoryLease:
    def __init__(self, views: list[memoryview]) -> None:
        self.views = views

    def valid(self) -> bool:
        return True

    def release(self) -> None:
        pass

    def __enter__(self) -> "MemoryLease":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def save_tokenizer(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def make_site(folder: Path, workers: list[dict[str, object]], **fields: object) -> Site:
    """A site whose model `m` has the byte tokenizer, a small shape, and blocks of 4 tokens."""
    save_tokenizer(folder / "model")
    model = {
        "name": "m",
        "tokenizer": "model",
        "shape": SHAPE.model_dump(exclude={"source"}),
        "block_tokens": 4,
        "context_tokens": 4096,
    }
    site = {
        "name": "t",
        "chips": [CHIP.model_dump()],
        "nodes": [{"name": "n", "chip": "chip"}],
        "models": [model],
        "workers": [{"node": "n", "model": "m", **worker} for worker in workers],
        **fields,
    }
    path = folder / "site.yaml"
    path.write_text(json.dumps(site))
    return Site.load(path)


@contextmanager
def running(
    rundir: RunDir, name: str, pass_fds: tuple[int, ...] = ()
) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker process; killed at the end if it is still there."""
    command = [sys.executable, "-m", "starloom.serve.engines.worker", str(rundir.path), name]
    with rundir.log(name).open("ab") as log:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(command, stderr=log, env=env, pass_fds=pass_fds)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def until(holds: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Wait for something that other tasks or processes bring about."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "it never came about"
        await asyncio.sleep(0.01)


def run_async(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))
