"""Every draw is a function of (logits, parameters, seed, position), whatever it is batched with."""

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.drawing import EOS, draw_one, expected_distribution, sequence_of
from workers.engine.sampler import choice_seed, draw, kept_tokens, sample, uniform
from workers.request import SamplingParams

GOLDEN = [0.42857041310917643, 0.3623965548971775, 0.4244488753016006, 0.019183700800816994, 0.19559404349401033]
GOLDEN_SEEDS = [15905564899764669832, 7793912770882676770]
GOLDEN_DRAWS = ["4722212631166004", "2744414741166112", "2744414741166112", "4722212641166004"]
SEEDS = st.integers(-(2**70), 2**70)
POSITIONS = st.integers(0, 2**20)
ROWS = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=20)
PARAMS = st.builds(
    SamplingParams,
    temperature=st.floats(0.05, 5),
    top_p=st.floats(0.01, 1),
    top_k=st.integers(-1, 25),
    min_p=st.floats(0, 1),
    seed=SEEDS,
)
MIXED: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0, "logprobs": 3},
    {"temperature": 0, "repetition_penalty": 1.4},
    {"temperature": 0.9},
    {"top_k": 5, "presence_penalty": 0.4},
    {"top_p": 0.8, "min_tokens": 9, "logprobs": 0},
    {"min_p": 0.1, "frequency_penalty": 0.4, "logit_bias": {3: 2.0}},
]


def draw_at(row: list[float], params: SamplingParams, num_tokens: int = 3) -> int:
    return draw_one(row, sequence_of(params, prompt=[0] * num_tokens), frozenset()).token_id


@given(SEEDS, POSITIONS)
def test_uniform_lies_in_the_unit_interval(seed: int, position: int) -> None:
    assert 0 <= uniform(seed, position) < 1


def test_uniform_never_changes_between_versions() -> None:
    """Streams are resumed on other workers, perhaps of another version: these numbers are for ever."""
    assert [uniform(0, 0), uniform(1, 0), uniform(0, 1), uniform(42, 1000), uniform(-1, 7)] == GOLDEN
    assert [choice_seed(42, 1), choice_seed(-1, 7)] == GOLDEN_SEEDS


def test_draws_never_change_between_versions() -> None:
    """Nor does the order in which tokens lie along the unit interval."""
    row = [1.0, 3.0, 2.5, 0.5, 2.75, -1.0, 2.0, 1.5]
    cuts: list[dict[str, Any]] = [{}, {"top_k": 6}, {"top_p": 0.95}, {"min_p": 0.1}]
    drawn = ["".join(str(draw_at(row, SamplingParams(seed=seed, **cut))) for seed in range(16)) for cut in cuts]
    assert drawn == GOLDEN_DRAWS


def test_uniform_is_uniform() -> None:
    counts = Counter(int(uniform(seed, position) * 16) for seed in range(20) for position in range(1000))
    chi_square = sum((counts[cell] - 1250) ** 2 / 1250 for cell in range(16))
    assert chi_square < 37.7  # 15 degrees of freedom, one in a thousand


def test_completions_of_one_request_draw_from_unrelated_streams() -> None:
    """The first one from the seed's own: it is what it would be alone."""
    assert [choice_seed(7, 0), choice_seed(None, 0), choice_seed(None, 3)] == [7, 0, choice_seed(0, 3)]
    assert len({choice_seed(seed, index) for seed in range(100) for index in range(128)}) == 12_800
    draws = torch.tensor([[uniform(choice_seed(7, index), at) for at in range(2000)] for index in range(8)])
    assert float((torch.corrcoef(draws) - torch.eye(8)).abs().max()) < 0.08  # 3.6 standard deviations


def test_a_draw_is_keyed_by_seed_index_and_position() -> None:
    row = torch.randn(500, generator=torch.Generator().manual_seed(1))
    keyed = {
        (seed, index, length): draw_one(row, sequence_of(SamplingParams(seed=seed), prompt=[0] * length, index=index))
        for seed in range(4)
        for index in range(4)
        for length in range(1, 5)
    }
    assert len({token.token_id for token in keyed.values()}) > 40
    for (seed, index, length), token in keyed.items():
        resumed = sequence_of(SamplingParams(seed=seed), [0] * (length - 1), [0], index)
        assert draw_one(row, resumed) == token


@given(ROWS, st.integers(0, 5), st.sampled_from([1.0, 0.3]), SEEDS)
def test_temperature_zero_is_greedy(row: list[float], top_k: int, top_p: float, seed: int) -> None:
    assert draw_at(row, SamplingParams(temperature=0, top_k=top_k, top_p=top_p, seed=seed)) == row.index(max(row))


@given(ROWS, SEEDS, st.integers(1, 50))
def test_top_k_of_one_and_a_tiny_top_p_are_greedy(row: list[float], seed: int, num_tokens: int) -> None:
    """Logits a rounding apart are as likely as each other, and then top_p may keep either."""
    assert draw_at(row, SamplingParams(top_k=1, seed=seed), num_tokens) == row.index(max(row))
    assert row[draw_at(row, SamplingParams(top_p=1e-9, seed=seed), num_tokens)] >= max(row) - 1e-6


@given(ROWS, SEEDS, st.floats(0, 1e-8, exclude_min=True))
def test_a_temperature_near_zero_is_greedy(row: list[float], seed: int, temperature: float) -> None:
    assert row[draw_at(row, SamplingParams(temperature=temperature, seed=seed))] >= max(row) - 1e-6


@settings(max_examples=300)
@given(ROWS, PARAMS, st.integers(1, 50))
def test_nothing_outside_the_kept_tokens_is_drawn(row: list[float], params: SamplingParams, num_tokens: int) -> None:
    """Of tokens as likely as the last one kept any may be, and a rounding apart is as good as equal."""
    row = [round(logit, 3) for logit in row]
    expected = expected_distribution(row, sequence_of(params, prompt=[0] * num_tokens), frozenset())
    lowest = min(logit for logit, probability in zip(row, expected, strict=True) if probability > 0)
    assert row[draw_at(row, params, num_tokens)] >= lowest - 0.0011


@given(ROWS, PARAMS)
def test_the_ends_of_the_interval_draw_a_token(row: list[float], params: SamplingParams) -> None:
    for threshold in (0.0, 1 - 2**-53):
        assert 0 <= draw(torch.tensor(row), params, threshold) < len(row)


@pytest.mark.parametrize("threshold", [0.0, 1 - 2**-53])
def test_a_token_without_probability_is_never_drawn(threshold: float) -> None:
    row = torch.tensor([-torch.inf, 0.3, -1e9, 0.1, -torch.inf])
    for params in (SamplingParams(), SamplingParams(top_k=4), SamplingParams(top_p=0.99), SamplingParams(min_p=0.1)):
        assert draw(row, params, threshold) in (1, 3)


@given(st.integers(2, 300), st.floats(1e-300, 1, exclude_max=True))
def test_top_p_of_equals_keeps_the_share_asked_for(size: int, top_p: float) -> None:
    """The hardest case for leaving the unlikely out unsorted: nobody is less likely than the mean."""
    tokens, probs = kept_tokens(torch.zeros(size), SamplingParams(top_p=top_p))
    kept = tokens.tolist()
    assert kept == list(range(len(kept)))
    assert probs.tolist() == [probs[0]] * len(kept)
    assert abs(len(kept) - top_p * size) <= 1 + 1e-6


def test_a_draw_does_not_depend_on_the_batch() -> None:
    logits = torch.randn(70, 32, generator=torch.Generator().manual_seed(3))
    rows = range(70)
    params = [SamplingParams(seed=row // 4, max_tokens=20, **MIXED[row % len(MIXED)]) for row in rows]
    sequences = [sequence_of(params[row], range(row % 11), [row % 32, 5], row % 3) for row in rows]
    alone = [draw_one(logits[row], sequences[row]) for row in rows]
    before = logits.clone()
    assert sample(logits, sequences, EOS) == alone
    assert sample(logits.flip(0), sequences[::-1], EOS) == alone[::-1]
    assert torch.equal(logits, before)
