"""Tokens into text: whole characters, stop strings, the bytes of single tokens."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from starloom.serve.engines.detokenise import TextStream, TokenTexts
from starloom.serve.engines.executor import Choice

from engine_fixtures import END, byte_tokenizer

TOKENIZER = byte_tokenizer()


def stream(*stop: str, prompt: bytes = b"") -> TextStream:
    return TextStream(TOKENIZER, list(prompt), stop)


def pushed(text: TextStream, data: bytes) -> tuple[list[str], str | None]:
    """Text of each piece until a stop string, with what was held back at the end."""
    pieces = []
    for byte in data:
        piece = text.push(byte)
        pieces.append(piece.text)
        if piece.stop is not None:
            return pieces, piece.stop
    return [*pieces, text.flush()], None


def test_a_character_comes_out_whole():
    """世 has three bytes: nothing, nothing, then the character."""
    assert pushed(stream(), "a世".encode())[0] == ["a", "", "", "世", ""]


def test_half_a_character_at_the_end_is_dropped():
    assert pushed(stream(), "a世".encode()[:-1])[0] == ["a", "", "", ""]


def test_special_tokens_have_no_text():
    assert stream().push(END).text == ""


@pytest.mark.parametrize("prompt", [b"", b"Hello", "世".encode()[:2], "世".encode()])
def test_the_prompt_is_not_repeated(prompt):
    """Also where it ends in half a character."""
    assert "".join(pushed(stream(prompt=prompt), b"world")[0]) == "world"


def test_a_stop_string_is_held_back_and_left_out():
    """`wo` may begin `world`, so it waits until `r` decides that it does."""
    assert pushed(stream("world"), b"a wonder")[0] == [*"a ", "", "", "won", *"der", ""]
    pieces, stop = pushed(stream("world"), b"a world!")
    assert ("".join(pieces), stop) == ("a ", "world")


def test_what_is_held_back_comes_out_at_the_end():
    assert "".join(pushed(stream("world"), b"a wor")[0]) == "a wor"


def test_the_stop_string_that_is_complete_first_counts():
    """`bc` is complete one character before `abcd`."""
    pieces, stop = pushed(stream("abcd", "bc"), b"xabcd")
    assert ("".join(pieces), stop) == ("xa", "bc")


def test_no_stop_before_it_may():
    """With `min_tokens` a stop string passes through."""
    text = stream("b")
    assert text.push(ord("b"), may_stop=False).stop is None
    assert text.push(ord("b")).stop == "b"


@settings(max_examples=200, deadline=None)
@given(
    answer=st.text(st.sampled_from("abé世"), max_size=30),
    stops=st.lists(st.text(st.sampled_from("abé世"), min_size=1, max_size=4), max_size=3),
)
def test_stop_strings_do_not_depend_on_tokens(answer, stops):
    """Byte by byte the answer ends where a search character by character ends it."""
    expected = (answer, None)
    for end in range(len(answer) + 1):
        found = [s for s in stops if answer[:end].endswith(s)]
        if found:
            longest = max(found, key=len)
            expected = (answer[: end - len(longest)], longest)
            break
    pieces, stop = pushed(stream(*stops), answer.encode())
    assert ("".join(pieces), stop) == expected


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 259), max_size=40))
def test_any_bytes_give_a_beginning_of_their_text(tokens):
    """Broken UTF-8 raises nothing; what comes out begins what decoding at once gives."""
    text = stream()
    out = "".join(text.push(token).text for token in tokens)
    assert TOKENIZER.decode(tokens).startswith(out)


def test_logprobs_carry_the_bytes_of_a_part_of_a_character():
    first = "世".encode()[0]
    found = TokenTexts(TOKENIZER).logprob(Choice(first, -0.5, [(32, -0.5)]))
    assert (found.text, found.data, found.logprob) == ("\ufffd", bytes([first]), -0.5)
    assert found.top == [(" ", b" ", -0.5)]


def test_special_tokens_have_the_bytes_of_their_name():
    assert TokenTexts(TOKENIZER).of(END) == ("<|end|>", b"<|end|>")


def test_byte_fallback_and_word_beginnings_of_sentencepiece():
    vocab = {"<unk>": 0, "\u2581word": 1, "<0xE4>": 2}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    texts = TokenTexts(tokenizer)
    assert texts.of(1) == (" word", b" word")
    assert texts.of(2)[1] == b"\xe4"
