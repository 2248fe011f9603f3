"""Check digits and entropy: what tells a number that means something from one that does not."""

import math
from collections import Counter

_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_CHECKS = "10X98765432"
_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def luhn(digits: str) -> bool:
    """The check digit of payment cards, ISO/IEC 7812-1 annex B."""
    doubled = (2 * int(digit) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(d - 9 if d > 9 else d for d in doubled)) % 10 == 0


def mod97(account: str) -> bool:
    """The check digits of an IBAN without blanks, ISO 13616: the number is 1 modulo 97."""
    turned = account[4:] + account[:4]
    return int("".join(str(int(char, 36)) for char in turned)) % 97 == 1


def resident_id(digits: str) -> bool:
    """A Chinese resident identity number of 18 places, GB 11643-1999: birth date and check."""
    month, day = int(digits[10:12]), int(digits[12:14])
    if digits[6:8] not in ("18", "19", "20") or not 1 <= month <= 12:
        return False
    if not 1 <= day <= _DAYS[month - 1] or digits[0] not in "12345678":
        return False
    total = sum(weight * int(digit) for weight, digit in zip(_ID_WEIGHTS, digits, strict=False))
    return _ID_CHECKS[total % 11] == digits[17].upper()


def social_security(area: str, group: str, serial: str) -> bool:
    """Numbers that the US Social Security Administration gives out: no 000, 666, 9xx, no zeros."""
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def bits_per_char(text: str) -> float:
    """Shannon entropy of the characters of a text, by how often each occurs in it."""
    size = len(text)
    return -sum(count / size * math.log2(count / size) for count in Counter(text).values())
