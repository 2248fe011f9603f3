"""vLLM's secondary tier on a pool of ours: the plug point of its CPU offloading.

    --kv-transfer-config '{"kv_connector": "OffloadingConnector", "kv_role": "kv_both",
      "kv_connector_extra_config": {"cpu_bytes_to_use": ..., "secondary_tiers": [{
        "type": "StarloomTier", "module_path": "starloom.kv.connectors.vllm_tier",
        "pool": "pool:///run/starloom/pool.sock"}]}}'

All calls come from the scheduler and return at once: a thread looks up, one loads, one stores.
Chunks go straight between the primary tier's memory and the pool.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from queue import SimpleQueue
from typing import Any, ClassVar

from starloom.kv.base import Pool
from starloom.kv.connectors.opening import TIMEOUT_S, held_keys, keyed, open_pool, wall
from starloom.kv.connectors.vllm_shapes import (
    JobResult,
    LookupResult,
    Medium,
    RequestOffloadingContext,
    SecondaryTierManager,
)
from starloom.kv.errors import KvError

FRESH_S = 1.0
"""How long an answer to a lookup counts."""
MAX_ANSWERS = 65_536
_log = logging.getLogger("starloom.kv.connectors")


class StarloomTier(SecondaryTierManager):
    """`lookup` answers RETRY until the pool has been asked; a hit may still be lost when loaded."""

    medium: ClassVar[Medium] = Medium.CPU

    def __init__(
        self,
        offloading_spec: Any,
        primary_kv_view: memoryview,
        tier_type: str,
        backpressure_detector: Any = None,
        *,
        pool: str | Pool = "",
        namespace: str = "",
        timeout_s: float = TIMEOUT_S,
        tenant: str = "",
        key_file: str = "",
        ca_file: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`namespace` keeps apart what must not meet: weights, KV layout, tenant.

        What vLLM says of the model and the chunk is in the keys already. Raises ValueError.
        """
        super().__init__(
            offloading_spec=offloading_spec,
            primary_kv_view=primary_kv_view,
            tier_type=tier_type,
            backpressure_detector=backpressure_detector,
        )
        if not primary_kv_view.strides or primary_kv_view.readonly:
            raise ValueError("the primary tier's view must be writable and have rows")
        self._chunk_bytes = primary_kv_view.strides[0]
        self._primary = primary_kv_view.cast("B")
        if isinstance(pool, str):
            pool = open_pool(pool, timeout_s, tenant=tenant, key_file=key_file, ca_file=ca_file)
        self._pool = pool
        self._root = wall("vllm tier", namespace, *_facts(offloading_spec), self._chunk_bytes)
        self._clock = clock
        self._answers: dict[bytes, tuple[LookupResult, float]] = {}
        self._asked: dict[bytes, None] = {}
        self._ended: deque[JobResult] = deque()
        self._changed = threading.Condition()
        self._pending = 0
        self._threads = [_Thread("lookup"), _Thread("load"), _Thread("store")]

    def lookup(self, key: bytes, req_context: Any) -> LookupResult:
        """HIT, MISS, or RETRY while the pool is being asked."""
        del req_context
        with self._changed:
            answer, until_s = self._answers.get(key, (LookupResult.RETRY, 0.0))
            if self._clock() < until_s:
                return answer
            if key in self._asked:
                return LookupResult.RETRY
            self._asked[key] = None
        self._threads[0].do(self._look_up)
        return LookupResult.RETRY

    def submit_store(self, job_metadata: Any) -> None:
        self._submit(self._threads[2], self._store, job_metadata)

    def submit_load(self, job_metadata: Any) -> None:
        self._submit(self._threads[1], self._load, job_metadata)

    def get_finished_jobs(self) -> Iterable[JobResult]:
        """What has ended since the last call."""
        with self._changed:
            ended, self._ended = self._ended, deque()
        return ended

    def has_pending_work(self) -> bool:
        return bool(self._pending)

    def on_new_request(self, req_context: Any) -> RequestOffloadingContext:
        del req_context
        return RequestOffloadingContext()

    def drain_jobs(self) -> None:
        """Wait until nothing touches the primary tier's memory any more.

        Every call of a pool ends in its time limit, so this ends too.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._pending)

    def shutdown(self) -> None:
        """End the threads and give the connection back."""
        self.drain_jobs()
        for thread in self._threads:
            thread.end()
        self._pool.close()

    def _submit(self, thread: "_Thread", work: Callable[[Any], JobResult], job: Any) -> None:
        if len(job.keys) != len(job.chunk_ids):
            raise ValueError(f"{len(job.keys)} keys and {len(job.chunk_ids)} chunks")
        with self._changed:
            self._pending += 1
        thread.do(lambda: self._run(work, job))

    def _run(self, work: Callable[[Any], JobResult], job: Any) -> None:
        began = time.perf_counter()
        result = JobResult(job_id=job.job_id, success=False)
        try:
            result = work(job)
        except KvError as error:
            _log.warning("job %d: %s", job.job_id, error)
            result.successful_keys = []
        finally:
            result.transfer_time = time.perf_counter() - began
            with self._changed:
                self._ended.append(result)
                self._pending -= 1
                self._changed.notify_all()

    def _row(self, chunk: int) -> memoryview:
        return self._primary[chunk * self._chunk_bytes : (chunk + 1) * self._chunk_bytes]

    def _keys(self, names: Collection[bytes]) -> list[bytes]:
        return [keyed(self._root, bytes(name)) for name in names]

    def _store(self, job: Any) -> JobResult:
        rows = [self._row(int(chunk)) for chunk in job.chunk_ids]
        stored = self._pool.put(list(zip(self._keys(job.keys), rows, strict=True)))
        with self._changed:
            for name in job.keys:  # a miss that was remembered is none any more
                self._answers.pop(name, None)
        return JobResult(job.job_id, success=True, transfer_bytes=stored * self._chunk_bytes)

    def _load(self, job: Any) -> JobResult:
        names, keys = list(job.keys), self._keys(job.keys)
        loaded: list[bytes] = []
        at = 0
        while at < len(keys):
            with self._pool.get(keys[at:]) as lease:
                rows = [self._row(int(chunk)) for chunk in job.chunk_ids[at:]]
                for row, view in zip(rows, lease.views, strict=False):
                    if len(view) == len(row):
                        row[:] = view
                found = len(lease.views) if lease.valid() else 0
                loaded += [
                    name
                    for name, view in zip(names[at : at + found], lease.views, strict=False)
                    if len(view) == self._chunk_bytes
                ]
                at += max(found, len(lease.views)) + 1  # behind the one that is missing
        with self._changed:
            for name in set(names) - set(loaded):
                self._answers[name] = (LookupResult.MISS, self._clock() + FRESH_S)
        return JobResult(
            job.job_id,
            success=len(loaded) == len(names),
            successful_keys=loaded,
            transfer_bytes=len(loaded) * self._chunk_bytes,
        )

    def _look_up(self) -> None:
        """Ask for all that is waiting, in the order in which it was asked for."""
        with self._changed:
            names = list(self._asked)
        if not names:
            return
        try:
            held = held_keys(self._pool, self._keys(names))
        except KvError as error:
            _log.debug("a lookup is a miss: %s", error)
            held = [False] * len(names)
        until_s = self._clock() + FRESH_S
        with self._changed:
            if len(self._answers) > MAX_ANSWERS:
                self._answers.clear()
            for name, is_held in zip(names, held, strict=True):
                answer = LookupResult.HIT if is_held else LookupResult.MISS
                self._answers[name] = (answer, until_s)
                self._asked.pop(name, None)


class _Thread:
    """Does what it is given, one after the other."""

    def __init__(self, name: str) -> None:
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"starloom-{name}", daemon=True)
        self._thread.start()

    def do(self, work: Callable[[], None]) -> None:
        self._queue.put(work)

    def end(self) -> None:
        self._queue.put(None)
        self._thread.join(5)

    def _work(self) -> None:
        while (work := self._queue.get()) is not None:
            work()


def _facts(spec: Any) -> Sequence[object]:
    """What vLLM says of the model, as far as this version says it."""
    config = getattr(spec, "vllm_config", None)
    model, cache = getattr(config, "model_config", None), getattr(config, "cache_config", None)
    parallel = getattr(config, "parallel_config", None)
    return (
        getattr(model, "model", ""),
        getattr(model, "revision", ""),
        getattr(model, "dtype", ""),
        getattr(cache, "cache_dtype", ""),
        getattr(parallel, "world_size", 1),
    )
