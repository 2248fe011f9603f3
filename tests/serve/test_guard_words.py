"""Finding phrases: how text folds, and where a word ends."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.serve.guard import Entry, Matcher
from starloom.serve.guard.words import fold


def found(phrases, text, before="") -> list[str]:
    """The parts of `text` that are found."""
    matcher = Matcher([Entry("l", phrase, "block") for phrase in phrases])
    return sorted(text[hit.start : hit.end] for hit in matcher.find(fold(text), before))


def test_fold_keeps_the_place_of_every_character():
    """One character becomes one character, whatever it is, and folding twice changes nothing."""
    for first in range(0, sys.maxunicode + 1, 256):
        text = "".join(map(chr, range(first, first + 256)))
        folded = fold(text)
        assert len(folded) == len(text)  # no character folds to none, so each folds to one
        assert fold(folded) == folded


@given(st.text(alphabet=st.characters(exclude_categories=[]), max_size=20), st.integers(0, 20))
def test_fold_does_not_depend_on_where_a_text_is_cut(text, at):
    """Folding two pieces gives the fold of the whole."""
    assert fold(text[:at]) + fold(text[at:]) == fold(text)


def test_case_and_width_do_not_matter():
    """Upper case, full-width letters and the two small sigmas are the same."""
    assert found(["Secret Word"], "a ＳＥＣＲＥＴ　ｗｏｒｄ here") == ["ＳＥＣＲＥＴ　ｗｏｒｄ"]
    assert found(["ΟΔΟΣ"], "η οδος, Η ΟΔΟΣ") == ["ΟΔΟΣ", "οδος"]
    assert fold("ΟΔΟΣ") == fold("οδος") == fold("ΟΔΟ") + fold("Σ")
    assert found(["straße"], "STRAẞE") == ["STRAẞE"]


@pytest.mark.parametrize(
    ("phrase", "text", "count"),
    [
        ("ass", "a class of grass", 0),
        ("ass", "ass. Ass! (ass)", 3),
        ("ass", "ass_1", 0),
        ("ass", "passé assé", 0),
        ("ass", "他说ass了", 1),
        ("c++", "c++ c+++ xc++", 2),
        ("舱门", "打开舱门吧", 1),
        ("v2门", "av2门 v2门口", 1),
        ("кот", "который кот", 1),
        ("3.5", "13.5 3.51 3.5", 1),
    ],
)
def test_words_are_matched_whole_and_chinese_anywhere(phrase, text, count):
    """An edge that is a letter of a spaced script or a digit must not touch another such one."""
    assert len(found([phrase], text)) == count


def test_the_character_before_a_piece_counts():
    """A piece of a text knows what stood before it."""
    assert found(["ass"], "ass", before="l") == []
    assert found(["ass"], "ass", before=" ") == ["ass"]


def test_overlapping_phrases_are_all_found():
    """A phrase in a phrase and two that overlap count each."""
    assert found(["bc", "abcd", "cde"], "x bc abcd") == ["abcd", "bc"]
    assert found(["甲乙", "乙丙", "甲乙丙丁"], "甲乙丙丁") == ["乙丙", "甲乙", "甲乙丙丁"]


def test_lone_surrogates_are_taken():
    """What JSON can carry and UTF-8 cannot does not break the guard."""
    assert found(["舱门"], "\ud800舱门\udfff") == ["舱门"]
