"""The scheduler of a worker: what each step computes, and that every request ends."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from starloom.serve.engines.batch import CannotFit, Scheduler
from starloom.serve.engines.blocks import BlockManager

from engine_fixtures import request

SIZE = 4
EOS = 9


def scheduler(blocks: int = 32, max_batch: int = 4, max_batch_tokens: int = 16) -> Scheduler:
    manager = BlockManager(blocks, SIZE)
    return Scheduler(manager, max_batch=max_batch, max_batch_tokens=max_batch_tokens, eos=[EOS])


def admit(sched: Scheduler) -> list[str]:
    started = []
    while (sequence := sched.can_start()) is not None:
        sched.start(sequence)
        started.append(sequence.id)
    return started


def step(sched: Scheduler, token: int = 1) -> dict[str, tuple[int, int, bool]]:
    """One round; for each sequence the tokens before, the tokens computed, whether it sampled."""
    admit(sched)
    plan = sched.next_step()
    sched.finish_step(plan, [token] * len(plan.sampled))
    sched.check_integrity()
    return {p.sequence.id: (p.start, len(p.tokens), p.sample) for p in plan.slices}


def test_a_prompt_is_prefilled_in_chunks_beside_a_decode():
    """`a` decodes one token a step; `b`'s 30 tokens take what is left of 16 tokens a step."""
    sched = scheduler()
    sched.submit(request("a", range(10), max_tokens=8))
    assert step(sched) == {"a": (0, 10, True)}
    sched.submit(request("b", range(100, 130), max_tokens=2))
    assert step(sched) == {"a": (10, 1, True), "b": (0, 15, False)}
    assert step(sched) == {"a": (11, 1, True), "b": (15, 15, True)}
    assert step(sched) == {"a": (12, 1, True), "b": (30, 1, True)}


def test_one_step_computes_several_short_prompts():
    sched = scheduler()
    for name in "abcde":
        sched.submit(request(name, [ord(name)] * 3, max_tokens=3))
    first = step(sched)
    assert list(first) == ["a", "b", "c", "d"]  # max_batch
    assert all(sample for _, _, sample in first.values())


def test_lower_priority_numbers_start_first_then_first_come():
    sched = scheduler(max_batch=1)
    for name, priority in (("late", 5), ("first", 0), ("second", 0)):
        sched.submit(request(name, [ord(name[0])] * 3, priority=priority, max_tokens=1))
    assert [next(iter(step(sched))) for _ in range(3)] == ["first", "second", "late"]


def test_a_known_prefix_is_not_computed_again():
    """8 of 10 tokens are in full blocks of an earlier request."""
    sched = scheduler()
    sched.submit(request("a", range(10), max_tokens=1))
    step(sched)
    sequence = sched.submit(request("b", range(10), max_tokens=1))
    assert step(sched) == {"b": (8, 2, True)}
    assert sequence.cached_tokens == 8


def test_the_last_prompt_token_is_always_computed():
    """A prompt that is known to its last token is computed from its last block on."""
    sched = scheduler()
    for name in "ab":
        sequence = sched.submit(request(name, range(8), max_tokens=1))
        steps = step(sched)
    assert steps == {"b": (4, 4, True)}
    assert sequence.cached_tokens == 4


def test_tenants_share_nothing():
    """Another salt, another root, other keys."""
    sched = scheduler()
    sched.submit(request("a", range(10), max_tokens=1))
    step(sched)
    sched.submit(request("b", range(10), salt="other", max_tokens=1))
    assert step(sched) == {"b": (0, 10, True)}


@pytest.mark.parametrize("prompt", [6, 3])
def test_the_next_turn_reuses_generated_tokens(prompt):
    """Generated tokens fill blocks under keys of their own, also when the prompt filled none."""
    sched = scheduler()
    sched.submit(request("a", range(prompt), max_tokens=8))
    while not sched.idle:
        step(sched, token=1)
    turn = [*range(prompt), *[1] * 8, 77, 78]
    sequence = sched.submit(request("b", turn, max_tokens=1))
    step(sched)
    # The last generated token's KV was never computed.
    assert sequence.cached_tokens == (prompt + 7) // SIZE * SIZE


def test_without_keys_nothing_is_reused():
    sched = scheduler()
    for name in "ab":
        sched.submit(request(name, range(10), salt=None, max_tokens=6))
        assert step(sched)[name] == (0, 10, True)
        sched.cancel(name)


def test_a_prefix_that_is_being_computed_is_waited_for():
    """`b` shares 24 tokens with `a`, which is two steps from having computed them; `c` passes."""
    sched = scheduler()
    sched.submit(request("a", range(28), max_tokens=1))
    assert step(sched) == {"a": (0, 16, False)}
    sequence = sched.submit(request("b", [*range(24), 90, 91], max_tokens=1))
    sched.submit(request("c", range(50, 60), max_tokens=1))
    assert step(sched) == {"a": (16, 12, True), "c": (0, 4, False)}
    assert step(sched) == {"c": (4, 6, True), "b": (24, 2, True)}
    assert sequence.cached_tokens == 24


def test_a_waited_for_prefix_is_computed_by_the_next_when_its_first_is_cancelled():
    sched = scheduler()
    sched.submit(request("a", range(40), max_tokens=1))
    step(sched)
    sched.submit(request("b", range(40), max_tokens=1))
    step(sched)
    sched.cancel("a")
    assert step(sched) == {"b": (32, 8, True)}


def test_the_last_in_order_is_preempted_and_ends_all_the_same():
    """8 blocks of 4 cannot hold two answers of 20 tokens after prompts of 8."""
    sched = scheduler(blocks=8)
    sched.submit(request("a", [1] * 8, salt=None, max_tokens=20))
    sched.submit(request("b", [2] * 8, salt=None, max_tokens=20))
    seen: dict[str, int] = {"a": 0, "b": 0}
    alone = False
    while not sched.idle:
        ran = step(sched)
        for name, (_, _, sample) in ran.items():
            seen[name] += sample
        alone |= list(ran) == ["a"] and seen["b"] > 0
    assert alone
    assert seen == {"a": 20, "b": 20}
    assert sched.blocks.used == 0


def test_an_answer_that_fills_the_cache_ends_with_length():
    """A request alone may use every block, and then stops: nothing could make room for it."""
    sched = scheduler(blocks=3)
    sequence = sched.submit(request("a", range(8), max_tokens=100))
    while not sched.idle:
        step(sched)
    assert sequence.generated == 3 * SIZE - 8


@pytest.mark.parametrize(
    ("tokens", "why"), [([], "no tokens"), (range(12), "12 tokens"), (range(99), "99 tokens")]
)
def test_what_can_never_fit_is_refused(tokens, why):
    with pytest.raises(CannotFit, match=why):
        scheduler(blocks=3).submit(request("a", tokens))


def test_keys_that_do_not_match_the_prompt_are_refused():
    wrong = request("a", range(8))
    wrong.keys.pop()
    with pytest.raises(CannotFit, match="1 keys for 2"):
        scheduler().submit(wrong)


@pytest.mark.parametrize(
    ("sampling", "generated"),
    [({}, 1), ({"ignore_eos": True}, 4), ({"min_tokens": 2}, 3)],
)
def test_the_end_token_ends_an_answer_when_it_may(sampling, generated):
    sched = scheduler()
    sequence = sched.submit(request("a", range(5), max_tokens=4, **sampling))
    while not sched.idle:
        step(sched, token=EOS)
    assert sequence.generated == generated


class Batching(RuleBasedStateMachine):
    """Random requests over few blocks, with the contents of every block followed beside it.

    A block's slot holds the whole prefix that its KV stands for: whatever is reused must be right.
    """

    @initialize(
        blocks=st.integers(4, 12), batch=st.integers(1, 4), tokens=st.sampled_from([1, 3, 8, 20])
    )
    def start(self, blocks, batch, tokens):
        self.sched = scheduler(blocks, batch, tokens)
        self.contents: dict[tuple[int, int], tuple[int, ...]] = {}
        self.open: set[str] = set()
        self.count = 0

    @rule(
        head=st.integers(0, 2),
        shared=st.integers(0, 14),
        own=st.integers(0, 6),
        answer=st.integers(1, 12),
        priority=st.integers(0, 1),
        keyed=st.booleans(),
    )
    def submit(self, head, shared, own, answer, priority, keyed):
        name = f"r{self.count}"
        tokens = [head] * shared + [10 + self.count % 3] * own
        wanted = request(
            name, tokens, salt="t" if keyed else None, priority=priority, max_tokens=answer
        )
        self.count += 1
        try:
            self.sched.submit(wanted)
        except CannotFit:
            assert not tokens or len(tokens) >= self.sched.limit_tokens
        else:
            self.open.add(name)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def cancel(self, data):
        name = data.draw(st.sampled_from(sorted(self.open)))
        assert self.sched.cancel(name) is not None
        self.open.remove(name)
        self.sched.check_integrity()

    @precondition(lambda self: self.open)
    @rule(times=st.integers(1, 5))
    def steps(self, times):
        for _ in range(times):
            if self.open:
                self.one_step()

    def one_step(self):
        admit(self.sched)
        plan = self.sched.next_step()
        assert plan.slices, "there are requests, and nothing moves"
        for piece in plan.slices:
            known = piece.sequence.tokens
            for at in range(piece.end):
                slot = (piece.blocks[at // SIZE], at % SIZE)
                if at >= piece.start:
                    self.contents[slot] = tuple(known[: at + 1])
                assert self.contents[slot] == tuple(known[: at + 1])
        tokens = [piece.sequence.generated % 3 for piece in plan.sampled]
        for sampled in self.sched.finish_step(plan, tokens).sampled:
            if sampled.finish is not None:
                self.open.remove(sampled.sequence.id)
        self.sched.check_integrity()

    def teardown(self):
        if not hasattr(self, "sched"):
            return
        for _ in range(3000):
            if not self.open:
                break
            self.one_step()
        assert not self.open, "a request never ends"
        assert self.sched.idle
        assert self.sched.blocks.used == 0


TestBatching = Batching.TestCase
TestBatching.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)
