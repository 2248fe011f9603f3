from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from starloom.serve.schedule import (
    POLICIES,
    Ask,
    LeastOutstanding,
    PrefixLoad,
    RoundRobin,
    WorkerTable,
    WorkerView,
)
from starloom.serve.schedule.index import PrefixIndex


def view(name: str, *, outstanding: int = 0, prefill: int = 0, overlap: int = 0) -> WorkerView:
    return WorkerView(
        name=name, outstanding=outstanding, prefill_tokens=prefill, overlap_blocks=overlap
    )


def test_round_robin_takes_turns():
    """Three requests over two workers: first, second, first."""
    policy = RoundRobin()
    workers = [view("a"), view("b")]
    ask = Ask(prompt_tokens=10)
    assert [policy.choose(ask, workers).worker for _ in range(3)] == ["a", "b", "a"]


def test_least_outstanding_takes_the_shortest_queue():
    """The number of unfinished requests decides; the first of equals wins."""
    workers = [view("a", outstanding=2), view("b", outstanding=1), view("c", outstanding=1)]
    assert LeastOutstanding().choose(Ask(prompt_tokens=1), workers).worker == "b"


def test_prefix_load_goes_where_the_prefix_is():
    """A prefix that is held outweighs a little load, but not a long queue."""
    ask = Ask(prompt_tokens=640, block_tokens=64)
    policy = PrefixLoad()
    assert policy.choose(ask, [view("a"), view("b", outstanding=1, overlap=9)]).worker == "b"
    assert policy.choose(ask, [view("a"), view("b", outstanding=12, overlap=9)]).worker == "a"


def test_prefix_load_counts_prefill_that_waits():
    """Of two idle-looking workers the one without queued prompt tokens is quicker."""
    ask = Ask(prompt_tokens=100)
    assert PrefixLoad().choose(ask, [view("a", prefill=5000), view("b")]).worker == "b"


def test_the_index_holds_the_head_of_a_prefix_longest():
    """With room for three of four blocks the tail goes first, and the rest is a prefix."""
    index = PrefixIndex()
    worker = index.join(3)
    keys = [b"0", b"1", b"2", b"3"]
    index.add(worker, keys)
    assert index.blocks(worker) == 3
    assert index.overlaps(keys) == [3]


def test_a_ticket_counts_once_however_it_ends():
    """Ending twice, or after the worker was lost and came back, takes nothing from others."""
    table = WorkerTable(RoundRobin)
    table.add("a", "m", 8)
    table.up("a")
    ask = Ask(prompt_tokens=10)
    first, second = table.begin("m", ask), table.begin("m", ask)
    assert first is not None
    assert second is not None
    first.end()
    first.end()
    assert table.outstanding() == {"a": 1}
    table.down("a")
    table.up("a")
    third = table.begin("m", ask)
    second.end()
    assert third is not None
    assert table.outstanding() == {"a": 1}


def test_no_worker_of_the_model_is_none():
    """Unknown, down and excluded workers are not chosen."""
    table = WorkerTable(RoundRobin)
    table.add("a", "m", 8)
    assert table.begin("m", Ask(prompt_tokens=1)) is None
    table.up("a")
    assert table.begin("m", Ask(prompt_tokens=1), exclude={"a"}) is None
    assert table.begin("other", Ask(prompt_tokens=1)) is None


@given(
    st.sampled_from(sorted(POLICIES)),
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 9999), st.integers(0, 9)),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 100_000),
)
def test_every_policy_chooses_one_of_the_given(policy, loads, prompt_tokens):
    """Whatever the load, a policy answers with a worker that it was given, and with a reason."""
    workers = [
        view(f"w{i}", outstanding=o, prefill=p, overlap=b) for i, (o, p, b) in enumerate(loads)
    ]
    decision = POLICIES[policy]().choose(Ask(prompt_tokens=prompt_tokens), workers)
    assert decision.worker in {worker.name for worker in workers}
    assert decision.why


class Counts(RuleBasedStateMachine):
    """Requests come and go, workers die and return: the table's counts never drift."""

    def __init__(self):
        super().__init__()
        self.table = WorkerTable(PrefixLoad)
        self.up = {"a": True, "b": True, "c": False}
        self.life = dict.fromkeys(self.up, 0)
        for name in self.up:
            self.table.add(name, "m", 16)
        self.table.up("a")
        self.table.up("b")
        self.open: list = []

    @rule(tokens=st.integers(1, 500), family=st.integers(0, 3))
    def begin(self, tokens, family):
        keys = [bytes([family, i]) for i in range(tokens // 64)]
        ticket = self.table.begin("m", Ask(prompt_tokens=tokens, keys=keys))
        assert (ticket is not None) == any(self.up.values())
        if ticket is not None:
            assert self.up[ticket.worker]
            self.open.append((ticket, self.life[ticket.worker]))

    @rule(data=st.data(), twice=st.booleans(), answered=st.booleans())
    def end(self, data, twice, answered):
        if self.open:
            ticket, _ = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
            if answered:
                ticket.first_token()
            ticket.end()
            if twice:
                ticket.end()

    @rule(name=st.sampled_from("abc"))
    def change(self, name):
        if self.up[name]:
            self.table.down(name)
            self.life[name] += 1
        else:
            self.table.up(name)
        self.up[name] = not self.up[name]

    @invariant()
    def counts_are_the_open_tickets(self):
        for name, count in self.table.outstanding().items():
            mine = [t for t, life in self.open if t.worker == name and life == self.life[name]]
            assert count == len(mine)
        for worker in self.table.views(Ask(prompt_tokens=1), "m"):
            assert worker.prefill_tokens >= 0

    def teardown(self):
        for ticket, _ in self.open:
            ticket.end()
        assert set(self.table.outstanding().values()) == {0}
        assert all(v.prefill_tokens == 0 for v in self.table.views(Ask(prompt_tokens=1), "m"))


TestCounts = Counts.TestCase


def test_the_clock_of_a_prefill_that_others_began_starts_when_it_is_heard_of():
    """Else it would look overdue since the last one of our own, and the worker as if it hung."""
    table = WorkerTable(POLICIES["starloom"])
    table.add("a", "m", 100)
    table.up("a")
    table.begin("m", Ask(prompt_tokens=64, now_s=1.0)).end(2.0, 1)

    def since(now_s):
        return table.views(Ask(prompt_tokens=64, now_s=now_s), "m")[0].prefill_since_s

    table.others("a", (1, 640, 1, 640))
    assert since(50.0) == 50.0
    table.others("a", (2, 1280, 2, 1280))
    assert since(51.0) == 50.0
    table.others("a", (2, 640, 1, 1280))
    assert since(52.0) == 52.0
