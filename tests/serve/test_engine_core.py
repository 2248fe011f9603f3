"""The core of a worker: deltas, usage, the pool, and blocks that come back."""

import threading

import pytest

from starloom.serve.engines.executor import Choice
from starloom.serve.errors import Unavailable

from engine_fixtures import END, VOCAB, MemoryPool, core_of, emulated, request, run_all, text_of


class Scripted:
    """An executor that says what it is told: byte tokens of `script` by request."""

    num_blocks = 64
    block_bytes = 8
    vocab = VOCAB

    def __init__(self, **script: bytes | list[int]) -> None:
        self.script = {name: list(tokens) for name, tokens in script.items()}

    def run(self, step):
        return [
            Choice(self.script[p.sequence.id][p.sequence.generated], -1.0, [(65, -1.0)])
            for p in step.sampled
        ]

    def close(self):
        pass


def test_deltas_count_every_token_and_the_last_one_says_why():
    """A stop string across three tokens: five tokens counted, two characters out."""
    core = core_of(Scripted(a=b"ab\n\nUser"))
    deltas = run_all(core, request("a", b"hello!", max_tokens=99, stop=("\n\nU",)))["a"]
    assert text_of(deltas) == "ab"
    assert [d.finish for d in deltas] == [None] * 4 + ["stop"]
    assert deltas[-1].stop == "\n\nU"
    assert sum(d.tokens for d in deltas) == deltas[-1].usage.completion_tokens == 5
    assert deltas[-1].usage.prompt_tokens == 6
    assert core.report().kv_blocks_used == 0


def test_the_end_token_is_counted_but_not_said():
    core = core_of(Scripted(a=[*b"hi", END]))
    deltas = run_all(core, request("a", b"hello", max_tokens=99, logprobs=1))["a"]
    assert text_of(deltas) == "hi"
    assert (deltas[-1].finish, deltas[-1].stop) == ("stop", None)
    assert deltas[-1].usage.completion_tokens == 3
    assert [p.text for d in deltas for p in d.logprobs] == ["h", "i"]
    assert deltas[0].logprobs[0].top == [("A", b"A", -1.0)]


def test_text_that_may_begin_a_stop_string_comes_out_at_the_end():
    deltas = run_all(core_of(Scripted(a=b"abc")), request("a", b"x", max_tokens=3, stop=("cd",)))
    assert [d.text for d in deltas["a"]] == ["a", "b", "c"]


def test_a_cancelled_request_gives_its_blocks_back_at_once():
    core = core_of(emulated())
    core.submit(request("a", range(30), max_tokens=50))
    core.submit(request("b", range(30), max_tokens=50))
    core.step()
    assert core.report().kv_blocks_used > 0
    for name in "ab":
        delta = core.cancel(name)
        assert delta.finish == "cancelled"
        assert delta.usage.prompt_tokens == 30
    assert core.cancel("a") is None
    assert core.idle
    assert core.report().kv_blocks_used == 0
    core.check_integrity()


def test_what_cannot_fit_is_an_error_and_a_full_queue_is_not():
    """The first cannot run anywhere like here; the second may on another worker."""
    core = core_of(emulated(num_blocks=4), max_waiting=1)
    delta = core.submit(request("big", range(40)))
    assert (delta.finish, delta.usage) == ("error", None)
    assert "40 tokens" in delta.error
    core.submit(request("a", range(4)))
    with pytest.raises(Unavailable):
        core.submit(request("b", range(4)))


def test_a_broken_step_ends_its_requests():
    core = core_of(emulated())
    core.submit(request("a", range(4)))
    core.submit(request("b", range(4)))
    deltas = core.fail_all("broken")
    assert {(d.id, d.finish, d.error) for d in deltas} == {
        ("a", "error", "broken"),
        ("b", "error", "broken"),
    }
    assert core.idle


def test_usage_counts_what_was_reused():
    core = core_of(emulated())
    first = run_all(core, request("a", range(10)))["a"][-1].usage
    second = run_all(core, request("b", range(10)))["b"][-1].usage
    assert (first.cached_tokens, second.cached_tokens) == (0, 8)
    report = core.report()
    assert report.prompt_tokens_total == 20
    assert report.cached_tokens_total == 8
    assert report.generated_tokens_total == 8
    assert report.steps_total == 8
    assert (report.running, report.waiting, report.waiting_tokens) == (0, 0, 0)


def test_a_report_tells_what_waits():
    core = core_of(emulated(), max_batch=1)
    core.submit(request("a", range(20)))
    core.submit(request("b", range(30, 40)))
    core.step()
    report = core.report()
    assert (report.running, report.waiting, report.waiting_tokens) == (1, 1, 4 + 10)
    assert report.kv_blocks == 64
    assert report.kv_blocks_used == 5


def wait_for(pool: MemoryPool, keys: list[bytes]) -> None:
    waiting = threading.Event()
    for _ in range(500):
        if pool.longest_prefix(keys) == len(keys):
            return
        waiting.wait(0.01)
    raise AssertionError("the blocks never reached the pool")


def test_another_worker_finds_blocks_in_the_pool():
    """Two workers, one pool: the second computes the last block alone, and says so."""
    pool = MemoryPool()
    first, second = (core_of(emulated(seed=s), open_pool=lambda: pool) for s in (0, 1))
    one = request("a", range(12), max_tokens=1)
    run_all(first, one)
    wait_for(pool, one.keys)
    usage = run_all(second, one)["a"][-1].usage
    assert (usage.cached_tokens, usage.pool_tokens) == (8, 8)
    assert second.report().pool_tokens_total == 8
    assert first.export_blocks(one.keys) == second.export_blocks(one.keys)
    # Nothing more would be gained now: the pool is not asked.
    asked = pool.calls
    usage = run_all(second, request("b", range(12), max_tokens=1))["b"][-1].usage
    assert (usage.cached_tokens, usage.pool_tokens) == (8, 0)
    assert pool.calls == asked
    first.close()
    second.close()


def test_others_go_on_while_the_pool_looks():
    """A pool that is slow to answer holds up the one request that asked it, and nobody else."""
    pool, gate = MemoryPool(), threading.Event()
    get = pool.get
    pool.get = lambda keys: gate.wait(10) and get(keys)
    core = core_of(emulated(), open_pool=lambda: pool)
    core.submit(request("asks", range(12), max_tokens=1))
    core.submit(request("has none", range(3), max_tokens=3))
    deltas = [delta for _ in range(4) for delta in core.step()]
    assert [delta.id for delta in deltas] == ["has none"] * 3
    assert core.waits
    core.check_integrity()
    gate.set()
    while not core.idle:
        deltas += core.settle() + core.step()
    assert deltas[-1].id == "asks"
    core.close()


def test_a_request_that_left_gives_its_pins_back():
    """Cancelled while the pool looks: what comes then is released, and harms nobody."""
    pool, gate = MemoryPool(), threading.Event()
    get, asked, released = pool.get, threading.Event(), threading.Event()

    def slow(keys):
        asked.set()
        gate.wait(10)
        lease = get(keys)
        lease.release = released.set
        return lease

    pool.get = slow
    core = core_of(emulated(), open_pool=lambda: pool)
    core.submit(request("a", range(12), max_tokens=1))
    core.step()
    assert asked.wait(10)
    core.cancel("a")
    gate.set()
    while not released.wait(0.01):
        core.settle()
    assert core.idle
    assert core.report().kv_blocks_used == 0
    core.check_integrity()
    core.close()


def test_a_fault_in_the_pool_ends_no_request():
    """Whatever the reading thread runs into is a miss, this time and the next."""
    pool = MemoryPool()
    core = core_of(emulated(), open_pool=lambda: pool)

    def broken(_):
        raise RuntimeError("a fault that the contract does not know")

    pool.get = broken
    for name in "ab":
        done = run_all(core, request(name, range(12), salt=name))[name]
        assert done[-1].finish == "length"
    core.close()


def test_a_broken_pool_is_a_miss_and_is_left_alone_for_a_while():
    """One failed look, then none until the pause is over."""
    pool, now = MemoryPool(), [0.0]
    core = core_of(emulated(), open_pool=lambda: pool, clock=lambda: now[0])
    pool.broken = True
    assert run_all(core, request("a", range(12), salt="x"))["a"][-1].finish == "length"
    core._writer.close()
    asked = pool.calls
    assert 1 <= asked <= 3  # one look, and what the writer tried until it backed off or was closed
    run_all(core, request("b", range(12), salt="y"))
    assert pool.calls == asked
    pool.broken, now[0] = False, 60.0
    run_all(core, request("c", range(12), salt="z"))
    assert pool.calls > asked


def test_a_lease_that_was_lost_while_copying_is_a_miss():
    pool = MemoryPool()
    first, second = (core_of(emulated(), open_pool=lambda: pool) for _ in range(2))
    one = request("a", range(12), max_tokens=1)
    run_all(first, one)
    wait_for(pool, one.keys)
    get = pool.get

    def lost(keys):
        lease = get(keys)
        lease.valid = lambda: False
        return lease

    pool.get = lost
    usage = run_all(second, one)["a"][-1].usage
    assert usage.cached_tokens == 0
    assert first.export_blocks(one.keys) == second.export_blocks(one.keys)


@pytest.mark.parametrize("token", [-1, VOCAB, 1 << 70])
def test_unknown_token_ids_are_refused(token):
    """One of them in a batch would break the step of all others."""
    delta = core_of(emulated()).submit(request("a", [1, token], salt=None))
    assert delta.finish == "error"
    assert str(VOCAB - 1) in delta.error


def test_a_slow_pool_does_not_stop_the_engine():
    """The writer hangs; steps go on, and what does not fit the queue is dropped."""
    pool, gate = MemoryPool(), threading.Event()
    put = pool.put
    pool.put = lambda blocks: gate.wait(10) and put(blocks)
    executor = emulated(num_blocks=400)
    core = core_of(executor, open_pool=lambda: pool)
    core._writer._max_bytes = 20 * executor.block_bytes
    for i in range(100):
        run_all(core, request(f"r{i}", [i] * 8, max_tokens=1))
        assert core._writer._bytes <= 20 * executor.block_bytes
    gate.set()
    core.close()
    assert 0 < len(pool.blocks) <= 20


def test_imported_blocks_take_free_blocks_only():
    donor, core = core_of(emulated()), core_of(emulated(num_blocks=5))
    one = request("a", range(24), max_tokens=1)
    run_all(donor, one)
    blocks = donor.export_blocks(one.keys)
    assert len(blocks) == 6
    core.submit(request("busy", range(50, 62), max_tokens=9))
    core.step()
    assert core.import_blocks(blocks) == 2
    assert core.import_blocks(blocks) == 0
    assert list(core.export_blocks(one.keys)) == one.keys[:2]
    core.check_integrity()


def test_a_damaged_block_is_not_imported():
    core = core_of(emulated())
    assert core.import_blocks({b"k" * 32: b"short"}) == 0
    core.check_integrity()
