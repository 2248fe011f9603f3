"""Secrets and personal data: what has a form is found, what resembles it is not."""

import random
import string
import time
from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.serve.guard import Entry, OutputFilter
from starloom.serve.guard.checks import luhn, mod97, resident_id
from starloom.serve.guard.patterns import FAMILIES, KINDS, PatternFinder, kinds_of
from starloom.site.guard import PatternKind

FINDER = PatternFinder({kind: (Entry("p", kind, "mask"),) for kind in KINDS})
A36 = "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
BLOCK = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA\nq+/=\n-----END RSA PRIVATE KEY-----"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"


def found(text) -> list[tuple[str, str]]:
    hits = {
        (it.start, it.end, it.entries[0].phrase) for it in FINDER.scan(text, 0, final=True).found
    }
    outer = [it for it in hits if not any(_inside(it, other) for other in hits)]
    return [(text[start:end], kind) for start, end, kind in sorted(outer)]


def _inside(one, other) -> bool:
    return one != other and other[0] <= one[0] and one[1] <= other[1]


SPOTS = [
    ("AKIA" + "IOSFODNN7EXAMPLE", "aws_access_key"),
    ("ghp_" + A36, "github_token"),
    ("github_pat_" + A36, "github_token"),
    ("glpat-" + A36[:20], "gitlab_token"),
    ("xoxb-" + "1234567890-abcdefGHIJ", "slack_token"),
    ("sk_live_" + A36[:24], "stripe_key"),
    ("AIza" + A36[:35], "google_key"),
    ("sk-proj-" + A36, "model_key"),
    ("sk-ant-api03-" + A36, "model_key"),
    ("hf_" + A36[:34], "hugging_face_token"),
    ("npm_" + A36, "npm_token"),
    ("Bearer " + A36, "bearer_token"),
    (JWT, "jwt"),
    (BLOCK, "private_key"),
    ("jo.doe+x@mail.example.co.uk", "email"),
    ("13812345678", "phone"),
    ("+86 138 1234 5678", "phone"),
    ("(415) 555-2671"[1:], "phone"),
    ("415-555-2671", "phone"),
    ("+44 20 7946 0958", "phone"),
    ("010-62345678", "phone"),
    ("11010519491231002X", "cn_resident_id"),
    ("4111 1111 1111 1111", "credit_card"),
    ("378282246310005", "credit_card"),
    ("DE89 3704 0044 0532 0130 00", "iban"),
    ("GB82WEST12345698765432", "iban"),
    ("078-05-1120", "us_ssn"),
    ("192.168.1.10", "ip_address"),
    ("fe80::1ff:fe23:4567:890a", "ip_address"),
    ("１３８１２３４５６７８", "phone"),
    ("138\u200b1234\u200b5678", "phone"),
]


@pytest.mark.parametrize(("spot", "kind"), SPOTS)
def test_every_kind_is_found_in_prose(spot, kind):
    """English and Chinese around it: the spot is found, with its kind, and nothing else."""
    for around in ("{}", "It is {}, he said.", "他说：{}。", "<{}>\nNext"):
        assert (spot, kind) in [
            (text.lstrip("("), what) for text, what in found(around.format(spot))
        ]


@pytest.mark.parametrize(
    "assignment",
    [
        'password = "{}"',
        "api_key: {}",
        "DB_PASSWORD={}",
        "authToken := '{}'",
        '"secret": "{}"',
        "密码：{}",
    ],
)
def test_an_assigned_random_value_is_a_secret(assignment):
    """The value is what is found; the name and the sign of assignment stay."""
    value = "hunter2HUNTER99xQz7"
    assert found(assignment.format(value)) == [(value, "assigned_secret")]


@pytest.mark.parametrize(
    "text",
    [
        "AKIA is a name, ghp_ a prefix, sk-learn-contrib-packages a project",
        "token = get_token_from_environment()",
        "the password is required; passwords must be long",
        "secret: see chapter twelve-and-a-half",
        "In 2013, 365 days; pages 100-200; 1,234,567.89; 3.14159265358979",
        "order 20240115123456, build 1.2.3, version 10.4.2",
        "4111 1111 1111 1112",  # one digit off
        "110105194912310021",  # a wrong check digit
        "DE88 3704 0044 0532 0130 00",
        "000-12-3456 and 666-12-3456",
        "256.1.1.1 at 12:30:45, std::vector<int>::size_type",
        "user@localhost, @name, a@b",
        "x138123456789",
        "uuid 123e4567-e89b-12d3-a456-426614174000",
    ],
)
def test_what_only_resembles_is_left(text):
    """Prefixes alone, words, dates, wrong check digits, versions, times."""
    assert found(text) == []


def test_kinds_are_those_of_the_site_file():
    """The nouns name exactly the kinds that there are; families spell themselves out."""
    assert set(get_args(PatternKind)) == KINDS | set(FAMILIES)
    assert kinds_of(["secrets", "email"]) == FAMILIES["secrets"] | {"email"}


def test_check_digits_catch_every_single_wrong_digit():
    """What the three schemes promise, on all one-digit changes of valid numbers."""
    for valid, check in (
        ("4111111111111111", luhn),
        ("DE89370400440532013000", mod97),
        ("11010519491231002X", resident_id),
    ):
        assert check(valid)
        for at in range(4, len(valid) - 1):
            for digit in string.digits:
                assert check(valid[:at] + digit + valid[at + 1 :]) == (digit == valid[at])


PIECES = st.sampled_from(
    [*(spot for spot, _ in SPOTS), "password = ", "hunter2HUNTER99xQz7", "x" * 70, "1 " * 40]
) | st.text("a1Z@.-:+( )x_=\u200b2é是", max_size=4)


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES, max_size=6), st.lists(st.integers(0, 300), max_size=12))
def test_any_split_lets_out_what_the_whole_text_would(pieces, cuts):
    """A streamed answer is masked as the whole text would be, and no part of a spot is let out."""
    text = "".join(pieces)
    ends = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    checker, whole = OutputFilter(FINDER), OutputFilter(FINDER)
    expected = whole.whole(text)
    released = ""
    for one, other in pairwise(ends):
        released += checker.feed(text[one:other])
        assert expected.startswith(released)
    assert released + checker.finish() == expected
    assert checker.verdicts == whole.verdicts


def test_ordinary_prose_is_hardly_held_back():
    """Words wait for what ends them, since they may become an address; nothing longer waits."""
    checker = OutputFilter(FINDER)
    text = "On page 12 of the report, a token of thanks; the secret is patience. 今天天气很好。"
    waits, released = [], 0
    for at, char in enumerate(text):
        released += len(checker.feed(char))
        waits.append(at + 1 - released)
    assert max(waits) <= 12


def test_hostile_texts_cost_time_in_proportion():
    """Texts made of beginnings: four times the length costs no more than ten times the time."""
    units = ["AKIA", "ghp_a", "eyJa.", "sk-", "password=", "password ", "1 ", "1", "1-(", "a@", "@"]
    units += ["a.a.", "DE12 ", "A1", "::", "1.1.", "f:", "Bearer ", "eyJaaaaaaaaa"]
    units += ["-----BEGIN RSA PRIVATE KEY-----"]
    for unit in units:
        times = []
        for size in (4_000, 16_000):
            text = (unit * size)[:size]
            best = 1e9
            for _ in range(5):
                began = time.process_time()
                FINDER.scan(text, 0, final=False)
                best = min(best, time.process_time() - began)
            times.append(best)
        assert times[1] < 10 * times[0] + 0.005, unit


def test_random_identifiers_and_numbers_make_few_false_alarms():
    """Of 2,000 lines of seeded prose with numbers, at most 1 in 100 has something found in it."""
    rng = random.Random(1)
    words = ["the", "plan", "of", "model", "batch", "is", "at", "in", "run", "会议", "结果", "time"]
    alarms = 0
    for _ in range(2000):
        line = [rng.choice(words) for _ in range(12)]
        line.insert(rng.randrange(12), f"{rng.randrange(10 ** rng.randint(1, 7))}")
        line.insert(rng.randrange(12), "".join(rng.choices(string.ascii_lowercase, k=12)))
        alarms += bool(found(" ".join(line)))
    assert alarms <= 20
