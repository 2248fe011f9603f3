"""Training for real between two namespaces: the line itself, what is expected, and a short run."""

import pytest

from starloom.bench import across_real as real
from starloom.bench.across_line import Line, available


def test_a_line_has_rate_and_length():
    """1 Gb/s, 10 ms: 125,000 bytes take 1 ms and arrive at 11; the next ones wait for them."""
    line = Line(0.010, 1.0)
    assert line.arrives_s(0.0, 125_000) == pytest.approx(0.011)
    assert line.arrives_s(0.0, 125_000) == pytest.approx(0.012)
    assert line.arrives_s(1.0, 125_000) == pytest.approx(1.011)


def test_what_a_ring_of_four_waits_for():
    """Six steps, every second edge a border: a chunk crosses 3 times, a barrier 6, gloo 12."""
    found = real.expected_waits_s(real.Asked("dp", (0, 0, 1, 1)), 0.1)
    assert found["dependency_pct"] == pytest.approx(3 * real.DELAY_S)
    assert found["barrier_pct"] == pytest.approx(6 * real.DELAY_S)
    assert found["handshake_pct"] == pytest.approx(12 * real.DELAY_S)
    assert found["simulated_pct"] == pytest.approx(3 * real.DELAY_S, rel=0.05)


def test_local_steps_share_their_wait():
    """Two ranks, two steps, every fourth time."""
    found = real.expected_waits_s(real.Asked("local", (0, 1), local_steps=4), 0.1)
    assert found["dependency_pct"] == pytest.approx(2 * real.DELAY_S / 4)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_distance_is_felt_and_a_killed_rank_resumes():
    """At least the dependency's wait; and the same loss after a kill as without one."""
    pytest.importorskip("torch")
    why = available()
    if why is not None:
        pytest.skip(why)
    asked = real.Asked("dp", (0, 1), steps=6)
    near, far = (real.typical_s(asked, real.train(asked, d)) for d in (0.0, real.DELAY_S))
    waits = real.expected_waits_s(asked, near)
    assert far - near > 0.8 * waits["dependency_pct"]
    assert real.resumed_difference() == pytest.approx(0.0, abs=1e-6)
