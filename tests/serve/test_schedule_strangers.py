"""A server shared with others: what it has of theirs counts as load, and only while told."""

from hypothesis import given
from hypothesis import strategies as st

from starloom.serve.schedule import POLICIES, Ask, WorkerTable
from starloom.serve.signals import Load, LoadBoard

NOTHING = {"a": (0, 0, 0, 0), "b": (0, 0, 0, 0)}


def ask(now_s=0.0, tokens=640):
    return Ask(prompt_tokens=tokens, block_tokens=64, now_s=now_s)


def table_of(policy="least_outstanding"):
    table = WorkerTable(POLICIES[policy])
    for name in "ab":
        table.add(name, "m", 100)
        table.up(name)
    return table


def told(table, name, running, waiting=0, until_s=10.0, times=3):
    for _ in range(times):
        table.told_load(name, running, waiting, until_s)


def test_a_server_that_others_keep_busy_is_avoided():
    """By every policy that reads load; our own requests there are not counted twice."""
    for policy in (
        "least_outstanding",
        "prefix_load",
        "product",
        "kv_cost",
        "weighted",
        "starloom",
    ):
        table = table_of(policy)
        first = table.begin("m", ask())
        assert first.worker == "a"
        told(table, "a", 8, 4)
        told(table, "b", 0)
        view = table.views(ask(), "m")[0]
        assert (view.outstanding, view.prefills) == (12, 4)
        assert view.context_tokens == 12 * 640
        assert {table.begin("m", ask()).worker for _ in range(3)} == {"b"}, policy
        assert table.outstanding() == {"a": 1, "b": 3}
        assert table.own()["a"] == (1, 640, 1, 640)


def test_one_report_alone_is_not_believed():
    """Counts of two clocks differ for a moment; what stays is true."""
    table = table_of()
    told(table, "a", 5, times=2)
    assert table.views(ask(), "m")[0].outstanding == 0
    told(table, "a", 3, times=1)
    assert table.views(ask(), "m")[0].outstanding == 3
    told(table, "a", 0, times=1)
    assert table.views(ask(), "m")[0].outstanding == 0


def test_a_report_that_grew_old_counts_no_longer():
    """A server that fell silent is judged by what we sent there."""
    table = table_of()
    told(table, "a", 5, until_s=1.0)
    assert table.views(ask(1.0), "m")[0].outstanding == 5
    assert table.views(ask(1.5), "m")[0].outstanding == 0


def test_the_board_tells_how_long_a_load_counts():
    """Three intervals from now."""
    heard = []
    board = LoadBoard(lambda: 100.0, lambda *it: heard.append(it))
    load = Load(running=2)
    board.put("a", load, 0.5)
    assert heard == [("a", load, 101.5)]


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("begin")),
        st.tuples(st.just("first"), st.integers(0, 9)),
        st.tuples(st.just("end"), st.integers(0, 9)),
        st.tuples(st.just("told"), st.sampled_from("ab"), st.integers(0, 9), st.integers(0, 9)),
        st.tuples(st.just("others"), st.sampled_from("ab"), st.integers(0, 9)),
        st.tuples(st.just("down"), st.sampled_from("ab")),
    ),
    max_size=40,
)


@given(ACTIONS)
def test_counts_never_drift(actions):
    """Whatever is told in between: ours are what our tickets say, and all ends at zero."""
    table = table_of()
    tickets = []
    for what, *more in actions:
        if what == "begin":
            tickets.append(table.begin("m", ask()))
        elif what in ("first", "end") and tickets:
            ticket = tickets[more[0] % len(tickets)]
            ticket.first_token(1.0)
            if what == "end":
                ticket.end(2.0, 5)
        elif what == "told":
            table.told_load(*more, until_s=10.0)
        elif what == "others":
            table.others(more[0], (more[1], more[1] * 10, more[1], more[1] * 10))
        elif what == "down":
            table.down(more[0])
            table.up(more[0])
        for view in table.views(ask(), "m"):
            assert min(view.outstanding, view.prefills, view.prefill_tokens) >= 0
    for ticket in tickets:
        ticket.end()
    assert table.own() == NOTHING
    for name in "ab":
        table.others(name, (0, 0, 0, 0))
    for view in table.views(ask(99.0), "m"):
        counts = (view.outstanding, view.prefill_tokens, view.prefills, view.context_tokens)
        assert counts == (0, 0, 0, 0)
