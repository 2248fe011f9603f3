"""Personal data: addresses, and numbers with the check digits that they carry."""

import ipaddress
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

from starloom.serve.guard.checks import luhn, mod97, resident_id, social_security
from starloom.serve.guard.spots import Spot, at_edge, positions, tail

_LOCAL = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._%+-")
_LOCAL_CHARS, _DOMAIN_CHARS = 64, 253
_DOMAIN = re.compile(r"(?:[A-Za-z0-9-]{1,63}+\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9])")


class Email:
    """E-mail addresses as people write them: no quotes, no comments, a domain with a dot."""

    kinds = frozenset({"email"})

    def spots(self, text: str) -> Iterable[Spot]:
        for at in positions(text, "@"):
            start = tail(text[:at] if at < 256 else text[at - 256 : at], 0, _LOCAL, _LOCAL_CHARS)
            start += max(0, at - 256)
            while start < at and text[start] in ".-+%":
                start += 1
            domain = _DOMAIN.match(text, at + 1)
            if start < at and domain:
                yield Spot(start, domain.end(), "email")

    def begun(self, text: str, low: int) -> int:
        start = tail(text, low, _LOCAL, _DOMAIN_CHARS)
        if start > low and text[start - 1] == "@":
            return tail(text[: start - 1], low, _LOCAL, _LOCAL_CHARS)
        return max(start, len(text) - _LOCAL_CHARS)


_NUMBER = re.compile(r"[0-9](?:[ ().-]{0,2}[0-9])+[Xx]?")
_SOME_DIGITS = re.compile(r"[0-9][ ().-]{0,2}[0-9][ ().-]{0,2}[0-9][ ().-]{0,2}[0-9]")
_GROUP = re.compile(r"[0-9]+[Xx]?")
_IN_NUMBERS = frozenset("0123456789 ().-+")
_LEAST_CHARS, _MOST_CHARS, _MOST_GROUPS = 8, 64, 6
_CARD_HEADS = "23456"


class Numbers:
    """Phone, identity, card and social security numbers, by their groups of digits."""

    kinds = frozenset({"phone", "cn_resident_id", "credit_card", "us_ssn"})

    def spots(self, text: str) -> Iterator[Spot]:
        if not _SOME_DIGITS.search(text):
            return
        for number in _NUMBER.finditer(text):
            if number.end() - number.start() < _LEAST_CHARS:
                continue
            groups = [it.span() for it in _GROUP.finditer(text, *number.span())]
            for first in range(len(groups)):
                if first == 0 and not _opens(text, groups[0][0]):
                    continue
                for last in range(min(len(groups), first + _MOST_GROUPS) - 1, first - 1, -1):
                    those = groups[first : last + 1]
                    if last == len(groups) - 1 and not _closes(text, those[-1][1]):
                        continue
                    before = _plus(text, those[0][0])
                    kind = _kind([text[one:end] for one, end in those], before)
                    if kind == "us_ssn" and not _is_written_apart(text, those):
                        kind = None
                    if kind is not None:
                        start = those[0][0] - len(before)
                        yield Spot(start, those[-1][1], kind)
                        break

    def begun(self, text: str, low: int) -> int:
        end = len(text) - text.endswith(("x", "X"))
        start = tail(text[:end], low, _IN_NUMBERS, _MOST_CHARS)
        while start < end and text[start] in " ).-":
            start += 1
        return start if start < end else len(text)


def _opens(text: str, start: int) -> bool:
    before = text[start - 1] if start else ""
    return not before or not (before == "_" or (before.isascii() and before.isalnum()))


def _closes(text: str, end: int) -> bool:
    after = text[end] if end < len(text) else ""
    return not after or not (after == "_" or (after.isascii() and after.isalnum()))


def _plus(text: str, start: int) -> str:
    """What stands before a number that is part of it."""
    if start > 1 and text[start - 2 : start] == "+(":
        return "+("
    return text[start - 1] if start and text[start - 1] in "+(" else ""


def _is_written_apart(text: str, groups: list[tuple[int, int]]) -> bool:
    """Whether the same one hyphen or blank stands between all groups."""
    marks = {text[one[1] : other[0]] for one, other in pairwise(groups)}
    return marks in ({"-"}, {" "})


def _kind(groups: list[str], before: str) -> str | None:
    digits = "".join(groups)
    sizes = tuple(map(len, groups))
    if digits[-1] in "Xx" or len(digits) == 18:
        if sizes in ((18,), (6, 8, 4)) and digits[:17].isdigit() and resident_id(digits):
            return "cn_resident_id"
        if digits[-1] in "Xx":
            return None
    if 13 <= len(digits) <= 19 and digits[0] in _CARD_HEADS and _is_card(sizes) and luhn(digits):
        return "credit_card"
    if sizes == (3, 2, 4) and not before:
        return "us_ssn" if social_security(*groups) else None
    return "phone" if _is_phone(groups, digits, sizes, before) else None


def _is_card(sizes: tuple[int, ...]) -> bool:
    return len(sizes) == 1 or sizes in ((4, 6, 5), (4, 6, 4)) or set(sizes[:-1]) == {4}


def _is_phone(groups: list[str], digits: str, sizes: tuple[int, ...], before: str) -> bool:
    if "+" in before:
        return 8 <= len(digits) <= 15 and digits[0] != "0"
    mobile = digits[-11:]
    if mobile[0] == "1" and mobile[1:2] >= "3" and len(mobile) == 11:
        if sizes in ((11,), (3, 4, 4)):
            return True
        country = digits[:-11] in ("86", "0086")
        if country and sizes in ((13,), (15,), (2, 11), (4, 11), (2, 3, 4, 4)):
            return True
    if sizes[-3:] == (3, 3, 4) and (len(groups) == 3 or (len(groups) == 4 and groups[0] == "1")):
        return groups[-3][0] >= "2" and groups[-2][0] >= "2"
    return sizes in ((3, 8), (4, 7), (4, 8)) and digits[0] == "0" and digits[1] != "0"


_IBAN_CHARS = {
    country: int(size)
    for size, countries in (
        item.split(":")
        for item in [
            "15:NO",
            "16:BE",
            "18:DK,FI,FO,GL,NL",
            "19:MK,SI",
            "20:AT,BA,EE,KZ,LT,LU",
            "21:CH,HR,LI,LV",
            "22:BG,BH,CR,DE,GB,GE,IE,ME,RS",
            "23:AE,GI,IL",
            "24:AD,CZ,ES,MD,PK,RO,SA,SE,SK,TN,VG",
            "25:PT",
            "26:IS,TR",
            "27:FR,GR,IT,MC,SM",
            "28:AL,AZ,CY,DO,HU,LB,PL",
            "29:BR,PS,QA,UA",
            "31:MT",
        ]
    )
    for country in countries.split(",")
}
"""ISO 13616: characters of an account number by country."""
_IBAN = re.compile(r"[A-Z][A-Z][0-9][0-9] ?[A-Z0-9]")
_IBAN_TAIL = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ")
_IBAN_PART = re.compile(r"[A-Z](?:[A-Z](?:[0-9](?:[0-9](?: ?[A-Z0-9]){0,30}+ ?)?)?)?$")


class Iban:
    """International account numbers, with or without blanks."""

    kinds = frozenset({"iban"})

    def spots(self, text: str) -> Iterator[Spot]:
        for match in _IBAN.finditer(text):
            size = _IBAN_CHARS.get(text[match.start() : match.start() + 2], 0)
            if not size or not at_edge(text, match.start()):
                continue
            end, account = match.start(), ""
            while len(account) < size and end < len(text):
                char = text[end]
                if char in _IBAN_TAIL and (char != " " or text[end - 1] != " "):
                    account += char.strip()
                    end += 1
                else:
                    break
            whole = len(account) == size and not text[end : end + 1].isalnum()
            if whole and mod97(account):
                yield Spot(match.start(), end, "iban")

    def begun(self, text: str, low: int) -> int:
        for at in range(tail(text, low, _IBAN_TAIL, 48), len(text)):
            if at_edge(text, at) and _IBAN_PART.match(text, at):
                return at
        return len(text)


_V4 = re.compile(r"[0-9][0-9]{0,2}+\.[0-9]{1,3}+\.[0-9]{1,3}+\.[0-9]{1,3}+")
_V6 = re.compile(r"(?<![0-9A-Za-z_:.])[0-9A-Fa-f]{0,4}+:[0-9A-Fa-f:]{1,41}+(?:\.[0-9]{1,3}){0,3}")
_HEX = frozenset("0123456789abcdefABCDEF")
_IN_ADDRESSES = frozenset("0123456789abcdefABCDEF:.")


class Addresses:
    """IP addresses of versions 4 and 6."""

    kinds = frozenset({"ip_address"})

    def spots(self, text: str) -> Iterator[Spot]:
        if text.count(".") >= 3:
            for match in _V4.finditer(text):
                start, end = match.span()
                inside = start and (text[start - 1] == "." or not _opens(text, start))
                goes_on = text[end : end + 1] == "." and text[end + 1 : end + 2].isdigit()
                if not inside and not goes_on and _closes(text, end) and _is_address(match.group()):
                    yield Spot(start, end, "ip_address")
        if text.count(":") >= 2:
            yield from self._version_6(text)

    def _version_6(self, text: str) -> Iterator[Spot]:
        done = 0
        for at in positions(text, ":"):
            if at < done:
                continue
            start = tail(text[max(0, at - 4) : at], 0, _HEX, 4) + max(0, at - 4)
            match = _V6.match(text, start)
            if match is None:
                continue
            done = match.end()
            written = match.group()
            if not written.endswith("::"):
                written = written.rstrip(":")
            end = start + len(written)
            if len(written) > 2 and _closes(text, end) and _is_address(written):
                yield Spot(start, end, "ip_address")

    def begun(self, text: str, low: int) -> int:
        return tail(text, low, _IN_ADDRESSES, 48)


def _is_address(written: str) -> bool:
    try:
        ipaddress.ip_address(written)
    except ValueError:
        return False
    return True


SPOTTERS: tuple[type[Email] | type[Numbers] | type[Iban] | type[Addresses], ...] = (
    Email,
    Numbers,
    Iban,
    Addresses,
)
KINDS = frozenset[str]().union(*(spotter.kinds for spotter in SPOTTERS))
