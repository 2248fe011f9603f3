"""Secrets of well-known forms: keys with a prefix, tokens, key blocks, and assigned values.

The forms are those that the issuers document or that their tokens show; a form that an issuer
changes is a form that is missed.
"""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ahocorasick_rs import AhoCorasick, Implementation

from starloom.serve.guard.checks import bits_per_char
from starloom.serve.guard.prefixes import Prefixes
from starloom.serve.guard.spots import Spot, at_edge

_MIN_BITS = 3.2
"""Entropy of a random-looking value of 16 characters; words and paths have less, or no digit."""
_BLOCK_CHARS = 8192
_KEY_END = re.compile(r"-----END [A-Z ]{0,30}PRIVATE KEY-----")


def _random(value: str) -> bool:
    has_digit = any(char.isdigit() for char in value)
    has_letter = any(char.isalpha() for char in value)
    return has_digit and has_letter and bits_per_char(value) >= _MIN_BITS


def _any(_: str) -> bool:
    return True


class _Form(NamedTuple):
    kind: str
    triggers: tuple[str, ...]
    """Lower case. One of them begins the secret, or the name that it is assigned to."""
    whole: "re.Pattern[str]"
    """Matched at a trigger; the group `value`, if any, is the secret."""
    part: "re.Pattern[str]"
    """Matches all beginnings of what `whole` matches, up to the end of the text."""
    holds: Callable[[str], bool]


def _token(
    kind: str,
    head: str,
    triggers: str,
    body: str,
    least: int,
    most: int,
    holds: Callable[[str], bool] = _any,
) -> _Form:
    """A head and a body of `least` to `most` characters, and no more of them behind."""
    whole = re.compile(f"(?:{head}){body}{{{least},{most}}}+(?!{body})")
    part = re.compile(f"(?:{head}){body}{{0,{most}}}+$")
    return _Form(kind, tuple(triggers.split()), whole, part, holds)


_NAMES = (
    "secret token passwd password api_key apikey api-key access_key accesskey auth_key client_key "
    "private_key credential 密码 密钥 口令"
)
_NAME = "(?i:" + "|".join(_NAMES.split()) + r")[\w.-]{0,24}+[\"'`]?+\s{0,4}+"
_IS = r"(?::=|=>|[:=：是为])\s{0,4}+[\"'`]?+"
_VALUE = r"[A-Za-z0-9+/_.~-]"
_ALNUM, _URL = "[A-Za-z0-9]", "[A-Za-z0-9_-]"

FORMS = (
    _token("aws_access_key", "A[KS]IA", "akia asia", "[0-9A-Z]", 16, 16),
    _token("github_token", "gh[pousr]_", "ghp_ gho_ ghu_ ghs_ ghr_", _ALNUM, 36, 251),
    _token("github_token", "github_pat_", "github_pat_", "[A-Za-z0-9_]", 22, 251),
    _token("gitlab_token", "glpat-", "glpat-", "[A-Za-z0-9_.-]", 20, 300),
    _token(
        "slack_token",
        "xox[abeprs]-",
        "xoxa- xoxb- xoxe- xoxp- xoxr- xoxs-",
        "[A-Za-z0-9-]",
        20,
        250,
    ),
    _token(
        "stripe_key",
        "[sr]k_(?:live|test)_|whsec_",
        "sk_live_ sk_test_ rk_live_ rk_test_ whsec_",
        _ALNUM,
        16,
        247,
    ),
    _token("google_key", "AIza", "aiza", _URL, 35, 35),
    _token("model_key", "sk-", "sk-", _URL, 20, 250, _random),
    _token("hugging_face_token", "hf_", "hf_", _ALNUM, 30, 60, _random),
    _token("npm_token", "npm_", "npm_", _ALNUM, 36, 36),
    _token(
        "bearer_token", r"(?i:bearer)\s{1,3}", "bearer", "[A-Za-z0-9._~+/=-]", 20, 4096, _random
    ),
    _Form(
        "jwt",
        ("eyj",),
        re.compile(rf"eyJ{_URL}{{8,2048}}+\.eyJ{_URL}{{8,8192}}+\.{_URL}{{16,1024}}+"),
        re.compile(rf"eyJ{_URL}{{0,2048}}+(?:\.{_URL}{{0,8192}}+(?:\.{_URL}{{0,1024}}+)?)?$"),
        _any,
    ),
    _Form(
        "assigned_secret",
        tuple(_NAMES.split()),
        re.compile(rf"{_NAME}{_IS}(?P<value>{_VALUE}{{16,200}}+={{0,2}})"),
        re.compile(rf"{_NAME}(?:[:=：是为]>?=?\s{{0,4}}+[\"'`]?+{_VALUE}{{0,200}}+={{0,2}})?$"),
        _random,
    ),
)
_BLOCK = re.compile(r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----")
_BLOCK_PART = re.compile(r"-----BEGIN [A-Z ]{0,42}+-{0,5}+$")
KINDS = frozenset(form.kind for form in FORMS) | {"private_key"}


class Secrets:
    """Finds the kinds of secrets that are asked for."""

    def __init__(self, kinds: frozenset[str]) -> None:
        self.kinds = kinds & KINDS
        forms = [form for form in FORMS if form.kind in kinds]
        self._forms: list[_Form | None] = [form for form in forms for _ in form.triggers]
        triggers = [trigger for form in forms for trigger in form.triggers]
        if "private_key" in kinds:
            self._forms.append(None)
            triggers.append("-----begin ")
        self._prefixes = Prefixes(triggers)
        self._automaton = AhoCorasick(triggers, implementation=Implementation.DFA)

    def spots(self, text: str) -> Iterable[Spot]:
        done = 0
        for which, start, _ in self._triggers(text):
            form = self._forms[which]
            if form is None:
                end = self._block_end(text, start)
                if end and start >= done:
                    done = end
                    yield Spot(start, end, "private_key")
            elif _begins(text, start, form) and (match := form.whole.match(text, start)):
                group = "value" if "value" in form.whole.groupindex else 0
                if form.holds(match.group(group)):
                    yield Spot(*match.span(group), form.kind)

    def begun(self, text: str, low: int) -> int:
        for which, start, end in self._triggers(text):
            if start < low:
                continue
            form = self._forms[which]
            if form is None:
                if _BLOCK_PART.match(text, start) or self._is_open(text, start):
                    return start
            elif _begins(text, start, form) and (end == len(text) or form.part.match(text, start)):
                return start
        size = len(text)
        folded = _lowered(text[max(low, size - self._prefixes.max_chars) :])
        for at in range(len(folded)):
            start = size - len(folded) + at
            if self._prefixes.begins(folded[at:]) and _starts(text, start):
                return start
        return size

    def _triggers(self, text: str) -> list[tuple[int, int, int]]:
        return self._automaton.find_matches_as_indexes(_lowered(text), overlapping=True)

    def _block_end(self, text: str, start: int) -> int:
        """Where a key block that begins here ends; of one without an end, all that is shown."""
        head = _BLOCK.match(text, start)
        if head is None:
            return 0
        end = _KEY_END.search(text, head.end(), head.end() + _BLOCK_CHARS)
        return end.end() if end else min(len(text), head.end() + _BLOCK_CHARS)

    def _is_open(self, text: str, start: int) -> bool:
        head = _BLOCK.match(text, start)
        if head is None or len(text) >= head.end() + _BLOCK_CHARS:
            return False
        return not _KEY_END.search(text, head.end(), head.end() + _BLOCK_CHARS)


def _lowered(text: str) -> str:
    """Lower case, of the same length: U+0130 is the only letter that would grow."""
    return text.replace("\u0130", "i").lower()


def _starts(text: str, start: int) -> bool:
    """Whether a word, or a part of a name in camel case, begins here."""
    return at_edge(text, start) or (text[start].isupper() and text[start - 1].islower())


def _begins(text: str, start: int, form: _Form) -> bool:
    return _starts(text, start) if form.kind == "assigned_secret" else at_edge(text, start)
