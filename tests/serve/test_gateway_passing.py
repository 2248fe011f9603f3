"""Streams on their way through: events that come together are guarded as if each came alone."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.serve.gateway.outlet import Outlets
from starloom.serve.gateway.passing import Passing
from starloom.serve.guard import Guard

from surface_fixtures import site_of


@pytest.fixture(scope="module")
def guard(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    site = site_of(folder, "http://127.0.0.1:1", own=False, words=["secret", "abab"])
    return Guard.from_site(site)


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    site = site_of(folder, "http://127.0.0.1:1", own=False, words=["secret"])
    lists = [it.model_copy(update={"action": "mask"}) for it in site.guard.lists]
    return Guard.from_site(
        site.model_copy(update={"guard": site.guard.model_copy(update={"lists": lists})})
    )


def event(index, content, finish=None, **more):
    choice = {"index": index, "delta": {"content": content}, "finish_reason": finish, **more}
    return b"data: " + json.dumps({"id": "x", "choices": [choice]}).encode() + b"\n\n"


def passed(guard, blocks):
    """What a client reads of each choice, how each ended, and what was found."""
    found = []
    passing = Passing(None, Outlets(guard, 1, found.extend), n=2, hide_usage=False)
    out = b"".join(passing.events(block) for block in blocks if not passing.cut)
    out += passing.end()
    passing.close()
    texts, ends = {0: "", 1: ""}, {}
    for line in out.split(b"\n\n"):
        if line.startswith(b"data: {"):
            for choice in json.loads(line[6:])["choices"]:
                assert choice["index"] not in ends, "an answer went on after its end"
                texts[choice["index"]] += choice["delta"].get("content") or ""
                if choice["finish_reason"]:
                    ends[choice["index"]] = choice["finish_reason"]
    return texts, ends, [(it.phrase, it.action) for it in found]


SAID = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from(["se", "cret", "sec", "ret", " ", "a", "b", "ab", "", "s e c r e t"]),
    ),
    max_size=14,
)


@given(said=SAID, sizes=st.lists(st.integers(1, 5), max_size=8))
@pytest.mark.parametrize("kind", ["guard", "masks"])
def test_events_together_say_what_they_say_one_by_one(kind, said, sizes, request):
    """Texts, ends and verdicts are the same, however the bytes were cut into blocks."""
    guard = request.getfixturevalue(kind)
    ends = [event(index, "", "stop") for index in (0, 1)]
    events = [*(event(*it) for it in said), *ends]
    blocks, at = [], 0
    for size in [*sizes, len(events)]:
        blocks.append(b"".join(events[at : at + size]))
        at += size
    together = passed(guard, blocks)
    assert together == passed(guard, events)
    texts, finish, _ = together
    assert all(" secret " not in f" {text} " for text in texts.values())
    assert set(finish) == {0, 1}


def test_events_that_say_nothing_bad_pass_byte_for_byte(guard):
    """With log probabilities too, which tell of their own text alone."""
    block = b"".join(event(0, f"word{at} ", logprobs={"content": []}) for at in range(50))
    passing = Passing(None, Outlets(guard, 1, list), n=1, hide_usage=False)
    assert passing.events(block) == block
    assert passing.chunks == 50
