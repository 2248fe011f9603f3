"""KV events without sockets: what a reader believes, whatever is lost on the way."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.kv import block_keys, root_key
from starloom.serve.signals import (
    Cleared,
    EventReader,
    NeedReplay,
    Removed,
    Stored,
    cache_salt,
    root_of_salt,
    roots,
)

from fake_vllm import FakeCache, FakePublisher, HeldSink, encoded

BLOCK = 4
ROOT = root_key(fingerprint="elsewhere:m", block_tokens=BLOCK, salt="acme\n")
OTHER = root_key(fingerprint="elsewhere:m", block_tokens=BLOCK, salt="other\n")
SALT = cache_salt(ROOT)


def reader(*, replay=False, root_of=None, **more):
    return EventReader(BLOCK, root_of or roots(), replay=replay, **more)


def live(number, *events, form="map"):
    return [b"kv", number.to_bytes(8, "big"), encoded(events, form)]


def stored(hashes, tokens, parent=None, **more):
    extras = [[SALT], *[None] * (len(hashes) - 1)] if parent is None else None
    return {
        "type": "BlockStored",
        "block_hashes": hashes,
        "parent_block_hash": parent,
        "token_ids": tokens,
        "block_size": BLOCK,
        "medium": "GPU",
        "extra_keys": extras,
        **more,
    }


def removed(*hashes, **more):
    return {"type": "BlockRemoved", "block_hashes": list(hashes), "medium": "GPU", **more}


CLEARED = {"type": "AllBlocksCleared"}
TOKENS = list(range(8))
KEYS = tuple(block_keys(ROOT, TOKENS, BLOCK))


def test_a_salt_of_ours_is_its_root():
    """What the gateway sends upstream comes back in events and names the root by itself."""
    assert root_of_salt(SALT) == ROOT
    assert "acme" not in SALT
    for foreign in ("", "acme", "starloom-", "starloom-zz", SALT[:-2], SALT.upper()):
        assert root_of_salt(foreign) is None


@pytest.mark.parametrize("form", ["map", "array"])
def test_blocks_get_the_keys_that_the_gateway_computes(form):
    """Tokens behind the salt's root: the keys of a prompt of that tenant, block by block."""
    one = reader()
    assert one.feed(live(0, stored([11, 12], TOKENS), form=form)) == [Stored(None, KEYS)]
    more = [20, 21, 22, 23]
    keys = tuple(block_keys(ROOT, TOKENS + more, BLOCK))
    told = one.feed(live(1, stored([13], more, parent=12), removed(11), form=form))
    assert told == [Stored(keys[1], keys[2:]), Removed(keys[:1])]
    assert one.feed(live(2, CLEARED, form=form)) == [Cleared()]
    assert len(one) == 0


def test_hashes_may_be_bytes_or_signed():
    """Offload events carry whole hashes, GPU events their low 64 bits, SGLang's are signed."""
    one = reader()
    whole = bytes(24) + (2**63 + 5).to_bytes(8, "big")
    one.feed(live(0, stored([2**63 + 5], TOKENS[:4])))
    assert one.feed(live(1, removed(whole))) == [Removed(KEYS[:1])]
    one.feed(live(2, stored([-3], TOKENS[:4])))
    assert one.feed(live(3, removed(2**64 - 3))) == [Removed(KEYS[:1])]


def test_sglangs_salt_stands_in_a_field_of_its_own():
    """SGLang tells the salt on each event, as a map's field or at the end of an array."""
    event = stored([1], TOKENS[:4], extra_keys=None, cache_salt=SALT)
    assert reader().feed(live(0, event)) == [Stored(None, KEYS[:1])]
    array = ["BlockStored", [1], None, TOKENS[:4], BLOCK, None, "GPU", SALT, "session", None]
    frames = [b"", bytes(8), msgspec.msgpack.encode([1.0, [array]])]
    assert reader().feed(frames) == [Stored(None, KEYS[:1])]


def test_newer_extra_keys_are_maps():
    """Typed extra keys of vLLM name what they are."""
    typed = [[{"type": "lora", "name": "a"}, {"type": "cache_salt", "salt": SALT}], None]
    event = stored([1, 2], TOKENS, extra_keys=typed, lora_name="a")
    assert reader().feed(live(0, event)) == [Stored(None, KEYS)]


@pytest.mark.parametrize(
    "event",
    [
        stored([1], TOKENS[:4], extra_keys=None),
        stored([1], TOKENS[:4], extra_keys=[["somebody's salt"]]),
        stored([1], TOKENS[:4], extra_keys=[["starloom-1234"]]),
    ],
)
def test_blocks_that_we_could_not_reuse_are_ignored(event):
    """Without our salt, no request of ours ever hits the block; its children neither."""
    one = reader()
    assert one.feed(live(0, event, stored([2], TOKENS[4:], parent=1))) == []
    assert (one.counts.foreign, one.counts.orphans) == (1, 1)


def test_a_worker_of_one_tenant_needs_no_salt():
    """Unsalted blocks are that tenant's, if they are of the worker's own adapter."""
    one = reader(root_of=roots(ROOT, "mine"))
    mine = stored([1], TOKENS[:4], extra_keys=[["mine"]], lora_name="mine")
    base = stored([2], TOKENS[:4], extra_keys=None)
    theirs = stored([3], TOKENS[:4], extra_keys=[["theirs"]], lora_name="theirs")
    assert one.feed(live(0, base, theirs, mine)) == [Stored(None, KEYS[:1])]
    assert one.counts.foreign == 2


def test_images_end_what_tokens_name():
    """Equal placeholders may be different images: that block and those behind it have no key."""
    event = stored([1, 2], TOKENS, extra_keys=[[SALT], [["hash-of-image", 1]]])
    one = reader()
    assert one.feed(live(0, event)) == [Stored(None, KEYS[:1])]
    assert one.feed(live(1, stored([3], [1, 2, 3, 4], parent=2))) == []
    assert (one.counts.foreign, one.counts.orphans) == (1, 1)


def test_copies_are_counted():
    """Each copy of a block is told of: it is held until the last one is removed."""
    one = reader()
    one.feed(live(0, stored([1, 2], TOKENS)))
    assert one.feed(live(1, stored([1, 2], TOKENS))) == []
    assert one.feed(live(2, removed(1, 2))) == []
    assert one.feed(live(3, removed(1, 2))) == [Removed(KEYS)]
    assert one.feed(live(4, removed(1))) == []


@pytest.mark.parametrize("form", ["map", "array"])
def test_tiers_are_told_apart(form):
    """A block that was offloaded is removed from the GPU and held by the host."""
    one = reader()

    def live(number, *events):
        return [b"kv", number.to_bytes(8, "big"), encoded(events, form)]

    one.feed(live(0, stored([1, 2], TOKENS)))
    hashes_alone = stored([1, 2], [], medium="CPU", block_size=0, extra_keys=None)
    assert one.feed(live(1, hashes_alone)) == [Stored(None, KEYS, "dram")]
    assert one.feed(live(2, removed(1, 2))) == [Removed(KEYS)]
    assert one.feed(live(3, stored([3], TOKENS[:4], parent=2))) != []  # its parent is still known
    assert one.feed(live(4, removed(2, medium="CPU"))) == [Removed(KEYS[1:], "dram")]
    assert one.feed(live(5, stored([9], TOKENS[:4], medium="EXTERNAL"))) == []
    assert one.counts.elsewhere == 1


@pytest.mark.parametrize("form", ["map", "array"])
def test_groups_with_a_part_of_the_prefix_are_skipped(form):
    """In hybrid models full attention speaks for a block; the others' removals mean nothing."""
    one = reader()

    def live(number, *events):
        return [b"kv", number.to_bytes(8, "big"), encoded(events, form)]

    full = stored([1], TOKENS[:4], group_idx=0, kv_cache_spec_kind="full_attention")
    window = stored([1], TOKENS[:4], group_idx=1, kv_cache_spec_kind="sliding_window")
    assert one.feed(live(0, full, window)) == [Stored(None, KEYS[:1])]
    assert one.feed(live(1, removed(1, group_idx=1))) == []
    assert one.feed(live(2, removed(1, group_idx=0))) == [Removed(KEYS[:1])]


def test_another_block_size_is_a_problem_with_a_fix():
    """Keys of other sizes never meet the gateway's; somebody has to set one of the two."""
    one = reader()
    assert one.problem is None
    assert one.feed(live(0, stored([1], list(range(16)), block_size=16))) == []
    assert one.counts.wrong_block_tokens == 1
    assert "block_tokens: 16" in one.problem
    assert "--block-size 4" in one.problem


def test_memory_is_bounded():
    """The oldest blocks are forgotten, and told to be removed."""
    one = reader(max_blocks=2)
    sink = HeldSink()
    tokens = list(range(40))
    for operation in one.feed(live(0, stored(list(range(1, 11)), tokens))):
        sink.do("w", operation)
    assert sink.held["w"] == set(block_keys(ROOT, tokens, BLOCK)[-2:])
    assert (len(one), one.counts.evicted) == (2, 8)


def test_a_gap_without_replay_clears():
    """What was missed may have been removals."""
    one = reader()
    one.feed(live(0, stored([1], TOKENS[:4])))
    told = one.feed(live(2, stored([2], TOKENS[4:], parent=1), stored([1], TOKENS[:4])))
    assert told == [Cleared(), Stored(None, KEYS[:1])]
    assert (one.counts.gaps, one.counts.orphans) == (1, 1)


def test_a_gap_is_replayed_from_the_last_batch_that_was_read():
    """That batch must come back as it was; live ones wait and are not read twice."""
    one = reader(replay=True)
    publisher = FakePublisher()
    first = publisher.frames([stored([1], TOKENS[:4])])
    publisher.frames([stored([2], TOKENS[4:], parent=1)])
    third = publisher.frames([removed(2)])
    assert one.feed(first) == [Stored(None, KEYS[:1])]
    assert one.feed(third) == [NeedReplay(0)]
    fourth = publisher.frames([removed(1)])
    assert one.feed(fourth) == []
    told = [op for frames in publisher.replay(0) for op in one.feed_replay(frames)]
    assert told == [Stored(KEYS[0], KEYS[1:]), Removed(KEYS[1:]), Removed(KEYS[:1])]


def test_a_restart_between_two_messages_is_seen():
    """A new server with a higher number: its replay shows another batch under our last number."""
    one, old, new = reader(replay=True), FakePublisher(), FakePublisher()
    one.feed(old.frames([stored([1, 2], TOKENS)]))
    new.frames([stored([7], TOKENS[:4])])
    new.frames([])
    assert one.feed(new.frames([])) == [NeedReplay(0)]
    told = [op for frames in new.replay(0) for op in one.feed_replay(frames)]
    assert told == [Cleared(), NeedReplay(0)]
    told = [op for frames in new.replay(0) for op in one.feed_replay(frames)]
    assert told == [Stored(None, KEYS[:1])]
    assert one.counts.restarts == 1


def test_a_buffer_that_does_not_reach_back_clears():
    """What lies between is lost: belief begins anew with the oldest batch that is kept."""
    one, publisher = reader(replay=True), FakePublisher(buffer_steps=2)
    one.feed(publisher.frames([stored([1], TOKENS[:4])]))
    for _ in range(3):
        publisher.frames([])
    assert one.feed(publisher.frames([stored([9], TOKENS[:4])])) == [NeedReplay(0)]
    told = [op for frames in publisher.replay(0) for op in one.feed_replay(frames)]
    assert told == [Cleared(), Stored(None, KEYS[:1])]


def test_a_hole_in_a_replay_clears():
    """A replay may lose messages too, and what they told of."""
    one, publisher = reader(replay=True), FakePublisher()
    publisher.frames([stored([1], TOKENS[:4])])
    publisher.frames([removed(1)])
    publisher.frames([stored([5], [7, 7, 7, 7])])
    one.connected()
    first, _, third, end = publisher.replay(0)
    told = [op for frames in (first, third, end) for op in one.feed_replay(frames)]
    assert told == [
        Stored(None, KEYS[:1]),
        Cleared(),
        Stored(None, tuple(block_keys(ROOT, [7] * 4, BLOCK))),
    ]


def test_a_message_lost_during_a_replay_is_asked_for_again():
    """It came after the replay was taken and before its end; the next replay has it."""
    one, publisher = reader(replay=True), FakePublisher()
    one.connected()
    empty = publisher.replay(0)
    publisher.frames([stored([1], TOKENS[:4])])
    one.feed(publisher.frames([]))
    assert [op for frames in empty for op in one.feed_replay(frames)] == [NeedReplay(0)]
    told = [op for frames in publisher.replay(0) for op in one.feed_replay(frames)]
    assert told == [Stored(None, KEYS[:1])]


def test_a_replay_that_fails_clears():
    """No answer, no belief; what came live is read."""
    one = reader(replay=True)
    one.feed(live(0, stored([1, 2], TOKENS)))
    one.feed(live(5, stored([1], TOKENS[:4])))
    assert one.replay_failed() == [Cleared(), Stored(None, KEYS[:1])]
    assert one.feed(live(6, removed(1))) == [Removed(KEYS[:1])]


@pytest.mark.parametrize(
    "frames",
    [[], [b""], [b"", b"1", b""], [b"", bytes(8)], [b"", bytes(8), b"", b""]],
)
def test_odd_frames_are_counted_and_dropped(frames):
    one = reader()
    assert one.feed(frames) == []
    assert one.counts.malformed == 1


@pytest.mark.parametrize("payload", [b"", b"\xff", b"\xc0", msgspec.msgpack.encode([1.0, 5])])
def test_a_batch_that_cannot_be_read_clears(payload):
    """It may have told of removals."""
    one = reader()
    one.feed(live(0, stored([1], TOKENS[:4])))
    assert one.feed([b"", (1).to_bytes(8, "big"), payload]) == [Cleared()]
    assert one.counts.malformed == 1


def test_events_of_new_kinds_are_passed_over():
    """A newer server may tell more; a removal in a form that we cannot read is another matter."""
    one = reader()
    one.feed(live(0, stored([1], TOKENS[:4])))
    strange = msgspec.msgpack.encode({"ts": 1, "events": [{"type": "BlockTouched"}, ["X", 1], 5]})
    assert one.feed([b"", (1).to_bytes(8, "big"), strange]) == []
    assert one.counts.unknown_events == 3
    broken = msgspec.msgpack.encode([1, [["BlockRemoved", "all"]]])
    assert one.feed([b"", (2).to_bytes(8, "big"), broken]) == [Cleared()]


json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=9)
    | st.sampled_from(["BlockStored", "BlockRemoved", "type", "events", "block_hashes", SALT]),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            st.sampled_from(
                ["type", "events", "block_hashes", "token_ids", "block_size", "parent_block_hash"]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.lists(json, max_size=4))
def test_no_payload_raises(payloads):
    """Whatever a server sends, the reader stays whole and its operations hold their contract."""
    one, sink = reader(replay=False, root_of=roots(ROOT)), HeldSink()
    for number, payload in enumerate(payloads):
        for raw in (payload, [1.0, [payload]], {"events": [payload]}):
            data = msgspec.msgpack.encode(raw)
            for operation in one.feed([b"", (number * 3).to_bytes(8, "big"), data]):
                sink.do("w", operation)


tokens = st.lists(st.integers(0, 1), min_size=BLOCK, max_size=4 * BLOCK)
steps = st.lists(
    st.tuples(
        st.sampled_from(["store", "store", "remove", "clear", "batch", "batch"]),
        tokens,
        st.sampled_from([SALT, cache_salt(OTHER), None, "theirs"]),
        st.integers(0, 99),
    ),
    max_size=40,
)


def played(actions, form, hashes_as="int"):
    """Batches of an engine that does these steps, and the engine as it is then."""
    cache, batches = FakeCache(BLOCK, hashes_as=hashes_as), []
    for action, text, salt, number in actions:
        if action == "store":
            cache.store(text, salt, first=cache.held_blocks(text, salt) if number % 3 else 0)
        elif action == "remove" and cache.copies:
            cache.remove(sorted(cache.copies)[number % len(cache.copies)])
        elif action == "clear" and number % 4 == 0:
            cache.clear()
        elif action == "batch":
            batches.append(cache.take())
    batches.append(cache.take())
    return batches, cache


@settings(deadline=None)
@given(steps, st.sampled_from(["int", "bytes"]))
def test_both_encodings_say_the_same(actions, hashes_as):
    """Maps and arrays of the same events give the same operations."""
    told = []
    for form in ("map", "array"):
        one, publisher = reader(), FakePublisher(form)
        batches, _ = played(actions, form, hashes_as)
        told.append([one.feed(publisher.frames(batch)) for batch in batches])
    assert told[0] == told[1]


class Wire:
    """A reader at the end of a bad line: live messages are lost, replays run between the others."""

    def __init__(self, form, buffer_steps, pending=4096):
        self.reader = reader(replay=True, max_pending=pending)
        self.sink = HeldSink()
        self.form, self.steps = form, buffer_steps
        self.publisher = FakePublisher(form, buffer_steps)
        self.replay = []

    def publish(self, batch, *, lost, replayed):
        frames = self.publisher.frames(batch)
        if not lost:
            self.do(self.reader.feed(frames))
        for _ in range(replayed):
            self.step()

    def step(self):
        if self.replay:
            self.do(self.reader.feed_replay(self.replay.pop(0)))

    def settle(self):
        """The line holds, and connects anew."""
        self.do(self.reader.connected())
        for _ in range(100_000):
            if not self.replay:
                return
            self.step()
        raise AssertionError("replays without end")

    def do(self, operations):
        for operation in operations:
            need = self.sink.do("w", operation)
            if need is not None:
                self.replay = self.publisher.replay(need.start)

    @property
    def belief(self):
        return self.sink.held.get("w", set())


line = st.lists(st.tuples(st.booleans(), st.integers(0, 3)), min_size=1, max_size=12)


@settings(deadline=None, max_examples=200)
@given(steps, steps, line, st.sampled_from(["map", "array"]), st.booleans(), st.integers(1, 5))
def test_belief_ends_as_the_truth(before, after, weather, form, restarts, pending):
    """Whatever was lost, replayed in between, or started again: after a replay belief is the truth.

    The buffer reaches back to the server's first batch here.
    """
    wire = Wire(form, 10_000, pending)
    wire.do(wire.reader.connected())
    cache = None
    for life, actions in enumerate((before, after) if restarts else (before + after,)):
        if life:
            wire.publisher = FakePublisher(form)  # a new process; the old replay goes on for a bit
        batches, cache = played(actions, form)
        for at, batch in enumerate(batches):
            lost, replayed = weather[at % len(weather)]
            wire.publish(batch, lost=lost, replayed=replayed)
    wire.settle()
    assert wire.belief == cache.truth()


@settings(deadline=None, max_examples=200)
@given(steps, line, st.integers(1, 6), st.booleans())
def test_belief_is_never_more_than_the_truth(actions, weather, buffer_steps, late):
    """With a short buffer, or a late start, less is known; nothing is believed that is not so."""
    wire = Wire("map", buffer_steps)
    if not late:
        wire.do(wire.reader.connected())
    batches, cache = played(actions, "map")
    for at, batch in enumerate(batches):
        lost, replayed = weather[at % len(weather)]
        wire.publish(batch, lost=lost or (late and at < 3), replayed=replayed)
    wire.settle()
    assert wire.belief <= cache.truth()
