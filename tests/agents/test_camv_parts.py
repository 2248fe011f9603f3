"""Calculator, rules, bounds and conflict sets, by hand-worked numbers."""

import math
from contextlib import suppress
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.agents import ExpressionError
from starloom.agents.camv import (
    Question,
    Response,
    certify,
    conflict_set,
    interval,
    lower_bound,
    paired_bound,
    step_claims,
    upper_bound,
)
from starloom.agents.camv.calculator import canonical, evaluate, number, numbers, steps
from starloom.agents.camv.figure import Figure, answer_of
from starloom.agents.camv.risk import binomial_tail
from starloom.agents.camv.rules import Formula, Number, Option, Pattern, Quantity, broken


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("16-3-4", Fraction(9)),
        ("2*(3+4)/5", Fraction(14, 5)),
        ("-3 * -2", Fraction(6)),
        ("20% * 50", Fraction(10)),
        ("$1,200 / 4", Fraction(300)),
        ("2 x .5", Fraction(1)),
        (r"3 \times 4 \div 2", Fraction(6)),
    ],
)
def test_the_calculator_is_exact(expression, value):
    """Fractions, brackets, signs, per cent and the spellings of texts."""
    assert evaluate(expression) == value


@pytest.mark.parametrize("expression", ["2+", "(1", "1/0", "a+1", "1 2", "2**9", "1" * 200])
def test_what_is_no_arithmetic_is_refused(expression):
    """Nothing is guessed, nothing is evaluated as code, and powers cannot eat memory."""
    with pytest.raises(ExpressionError):
        evaluate(expression)


@given(st.text(alphabet="0123456789+-*/(). x%$,<>=", max_size=60))
def test_any_text_is_read_or_refused(text):
    """No input breaks the reader with anything but its own error."""
    numbers(text)
    steps(text)
    with suppress(ExpressionError):
        evaluate(text)


def test_steps_prefer_annotations_and_find_plain_equations():
    """A GSM8K annotation is checked as it stands; without any, `a * b = c` is looked for."""
    (good, bad) = steps("16 - 3 = <<16-3=13>>13 then 13 * 2 = $<<13*2=25>>25")
    assert (good.computed, good.holds) == (13, True)
    assert (bad.computed, bad.stated, bad.holds) == (26, 25, False)
    (plain,) = steps(r"She makes 9 * 2 = $18 a day.")
    assert (plain.inputs, plain.stated, plain.holds) == ((9, 2), 18, True)
    assert steps("1/3 = 0.33")[0].holds, "rounded to two places"


def test_digits_without_end_cost_linear_time():
    """A model that repeats itself writes pages of digits: reading them must not blow up."""
    assert steps("1" * 20_000 + " + " * 5) == ()
    assert steps("(1 + " * 3000) == ()


def test_numbers_have_one_form():
    assert canonical(number("3.0") or Fraction(0)) == "3"
    assert canonical(number("1,234.50") or Fraction(0)) == "2469/2"
    assert number("12 km") is None
    assert answer_of("A: 1,800 miles\nmore 7") == "1800"
    assert answer_of("so 3 * 4 = 12 eggs.") == "12"
    assert answer_of("no idea") is None


def test_rules_prune_with_a_reason():
    """Types, ranges, forms and units; the reason names the value and the limit."""
    asked = Question("q", "?", options=("a", "b"))
    assert Option().broken(asked, "B") is None
    assert "none of the options AB" in (Option().broken(asked, "C") or "")
    whole = Number(low=0, integer=True)
    assert "not a whole number" in (broken([whole], asked, "3/2") or "")
    assert "below 0" in (whole.broken(asked, "-1") or "")
    assert "above 10" in (Number(high=10).broken(asked, "11") or "")
    assert "is no number" in (Number().broken(asked, "x") or "")
    assert Pattern(r"\d{4}-\d\d", "a month").broken(asked, "2024-05") is None
    length = Quantity({"km": 1.0, "m": 0.001}, high=2)
    assert length.broken(asked, "1500 m") is None
    assert "above 2 km" in (length.broken(asked, "2500 m") or "")
    assert "unit 'kg'" in (length.broken(asked, "3 kg") or "")


def test_a_formula_is_checked_where_all_values_are_known():
    total = Formula("total = price * count")
    assert total.check({"total": "12", "price": "3", "count": "4"}) is None
    assert "12 is not 15" in (total.check({"total": "12", "price": "3", "count": "5"}) or "")
    assert total.check({"total": "12", "price": "3"}) is None


def test_clopper_pearson_by_hand():
    """No error in n: the bound solves (1-p)^n = level. n = 59 gives the well-known 5 %."""
    assert upper_bound(0, 59) == pytest.approx(1 - 0.05 ** (1 / 59))
    assert upper_bound(0, 59) < 0.05 < upper_bound(0, 58)
    assert binomial_tail(1, 2, 0.5) == pytest.approx(0.75)
    assert lower_bound(59, 59) == pytest.approx(0.05 ** (1 / 59))
    low, high = interval(50, 100)
    assert (low, high) == (pytest.approx(0.3983, abs=1e-4), pytest.approx(0.6017, abs=1e-4))


def test_nothing_is_certified_without_enough_examples():
    """A risk of 2 % needs ln(0.05/3)/ln(0.98) = 203 accepted without error; 150 are too few."""
    few = certify(np.linspace(1, 0, 150), np.ones(150, dtype=bool), 0.02)
    assert few.threshold is None
    assert few.coverage == 0
    many = certify(np.linspace(1, 0, 300), np.ones(300, dtype=bool), 0.02)
    assert many.threshold is not None
    assert many.coverage == 1
    assert many.bound < 0.02


@pytest.mark.slow
def test_the_certified_risk_holds_as_often_as_promised():
    """Over 400 draws the true risk at the chosen threshold exceeds 10 % in at most 5 % of them."""
    rng = np.random.default_rng(0)
    broken_promises = 0
    for _ in range(400):
        score = rng.random(400)
        right = rng.random(400) < 0.6 + 0.4 * score
        done = certify(score, right, 0.10)
        if done.threshold is not None:
            true_risk = 1 - (0.6 + 0.4 * (1 + done.threshold) / 2)
            broken_promises += true_risk > 0.10
    assert broken_promises <= 0.05 * 400 + 2 * math.sqrt(400 * 0.05 * 0.95)


def test_a_paired_difference_is_surer_than_two_rates():
    """Same questions, 2 of 100 better: the interval is about that, not about both rates."""
    b = np.arange(100) % 2 == 0
    a = b.copy()
    a[[1, 3]] = True
    low, high = paired_bound(a, b)
    assert 0 <= low <= 0.02 <= high <= 0.06


def test_the_conflict_set_is_where_chains_part():
    """Both derive 9 from given numbers; from there one goes wrong, and only that is to audit."""
    asked = Question("q", "16 eggs, she eats 3 and bakes 4, sells at $2.")
    one = Response("one", "3+4=<<3+4=7>>7, 16-7=<<16-7=9>>9, 9*2=<<9*2=18>>18\nA: 18", "18")
    two = Response(
        "two", "3+4=<<3+4=7>>7, 16-7=<<16-7=9>>9, 9*3=<<9*3=27>>27, 27+1=<<27+1=28>>28", "28"
    )
    found = conflict_set(asked, [one, two])
    assert [(it.author, it.step.expression) for it in found] == [("one", "9*2"), ("two", "9*3")]
    assert [it.support for it in step_claims(asked, [one, two])][:2] == [2, 2]
    assert conflict_set(asked, [one, Response("three", "18", "18")]) == []


def test_a_verifiers_text_is_read_for_all_it_concludes():
    """GPT-4 often ends on an amount that is not the answer: the last result stands there too."""
    said = Response("v", "Total = 36 + 52 = $88.\nShe makes $88 from selling 17 pots.", None)
    domain = Figure()
    assert domain.readings(said)[:2] == ["17", "88"]
    asked = Question("q", "?")
    last, result = (domain.mention_features(asked, said, it) for it in ("17", "88"))
    assert (last[0], last[1]) == (1.0, 0.0)
    assert (result[0], result[1], result[2]) == (0.0, 1.0, 1.0)
