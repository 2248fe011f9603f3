"""How long light takes, against figures worked by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.optics import (
    BadLink,
    LatencyBudget,
    Stage,
    fibre_stage,
    fibre_us,
    group_index,
    us_per_km,
)


def test_delay_of_a_kilometre():
    """SMF 4.897, hollow-core 3.340, vacuum 3.33564 us/km: n_g over 299,792.458 km/s."""
    assert us_per_km(1.468) == pytest.approx(4.8967, abs=1e-4)
    assert us_per_km(1.0013) == pytest.approx(3.3400, abs=1e-4)
    assert us_per_km(1.0) == pytest.approx(3.33564, abs=1e-5)


@pytest.mark.parametrize("bad", [0.99, 0.0, -1.0, float("nan")])
def test_nothing_is_faster_than_light(bad):
    """An index below 1 is refused, and the message gives one that holds."""
    with pytest.raises(BadLink, match=r"1\.0013"):
        us_per_km(bad)


def test_the_printed_3_33_us_per_km_is_refused():
    """3.33 us/km is often printed for hollow-core; it is below vacuum's 3.33564."""
    with pytest.raises(BadLink, match=r"3\.33564"):
        group_index(3.33)
    assert group_index(3.34) == pytest.approx(1.00131, abs=1e-5)


@given(st.floats(1.0, 2.0))
def test_index_and_delay_are_inverse(index):
    """What one function makes of an index, the other makes good."""
    assert group_index(us_per_km(index)) == pytest.approx(index)


def test_the_trading_line():
    """110 km of which 100 km hollow: .766 ms in the fibre two-way; of .93 ms, .164 are left."""
    budget = LatencyBudget([fibre_stage("hollow", 100, 1.0013), fibre_stage("tails", 10)])
    assert budget.round_trip_us == pytest.approx(766, abs=0.5)
    assert budget.left_us(930) == pytest.approx(164, abs=0.5)
    assert 2 * fibre_us(110) == pytest.approx(1077, abs=0.5)


def test_asymmetry():
    """Ways of 10 and 12 km of SMF differ by 9.79 us, and a two-way clock errs by half of that."""
    forth, back = [fibre_stage("east", 10), Stage("otn", 20)], [fibre_stage("west", 12)]
    budget = LatencyBudget(forth, back)
    assert budget.asymmetry_us == pytest.approx(20 - 9.7934, abs=1e-3)
    assert budget.clock_error_us == pytest.approx((20 - 9.7934) / 2, abs=1e-3)
    assert budget.equipment_round_trip_us == pytest.approx(20)
