"""Adapters for vLLM and SGLang, driven as those engines' schedulers and workers would.

None of this was run inside vLLM or SGLang; `tests/peers/test_kv_wheels.py` compares signatures with
their wheels.
"""

import secrets
import sys
import threading
import time
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest

from starloom.kv import LocalPool, PoolClient, PoolUnavailable, SlotClass
from starloom.kv.connectors import open_pool
from starloom.kv.connectors.opening import held_keys, keyed, wall
from starloom.kv.connectors.sglang_storage import StarloomStorage
from starloom.kv.connectors.vllm_connector import StarloomConnector
from starloom.kv.connectors.vllm_plan import Planner
from starloom.kv.connectors.vllm_shapes import JobResult, LookupResult
from starloom.kv.connectors.vllm_tier import StarloomTier
from starloom.kv.errors import BadSecret
from starloom.kv.remote import RemotePool, Secret
from starloom.kv.transport import RespPool

torch = pytest.importorskip("torch")

WAIT_S = 10.0


class Failing:
    """A pool that cannot be reached."""

    def __getattr__(self, name):
        def call(*_):
            raise PoolUnavailable("out")

        return call

    def close(self):
        pass


def until(condition) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


class TestOpening:
    """Which pool an address means."""

    def test_addresses(self, tmp_path):
        assert isinstance(open_pool(f"pool://{tmp_path}/p.sock"), PoolClient)
        assert isinstance(open_pool("nodes:a=tcp://127.0.0.1:1,b=tcp://127.0.0.1:2"), RemotePool)
        assert isinstance(open_pool("redis://127.0.0.1:1"), RespPool)

    def test_secrets_come_from_files(self, tmp_path):
        """A tenant's key for nodes, a password for Redis: neither stands in a configuration."""
        path = tmp_path / "key"
        path.write_text(Secret.new("a").text())
        path.chmod(0o600)
        nodes = "nodes:n=tcp://127.0.0.1:1"
        assert isinstance(open_pool(nodes, tenant="a", key_file=str(path)), RemotePool)
        with pytest.raises(BadSecret):
            open_pool(nodes, tenant="", key_file=str(path))
        pool = open_pool("redis://127.0.0.1:1", key_file=str(path))
        assert pool._target._hello == [[b"AUTH", path.read_text().encode()]]

    @pytest.mark.parametrize("address", ["", "pool.sock", "pool://host/x", "http://h"])
    def test_others_are_refused_with_the_forms(self, address):
        with pytest.raises(ValueError, match="pool:///PATH"):
            open_pool(address)

    def test_walls_and_keys(self):
        """Every field counts, and fields do not run into each other."""
        assert wall("a", "bc") != wall("ab", "c")
        assert keyed(wall("a"), b"k") != keyed(wall("b"), b"k")
        assert len(keyed(wall("a"), b"any length")) == 32

    def test_holes_are_seen(self):
        pool = LocalPool([SlotClass(8, 8)])
        keys = [bytes([n]) * 32 for n in range(5)]
        pool.put([(keys[0], b"a"), (keys[3], b"b")])
        assert held_keys(pool, keys) == [True, False, False, True, False]


CHUNK, CHUNKS = 4096, 8


@dataclass
class Job:
    """vLLM's TransferJob."""

    job_id: int
    keys: list[bytes]
    chunk_ids: np.ndarray
    is_promotion: bool = False
    req_context: object = None


class TestVllmTier:
    """`SecondaryTierManager` over the primary tier's memory."""

    @pytest.fixture
    def primary(self):
        return memoryview(bytearray(CHUNK * CHUNKS)).cast("B", (CHUNKS, CHUNK))

    @pytest.fixture
    def make(self, primary):
        made: list[StarloomTier] = []

        def make(pool=None, spec=None, **more) -> StarloomTier:
            pool = LocalPool([SlotClass(CHUNK, 32)]) if pool is None else pool
            made.append(StarloomTier(spec, primary, "StarloomTier", None, pool=pool, **more))
            return made[-1]

        yield make
        for each in made:
            each.shutdown()

    def finished(self, tier: StarloomTier, count: int = 1) -> list[JobResult]:
        found: list[JobResult] = []
        until(lambda: found.extend(tier.get_finished_jobs()) or len(found) >= count)
        return found

    def looked_up(self, tier: StarloomTier, key: bytes) -> LookupResult:
        until(lambda: tier.lookup(key, None) is not LookupResult.RETRY)
        return tier.lookup(key, None)

    def test_a_store_and_a_load(self, make, primary):
        """Chunks go out of their slots and come into others, byte for byte."""
        tier = make()
        names = [bytes([n]) * 36 for n in range(3)]
        data = [secrets.token_bytes(CHUNK) for _ in names]
        flat = primary.cast("B")
        for at, each in zip((4, 0, 6), data, strict=True):
            flat[at * CHUNK : (at + 1) * CHUNK] = each
        assert tier.lookup(names[0], None) is LookupResult.RETRY
        assert self.looked_up(tier, names[0]) is LookupResult.MISS
        tier.submit_store(Job(1, names, np.array([4, 0, 6])))
        [stored] = self.finished(tier)
        assert (stored.job_id, stored.success, stored.transfer_bytes) == (1, True, 3 * CHUNK)
        assert self.looked_up(tier, names[2]) is LookupResult.HIT
        flat[:] = bytes(len(flat))
        tier.submit_load(Job(2, names, np.array([1, 2, 3])))
        [loaded] = self.finished(tier)
        assert (loaded.success, list(loaded.successful_keys)) == (True, names)
        assert [bytes(flat[n * CHUNK : (n + 1) * CHUNK]) for n in (1, 2, 3)] == data

    def test_a_hole_is_reported_and_the_rest_comes(self, make, primary):
        """The scheduler learns which keys did come; the others' lookups are misses."""
        tier = make()
        names = [bytes([n]) * 36 for n in range(4)]
        primary.cast("B")[:] = secrets.token_bytes(CHUNK * CHUNKS)
        tier.submit_store(Job(1, [names[0], names[2], names[3]], np.array([0, 2, 3])))
        self.finished(tier)
        tier.submit_load(Job(2, names, np.array([4, 5, 6, 7])))
        [result] = self.finished(tier)
        assert not result.success
        assert list(result.successful_keys) == [names[0], names[2], names[3]]
        flat = primary.cast("B")
        assert flat[6 * CHUNK :] == flat[2 * CHUNK : 4 * CHUNK]
        assert tier.lookup(names[1], None) is LookupResult.MISS

    def test_calls_return_at_once_and_drain_waits(self, make):
        """A pool that takes its time holds up no call of the scheduler but `drain_jobs`."""
        gate = threading.Event()

        class Slow(LocalPool):
            def put(self, blocks):
                gate.wait(WAIT_S)
                return super().put(blocks)

        tier = make(Slow([SlotClass(CHUNK, 32)]))
        tier.submit_store(Job(1, [b"k" * 36], np.array([0])))
        assert tier.has_pending_work()
        assert list(tier.get_finished_jobs()) == []
        threading.Timer(0.05, gate.set).start()
        tier.drain_jobs()
        assert [each.job_id for each in tier.get_finished_jobs()] == [1]
        assert not tier.has_pending_work()

    def test_a_lost_pool_is_misses(self, make):
        """Every job ends, as failed; lookups miss."""
        tier = make(Failing())
        tier.submit_store(Job(1, [b"k" * 36], np.array([0])))
        tier.submit_load(Job(2, [b"k" * 36], np.array([0])))
        results = self.finished(tier, 2)
        assert {(each.job_id, each.success) for each in results} == {(1, False), (2, False)}
        assert self.looked_up(tier, b"k" * 36) is LookupResult.MISS

    def test_answers_grow_old(self, make):
        """A hit is asked for again after a while; another engine may have stored a miss."""
        now, pool = [0.0], LocalPool([SlotClass(CHUNK, 32)])
        one, other = make(pool, clock=lambda: now[0]), make(pool, clock=lambda: now[0])
        assert self.looked_up(one, b"k" * 36) is LookupResult.MISS
        other.submit_store(Job(1, [b"k" * 36], np.array([0])))
        self.finished(other)
        assert one.lookup(b"k" * 36, None) is LookupResult.MISS
        now[0] += 2.0
        assert self.looked_up(one, b"k" * 36) is LookupResult.HIT

    def test_models_and_tenants_do_not_meet(self, make):
        """What vLLM says of the model, and the namespace, are walls."""

        def spec(model: str):
            config = SimpleNamespace(model_config=SimpleNamespace(model=model, dtype="bf16"))
            return SimpleNamespace(vllm_config=config)

        pool = LocalPool([SlotClass(CHUNK, 32)])
        one = make(pool, spec("a"))
        one.submit_store(Job(1, [b"k" * 36], np.array([0])))
        self.finished(one)
        assert self.looked_up(make(pool, spec("a")), b"k" * 36) is LookupResult.HIT
        assert self.looked_up(make(pool, spec("b")), b"k" * 36) is LookupResult.MISS
        other = make(pool, spec("a"), namespace="other")
        assert self.looked_up(other, b"k" * 36) is LookupResult.MISS

    def test_bad_arguments(self, make, primary):
        with pytest.raises(ValueError, match="writable"):
            StarloomTier(None, primary.toreadonly(), "t", pool=Failing())
        with pytest.raises(ValueError, match="2 keys and 1 chunks"):
            make().submit_store(Job(1, [b"a" * 36, b"b" * 36], np.array([0])))


class TestPlanner:
    """Tokens, our blocks and vLLM's: worked by hand. vLLM's blocks have 4 tokens, ours 8."""

    def test_what_is_matched(self):
        """The last token is always computed; what vLLM has itself is not loaded."""
        planner = Planner(4, 8)
        planner.begin("r", [b"a", b"b", b"c"])
        assert planner.matched("r", held=3, prompt_tokens=26, computed=0) == 24
        assert planner.matched("r", held=3, prompt_tokens=24, computed=0) == 20
        assert planner.matched("r", held=3, prompt_tokens=26, computed=12) == 12
        assert planner.matched("r", held=1, prompt_tokens=26, computed=12) == 0

    def test_a_load_begins_in_the_middle_of_a_block(self):
        """12 tokens are computed: the second half of our second block and the third one come."""
        planner = Planner(4, 8)
        planner.begin("r", [b"a", b"b", b"c"])
        tokens = planner.matched("r", held=3, prompt_tokens=26, computed=12)
        planner.allocated("r", [10, 11, 12, 13, 14, 15, 16], tokens)
        [span] = planner.loads()
        assert (span.keys, span.first, span.block_ids) == ([b"b", b"c"], 1, [13, 14, 15])
        assert planner.loads() == []

    def test_saves_follow_a_chunked_prefill(self):
        """A step saves the blocks that it completes, once; a partial block is not saved."""
        planner = Planner(4, 8)
        planner.begin("r", [b"a", b"b", b"c"])
        planner.matched("r", held=1, prompt_tokens=26, computed=0)
        first = planner.scheduled("r", [1, 2, 3], first=True, computed=8, tokens=4)
        assert first is None
        second = planner.scheduled("r", [4, 5], first=False, computed=12, tokens=6)
        assert (second.keys, second.first, second.block_ids) == ([b"b"], 0, [3, 4])
        third = planner.scheduled("r", [6, 7], first=False, computed=18, tokens=8)
        assert (third.keys, third.block_ids) == ([b"c"], [5, 6])
        assert planner.scheduled("r", [], first=False, computed=26, tokens=1) is None
        planner.finished("r")
        assert planner.scheduled("r", [9], first=True, computed=0, tokens=8) is None

    def test_a_block_size_that_does_not_fit_is_refused(self):
        with pytest.raises(ValueError, match="no multiple"):
            Planner(16, 24)


LAYERS, BLOCKS, VLLM_TOKENS, OUR_TOKENS = 3, 40, 4, 8
NAMES = [f"model.layers.{at}.self_attn.attn" for at in range(LAYERS)]


@dataclass
class Request:
    """vLLM's Request, as far as a connector looks."""

    request_id: str
    prompt_token_ids: list[int]
    mm_features: list = field(default_factory=list)
    cache_salt: str | None = None
    lora_request: object = None
    prompt_embeds: object = None


class Engine:
    """vLLM in a few lines: one scheduler's connector, workers with layers, blocks by number.

    `compute` writes what attention would: for each token a value that depends on the whole prefix.
    """

    def __init__(self, address: str, *, ranks: int = 1, old: bool = False, **extra):
        self.ranks, self.old = ranks, old
        extra = {"pool": address, "block_tokens": OUR_TOKENS, "timeout_s": WAIT_S, **extra}
        self.scheduler = self.connector("KVConnectorRole.SCHEDULER", 0, extra)
        self.workers = [
            self.connector("KVConnectorRole.WORKER", rank, extra) for rank in range(ranks)
        ]
        shape = (2, BLOCKS, VLLM_TOKENS, 2, 3) if old else (BLOCKS, 2, VLLM_TOKENS, 6)
        self.layers = [
            {name: torch.zeros(shape, dtype=torch.bfloat16) for name in NAMES} for _ in range(ranks)
        ]
        for worker, layers in zip(self.workers, self.layers, strict=True):
            worker.register_kv_caches(layers)
        self.next_block = 1
        self.order: list[str] = []

    def connector(self, role: str, rank: int, extra: dict) -> StarloomConnector:
        config = SimpleNamespace(
            kv_transfer_config=SimpleNamespace(kv_connector_extra_config=extra),
            cache_config=SimpleNamespace(block_size=VLLM_TOKENS, cache_dtype="auto"),
            model_config=SimpleNamespace(model="m", revision=None, dtype=torch.bfloat16),
            parallel_config=SimpleNamespace(
                world_size=self.ranks,
                rank=rank,
                tensor_parallel_size=self.ranks,
                pipeline_parallel_size=1,
            ),
        )
        return StarloomConnector(config, role, SimpleNamespace(num_blocks=BLOCKS))

    def close(self) -> None:
        for each in [self.scheduler, *self.workers]:
            each.shutdown()

    def run(self, request: Request, computed: int = 0, step: int = 1000) -> tuple[int, list[int]]:
        """Prefill a request; tokens from the pool, and its blocks."""
        tokens = request.prompt_token_ids
        external, later = self.scheduler.get_num_new_matched_tokens(request, computed)
        assert later is False
        count = -(-len(tokens) // VLLM_TOKENS)
        ids = list(range(self.next_block, self.next_block + count))
        self.next_block += count
        blocks = SimpleNamespace(get_block_ids=lambda: (ids,))
        self.scheduler.update_state_after_alloc(request, blocks, external)
        self.failed: set[int] = set()
        at, first = computed + external, True
        if computed:
            self.compute(tokens, ids, 0, computed)
        while at < len(tokens):
            todo = min(step, len(tokens) - at)
            self.step(request, ids, at, todo, first)
            at, first = at + todo, False
        self.scheduler.request_finished(request, ids)
        return external, ids

    def step(self, request: Request, ids: list[int], at: int, todo: int, first: bool) -> None:
        new = SimpleNamespace(req_id=request.request_id, block_ids=(ids,), num_computed_tokens=at)
        cached = SimpleNamespace(
            req_ids=[] if first else [request.request_id],
            new_block_ids=[] if first else [None],
            num_computed_tokens=[] if first else [at],
            resumed_req_ids=set(),
        )
        output = SimpleNamespace(
            scheduled_new_reqs=[new] if first else [],
            scheduled_cached_reqs=cached,
            num_scheduled_tokens={request.request_id: todo},
        )
        meta = self.scheduler.build_connector_meta(output)
        for rank, worker in enumerate(self.workers):
            worker.bind_connector_metadata(meta)
            worker.start_load_kv(SimpleNamespace())
            for name in NAMES:
                worker.wait_for_layer_load(name)
                self.order.append(name)
                self.compute(request.prompt_token_ids, ids, at, at + todo, rank, name)
                worker.save_kv_layer(name, self.layers[rank][name], None)
            worker.wait_for_save()
            self.failed |= worker.get_block_ids_with_load_errors()
            assert worker.get_finished({request.request_id}) == (None, None)
            worker.clear_connector_metadata()

    def compute(self, tokens, ids, start, end, rank=None, name=None) -> None:
        for each in range(self.ranks) if rank is None else [rank]:
            for layer in NAMES if name is None else [name]:
                for at in range(start, end):
                    value = self.value(tokens, at, each, layer)
                    self.cell(self.layers[each][layer], ids, at)[:] = value

    def cell(self, layer, ids, at):
        block, slot = ids[at // VLLM_TOKENS], at % VLLM_TOKENS
        return layer[:, block, slot] if self.old else layer[block, :, slot]

    @staticmethod
    def value(tokens, at, rank, name) -> int:
        return hash((tuple(tokens[: at + 1]), rank, NAMES.index(name))) % 128

    def right(self, request: Request, ids: list[int], tokens: int) -> bool:
        """Whether all layers of all ranks hold what computing gives."""
        return all(
            bool(
                (
                    self.cell(self.layers[rank][name], ids, at)
                    == self.value(request.prompt_token_ids, at, rank, name)
                ).all()
            )
            for rank in range(self.ranks)
            for name in NAMES
            for at in range(tokens)
        )


@pytest.fixture
def address(pool_thread):
    return f"pool://{pool_thread('4096x64')}"


@pytest.fixture
def engine(request):
    made: list[Engine] = []

    def make(address: str = "", **more) -> Engine:
        made.append(Engine(address or request.getfixturevalue("address"), **more))
        return made[-1]

    yield make
    for each in made:
        each.close()


def tokens(count: int, first: int = 0) -> list[int]:
    return list(range(first, first + count))


def saved(engine: Engine, request: Request, blocks: int) -> None:
    """Wait until a prompt's blocks are in the pool."""
    probe = Request(f"probe-{secrets.token_hex(4)}", [*request.prompt_token_ids, -1 & 0xFF])
    probe.cache_salt = request.cache_salt
    until(lambda: engine.scheduler.get_num_new_matched_tokens(probe, 0)[0] >= blocks * OUR_TOKENS)
    engine.scheduler.request_finished(probe, [])


class TestVllmConnector:
    """`KVConnectorBase_V1`, from the scheduler's question to the workers' layers."""

    @pytest.mark.parametrize("old", [False, True], ids=["blocks first", "kv first"])
    @pytest.mark.parametrize("ranks", [1, 2])
    def test_a_prefix_comes_back_in_another_engine(self, engine, ranks, old):
        """One engine computes, another one loads: all layers, all ranks, every byte."""
        request = Request("a", tokens(29))
        one, two = engine(ranks=ranks, old=old), engine(ranks=ranks, old=old)
        assert one.run(request)[0] == 0
        saved(one, request, 3)
        external, ids = two.run(Request("b", [*tokens(24), 900, 901, 902]))
        assert (external, two.failed) == (24, set())
        assert two.right(request, ids, 24)

    def test_a_partial_hit_in_vllms_own_cache(self, engine):
        """12 tokens are computed already: only what is behind them comes, into the right blocks."""
        request = Request("a", tokens(32))
        one, two = engine(), engine()
        one.run(request)
        saved(one, request, 4)
        again = Request("b", tokens(32))
        external, ids = two.run(again, computed=12)
        assert external == 28 - 12
        assert two.right(again, ids, 32)

    def test_a_chunked_prefill_saves_every_block_once(self, engine):
        one, two = engine(), engine()
        request = Request("a", tokens(40))
        one.run(request, step=5)
        saved(one, request, 5)
        external, ids = two.run(Request("b", tokens(41)))
        assert external == 40
        assert two.right(request, ids, 40)

    def test_salts_adapters_and_images_are_walls(self, engine):
        """Tenants and LoRA adapters do not meet; a prompt with images is left alone."""
        one = engine()
        request = Request("a", tokens(17), cache_salt="t1")
        one.run(request)
        saved(one, request, 2)
        ask = one.scheduler.get_num_new_matched_tokens
        assert ask(Request("b", tokens(17), cache_salt="t1"), 0) == (16, False)
        assert ask(Request("c", tokens(17), cache_salt="t2"), 0) == (0, False)
        adapter = SimpleNamespace(lora_name="x")
        assert ask(Request("d", tokens(17), cache_salt="t1", lora_request=adapter), 0)[0] == 0
        image = [SimpleNamespace(identifier="i")]
        assert ask(Request("e", tokens(17), cache_salt="t1", mm_features=image), 0)[0] == 0

    def test_what_was_evicted_meanwhile_is_a_failed_block(self, pool_thread, engine):
        """Between the scheduler's question and the load: vLLM is told which blocks to compute."""
        address = f"pool://{pool_thread('4096x4')}"
        one, two = engine(address=address), engine(address=address)
        request = Request("a", tokens(32))
        one.run(request)
        saved(one, request, 4)
        plain = two.scheduler.build_connector_meta

        def evict(output):
            open_pool(address, WAIT_S).put([(secrets.token_bytes(32), b"x") for _ in range(2)])
            return plain(output)

        two.scheduler.build_connector_meta = evict
        external, ids = two.run(Request("b", tokens(33)))
        assert external == 32
        lost = two.failed
        assert lost == set(ids[4:8]), "the tail went first"
        assert two.right(request, ids, 16)

    def test_a_lost_pool_costs_nothing_but_misses(self, tmp_path, engine):
        """No hits, no errors, and the step goes on."""
        one = engine(address=f"pool://{tmp_path}/none.sock")
        request = Request("a", tokens(20))
        external, ids = one.run(request)
        assert (external, one.failed) == (0, set())
        assert one.right(request, ids, 20)

    def test_a_pool_lost_between_question_and_load(self, pool_thread, engine, monkeypatch):
        """All blocks that were to come are reported; nothing hangs."""
        one, two = engine(), engine()
        request = Request("a", tokens(17))
        one.run(request)
        saved(one, request, 2)
        mover = two.workers[0]._mover
        monkeypatch.setattr(mover, "_pool", Failing())
        external, ids = two.run(Request("b", tokens(17)))
        assert (external, two.failed) == (16, set(ids[:4]))

    def test_layers_overlap(self, engine):
        """The model may run on layer 0 while the last layer has not come."""
        one, two = engine(), engine()
        request = Request("a", tokens(17))
        one.run(request)
        saved(one, request, 2)
        mover = two.workers[0]._mover
        plain, gate = mover._tensors.write_blocks, threading.Event()

        def slow(layer, blocks, ids, source):
            if layer is two.layers[0][NAMES[-1]]:
                assert gate.wait(WAIT_S)
            plain(layer, blocks, ids, source)

        mover._tensors = SimpleNamespace(write_blocks=slow, read_blocks=mover._tensors.read_blocks)
        computed = two.compute

        def compute(*args):
            if args[-1] == NAMES[-2]:
                assert not mover._here[NAMES[-1]].is_set()
                gate.set()
            computed(*args)

        two.compute = compute
        external, ids = two.run(Request("b", tokens(17)))
        assert external == 16
        assert two.right(request, ids, 16)

    def test_saves_beyond_the_memory_for_them_are_dropped(self, engine, monkeypatch):
        """They are counted, their memory is not taken, and the next ones go again."""
        one = engine()
        mover = one.workers[0]._mover
        monkeypatch.setattr("starloom.kv.connectors.vllm_mover.MOST_SAVE_BYTES", 0)
        one.run(Request("a", tokens(16)))
        assert (mover.dropped_blocks, mover._waiting_bytes) == (2, 0)
        monkeypatch.undo()
        request = Request("b", tokens(16, first=500))
        one.run(request)
        saved(one, request, 2)
        assert mover.dropped_blocks == 2

    def test_settings_that_are_not_known_are_refused(self, engine):
        with pytest.raises(ValueError, match="blocktokens is not known"):
            engine(blocktokens=16)

    def test_groups_of_caches_are_refused(self, engine):
        blocks = SimpleNamespace(get_block_ids=lambda: ([1], [2]))
        with pytest.raises(ValueError, match="one group"):
            engine().scheduler.update_state_after_alloc(Request("a", [1]), blocks, 0)


class HostPool:
    """SGLang's host memory: pages of K and V apart (`page_first`), or of one piece (MLA)."""

    page_size = 4

    def __init__(self, pages: int, pieces: int, size: int) -> None:
        self.pieces, self.size = pieces, size
        self.kv_buffer = torch.zeros((pieces, pages, size), dtype=torch.uint8)

    def get_page_buffer_meta(self, indices):
        pages = [int(each) // self.page_size for each in indices[:: self.page_size]]
        pointers = [
            self.kv_buffer[piece, page].data_ptr() for page in pages for piece in range(self.pieces)
        ]
        return pointers, [self.size] * len(pointers)


def indices(*pages: int):
    step = HostPool.page_size
    return torch.tensor([page * step + at for page in pages for at in range(step)])


class TestSglang:
    """`HiCacheStorage`: pages by name, in and out of SGLang's host memory."""

    @pytest.fixture
    def make(self, address):
        made: list[StarloomStorage] = []

        def make(pieces: int = 2, rank: int = 0, mla: bool = False, **more) -> StarloomStorage:
            extra = {"pool": more.pop("pool", address), "timeout_s": WAIT_S, **more}
            config = SimpleNamespace(
                tp_rank=rank,
                tp_size=2,
                pp_rank=0,
                pp_size=1,
                is_mla_model=mla,
                is_page_first_layout=True,
                model_name="m",
                extra_config=extra,
            )
            made.append(StarloomStorage(config, {}))
            made[-1].register_mem_pool_host(HostPool(8, pieces, 512))
            return made[-1]

        yield make
        for each in made:
            each.close()

    @pytest.mark.parametrize("pieces", [1, 2])
    def test_pages_come_back_in_another_process_memory(self, make, pieces):
        """Set from one host pool, get into another, zero-copy on both sides."""
        one, two = make(pieces), make(pieces)
        pool = one.mem_pool_host.kv_buffer
        pool.random_(0, 256)
        assert one.batch_set_v1(["a", "b", "c"], indices(3, 0, 5)) == [True] * 3
        assert one.batch_exists(["a", "b", "c", "d"]) == 3
        assert two.batch_exists(["a", "b"]) >= 2
        got = two.batch_get_v1(["a", "b", "c", "d"], indices(0, 1, 2, 3))
        assert got == [True, True, True, False]
        other = two.mem_pool_host.kv_buffer
        for there, here in ((3, 0), (0, 1), (5, 2)):
            assert torch.equal(pool[:, there], other[:, here])
        assert other[:, 3].eq(0).all()

    def test_set_and_get_of_tensors(self, make):
        """The generic calls: into the given tensor, or a new one."""
        store = make()
        value = torch.randn(64)
        assert not store.exists("k")
        assert store.get("k") is None
        assert store.set("k", value)
        assert store.exists("k")
        target = torch.zeros(64)
        assert store.get("k", target) is target
        assert torch.equal(target, value)
        assert torch.equal(store.get("k").view(torch.float32), value)
        assert store.batch_set(["x", "y"], [value, value + 1])
        found = store.batch_get(["x", "y", "z"], [torch.zeros(64), torch.zeros(64), None])
        assert torch.equal(found[1], value + 1)
        assert found[2] is None
        assert store.get("k", torch.zeros(63)) is None, "another size is another thing"
        assert not store.set("k", None)

    def test_ranks_do_not_meet_unless_they_hold_the_same(self, make):
        """Each rank of MHA has its own part; MLA's ranks share."""
        make(rank=0).set("k", torch.ones(8))
        assert not make(rank=1).exists("k")
        make(rank=0, mla=True).set("k", torch.ones(8))
        assert make(rank=1, mla=True).exists("k")

    def test_a_lost_pool_is_misses(self, make, tmp_path):
        store = make(pool=f"pool://{tmp_path}/none.sock")
        assert store.batch_set_v1(["a"], indices(0)) == [False]
        assert store.batch_get_v1(["a"], indices(0)) == [False]
        assert store.batch_exists(["a"]) == 0
        assert store.get("a") is None
        assert not store.set("a", torch.ones(8))

    def test_memory_that_cannot_be_shared_is_refused(self, make):
        with pytest.raises(ValueError, match="contiguous"):
            make().set("k", torch.ones(4, 4).t())


def test_torch_is_not_loaded_by_the_schedulers_half():
    """The room's import brings no torch: only workers need it."""
    code = (
        "import sys; import starloom.kv.connectors.vllm_connector, "
        "starloom.kv.connectors.vllm_tier, starloom.kv.connectors.sglang_storage; "
        "print('torch' in sys.modules)"
    )
    import subprocess

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
