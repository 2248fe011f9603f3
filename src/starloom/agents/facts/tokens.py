"""Words for the full-text index, and a count of tokens.

Chinese, Japanese and Korean runs become single characters and overlapping pairs: SQLite's
unicode61 takes a whole run for one word and finds nothing inside it, its trigram tokenizer misses
words of two characters. Pairs before the index work for words of any length.
"""

import re
import unicodedata

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_RUN = re.compile(rf"[{_CJK}]+|[^\W_{_CJK}]+")
_PIECE = re.compile(r"\w{1,4}|[^\w\s]")


def runs(text: str) -> list[tuple[str, bool]]:
    """(run, whether it is CJK), folded: full width becomes half width, case goes, accents stay."""
    folded = unicodedata.normalize("NFKC", text).lower()
    return [(it, "\u3040" <= it[0] <= "\uff00") for it in _RUN.findall(folded)]


def index_words(text: str) -> list[str]:
    """What is stored: words, and of CJK runs every character and every pair."""
    words: list[str] = []
    for run, cjk in runs(text):
        if not cjk:
            words.append(run)
            continue
        words.extend(run)
        words.extend(run[at : at + 2] for at in range(len(run) - 1))
    return words


def query_words(text: str) -> list[str]:
    """What is asked for: words and pairs; a lone CJK character stands for itself."""
    words: list[str] = []
    for run, cjk in runs(text):
        if cjk and len(run) > 1:
            words.extend(run[at : at + 2] for at in range(len(run) - 1))
        else:
            words.append(run)
    return list(dict.fromkeys(words))


def token_count(text: str) -> int:
    """About what a language model's tokenizer would count: pieces of four, and each sign."""
    return len(_PIECE.findall(text))
