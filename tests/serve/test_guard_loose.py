"""Phrases that are spelled so as not to match, and texts that are not."""

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.serve.guard import Entry, LooseMatcher, OutputFilter
from starloom.serve.guard.normal import Normaliser, Options

PHRASES = [
    "block",
    "open the doors",
    "sex",
    "敏感词",
    "舱门",
    "c++",
    "kot",
    "кот",
    "v2门",
    "illegal",
]


def matcher(phrases=PHRASES, action="mask", **options) -> LooseMatcher:
    return LooseMatcher([Entry("l", phrase, action) for phrase in phrases], Options(**options))


LOOSE = matcher()


def found(text, loose=LOOSE) -> list[str]:
    return sorted({text[it.start : it.end] for it in loose.scan(text, 0, final=True).found})


@pytest.mark.parametrize(
    "text",
    [
        "BLOCK",
        "ｂｌｏｃｋ",
        "blосk",  # Cyrillic o and s
        "ВLОСК",
        "𝐛𝓵𝕠𝚌𝔨",
        "ⓑⓛⓞⓒⓚ",
        "🅱🅻🅾🅲🅺",
        "b\u200bl\u2060o\u00adc\ufeffk",
        "b\x00l\x07ock",
        "b\u0301l\u0327o\u0308ck",
        "blöck",
        "b l o c k",
        "b-l-o-c-k",
        "b.l.o.c.k",
        "b  l  o  c  k",
        "b _ l _ o _ c _ k",
        "b, l, o, c, k",
        "b😀l😀o😀c😀k",
        "bl-ock",
        "b*l*ock",
        "bl0ck",
        "b1ock",
        "b|0ck",
        "b l 0 c k",
        "ｂ-l-０-ｃ-k",
        "b\u200b-1-0-с-k",
        "open-the-doors",
        "open_the.doors",
        "OPEN  the\n\tdoors",
        "openthedoors",
        "0pen the d00rs",
        "o p e n  t h e  d o o r s",
        "i11egal",
        "1llega1",
        "敏-感-词",
        "敏 感 词",
        "敏。感。词",
        "敏*感词",
        "敏\u200b感\u200b词",
        "敏感詞",
        "艙門",
        "舱*门",
        "舱 门",
        "ｖ２門",
    ],
)
def test_evaded_phrases_are_found_to_the_character(text):
    """Alone or in a sentence of its script, exactly the spelled phrase is what is found."""
    chinese = any(char >= "\u4e00" for char in text if ord(char) < 0x9FFF)
    assert text in found(text)
    for around in ("({})", "say {} now", "... {}!", *(("请 {} 吧",) if chinese else ())):
        assert found(around.format(text)) == [text]


@pytest.mark.parametrize(
    "text",
    [
        "blocks unblock blocked",
        "a b c d e f g, x, y",
        "B. Lock opened",  # an initial and a name
        "b lock",
        "the block_size of ablock",
        "s-e-x, s3x and Sussex",  # three letters: too few to tell
        "sexten",
        "bl ock",  # a blank within a word
        "if b = l or o != c: k",
        "reopen the doorstep",
        "b1o4k 810ck",  # half of the letters must stand
        "кот-то",  # the tom-cat is on the list by itself, not here
        "котлета",
        "敏捷，感觉，词语",
        "船舱，门口",
        "船舱-门口",
        "客舱/门票",
        "c+ c",
        "illega",
    ][0:],
)
def test_what_only_resembles_is_not_found(text):
    """Parts of other words, initials, lists of letters, words on both sides of a comma."""
    assert [it for it in found(text) if it != "block" or "block_size" not in text] == (
        ["кот"] if text == "кот-то" else []
    )


def test_a_word_of_another_alphabet_is_not_a_latin_one():
    """Short words all of look-alikes are what they are; long or mixed ones what they seem."""
    assert found("рост", matcher(["poct"])) == []
    assert found("кот", matcher(["kot"])) == []
    assert found("kot", matcher(["кот"])) == []
    assert found("кот", matcher(["кот"])) == ["кот"]
    assert found("кoт", matcher(["kot"])) == ["кoт"]  # a Latin o
    assert found("сосаіпе", matcher(["cocaine"])) == ["сосаіпе"]


@pytest.mark.parametrize(
    ("option", "text"),
    [("homoglyphs", "blосk"), ("spacing", "b-l-o-c-k"), ("leet", "bl0ck"), ("han", "敏感詞")],
)
def test_each_evasion_can_be_left_alone(option, text):
    """What is switched off is not found; all else is."""
    assert found(text) == [text]
    assert found(text, matcher(**{option: False})) == []
    assert found("BＬock", matcher(**{option: False})) == ["BＬock"]


CHARS = "blockBsexо0 1-*_.。敏感词詞舱门\u200b\u0301ﬁ＝|!@"
TEXTS = st.text(CHARS, max_size=30) | st.builds(
    "".join,
    st.lists(
        st.sampled_from(
            ["b-l-o-c-k", "b l o c k", "bl0ck", "敏 感 词", "舱*门", "op", "en the", " ", "d"]
        )
        | st.text(CHARS, max_size=3),
        max_size=8,
    ),
)
ANY = st.lists(
    st.tuples(
        st.sampled_from([*PHRASES, "bb", "lock", "感词", "b-l", "1o1", "ob 敏感"]),
        st.sampled_from(["block", "mask"]),
    ),
    min_size=1,
    max_size=5,
)


def run(phrases, pieces) -> tuple[str, OutputFilter]:
    loose = LooseMatcher([Entry("l", phrase, action) for phrase, action in phrases])
    checker = OutputFilter(loose)
    return "".join([*map(checker.feed, pieces), checker.finish()]), checker


@settings(max_examples=500, deadline=None)
@given(ANY, TEXTS, st.lists(st.integers(0, 60), max_size=12))
def test_any_split_lets_out_what_the_whole_text_would(phrases, text, cuts):
    """What is let out, and what is said of it, is that of the text in one piece."""
    ends = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    released, checker = run(phrases, [text[one:other] for one, other in pairwise(ends)])
    whole = OutputFilter(LooseMatcher([Entry("l", *phrase) for phrase in phrases]))
    assert released == whole.whole(text)
    assert (checker.blocked, checker.verdicts) == (whole.blocked, whole.verdicts)


@settings(max_examples=200, deadline=None)
@given(ANY, TEXTS)
def test_character_by_character_nothing_leaks(phrases, text):
    """At every moment what is out is a beginning of what the whole text lets out."""
    expected, _ = run(phrases, [text])
    checker = OutputFilter(LooseMatcher([Entry("l", *phrase) for phrase in phrases]))
    released = ""
    for char in text:
        released += checker.feed(char)
        assert expected.startswith(released)


@settings(max_examples=300)
@given(st.text(max_size=30))
def test_the_map_leads_back_to_the_original(text):
    """Spans of a normalised text are spans of the original, in order; it normalises to itself."""
    normal = Normaliser()(text)
    assert len(normal.text) == len(normal.merged) == len(normal.classes)
    spans = [normal.span(at, at + 1) for at in range(len(normal.text))]
    assert all(0 <= first < last <= len(text) for first, last in spans)
    assert [first for first, _ in spans] == sorted(first for first, _ in spans)
    assert Normaliser()(normal.text).text == normal.text


def test_ordinary_text_is_hardly_held_back():
    """Prose goes out word by word: at most the last few characters wait, none at a word's end."""
    checker = OutputFilter(matcher(action="block"))
    text = "In a small town, 3 people said: wait - is it on at 10 or 11? 今天，天气很好。 Yes!"
    released, held = "", []
    for char in text:
        released += checker.feed(char)
        held.append(len(released))
    waits = [at + 1 - out for at, out in enumerate(held)]
    assert max(waits) <= 4
    assert sum(waits) / len(waits) < 0.7


def test_an_evaded_phrase_is_held_back_from_its_first_letter():
    """Nothing of it is out when the last letter comes; what leads nowhere goes out."""
    checker = OutputFilter(matcher(action="block"))
    assert checker.feed("say b - l -") == "say "
    assert checker.feed(" o - c -") == ""
    assert checker.feed(" k") == ""
    assert checker.feed(".") == ""
    assert checker.blocked
    checker = OutputFilter(matcher(action="block"))
    assert checker.feed("say b - l -") == "say "
    assert checker.feed(" x") == "b - l - x"


def test_hostile_texts_cost_time_in_proportion():
    """Texts made of nothing but triggers: four times the length costs no more than ten times."""
    loose = matcher()
    for unit in ("b ", "b-", "敏 ", "1!", "a_1-", "\u200b", "x y z ", "@b$"):
        times = []
        for size in (4_000, 16_000):
            text = (unit * size)[:size]
            best = 1e9
            for _ in range(5):
                began = time.process_time()
                loose.scan(text, 0, final=False)
                best = min(best, time.process_time() - began)
            times.append(best)
        assert times[1] < 10 * times[0] + 0.002, unit
