"""Drawing tokens: seeded, and distributed as asked for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.serve.base import Sampling
from starloom.serve.engines.sampling import choose, log_softmax, uniform

LOGITS = np.log(np.array([0.1, 0.4, 0.2, 0.25, 0.05], dtype=np.float32))


def drawn(count=3000, logits=LOGITS, **sampling):
    """Shares of each token over many positions."""
    options = Sampling(max_tokens=count, seed=7, **sampling)
    tokens = [choose(logits, options, at).token for at in range(count)]
    return np.bincount(tokens, minlength=len(logits)) / count


def test_greedy_takes_the_likeliest():
    assert choose(LOGITS, Sampling(max_tokens=1, temperature=0), 0).token == 1


def test_shares_follow_the_softmax():
    """3000 draws: three standard errors are under 0.03."""
    assert drawn() == pytest.approx(np.exp(LOGITS), abs=0.03)


def test_temperature_sharpens():
    """At T=0.5 probabilities are squared and normalised: 0.16 / 0.275 for the likeliest."""
    squared = np.exp(LOGITS) ** 2
    assert drawn(temperature=0.5) == pytest.approx(squared / squared.sum(), abs=0.03)


def test_a_tiny_temperature_is_greedy():
    assert drawn(20, temperature=1e-300)[1] == 1


def test_top_k_keeps_the_k_likeliest():
    """0.4 and 0.25 of 0.65."""
    assert drawn(top_k=2) == pytest.approx([0, 0.4 / 0.65, 0, 0.25 / 0.65, 0], abs=0.03)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.3, [1]), (0.41, [1, 3]), (0.64, [1, 3]), (0.66, [1, 2, 3])]
)
def test_top_p_keeps_the_fewest_with_that_mass(top_p, kept):
    assert set(np.flatnonzero(drawn(600, top_p=top_p))) == set(kept)


def test_top_p_looks_beyond_the_likeliest_thousand_where_it_must():
    """3000 equal tokens: 0.9 of the mass is 2700 of them."""
    shares = drawn(4000, np.zeros(3000, dtype=np.float32), top_p=0.9)
    assert 2000 < np.count_nonzero(shares) <= 2701
    assert not shares[2701:].any()


def test_a_draw_depends_on_seed_and_position_alone():
    numbers = [uniform(3, at) for at in range(100)]
    assert numbers == [uniform(3, at) for at in range(100)]
    assert len(set(numbers)) == 100
    assert numbers != [uniform(4, at) for at in range(100)]
    assert 0 <= min(numbers) < max(numbers) < 1


def test_logprobs_are_of_the_untempered_softmax():
    choice = choose(LOGITS, Sampling(max_tokens=1, temperature=0, logprobs=2), 0)
    assert choice.logprob == pytest.approx(np.log(0.4), abs=1e-6)
    assert [token for token, _ in choice.top] == [1, 3]
    assert choice.top[1][1] == pytest.approx(np.log(0.25), abs=1e-6)


def test_the_end_cannot_be_drawn_before_min_tokens():
    """Token 1 is the likeliest by far, and ends the answer: not before the third token."""
    sampling = Sampling(max_tokens=9, temperature=0, min_tokens=2, logprobs=0)
    tokens = [choose(LOGITS, sampling, at, eos=[1]) for at in range(3)]
    assert [choice.token for choice in tokens] == [3, 3, 1]
    assert tokens[0].logprob == pytest.approx(np.log(0.25), abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(
    scores=st.lists(st.floats(-60, 60, width=32), min_size=1, max_size=30),
    top_k=st.integers(0, 40),
    top_p=st.floats(0.01, 1),
    temperature=st.floats(0, 5),
    seed=st.integers(-(1 << 63), 1 << 64),
)
def test_any_logits_give_a_token(scores, top_k, top_p, temperature, seed):
    """Whatever the settings: one of the tokens, and never one less likely than the k-th."""
    logits = np.array(scores, dtype=np.float32)
    sampling = Sampling(
        max_tokens=1, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, logprobs=1
    )
    choice = choose(logits, sampling, 5)
    assert 0 <= choice.token < len(logits)
    if top_k:
        assert np.count_nonzero(logits > logits[choice.token]) < top_k
    assert choice.logprob == pytest.approx(log_softmax(logits.astype(float))[choice.token])
