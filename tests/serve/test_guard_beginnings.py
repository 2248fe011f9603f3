"""What was clean once is not read again, and nothing slips through for that."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.serve.guard import Guard
from starloom.serve.guard.beginnings import STEP_CHARS, CleanBeginnings
from starloom.site import Site

WORDS = ["forbidden fruit", "打开舱门", "abracadabra"]
FORMS = [*WORDS, "f o r b i d d e n  f r u i t", "AbracаdabrA", "打 开 舱 门", "me@example.com"]


@pytest.fixture(scope="module")
def guard():
    data = {
        "name": "t",
        "nodes": [{"name": "n"}],
        "models": [{"name": "m", "tokenizer": "package:loom-s", "shape": "llama-3-8b"}],
        "workers": [{"name": "w", "node": "n", "model": "m", "engine": "emulated"}],
        "guard": {
            "lists": [{"name": "l", "words": WORDS}],
            "patterns": [{"name": "p", "kinds": ["personal"], "action": "mask"}],
        },
    }
    return Guard.from_site(Site.model_validate(data))


class Counting:
    """A finder that counts the characters that it was shown."""

    def __init__(self, finder):
        self.finder = finder
        self.chars = 0

    def scan(self, text, begin, *, final):
        self.chars += len(text)
        return self.finder.scan(text, begin, final=final)


def filler(length, seed):
    words = ("loom ", "weaves ", "光 ", "threads ", "of ", "light, ", "编织 ")
    text = "".join(words[(at * seed + at // 7) % len(words)] for at in range(length // 3))
    return text[:length]


@given(
    st.integers(1, 5),
    st.lists(
        st.tuples(st.integers(-40, 40), st.integers(1, 3), st.sampled_from(FORMS)), max_size=2
    ),
    st.integers(0, 3 * STEP_CHARS),
)
@settings(max_examples=60, deadline=None)
def test_the_verdict_is_that_of_the_whole_text(guard, seed, places, length):
    """Wherever phrases stand, across steps too, and whatever was remembered before."""
    text = filler(STEP_CHARS + length, seed)
    for offset, step, form in places:
        at = min(max(step * STEP_CHARS + offset, 0), len(text))
        text = f"{text[:at]} {form} {text[at:]}"
    found = any(finder.scan(text, 0, final=True).found for finder in guard._inputs)
    for _ in range(2):
        assert guard._beginnings.is_clean(text) != found
        assert bool(guard.check_input([text]).verdicts) == found


def test_a_known_beginning_is_not_read_again(guard):
    """A chat that grows costs what is new of it, not its length."""
    finder = Counting(guard._inputs[0])
    beginnings = CleanBeginnings([finder])
    past = filler(20 * STEP_CHARS, 3)
    assert beginnings.is_clean(past)
    first, finder.chars = finder.chars, 0
    assert beginnings.is_clean(past + "and one more turn")
    assert finder.chars < 2 * STEP_CHARS < first
    assert not beginnings.is_clean(past + " forbidden fruit ")


def test_memory_is_bounded(guard):
    beginnings = CleanBeginnings(guard._inputs, limit=8)
    for seed in range(1, 6):
        beginnings.is_clean(f"{seed} " + filler(6 * STEP_CHARS, seed))
    assert len(beginnings._settled) == 8
