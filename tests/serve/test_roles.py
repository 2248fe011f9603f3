"""Role changes: what the controller proposes, that it never flaps, and what they are good for."""

import itertools
import random
from collections import deque

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.serve.base import LoadReport
from starloom.serve.gateway.roles import RoleKeeper
from starloom.serve.gateway.workers import Workers
from starloom.serve.schedule import Ask
from starloom.serve.schedule.roles import Load, RoleControl, RoleRules
from starloom.site import Site

from engine_fixtures import make_site

RULES = RoleRules()


def loads(prefill, decode, *, may_change=True, **common):
    """`prefill`: (backlog_s, busy) of each; `decode`: occupancy of each."""
    return [
        *(
            Load(worker=f"p{i}", role="prefill", may_change=may_change, backlog_s=b, busy=u)
            for i, (b, u) in enumerate(prefill)
        ),
        *(
            Load(worker=f"d{i}", role="decode", may_change=may_change, occupancy=o)
            for i, o in enumerate(decode)
        ),
    ]


def proposals(control, seen, seconds, start=0.0):
    return [
        change
        for at in range(int(seconds) + 1)
        if (change := control.propose(start + at, seen)) is not None
    ]


def test_a_backlog_that_lasts_takes_the_emptiest_decode_worker():
    control = RoleControl()
    seen = loads([(5.0, 1.0)], [0.5, 0.1, 0.3])
    assert proposals(control, seen, 2) == []
    change = control.propose(3.0, seen)
    assert (change.worker, change.role) == ("d1", "prefill")
    assert "5.0 s behind" in change.why


def test_full_decode_takes_the_prefill_worker_with_the_least_to_do():
    change = proposals(RoleControl(), loads([(0.4, 0.3), (0.1, 0.3)], [0.95]), 3)[0]
    assert (change.worker, change.role) == ("p1", "decode")


def test_a_need_that_passes_changes_nothing():
    """Two seconds of backlog, one without, two again: patience begins anew."""
    control = RoleControl()
    behind, level = loads([(5, 1)], [0.1, 0.1]), loads([(0, 0.1)], [0.1, 0.1])
    found = [control.propose(t, level if t % 3 == 2 else behind) for t in range(30)]
    assert found == [None] * 30


def test_changes_keep_a_distance():
    """The need stays: the second change comes `dwell_s` after the first, not sooner."""
    control, seen = RoleControl(), loads([(9, 1)], [0.1] * 4)
    times = [t for t in range(60) if control.propose(float(t), seen) is not None]
    assert min(b - a for a, b in itertools.pairwise(times)) >= RULES.dwell_s


@pytest.mark.parametrize(
    "seen",
    [
        loads([(9, 1)], [0.1]),  # the only decode worker
        loads([(0, 0.1)], [0.99]),  # the only prefill worker
        loads([(9, 1)], [0.6, 0.6]),  # decode would be 120 % full
        loads([(0.1, 0.6)] * 2, [0.99]),  # prefill could not keep up
        loads([(9, 1)], [0.1, 0.1], may_change=False),
        loads([], [0.99, 0.99]),
        loads([(9, 1), (9, 1)], []),
        [],
    ],
)
def test_nobody_is_taken_from_where_he_is_needed(seen):
    assert proposals(RoleControl(), seen, 60) == []


@settings(max_examples=150)
@given(
    workers=st.lists(
        st.tuples(
            st.sampled_from(["prefill", "decode", "both"]),
            st.booleans(),
            st.floats(0, 100),
            st.floats(0, 1),
            st.floats(0, 1),
        ),
        max_size=8,
    ),
    steps=st.integers(1, 40),
)
def test_no_half_is_ever_left_without_workers(workers, steps):
    """Whatever workers report, as long as they do: halves that have somebody keep somebody."""
    control = RoleControl(RoleRules(patience_s=0, dwell_s=0))
    state = {
        f"w{i}": Load(
            worker=f"w{i}", role=role, may_change=may, backlog_s=back, busy=busy, occupancy=full
        )
        for i, (role, may, back, busy, full) in enumerate(workers)
    }
    halves = {"prefill", "decode"} & {load.role for load in state.values()}
    for at in range(steps):
        change = control.propose(float(at), list(state.values()))
        if change is None:
            continue
        old = state[change.worker]
        assert old.may_change
        assert old.role != change.role != "both"
        state[change.worker] = Load(
            worker=old.worker,
            role=change.role,
            may_change=True,
            backlog_s=old.backlog_s,
            busy=old.busy,
            occupancy=old.occupancy,
        )
        assert halves <= {load.role for load in state.values()}


@settings(max_examples=150)
@given(
    prefill=st.floats(0, 6),
    decode=st.floats(0, 6),
    split=st.integers(1, 7),
    noise=st.integers(0, 9),
)
def test_a_constant_load_never_goes_to_and_fro(prefill, decode, split, noise):
    """Eight workers; a load that keeps `prefill` and `decode` of them busy, as a fluid.

    Work that prefill cannot do does not reach decode, a backlog grows and drains: for half an
    hour, all changes go one way.
    """
    draw = random.Random(noise)
    control, backlog, directions = RoleControl(), 0.0, []
    for second in range(1800):
        p, d = split, 8 - split
        done = min(prefill + backlog, float(p))
        backlog += prefill - done
        reaching = decode * (done / prefill if prefill else 1.0)
        occupancy = min(reaching / d, 1.0)
        jitter = 1 + 0.02 * (draw.random() - 0.5)
        seen = loads([(backlog / p, done / p)] * p, [min(occupancy * jitter, 1.0)] * d)
        change = control.propose(float(second), seen)
        if change is not None:
            directions.append(change.role)
            split += 1 if change.role == "prefill" else -1
    steady = [role for role, nxt in itertools.pairwise(directions) if role != nxt]
    assert len(steady) <= 1  # a drained backlog may let decode fill once: never back again
    assert len(directions) <= 8


class Fluid:
    """Simulated serving in steps of 20 ms: prefill one after the other, decode in slots."""

    STEP_S = 0.02
    PREFILL_TOKENS_PER_S = 8000.0
    TOKENS_PER_S = 40.0
    SLOTS = 16

    def __init__(self, roles, *, changing: bool) -> None:
        self.roles = dict(roles)
        self.control = RoleControl() if changing else None
        self.queues = {name: deque() for name in roles}
        self.slots = {name: [] for name in roles}
        self.computed = dict.fromkeys(roles, 0.0)
        self.waiting = deque()
        self.ttfts = []

    def run(self, arrivals, seconds):
        now, due, look = 0.0, deque(sorted(arrivals)), 0.0
        while now < seconds:
            while due and due[0][0] <= now:
                at, prompt, answer = due.popleft()
                queue = min(
                    (n for n, role in self.roles.items() if role == "prefill"),
                    key=lambda n: sum(left for _, left, _ in self.queues[n]),
                )
                self.queues[queue].append([at, float(prompt), answer])
            self._prefill(now)
            self._decode(now)
            now += self.STEP_S
            if self.control is not None and now >= look + 1.0:
                self._look(now, now - look)
                look = now
        return self.ttfts

    def _prefill(self, now):
        for name, queue in self.queues.items():
            room = self.PREFILL_TOKENS_PER_S * self.STEP_S
            while queue and room > 0:
                used = min(room, queue[0][1])
                queue[0][1] -= used
                room -= used
                self.computed[name] += used
                if queue[0][1] <= 0:
                    at, _, answer = queue.popleft()
                    self.waiting.append((at, answer))

    def _decode(self, now):
        for slots in self.slots.values():
            slots[:] = [left - self.STEP_S for left in slots if left > self.STEP_S]
        while self.waiting:
            free = [n for n, role in self.roles.items() if role == "decode"]
            name = min(free, key=lambda n: len(self.slots[n]))
            if len(self.slots[name]) >= self.SLOTS:
                return
            at, answer = self.waiting.popleft()
            self.ttfts.append((at, now - at))
            self.slots[name].append(answer / self.TOKENS_PER_S)

    def _look(self, now, since):
        seen = []
        for name, role in self.roles.items():
            tokens = sum(left for _, left, _ in self.queues[name])
            seen.append(
                Load(
                    worker=name,
                    role=role,
                    may_change=True,
                    backlog_s=tokens / self.PREFILL_TOKENS_PER_S,
                    busy=self.computed[name] / self.PREFILL_TOKENS_PER_S / since,
                    occupancy=len(self.slots[name]) / self.SLOTS,
                )
            )
            self.computed[name] = 0.0
        change = self.control.propose(now, seen)
        if change is not None:
            self.roles[change.worker] = change.role


def shifting(seed: int):
    """Five minutes of short questions with long answers, then five of long prompts."""
    draw, at, found = random.Random(seed), 0.0, []
    while at < 600:
        chat = at < 300
        at += draw.expovariate(6.0 if chat else 5.0)
        found.append(
            (at, draw.randint(200, 600), 400) if chat else (at, draw.randint(3000, 6000), 60)
        )
    return found


def p95(ttfts, since, until):
    chosen = sorted(ttft for at, ttft in ttfts if since <= at < until)
    return chosen[int(0.95 * len(chosen))]


def test_a_shifting_mix_is_answered_sooner_than_by_any_fixed_split():
    """Six workers. Each fixed split is good for one mix at best; changing roles is, for both.

    p95 TTFT over both phases, the first minute after the shift included: below half of the best
    fixed split's.
    """
    names = [f"w{i}" for i in range(6)]

    def run(prefill: int, *, changing: bool):
        roles = {n: "prefill" if i < prefill else "decode" for i, n in enumerate(names)}
        served = Fluid(roles, changing=changing).run(shifting(1), 660)
        return p95(served, 0, 600), len(served)

    fixed = {prefill: run(prefill, changing=False) for prefill in range(1, 6)}
    changing, served = run(2, changing=True)
    best = min(ttft for ttft, _ in fixed.values())
    assert changing < 0.5 * best, (changing, fixed)
    assert served >= max(count for _, count in fixed.values())


class FakeRemote:
    """An engine that reports what a test says, and takes roles."""

    model, ready = "m", True

    def __init__(self, name: str, role: str) -> None:
        self.name, self.given = name, []
        self.load = LoadReport(kv_blocks=100, role=role)

    def report(self) -> LoadReport:
        return self.load

    def take_role(self, role: str) -> None:
        self.given.append(role)
        self.load = msgspec.structs.replace(self.load, role=role)


def keeper_of(folder, **options):
    workers = [
        {"name": name, "engine": "emulated", "role": role, "roles_may_change": True}
        for name, role in (("p", "prefill"), ("d1", "decode"), ("d2", "decode"))
    ]
    site: Site = make_site(folder, workers)
    engines = [FakeRemote(worker.name, worker.role) for worker in site.workers]
    rows, now = Workers(site, engines), [0.0]
    keeper = RoleKeeper(site, rows, lambda: now[0], **options)

    def look(at: float) -> None:
        now[0] = at
        keeper.look()

    return rows, {engine.name: engine for engine in engines}, look


def prefill_takers(rows) -> set[str]:
    ask = Ask(prompt_tokens=8, block_tokens=4)
    return {view.name for view in rows.table.views(ask, "m", half="prefill")}


def behind(engine: FakeRemote, at: float) -> None:
    """It computes 100 tokens a second, and 1,000 wait."""
    engine.load = LoadReport(
        kv_blocks=100,
        role="prefill",
        waiting_tokens=1000,
        prompt_tokens_total=int(100 * at),
        busy_s_total=at,
    )


def test_a_gateway_changes_a_role_and_sends_prompts_there(tmp_path):
    rows, engines, look = keeper_of(tmp_path)
    for at in range(8):
        behind(engines["p"], at)
        look(float(at))
    given = {name: engine.given for name, engine in engines.items()}
    assert given == {"p": [], "d1": ["prefill"], "d2": []}
    assert prefill_takers(rows) == {"p", "d1"}
    engines["d1"].load = LoadReport(kv_blocks=100, role="decode")  # it was started again
    look(30.0)
    assert prefill_takers(rows) == {"p"}


def test_a_report_of_before_undoes_nothing(tmp_path):
    """Reports come four times a second: one may be on its way while a worker is told."""
    rows, engines, look = keeper_of(tmp_path)
    for at in range(4):
        behind(engines["p"], at)
        look(float(at))
    behind(engines["p"], 4)
    look(4.0)
    engines["d1"].load = LoadReport(kv_blocks=100, role="decode")
    look(4.5)
    assert prefill_takers(rows) == {"p", "d1"}


def test_prompts_that_wait_for_prefill_do_not_make_decode_look_full(tmp_path):
    """All of a decode worker's blocks may be set aside for prompts that nobody computes yet."""
    rows, engines, look = keeper_of(tmp_path)
    for name in ("d1", "d2"):
        engines[name].load = LoadReport(
            kv_blocks=100, role="decode", arriving=16, kv_blocks_used=100, kv_blocks_arriving=98
        )
    for at in range(8):
        behind(engines["p"], at)
        look(float(at))
    assert prefill_takers(rows) == {"p", "d1"}


def test_a_gateway_that_does_not_lead_follows(tmp_path):
    rows, engines, look = keeper_of(tmp_path, leads=False)
    for at in range(8):
        behind(engines["p"], at)
        look(float(at))
    assert not any(engine.given for engine in engines.values())
    engines["d2"].load = LoadReport(kv_blocks=100, role="prefill")
    look(9.0)
    assert prefill_takers(rows) == {"p", "d2"}


def test_figures_are_finite_where_nothing_is_known(tmp_path):
    """No worker has computed anything yet: no rate, no backlog, no change."""
    rows, engines, look = keeper_of(tmp_path)
    engines["p"].load = LoadReport(kv_blocks=100, role="prefill", waiting_tokens=10**9)
    for at in range(30):
        look(float(at))
    assert prefill_takers(rows) == {"p"}
