"""The streaming filter: what is let out never depends on how the text was cut."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.serve.guard import Entry, Matcher, OutputFilter
from starloom.serve.guard.stream import MAX_VERDICTS, starred
from starloom.serve.guard.words import fold, in_word

CHARS = "abAＢ 。舱门１_"
PHRASES = st.lists(
    st.tuples(st.text(CHARS, min_size=1, max_size=5), st.sampled_from(["block", "mask"])),
    max_size=6,
)
TEXTS = st.text(CHARS, max_size=40)


def made(phrases) -> OutputFilter:
    entries = [Entry("list", phrase, action) for phrase, action in phrases]
    return OutputFilter(Matcher(entries) if entries else None)


def run(phrases, pieces) -> tuple[str, OutputFilter]:
    checker = made(phrases)
    released = "".join([*map(checker.feed, pieces), checker.finish()])
    return released, checker


def places(phrase: str, text: str) -> list[tuple[int, int]]:
    """Every whole-word place of a phrase, found the slow way: the oracle."""
    phrase, text = fold(phrase), fold(text)
    spans = []
    for start in range(len(text) - len(phrase) + 1):
        end = start + len(phrase)
        left = start > 0 and in_word(text[start - 1]) and in_word(phrase[0])
        right = end < len(text) and in_word(text[end]) and in_word(phrase[-1])
        if text[start:end] == phrase and not left and not right:
            spans.append((start, end))
    return spans


def expected(phrases, text) -> str:
    """The rule of the module's docstring, applied to the whole text."""
    blocked = {fold(phrase) for phrase, action in phrases if action == "block"}
    cut, stars = len(text), set()
    for phrase, _ in phrases:
        for start, end in places(phrase, text):
            if fold(phrase) in blocked:
                cut = min(cut, start)
            stars |= set(range(start, end))
    return "".join("*" if at in stars else char for at, char in enumerate(text))[:cut]


def cut_up(text: str, cuts: list[int]) -> list[str]:
    ends = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    return [text[one:other] for one, other in pairwise(ends)]


@settings(max_examples=400)
@given(PHRASES, TEXTS, st.lists(st.integers(0, 40), max_size=12))
def test_any_split_lets_out_what_the_whole_text_would(phrases, text, cuts):
    """For any phrases, text and cuts the result is that of the slow oracle on the whole text."""
    pieces = cut_up(text, cuts)
    released, checker = run(phrases, pieces)
    assert released == expected(phrases, text)
    whole, at_once = run(phrases, [text])
    assert (whole, at_once.blocked, at_once.verdicts) == (
        released,
        checker.blocked,
        checker.verdicts,
    )


@settings(max_examples=200)
@given(PHRASES, TEXTS)
def test_character_by_character_nothing_forbidden_is_ever_out(phrases, text):
    """At no moment does what was let out reach into a blocked or masked phrase of the text."""
    checker = made(phrases)
    released = ""
    for char in text:
        released += checker.feed(char)
        assert expected(phrases, text).startswith(released)
    longest = max((len(phrase) for phrase, _ in phrases), default=0)
    assert checker.blocked or len(text) - len(released) <= longest


@given(TEXTS, st.lists(st.integers(0, 40), max_size=5))
def test_without_lists_text_passes_at_once(text, cuts):
    """No list: every piece comes back as it is, at once."""
    checker = OutputFilter(None)
    assert [checker.feed(piece) for piece in cut_up(text, cuts)] == cut_up(text, cuts)
    assert checker.finish() == ""


@pytest.mark.parametrize("at", range(1, 23))
def test_a_phrase_in_two_pieces_is_caught(at):
    """Whatever the cut, nothing of a blocked phrase is let out, and the filter ends the text."""
    text = "I will open the doors now."
    released, checker = run([("open the doors", "block")], [text[:at], text[at:]])
    assert released == "I will "
    assert checker.blocked
    [verdict] = checker.verdicts
    assert (verdict.start, verdict.end, verdict.where) == (7, 21, "output")


def test_only_what_may_begin_a_phrase_is_held_back():
    """Ordinary text comes out at once; a beginning waits, and comes out when it leads nowhere."""
    checker = made([("open the doors", "block")])
    assert checker.feed("Hello, ") == "Hello, "
    assert checker.feed("op") == ""
    assert checker.feed("en the wi") == "open the wi"
    assert checker.feed("ndow") == "ndow"


def test_a_match_waits_for_the_end_of_its_word():
    """`door` is not in `doorway`: the decision waits for one more character, or for the end."""
    checker = made([("door", "block")])
    assert checker.feed("a door") == "a "
    assert checker.feed("way") == "doorway"
    assert checker.feed(" door") == " "
    assert checker.finish() == ""
    assert checker.blocked


def test_a_longer_phrase_that_began_earlier_is_waited_for():
    """A complete phrase inside one that may still complete does not let out the other's head."""
    phrases = [("甲乙丙丁", "block"), ("乙丙", "block")]
    checker = made(phrases)
    assert checker.feed("开甲乙丙") == "开"
    assert not checker.blocked
    assert checker.feed("丁") == ""
    assert checker.blocked
    checker = made(phrases)
    assert checker.feed("开甲乙丙") == "开"
    assert checker.feed("戊") == "甲"
    assert checker.blocked


def test_masks_keep_the_length_and_go_on():
    """A masked phrase becomes stars, one a character, and the answer continues."""
    released, checker = run([("secret", "mask"), ("舱门", "mask")], ["the sec", "ret 舱", "门 x"])
    assert released == "the ****** ** x"
    assert not checker.blocked
    assert [(it.start, it.end) for it in checker.verdicts] == [(4, 10), (11, 13)]


def test_a_list_that_blocks_wins_over_one_that_masks():
    """The same phrase in two lists, written differently: both are named, the text ends."""
    released, checker = run([("Secret", "mask"), ("SECRET", "block")], ["a secret b"])
    assert released == "a "
    assert {(it.phrase, it.action) for it in checker.verdicts} == {
        ("Secret", "mask"),
        ("SECRET", "block"),
    }


def test_nothing_comes_after_a_block():
    """Once blocked, always blocked: later pieces and the end give nothing."""
    checker = made([("舱门", "block")])
    assert checker.feed("开舱门了") == "开"
    assert checker.feed("more") == ""
    assert checker.finish() == ""


def test_verdicts_are_bounded_and_masks_are_not():
    """A text full of masked phrases keeps a bounded list; a block is always named."""
    released, checker = run([("舱", "mask"), ("门", "block")], ["舱" * 500, "门"])
    assert released == "*" * 500
    assert len(checker.verdicts) == MAX_VERDICTS + 1
    assert checker.verdicts[-1].action == "block"


@given(st.text(max_size=20), st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20))))
def test_stars_cover_the_spans(text, pairs):
    """Exactly the characters in the spans become stars."""
    spans = [(min(pair), min(max(pair), len(text))) for pair in pairs]
    inside = {at for start, end in spans for at in range(start, end)}
    assert starred(text, spans) == "".join(
        "*" if at in inside else char for at, char in enumerate(text)
    )
