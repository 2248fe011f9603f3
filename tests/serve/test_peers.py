"""Gateways that share one view: figures are absolute, so nothing drifts, whatever is lost."""

import asyncio
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.serve.gateway.quota import Quotas
from starloom.serve.gateway.view import SharedView
from starloom.serve.peers import Board, Counts, Mesh, PeerLoop, ValkeyBus
from starloom.serve.peers.board import SILENCE_S
from starloom.serve.schedule import POLICIES, Ask, WorkerTable
from starloom.site import Tenant

from engine_fixtures import run_async, until

KEYS = [bytes([at]) * 32 for at in range(1, 40)]
TENANT = Tenant(name="acme", requests_per_min=60, tokens_per_min=6000)


class Gateway:
    """One gateway's table, accounts and board, without a gateway."""

    def __init__(self, name, now=lambda: 0.0):
        self.table = WorkerTable(POLICIES["least_outstanding"])
        for worker in ("a", "b"):
            self.table.add(worker, "m", 1000)
            self.table.up(worker)
        self.quotas = Quotas({"acme": TENANT}, now)
        self.board = Board(name, SharedView(self.table, self.quotas))

    def begin(self, keys=(), tokens=100):
        ticket = self.table.begin("m", Ask(prompt_tokens=tokens, keys=keys, block_tokens=1))
        self.board.sent(ticket.worker, keys)
        return ticket


def tell(one, *others, now_s=0.0):
    """One gateway's news, to others."""
    news = one.board.news()
    if news is not None:
        for other in others:
            other.board.take(news, now_s)


def introduce(*gateways, now_s=0.0):
    for one in gateways:
        for other in gateways:
            other.board.take(one.board.all(), now_s)


def test_load_is_seen_by_the_other_gateway():
    """What one sends to a worker the other counts, and forgets when it ends."""
    one, two = Gateway("1"), Gateway("2")
    introduce(one, two)
    tickets = [one.begin() for _ in range(3)]
    tell(one, two)
    assert two.table.outstanding() == one.table.outstanding() == {"a": 2, "b": 1}
    assert two.begin().worker == "b"
    for ticket in tickets:
        ticket.end()
    tell(one, two)
    tell(two, one)
    assert two.table.outstanding() == one.table.outstanding() == {"a": 0, "b": 1}


def test_prefixes_are_seen_by_the_other_gateway():
    one, two = Gateway("1"), Gateway("2")
    introduce(one, two)
    worker = one.begin(KEYS).worker
    tell(one, two)
    ask = Ask(prompt_tokens=100, keys=KEYS, block_tokens=1)
    held = {view.name: view.overlap_blocks for view in two.table.views(ask, "m")}
    assert held[worker] == len(KEYS)


def test_a_gateway_that_dies_takes_its_counts_with_it():
    """Whether its connection ends or it only falls silent; a new life begins with nothing."""
    one, two = Gateway("1"), Gateway("2")
    introduce(one, two)
    one.begin()
    tell(one, two)
    two.board.left("1")
    assert two.table.outstanding() == {"a": 0, "b": 0}
    two.board.take(one.board.all(), 10.0)
    assert two.table.outstanding() == {"a": 1, "b": 0}
    two.board.expire(10.0 + SILENCE_S + 0.1)
    assert two.table.outstanding() == {"a": 0, "b": 0}


@given(
    st.lists(st.tuples(st.sampled_from("12"), st.sampled_from(["begin", "end", "lose", "tell"])))
)
def test_counts_agree_after_any_loss(steps):
    """Lost, doubled and late frames are put right by the next full one."""
    gateways = {"1": Gateway("1"), "2": Gateway("2")}
    introduce(*gateways.values())
    tickets = {"1": [], "2": []}
    for name, step in steps:
        one, two = gateways[name], gateways["2" if name == "1" else "1"]
        if step == "begin":
            tickets[name].append(one.begin())
        elif step == "end" and tickets[name]:
            tickets[name].pop().end()
        elif step == "lose":
            one.board.news()
        else:
            tell(one, two)
    introduce(*gateways.values())
    counts = [gateway.table.outstanding() for gateway in gateways.values()]
    assert counts[0] == counts[1]
    assert sum(counts[0].values()) == sum(map(len, tickets.values()))


def test_a_tenant_has_one_bucket_for_all_gateways():
    """What one lets through is taken from the other's; debts are paid back first."""
    now = 0.0
    one, two = Gateway("1", lambda: now), Gateway("2", lambda: now)
    introduce(one, two)
    for _ in range(60):
        one.quotas.admit("acme")
    tell(one, two)
    with pytest.raises(Exception, match="requests a minute") as caught:
        two.quotas.admit("acme")
    assert caught.value.retry_after_s == pytest.approx(1.0)
    now = 1.0
    two.quotas.admit("acme")
    one.quotas.take("acme", 6000)
    one.quotas.settle("acme", 600)
    tell(one, two)
    with pytest.raises(Exception, match="tokens a minute") as caught:
        two.quotas.take("acme", 100)
    assert caught.value.retry_after_s == pytest.approx(7.0)
    assert two.quotas.admit("nobody in particular") == []


def test_a_newcomer_is_not_charged_for_the_past():
    one, two = Gateway("1"), Gateway("2")
    for _ in range(60):
        one.quotas.admit("acme")
    introduce(one, two)
    two.quotas.admit("acme")


def test_words_about_workers_reach_the_others():
    """As news once, and with every full frame for who missed them."""
    one, two = Gateway("1"), Gateway("2")
    heard = []
    one.board.members, two.board.heard = (lambda: b"words"), heard.append
    introduce(one, two)
    assert heard == [b"words"]
    tell(one, two)
    assert heard == [b"words"] * 2
    one.begin()
    tell(one, two)
    assert heard == [b"words"] * 2, "no news of them"


def test_nonsense_is_passed_over():
    one = Gateway("1")
    for data in (b"", b"x" * 100, one.board.all(), b"\x93\x01\x02\x03"):
        one.board.take(data, 0.0)
    assert one.board.peers == 0


async def run_loops(gateways, buses, check):
    loop = asyncio.get_running_loop()
    tasks = [
        asyncio.create_task(PeerLoop(gateway.board, [bus], loop.time).run())
        for gateway, bus in zip(gateways, buses, strict=True)
    ]
    try:
        await until(lambda: all(gateway.board.peers == len(gateways) - 1 for gateway in gateways))
        await check(tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def test_three_gateways_over_sockets(tmp_path):
    """News arrive within milliseconds; one that is stopped is forgotten."""

    async def test():
        paths = [tmp_path / f"{at}.sock" for at in range(3)]
        gateways = [Gateway(str(at)) for at in range(3)]
        buses = [Mesh(path, [other for other in paths if other != path]) for path in paths]

        async def check(tasks):
            gateways[0].begin(KEYS)
            await until(lambda: gateways[2].table.outstanding() == {"a": 1, "b": 0})
            tasks[0].cancel()
            await until(lambda: gateways[2].table.outstanding() == {"a": 0, "b": 0})

        await run_loops(gateways, buses, check)

    run_async(test)


def test_two_gateways_over_a_server(tmp_path):
    """The same over publish and subscribe; while the server is away nothing fails."""
    server = shutil.which("valkey-server") or shutil.which("redis-server")
    if server is None:
        pytest.skip("needs valkey-server or redis-server")
    socket = tmp_path / "s.sock"
    command = [server, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", tmp_path]

    async def test():
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:  # noqa: ASYNC220
            try:
                await until(socket.exists)
                gateways = [Gateway(str(at)) for at in range(2)]
                buses = [ValkeyBus(f"unix://{socket}", "starloom:t") for _ in gateways]

                async def check(tasks):
                    gateways[0].begin(KEYS)
                    await until(lambda: gateways[1].table.outstanding() == {"a": 1, "b": 0})
                    process.kill()
                    process.wait()
                    gateways[0].begin(KEYS)
                    await asyncio.sleep(0.1)
                    assert not any(task.done() for task in tasks)

                await run_loops(gateways, buses, check)
            finally:
                process.kill()

    run_async(test)


def test_counts_are_named_in_the_order_of_the_table():
    """`Counts` and the table's tuples say the same things in the same order."""
    one = Gateway("1")
    one.begin(tokens=7)
    assert Counts(*one.table.own()["a"]) == Counts(1, 7, 1, 7)
