"""`bench disagg`: its parts that need no weights."""

import pytest

from starloom.bench import disagg

from engine_fixtures import emulated


@pytest.mark.parametrize("handover", ["unix", "tcp"])
def test_a_computed_prompt_is_handed_over_and_timed(handover):
    """Each round really moves all blocks: the second half of the engine's become the first's."""
    executor = emulated(num_blocks=128, block_tokens=disagg.BLOCK_TOKENS)
    executor._tags[:64] = 7
    took_ms = disagg._alone(handover, executor, 3)
    assert len(took_ms) == 3
    assert all(0 < ms < 5000 for ms in took_ms)
    assert (executor._tags[64:] == 7).all()


def test_both_sites_have_the_same_two_workers():
    """What is compared differs in roles alone."""
    together, apart = disagg.site("both", "both"), disagg.site("prefill", "decode")
    assert [worker.role for worker in apart.workers] == ["prefill", "decode"]
    assert together.workers == [w.model_copy(update={"role": "both"}) for w in apart.workers]
