"""The device's sampler in torch: against the host's, and against the distribution that the parameters ask for."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.sampling import kept_weights, sample_tokens, signed_word, uniform
from tests.drawing import expected_distribution, sequence_of
from tests.sampling_rows import SEED_OF_ZERO, mixed_params, row_of, tensors_of
from tests.test_workers_sampler_distribution import CASES, LOGITS, p_value
from workers.engine import sampler
from workers.request import SamplingParams

CPU = torch.device("cpu")
NUM_DRAWS = 4000
KEPT = ("temperature", "top_k", "top_p", "min_p")
DEVICE_CASES = {name: case for name, case in CASES.items() if not case.keys() - set(KEPT)}
ROWS = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=20)
PARAMS = st.builds(
    SamplingParams,
    temperature=st.floats(0.05, 5),
    top_p=st.floats(0.01, 1),
    top_k=st.integers(-1, 25),
    min_p=st.floats(0, 1),
    seed=st.integers(-(2**70), 2**70),
)


@given(st.integers(-(2**70), 2**70), st.integers(0, 2**40))
def test_uniform_is_the_host_samplers_to_the_last_bit(seed: int, position: int) -> None:
    drawn = uniform(torch.tensor([signed_word(seed)]), torch.tensor([position]))
    assert drawn.tolist() == [sampler.uniform(seed, position)]


@settings(max_examples=300)
@given(ROWS, PARAMS)
def test_it_keeps_what_the_parameters_ask_for(row: list[float], params: SamplingParams) -> None:
    """Of tokens as likely as the last one kept any may be, and a rounding apart is as good as equal."""
    row = [round(logit, 3) for logit in row]
    weights = kept_weights(torch.tensor([row]), tensors_of([params], [0], CPU))[0]
    expected = expected_distribution(row, sequence_of(params, prompt=[0]), frozenset())
    lowest = min(logit for logit, probability in zip(row, expected, strict=True) if probability > 0)
    kept = [logit for logit, weight in zip(row, weights.tolist(), strict=True) if weight > 0]
    assert abs(min(kept) - lowest) < 0.0011
    assert max(kept) == max(row)
    if int((weights > 0).sum()) == sum(probability > 0 for probability in expected):
        highest_first = sorted((weights / weights.sum()).tolist())
        assert highest_first == pytest.approx(sorted(expected), abs=1e-6)


@given(ROWS, PARAMS, st.integers(0, 1000))
def test_it_draws_what_the_host_draws_where_neither_sorts(
    row: list[float], params: SamplingParams, position: int
) -> None:
    params = replace(params, top_k=0, top_p=1.0, temperature=float(torch.tensor(params.temperature)), min_p=0.0)
    logits = torch.tensor([row])
    drawn = sampler.draw(logits[0], params, sampler.uniform(params.seed or 0, position))
    assert sample_tokens(logits, tensors_of([params], [position], CPU)).tolist() == [drawn]


@pytest.mark.parametrize("case", DEVICE_CASES)
def test_draws_follow_the_exact_distribution(case: str) -> None:
    params = SamplingParams(**DEVICE_CASES[case])
    expected = torch.tensor(expected_distribution(LOGITS, sequence_of(params), frozenset()), dtype=torch.float64)
    seeded = [replace(params, seed=seed) for seed in range(NUM_DRAWS)]
    logits = torch.tensor(LOGITS).expand(NUM_DRAWS, -1)
    drawn = sample_tokens(logits, tensors_of(seeded, [5] * NUM_DRAWS, CPU))
    counts = torch.bincount(drawn, minlength=len(LOGITS)).double()
    assert counts[expected == 0].sum() == 0
    assert p_value(counts, expected) > 0.001


TIES: list[tuple[dict[str, Any], list[int]]] = [
    ({"top_k": 3}, [0, 1, 2]),
    ({"top_p": 0.5}, [0, 1]),
    ({"top_p": 0.45}, [0, 1]),
    ({"top_k": 4, "top_p": 0.6}, [0, 1, 2]),
    ({"min_p": 1.0}, [0, 1, 2, 3]),
    ({"min_p": 1.0, "top_k": 1}, [0]),
]


@pytest.mark.parametrize(("options", "kept"), TIES)
def test_of_equals_the_lowest_are_kept(options: dict[str, Any], kept: list[int]) -> None:
    weights = kept_weights(torch.zeros(1, 4), tensors_of([SamplingParams(**options)], [0], CPU))
    assert weights[0].nonzero().flatten().tolist() == kept


def test_temperature_zero_takes_the_lowest_of_the_likeliest() -> None:
    params = tensors_of([SamplingParams(temperature=0)] * 2, [0, 1], CPU)
    assert sample_tokens(torch.tensor([[0.0, 3.0, 3.0], [5.0, 5.0, 1.0]]), params).tolist() == [1, 0]


def test_a_row_does_not_depend_on_the_batch() -> None:
    logits = torch.randn(40, 64, generator=torch.Generator().manual_seed(2)) * 3
    params = tensors_of(mixed_params(40), range(40), CPU)
    alone = [int(sample_tokens(logits[row : row + 1], row_of(params, row))) for row in range(40)]
    assert sample_tokens(logits, params).tolist() == alone


def test_a_draw_of_zero_takes_a_token_that_has_a_probability() -> None:
    params = tensors_of([SamplingParams(seed=SEED_OF_ZERO)], [0], CPU)
    assert uniform(params.seed, params.position).tolist() == [0.0]
    assert sample_tokens(torch.tensor([[-torch.inf, -torch.inf, 1.0, 2.0]]), params).tolist() == [2]
