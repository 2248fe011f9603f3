from hypothesis import given
from hypothesis import strategies as st

from starloom.serve.text import Phrases

letters = st.text("ab", max_size=6)


def test_the_longest_beginning_is_held():
    """`xxab` may go on to `abc`, and `xxabab` to `ababc`, which begins earlier."""
    phrases = Phrases(["abc", "ababc"])
    assert phrases.begun("xxab") == 2
    assert phrases.begun("xxabab") == 4
    assert phrases.begun("abc") == 0
    assert Phrases([]).begun("abc") == 0


@given(st.lists(letters, max_size=5), letters)
def test_it_agrees_with_the_definition(phrases, text):
    """The longest suffix of the text that is a proper beginning of a phrase, found naively."""
    naive = max(
        (n for p in phrases for n in range(1, len(p)) if text.endswith(p[:n])),
        default=0,
    )
    assert Phrases(phrases).begun(text) == naive
