"""The twin's worker against the engine's own scheduler, step by step on the same costs."""

from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.plan import step_time
from starloom.serve.base import EngineRequest, Sampling
from starloom.serve.engines.batch import Scheduler
from starloom.serve.engines.blocks import BlockManager
from starloom.serve.engines.emulated import batch_of
from starloom.site.catalogue import chips, shapes
from starloom.twin import RooflineTimer
from starloom.twin.worker import Job, TwinWorker

CHIP, SHAPE = chips()["h100-sxm"], shapes()["llama-3-8b"]
SIZE = 8
LIMITS = {"max_batch": 4, "max_batch_tokens": 48}


def engine(jobs, num_blocks):
    """First-token and end times, and cached tokens, as `Scheduler` and `step_time` give them."""
    scheduler = Scheduler(BlockManager(num_blocks, SIZE), **LIMITS)
    first, end, cached, sequences = {}, {}, {}, {}
    now, left = 0.0, list(enumerate(jobs))
    while left or not scheduler.idle:
        if scheduler.idle and left:
            now = max(now, left[0][1][0])
        while left and left[0][1][0] <= now:
            number, (_, prompt, answer, keys) = left.pop(0)
            sampling = Sampling(max_tokens=answer)
            request = EngineRequest(
                id=str(number),
                model="m",
                tokens=[0] * prompt,
                keys=keys,
                root=b"r",
                sampling=sampling,
            )
            sequences[number] = scheduler.submit(request)
        while (sequence := scheduler.can_start()) is not None:
            scheduler.start(sequence)
        step = scheduler.next_step()
        now += step_time(CHIP, SHAPE, batch_of(step)).total_s
        for done in scheduler.finish_step(step, [number_token(p) for p in step.sampled]).sampled:
            number = int(done.sequence.id)
            first.setdefault(number, now)
            if done.finish is not None:
                end[number] = now
                cached[number] = done.sequence.cached_tokens
    return first, end, cached


def number_token(piece):
    """A token that no other request draws, so that generated blocks are never shared."""
    return int(piece.sequence.id) + 1


def twin(jobs, num_blocks):
    """The same from the twin's worker."""
    worker = TwinWorker(
        RooflineTimer(CHIP, SHAPE), num_blocks=num_blocks, block_tokens=SIZE, **LIMITS
    )
    first, end, cached = {}, {}, {}

    def until(now):
        while worker.due_s is not None and worker.due_s <= now:
            begun, ended = worker.advance()
            worker.check_integrity()
            first.update({job.number: job.first_s for job in begun})
            for job in ended:
                assert job.number not in end
                end[job.number], cached[job.number] = job.end_s, job.cached_tokens

    for number, (at, prompt, answer, keys) in enumerate(jobs):
        until(at)
        worker.submit(Job(number, prompt, answer, keys), at)
    until(float("inf"))
    return first, end, cached


def keys_of(family, tokens):
    return [bytes([family, 0, 0, 0, 0, 0, 0, at]) for at in range(tokens // SIZE)]


JOBS = st.lists(
    st.tuples(
        st.floats(0, 0.08),
        st.integers(1, 150),
        st.integers(1, 60),
        st.integers(0, 2),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda job: round(job[0], 4),
)


@given(JOBS, st.integers(28, 60))
@settings(deadline=None, max_examples=60)
def test_the_twin_is_the_engine(drawn, num_blocks):
    """Same starts, chunks, reuse, preemptions and ends, whatever comes when.

    Times to 10^-9 s, since arrays are summed in another order.
    """
    drawn.sort()
    jobs = [
        (at, prompt, min(answer, num_blocks * SIZE - prompt), keys_of(family, prompt))
        for at, prompt, answer, family in drawn
    ]
    firsts, ends, cached = engine(jobs, num_blocks)
    first_s, end_s, cached_tokens = twin(jobs, num_blocks)
    assert cached_tokens == cached
    assert ends.keys() == end_s.keys() == set(range(len(jobs)))
    for number in ends:
        assert abs(first_s[number] - firsts[number]) <= 1e-9
        assert abs(end_s[number] - ends[number]) <= 1e-9


@given(JOBS, st.integers(28, 60))
@settings(deadline=None, max_examples=40)
def test_all_blocks_come_back(drawn, num_blocks):
    """When all jobs have ended no block is held, and every job made all of its tokens."""
    worker = TwinWorker(
        RooflineTimer(CHIP, SHAPE), num_blocks=num_blocks, block_tokens=SIZE, **LIMITS
    )
    jobs = []
    for number, (at, prompt, answer, family) in enumerate(sorted(drawn)):
        job = Job(number, prompt, min(answer, num_blocks * SIZE - prompt), keys_of(family, prompt))
        while worker.due_s is not None and worker.due_s <= at:
            worker.advance()
        worker.submit(job, at)
        jobs.append(job)
    while worker.due_s is not None:
        worker.advance()
    worker.check_integrity()
    assert worker.blocks.used == 0
    assert all(job.tokens == job.prompt + job.answer for job in jobs)
