"""Seeded texts for `bench guard`: phrases, prose, spellings that evade, and what resembles them."""

import random
import re
import string
from collections.abc import Callable

from starloom.serve.guard.checks import luhn, mod97, resident_id
from starloom.serve.guard.han import SIMPLIFIED
from starloom.serve.guard.lookalikes import LOOKALIKES
from starloom.serve.guard.normal import LEET

EVASIONS = (
    *("plain", "case", "fullwidth", "mathematical", "homoglyph", "zero_width", "combining"),
    *("spacing", "punctuation", "split", "leet", "traditional", "mixed"),
)
_ENGLISH = list(
    re.findall(
        "[a-z]+",
        "the committee reviewed a plan for the new bridge and asked whether cost or time should"
        " come first since both matter to people who cross it every day in winter rain and summer"
        " heat while an engineer explained that steel prices had risen by almost ten percent over"
        " last year so a shorter span on stronger piers would be wise if soil allows it to carry"
        " more load than now",
    )
)
_CHINESE = (
    "会议在北京举行，来自多个国家的代表讨论了气候变化问题。",
    "他每天早上骑车去上班，路上要经过一座老桥。",
    "这本书介绍了如何用简单的方法写出清楚的程序。",
    "天气预报说明天下午有雨，请大家带好雨伞。",
    "老师让同学们把作业写完，再去操场打球。",
    "公司计划明年开设三家新店，招聘二十名员工。",
)
_CODE = (
    "for (int i = 0; i < n; i++) { total += a[i] * b[i]; }\n",
    "    if x is None or not self._cache.get(key): return {}\n",
    "const url = `https://example.com/v1/users/${id}?page=2&sort=asc`;\n",
    "SELECT a.id, b.name FROM t1 a JOIN t2 b ON a.id = b.a_id WHERE b.n > 10;\n",
    "def add(x: int, y: int) -> int:\n    return x + y\n",
)
_RESEMBLING = (
    "J. R. R. Smith, M. D., lives at 12 A St. in the U. S. A. with 3 x 4 m of space",
    "options: a, b, c, d, e, f; answers a - c - e or b / d / f",
    "state-of-the-art, well-known, mother-in-law, on-the-fly, e.g. i.e. p.m.",
    "h264, x86_64, mp3, b2b, 4k, 3d, i18n, k8s, utf8, sha256, ipv6, r2d2, c3po",
    "x = y + z; i += 1; a[i] = b[j]; f(x, y, z); n - 1; k * k; p -> q",
    "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z",
    "https://example.com/a-b-c/d_e_f?g=h&i=j#k-l-m",
    "w o w , so   m u c h   s p a c e",
    "Привет, это обычный текст на русском языке про рост цен и новый мост",
    "$100 @home !important a|b|c 50% off #1 & co. *bold* _em_ ~10",
)
_RESEMBLING_ZH = (
    "一、二、三、四、五；甲、乙、丙、丁。",
    "上 - 下，左 - 右，前 / 后，大 / 小。",
    "好，的。是，啊！对；吗？",
    "第 1 章，第 2 节；A 组、B 组；v2 版。",
    "春-夏-秋-冬，东·南·西·北。",
)
_ONSETS = [*"bcdfghjklmnprstvwz", "br", "cl", "dr", "fl", "gr", "pl", "st", "tr"]
_VOWELS = "aeiou"
_HAN = [chr(code) for code in range(0x4E00, 0x4E00 + 4000)]
_SIMPLE = sorted(set(SIMPLIFIED.values()))
_TRADITIONAL = {simple: char for char, simple in SIMPLIFIED.items()}
_ALIKE = {latin: char for char, latin in reversed(LOOKALIKES.items()) if latin.isalpha()}
_SIGNS = {letter: sign for sign, letter in reversed(LEET.items())} | {"l": "1"}


def phrases(rng: random.Random, count: int) -> list[str]:
    """Half made-up English words and phrases, half Chinese, shuffled; none is in the prose."""
    made: dict[str, None] = {}
    ordinary = {*_ENGLISH, *re.findall("[a-z]+", " ".join(_RESEMBLING).lower())}
    while len(made) < count // 2:
        words = [_word(rng) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
        if not set(words) & ordinary:
            made[" ".join(words)] = None
    while len(made) < count:
        stock = _SIMPLE if rng.random() < 0.5 else _HAN
        made["".join(rng.choices(stock, k=rng.choice((2, 3, 3, 4, 4, 5))))] = None
    listed = list(made)
    rng.shuffle(listed)
    return listed


def _word(rng: random.Random) -> str:
    return "".join(
        rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.choice((2, 3, 3, 4)))
    ) + rng.choice(("", "", "n", "r", "x", "sk"))


def prose(rng: random.Random, kind: str, size_bytes: int) -> str:
    """Ordinary text of about that many bytes of UTF-8, never more."""
    pieces, size = [], 0
    while size < size_bytes:
        which = rng.choice(("en", "zh")) if kind == "mixed" else kind
        if which == "en":
            piece = " ".join(rng.choices(_ENGLISH, k=rng.randint(8, 16))).capitalize() + ". "
        else:
            piece = rng.choice(_CHINESE if which == "zh" else _CODE)
        pieces.append(piece)
        size += len(piece.encode())
    return "".join(pieces).encode()[:size_bytes].decode(errors="ignore")


def around(rng: random.Random, text: str, language: str) -> str:
    """The text inside a sentence."""
    if language == "en":
        before, after = (" ".join(rng.choices(_ENGLISH, k=5)) for _ in range(2))
        return f"{before} {text} {after}."
    return f"{rng.choice(_CHINESE)}请说{text}，谢谢。"


def benign(rng: random.Random, language: str, case: str) -> str:
    """Text with nothing to find: prose, what resembles evasions, or numbers of all sorts."""
    if case == "prose":
        return prose(rng, language, 400)
    if case == "numbers":
        words = (rng.random() < 0.3 for _ in range(20))
        return " ".join(_number(rng) if number else rng.choice(_ENGLISH) for number in words)
    listed = _RESEMBLING if language == "en" else _RESEMBLING_ZH
    parts = [rng.choice(listed), prose(rng, language, 80), rng.choice(listed)]
    rng.shuffle(parts)
    return " ".join(parts)


def _number(rng: random.Random) -> str:
    return rng.choice(
        (
            f"{rng.randrange(10 ** rng.randint(1, 6))}",
            f"{rng.randrange(1, 10**6):,}.{rng.randrange(100):02}",
            f"{rng.randrange(1990, 2030)}-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}",
            f"{rng.randrange(24):02}:{rng.randrange(60):02}:{rng.randrange(60):02}",
            f"v{rng.randrange(9)}.{rng.randrange(30)}.{rng.randrange(99)}",
            f"{rng.random():.{rng.randint(2, 12)}f}",
            f"{rng.getrandbits(64):016x}",
            f"#{rng.randrange(10**7, 10**8)}",
        )
    )


def evaded(rng: random.Random, phrase: str, kind: str) -> str:
    """The phrase spelled by one kind of evasion; `mixed` is three of them, one after the other."""
    if kind == "mixed":
        latin, han = ("leet", "homoglyph", "spacing"), ("traditional", "punctuation")
        for one in (*(latin if phrase.isascii() else han), "zero_width"):
            phrase = evaded(rng, phrase, one)
        return phrase
    if kind == "case":
        return "".join(rng.choice((char.upper(), char.lower())) for char in phrase)
    if kind == "fullwidth":
        return "".join(chr(ord(it) + 0xFEE0) if "!" <= it <= "~" else it for it in phrase)
    if kind == "mathematical":
        return "".join(chr(0x1D41A + ord(it) - 97) if "a" <= it <= "z" else it for it in phrase)
    if kind == "homoglyph":
        return _some(rng, phrase, _ALIKE)
    if kind == "leet":
        letters = [it for it in range(len(phrase)) if phrase[it] in _SIGNS]
        chosen = set(rng.sample(letters, min(len(letters), len(phrase.replace(" ", "")) // 3)))
        return "".join(_SIGNS[it] if at in chosen else it for at, it in enumerate(phrase))
    if kind == "traditional":
        return "".join(_TRADITIONAL.get(char, char) for char in phrase)
    if kind in ("zero_width", "combining"):
        marks = "\u200b\u200c\u2060\ufeff\u00ad" if kind == "zero_width" else "\u0301\u0308\u0327"
        return "".join(char + (rng.choice(marks) if char != " " else "") for char in phrase)
    if kind == "spacing":
        return " ".join(phrase.replace(" ", ""))
    if kind == "punctuation":
        return rng.choice("-_.*~|+").join(phrase.replace(" ", ""))
    if kind == "split":
        words = phrase.split(" ")
        at = max(range(len(words)), key=lambda it: len(words[it]))
        cut = rng.randrange(1, len(words[at]))
        words[at] = words[at][:cut] + rng.choice("*~^+|") + words[at][cut:]
        return " ".join(words)
    return phrase


def _some(rng: random.Random, phrase: str, others: dict[str, str]) -> str:
    """At least one and about half of the characters that have another form, in it."""
    places = [at for at, char in enumerate(phrase) if char in others]
    chosen = set(rng.sample(places, (len(places) + 1) // 2))
    return "".join(others[char] if at in chosen else char for at, char in enumerate(phrase))


def _of(rng: random.Random, stock: str, size: int) -> str:
    return "".join(rng.choices(stock, k=size))


def _checked(rng: random.Random, make: str, check: Callable[[str], bool]) -> str:
    """`make` with its `?` drawn until the check digits hold."""
    while True:
        number = "".join(rng.choice(string.digits) if char == "?" else char for char in make)
        if check(number):
            return number


def secret(rng: random.Random, kind: str) -> str:
    """A made-up value of a kind of pattern."""
    alnum = string.ascii_letters + string.digits
    drawn = _of(rng, alnum, 36)
    while not any(char.isdigit() for char in drawn[:18]):
        drawn = _of(rng, alnum, 36)
    head = {
        "github_token": rng.choice(("ghp_", "gho_", "github_pat_")),
        "gitlab_token": "glpat-",
        "slack_token": "xoxb-",
        "stripe_key": "sk_live_",
        "model_key": rng.choice(("sk-", "sk-proj-", "sk-ant-api03-")),
        "hugging_face_token": "hf_",
        "npm_token": "npm_",
        "bearer_token": "Authorization: Bearer ",
        "assigned_secret": rng.choice(("password=", 'API_KEY: "', "client_secret = ")),
    }
    if kind in head:
        return head[kind] + drawn
    number = rng.randrange(10**7, 10**8)
    date = f"19{rng.randrange(40, 99)}{rng.randrange(1, 13):02}{rng.randrange(1, 29):02}"
    made = {
        "aws_access_key": "AKIA" + _of(rng, string.ascii_uppercase + string.digits, 16),
        "google_key": "AIza" + drawn[:35],
        "jwt": f"eyJ{drawn}.eyJ{drawn}.{drawn}",
        "private_key": f"-----BEGIN PRIVATE KEY-----\n{drawn}\n-----END PRIVATE KEY-----",
        "email": f"{_word(rng)}.{_word(rng)}@{_word(rng)}.example.com",
        "phone": rng.choice(
            (
                f"138{number}",
                f"+86 139 {number // 10**4} {number % 10**4:04}",
                f"(415) 555-{number % 10**4:04}",
            )
        ),
        "us_ssn": f"{rng.randrange(100, 600)}-{rng.randrange(10, 99)}-{rng.randrange(1000, 9999)}",
        "ip_address": rng.choice(
            (f"10.{number % 200}.{number % 97}.7", f"2001:db8::{number % 4096:x}")
        ),
    }
    if kind in made:
        return made[kind]
    if kind == "credit_card":
        form = rng.choice(("4???????????????", "5??? ???? ???? ????"))
        return _checked(rng, form, lambda it: luhn(it.replace(" ", "")))
    if kind == "iban":
        return _checked(rng, "DE????????????????????", mod97)
    return _checked(rng, f"110105{date}????", resident_id)
