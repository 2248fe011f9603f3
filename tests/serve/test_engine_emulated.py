"""The engine without weights: seeded words, the plan's time, blocks that can be handed over."""

import pytest

from starloom.plan import Batch, step_time

from engine_fixtures import CHIP, SHAPE, core_of, emulated, request, run_all, text_of


def answer(executor, prompt=range(10), **sampling):
    return text_of(run_all(core_of(executor), request("a", prompt, max_tokens=12, **sampling))["a"])


def test_the_answer_is_printable_words_of_the_asked_length():
    text = answer(emulated())
    assert len(text) == 12
    assert text.isprintable()


def test_the_answer_depends_on_seeds_and_prompt_alone():
    same = answer(emulated())
    assert same == answer(emulated(num_blocks=9, time_scale=0.0))
    assert same != answer(emulated(seed=1))
    assert same != answer(emulated(), seed=1)
    assert same != answer(emulated(), range(11))


def test_a_batch_does_not_change_answers():
    requests = [request(str(i), range(i, 20), max_tokens=9) for i in range(5)]
    alone = [text_of(run_all(core_of(emulated()), r)[r.id]) for r in requests]
    together = run_all(core_of(emulated(num_blocks=12), max_batch_tokens=7), *requests)
    assert [text_of(together[r.id]) for r in requests] == alone


def test_steps_last_as_long_as_the_plan_says():
    """A prefill of 10 tokens, then two decodes after 10 and 11 tokens, at half speed."""
    slept = []
    run_all(
        core_of(emulated(time_scale=2.0, sleep=slept.append)),
        request("a", range(10), max_tokens=3),
    )
    batches = [Batch(prefill=[(10, 0)]), Batch(decode=[10]), Batch(decode=[11])]
    assert slept == pytest.approx([2 * step_time(CHIP, SHAPE, b).total_s for b in batches])


def test_logprobs_say_that_all_words_are_equally_likely():
    deltas = run_all(core_of(emulated()), request("a", range(4), logprobs=3))["a"]
    [first] = deltas[0].logprobs
    assert first.text == deltas[0].text
    assert len(first.top) == 3
    assert first.top[0][0] == first.text
    assert {value for _, _, value in first.top} == {first.logprob}


def test_a_block_is_the_digest_of_its_prefix():
    """Computed in other chunks, or after an imported block, the second block is the same."""
    whole, chunked, handed = (core_of(emulated(), max_batch_tokens=n) for n in (16, 3, 16))
    one = request("a", range(12), max_tokens=1)
    for core in (whole, chunked):
        run_all(core, one)
    blocks = whole.export_blocks(one.keys)
    assert list(blocks) == one.keys
    assert blocks == chunked.export_blocks(one.keys)
    assert {len(data) for data in blocks.values()} == {4 * SHAPE.kv_bytes_per_token}
    assert list(whole.export_blocks(one.keys, 2 * SHAPE.kv_bytes_per_token)) == one.keys[:1]
    first = {one.keys[0]: blocks[one.keys[0]]}
    assert handed.import_blocks(first) == 1
    deltas = run_all(handed, one)["a"]
    assert deltas[-1].usage.cached_tokens == 4
    assert handed.export_blocks(one.keys) == blocks


def test_a_block_of_another_size_is_refused():
    with pytest.raises(ValueError, match="bytes"):
        emulated().import_block(0, b"short")
