"""Circuit breakers: when a worker is left alone, for how long, and how it comes back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.serve.schedule import Breaker, Breakers
from starloom.serve.schedule.breaker import Window
from starloom.site import BreakerRules

RULES = BreakerRules(failures=3, min_requests=8, window_s=10, pause_s=1, longest_pause_s=8)
STEADY = RULES.model_copy(update={"jitter": 0.0})


class Timed(Breaker):
    """A breaker with a clock that the test sets."""

    def __init__(self, rules=STEADY, draw=lambda: 0.5):
        self.at_s = 0.0
        super().__init__(rules, lambda: self.at_s, draw)

    def ask(self, *, well, times=1):
        """Requests that go to the worker and are over at once."""
        for _ in range(times):
            permit = self.begin()
            if not well:
                permit.failed()
            permit.ended(well=well)

    def trip(self):
        self.ask(well=False, times=STEADY.failures)


def test_failures_in_a_row_open_it_and_one_probe_closes_it():
    one = Timed()
    one.ask(well=False, times=2)
    one.ask(well=True)
    assert one.lets
    one.trip()
    one.at_s = 0.9
    assert one.state == "open"
    assert not one.lets
    one.at_s = 1.0
    assert one.state == "half_open"
    assert one.lets
    probe = one.begin()
    assert not one.lets, "one at a time"
    probe.first_token()
    assert one.state == "closed"
    probe.ended(well=True)
    assert one.lets


def test_a_share_of_failures_opens_it_where_there_are_enough_verdicts():
    one = Timed()
    for number in range(7):
        one.ask(well=number % 2 == 0)
    assert one.state == "closed", "7 verdicts are too few"
    one.ask(well=False)
    assert one.state == "open"


def test_a_failed_probe_doubles_the_pause_up_to_the_longest():
    one, pauses = Timed(), []
    one.trip()
    for _ in range(6):
        pauses.append(one.pause_s)
        one.at_s += one.pause_s
        one.ask(well=False)
    assert pauses == [1, 2, 4, 8, 8, 8]


def test_after_a_quiet_window_the_pause_is_short_again():
    one = Timed()
    one.trip()
    one.at_s = 1.0
    one.ask(well=False)
    one.at_s = 3.0
    one.ask(well=True)
    one.trip()
    assert one.pause_s == 4
    one.at_s = 7.0
    one.ask(well=True)
    one.at_s += STEADY.window_s + 0.1
    one.trip()
    assert one.pause_s == 1


def test_a_probe_that_says_nothing_makes_room_for_the_next():
    """Its client left, or asked for nonsense: the worker is as unknown as before."""
    one = Timed()
    one.trip()
    one.at_s = 1.0
    one.begin().ended(well=False)
    assert one.state == "half_open"
    assert one.lets


def test_requests_from_before_the_opening_change_nothing():
    """Those that went out earlier fail later, or even end well: neither is news."""
    one = Timed()
    early = [one.begin() for _ in range(4)]
    one.trip()
    early[0].failed()
    early[1].ended(well=True)
    assert one.state == "open"
    one.at_s = 1.2
    early[2].failed()
    early[3].ended(well=True)
    assert one.state == "half_open"


def test_an_answer_that_breaks_off_is_a_failure_alone():
    """Its first token is no success: a worker that breaks all its answers opens."""
    one = Timed()
    for _ in range(STEADY.failures):
        permit = one.begin()
        permit.first_token()
        permit.ended(well=False)
        permit.failed()
    assert one.state == "open"


def test_slowness_is_a_failure_only_where_the_rules_say_so():
    one = Timed()
    strict = Timed(STEADY.model_copy(update={"first_token_s": 2.0}))
    for breaker in (one, strict):
        permits = [breaker.begin() for _ in range(3)]
        breaker.at_s = 2.5
        for permit in permits[:2]:
            permit.first_token()
            permit.ended(well=True)
        permits[2].ended(well=False)  # cut by a time limit, before any token
    assert one.state == "closed"
    assert strict.state == "open"


def test_a_switched_off_breaker_never_opens():
    one = Timed(STEADY.model_copy(update={"enabled": False}))
    one.ask(well=False, times=100)
    assert one.lets


@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=60))
def test_the_window_counts_the_last_seconds(steps):
    """Within a tenth of the window, what it says is what a list of all verdicts says."""
    window, told, now_s = Window(10.0), [], 0.0
    for pause_s, failed in steps:
        now_s += pause_s
        window.add(now_s, failed=failed)
        told.append((now_s, failed))
        good, bad = window.counts(now_s)
        for count, kind in ((good, False), (bad, True)):
            at_least = sum(f is kind for at, f in told if at > now_s - 9.0)
            at_most = sum(f is kind for at, f in told if at >= now_s - 10.0)
            assert at_least <= count <= at_most


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.floats(0.01, 5)),
        st.tuples(st.just("begin"), st.booleans()),
        st.tuples(
            st.sampled_from(["token", "fail", "well", "leave"]),
            st.integers(min_value=0, max_value=9),
        ),
    ),
    max_size=80,
)


@given(STEPS, st.floats(0, 1))
def test_whatever_happens(steps, drawn):
    """One probe at a time, pauses within their bounds, and in the end it lets a request through.

    It opens by a failure alone, and closes by an answer alone.
    """
    one, permits, failures = Timed(RULES, lambda: drawn), [], 0
    for kind, arg in steps:
        before, opened = one.state, one.opened
        if kind == "wait":
            one.at_s += arg
            continue
        if kind == "begin":
            lets = one.lets
            if lets or arg:  # or nobody else is left
                permits.append(one.begin())
                assert one.state == before
                assert one.lets == (before == "closed")
            continue
        if not permits:
            continue
        permit = permits[arg % len(permits)]
        if kind == "token":
            permit.first_token()
        elif kind == "fail":
            failures += 1
            permit.failed()
        else:
            permit.ended(well=kind == "well")
            permits.remove(permit)
        if one.opened > opened:
            assert kind == "fail"
            low, high = 1 - RULES.jitter, 1 + RULES.jitter
            assert RULES.pause_s * low <= one.pause_s <= RULES.longest_pause_s * high
        if one.state == "closed" and before != "closed":
            assert kind in ("token", "well")
    assert failures or not one.opened
    for permit in permits:
        permit.ended(well=False)
    one.at_s += RULES.longest_pause_s * 2
    assert one.lets


def test_breakers_of_many_workers():
    """Only a tripped one is shut; where all are, those that fail least are named."""
    now = [0.0]
    breakers = Breakers(STEADY, lambda: now[0], lambda: 0.5)
    for name, failures in (("a", 3), ("b", 3), ("c", 0)):
        for _ in range(failures):
            breakers.of(name).begin().failed()
    assert sorted(breakers.shut()) == ["a", "b"]
    assert breakers.least_bad(["a", "b", "c"]) == ["c"]
    assert breakers.least_bad(["a", "b"]) == ["a", "b"]
    assert breakers.least_bad([]) == []
    breakers.of("a").begin().failed()  # forced: nobody else was left
    now[0] = 1.0
    assert breakers.shut() == []
    breakers.of("a").begin().ended(well=True)
    assert [breakers.of(name).state for name in "abc"] == ["closed", "half_open", "closed"]
    assert breakers.of("a").opened == 1
    breakers.forget("b")
    assert breakers.of("b").state == "closed"


def test_bad_rules_are_refused():
    with pytest.raises(ValueError, match="longest_pause_s"):
        BreakerRules(pause_s=5, longest_pause_s=1)
