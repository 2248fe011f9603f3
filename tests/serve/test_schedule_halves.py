"""Halves of requests in the worker table: who takes which, and what a ticket counts."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from starloom.serve.schedule import POLICIES, Ask, RoundRobin, WorkerTable

ASK = Ask(prompt_tokens=100, keys=[b"a"], now_s=1.0)
ROLES = ("both", "prefill", "decode")
HALVES = ("whole", "prefill", "decode")


def table_of(*roles, policy=RoundRobin):
    """Workers that are up, named by their roles' first letters and a number."""
    table = WorkerTable(policy)
    for at, role in enumerate(roles):
        table.add(f"{role[0]}{at}", "m", 64, role)
        table.up(f"{role[0]}{at}")
    return table


def chosen(table, half, times=4, exclude=()):
    tickets = [table.begin("m", ASK, exclude, half) for _ in range(times)]
    return {ticket.worker for ticket in tickets if ticket is not None}


def test_each_half_has_its_workers():
    """Both-sided workers take everything, the others their half."""
    table = table_of("both", "prefill", "decode")
    assert chosen(table, "whole") == {"b0"}
    assert chosen(table, "prefill") == {"b0", "p1"}
    assert chosen(table, "decode") == {"b0", "d2"}


def test_a_whole_request_is_never_refused_for_want_of_a_role():
    """Without both-sided workers decode computes it, and prefill where that is all there is."""
    table = table_of("prefill", "decode", "decode")
    assert chosen(table, "whole") == {"d1", "d2"}
    assert chosen(table, "whole", exclude={"d1", "d2"}) == {"p0"}
    table.down("d1")
    table.down("d2")
    assert chosen(table, "whole") == {"p0"}
    assert table.begin("m", ASK, half="decode") is None


def test_a_model_is_apart_while_both_halves_are_up():
    table = table_of("prefill", "decode", "both")
    assert table.apart("m")
    table.down("d1")
    assert table.apart("m")  # the both-sided one decodes
    table.down("b2")
    assert not table.apart("m")
    table.up("d1")
    assert table.apart("m")
    table.down("p0")
    assert not table.apart("m")
    assert not table.apart("other")
    assert not table_of("both", "both").apart("m")


def test_turns_of_the_halves_are_apart():
    """A policy's state is its half's own: both decode workers get their turn between prefills."""
    table = table_of("prefill", "prefill", "decode", "decode")
    halves = ("prefill", "decode") * 2
    order = [table.begin("m", ASK, half=half).worker for half in halves]
    assert order == ["p0", "d2", "p1", "d3"]


def test_a_decode_ticket_counts_no_prefill():
    """The prompt is handed over: its tokens are context there, and nothing to compute."""
    table = table_of("prefill", "decode")
    prefill, decode = (table.begin("m", ASK, half=half) for half in ("prefill", "decode"))
    assert table.own() == {"p0": (1, 100, 1, 100), "d1": (1, 0, 0, 100)}
    prefill.first_token(2.0)
    prefill.end(2.0)
    assert table.own() == {"p0": (0, 0, 0, 0), "d1": (1, 0, 0, 100)}
    decode.first_token(3.0)
    decode.end(4.0, 7)
    assert table.own() == {"p0": (0, 0, 0, 0), "d1": (0, 0, 0, 0)}


def test_policies_learn_of_a_half_what_it_shows():
    """Prefill tells of first tokens, decode of the time after them, each to its own policy."""
    told = []

    class Learns(RoundRobin):
        def learn(self, trip):
            told.append((self, trip.worker, trip.first_s, trip.ended_s, trip.answer_tokens))

    table = table_of("prefill", "decode", policy=Learns)
    prefill, decode = (table.begin("m", ASK, half=half) for half in ("prefill", "decode"))
    prefill.first_token(2.0)
    prefill.end(2.0)
    decode.first_token(3.0)
    decode.end(5.0, 7)
    assert [each[1:] for each in told] == [("p0", 2.0, None, 0), ("d1", 3.0, 5.0, 7)]
    assert told[0][0] is not told[1][0]


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_policy_spreads_decode(policy):
    """A prompt that decode workers hold draws nobody: all of it is handed over anyway."""
    table = table_of("prefill", "decode", "decode", policy=POLICIES[policy])
    for _ in range(20):
        assert table.begin("m", ASK, half="decode") is not None
    assert table.outstanding() == {"p0": 0, "d1": 10, "d2": 10}


class Changes(RuleBasedStateMachine):
    """Roles change while requests come, end and are lost: counts stay those of open tickets."""

    def __init__(self):
        super().__init__()
        self.roles = {"a": "both", "b": "prefill", "c": "decode"}
        self.table = WorkerTable(POLICIES["prefix_load"])
        for name, role in self.roles.items():
            self.table.add(name, "m", 16, role)
            self.table.up(name)
        self.up = set(self.roles)
        self.open = []

    @rule(half=st.sampled_from(HALVES), tokens=st.integers(1, 300))
    def begin(self, half, tokens):
        takers = {name for name in self.up if self.roles[name] in ("both", half)}
        if half == "whole":
            ranked = (
                [n for n in self.up if self.roles[n] == r] for r in ("both", "decode", "prefill")
            )
            takers = set(next((names for names in ranked if names), ()))
        ticket = self.table.begin("m", Ask(prompt_tokens=tokens), half=half)
        assert (ticket is None) == (not takers)
        assert self.table.takes("m", (), half) == bool(takers)
        if ticket is not None:
            assert ticket.worker in takers
            self.open.append((ticket, tokens, half))

    @rule(name=st.sampled_from("abc"), role=st.sampled_from(ROLES))
    def set_role(self, name, role):
        self.table.set_role(name, role)
        self.roles[name] = role

    @precondition(lambda self: self.open)
    @rule(data=st.data(), first=st.booleans(), now_s=st.sampled_from([None, 5.0]))
    def end(self, data, first, now_s):
        ticket, *_ = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        if first:
            ticket.first_token(now_s)
        ticket.end(now_s)

    @rule(name=st.sampled_from("abc"))
    def lose_or_return(self, name):
        if name in self.up:
            self.table.down(name)
            self.up.discard(name)
            self.open = [one for one in self.open if one[0].worker != name]
        else:
            self.table.up(name)
            self.up.add(name)

    @invariant()
    def counts_are_the_open_tickets(self):
        for name, counts in self.table.own().items():
            mine = [(tokens, half) for t, tokens, half in self.open if t.worker == name]
            computed = [tokens for tokens, half in mine if half != "decode"]
            context = sum(tokens for tokens, _ in mine)
            assert counts == (len(mine), sum(computed), len(computed), context)


TestChanges = Changes.TestCase
TestChanges.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
