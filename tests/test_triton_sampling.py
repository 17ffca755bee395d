"""The sampler in Triton: it draws what the reference in torch draws, but for draws within a rounding of an edge."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import sampling
from kernels.sampling import SamplingTensors, kept_weights, uniform
from kernels.triton_ops.sampling import MAX_BLOCK, sample_tokens
from tests.drawing import expected_distribution, sequence_of
from tests.sampling_rows import SEED_OF_ZERO, mixed_params, row_of, tensors_of
from tests.test_kernels_sampling import DEVICE_CASES, ROWS, TIES
from tests.test_workers_sampler_distribution import LOGITS, p_value
from tests.triton_device import DEVICE
from workers.request import SamplingParams

EDGE = 1e-6
VOCAB = 2 * MAX_BLOCK + 809  # three blocks, the last one not full


def noise(rows: int, vocab: int, seed: int = 0) -> torch.Tensor:
    return (torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 3).to(DEVICE)


def is_near_an_edge(logits: torch.Tensor, params: SamplingTensors) -> torch.Tensor:
    """bool [rows]: whether a draw comes within `EDGE` of that between two tokens, or min_p or top_p of one's."""
    weights = kept_weights(logits, params)
    ends = weights.cumsum(dim=-1) / weights.sum(dim=-1, keepdim=True)
    drawn = (ends - uniform(params.seed, params.position)[:, None]).abs().amin(dim=-1) < EDGE
    everything = params._replace(top_p=torch.ones_like(params.top_p))
    ranked = kept_weights(logits, everything).sort(dim=-1, descending=True).values
    mass = (ranked.cumsum(dim=-1) / ranked.sum(dim=-1, keepdim=True) - params.top_p[:, None]).abs().amin(dim=-1)
    relative = ((logits - logits.amax(dim=-1, keepdim=True)).double() / params.temperature[:, None]).exp()
    least = (relative / params.min_p[:, None] - 1).abs().amin(dim=-1)
    return drawn | ((params.top_p < 1) & (mass < EDGE)) | ((params.min_p > 0) & (least < 10 * EDGE))


def check(logits: torch.Tensor, params: SamplingTensors) -> None:
    """Compare with the reference; almost no row may be left out."""
    before = logits.clone()
    wanted = sampling.sample_tokens(logits, params)
    certain = ~(is_near_an_edge(logits, params) & (params.temperature > 0))
    assert torch.equal(sample_tokens(logits, params)[certain], wanted[certain])
    assert certain.double().mean() > 0.9
    assert torch.equal(logits, before)


@pytest.mark.parametrize(("rows", "vocab"), [(28, 123), (5, 2100), (12, VOCAB)])
def test_it_draws_what_the_reference_draws(rows: int, vocab: int) -> None:
    check(noise(rows, vocab), tensors_of(mixed_params(rows), range(rows), DEVICE))


def test_logits_full_of_ties_and_of_both_zeros() -> None:
    logits = noise(7, VOCAB, seed=1).div(3).round()
    logits[:, 1::2] *= -1
    assert int((logits.view(torch.int32) == -(2**31)).sum()) > 100
    check(logits, tensors_of(mixed_params(7), range(7), DEVICE))


def test_what_is_kept_is_more_than_a_block() -> None:
    """Then the search ends only after it has counted whole rows, and the draw falls into any block."""
    logits = noise(4, VOCAB, seed=2) / 30
    cuts = [(0, 0.99), (6000, 1.0), (8500, 0.97), (8999, 1.0)]
    params = [SamplingParams(top_k=top_k, top_p=top_p, seed=top_k) for top_k, top_p in cuts]
    tensors = tensors_of(params, range(4), DEVICE)
    check(logits, tensors)
    assert len(set((sample_tokens(logits, tensors) // MAX_BLOCK).tolist())) > 1


@settings(max_examples=10)
@given(st.lists(st.tuples(st.integers(-40, 40), st.integers(0, 30)), min_size=1, max_size=3), ROWS, st.integers(0, 99))
def test_any_row(extra: list[tuple[int, int]], row: list[float], seed: int) -> None:
    """Among few distinct logits, some of them -inf, and with a temperature down to nothing."""
    logits = torch.tensor([[*row, *(level / 8 for level, count in extra for _ in range(count)), -math.inf]])
    params = [
        SamplingParams(temperature=temperature, top_k=seed % 7, top_p=(1.0, 0.6)[seed % 2], seed=seed)
        for temperature in (1e-38, 0.5)
    ]
    tensors = tensors_of(params, [seed] * 2, DEVICE)
    rows = logits.expand(2, -1).contiguous().to(DEVICE)
    certain = ~is_near_an_edge(rows, tensors)
    drawn = sample_tokens(rows, tensors)
    assert torch.equal(drawn[certain], sampling.sample_tokens(rows, tensors)[certain])
    assert not rows.gather(1, drawn[:, None]).isinf().any()


@pytest.mark.parametrize(("options", "kept"), TIES)
def test_of_equals_the_lowest_are_kept(options: dict[str, float], kept: list[int]) -> None:
    """Seeds 0 to 5 fall into every third and every fourth of the interval."""
    params = [SamplingParams(seed=seed, **options) for seed in range(6)]  # type: ignore[arg-type]
    drawn = sample_tokens(torch.zeros(6, 4, device=DEVICE), tensors_of(params, [3] * 6, DEVICE))
    assert sorted(set(drawn.tolist())) == kept


def test_temperature_zero_takes_the_lowest_of_the_likeliest() -> None:
    logits = noise(3, VOCAB)
    logits[0, [17, MAX_BLOCK + 5, MAX_BLOCK + 17]] = 50.0
    logits[1, [VOCAB - 1, VOCAB - 2]] = 50.0
    logits[2] = -torch.inf
    logits[2, 8000] = -1e30
    params = tensors_of([SamplingParams(temperature=0)] * 3, [0, 1, 2], DEVICE)
    assert sample_tokens(logits, params).tolist() == [17, VOCAB - 2, 8000]


def test_a_draw_of_zero_takes_a_token_that_has_a_probability() -> None:
    params = tensors_of([SamplingParams(seed=SEED_OF_ZERO)] * 2, [0, 0], DEVICE)
    assert uniform(params.seed, params.position).tolist() == [0.0, 0.0]
    logits = torch.full((2, VOCAB), -torch.inf, device=DEVICE)
    logits[0, 3:5] = 1.0
    logits[1, MAX_BLOCK + 2 :] = 1.0
    assert sample_tokens(logits, params).tolist() == [3, MAX_BLOCK + 2]


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # numpy's, in the interpreter
def test_rows_that_are_not_numbers_end_and_stay_inside() -> None:
    """A model whose weights are broken must not hang the device, nor write beyond its tensors."""
    logits = noise(4, 300)
    logits[0] = torch.nan
    logits[1, ::3] = torch.nan
    logits[2] = -torch.inf
    logits[3, 5] = torch.nan
    params = [replace(SamplingParams(top_k=5, top_p=0.9), seed=row) for row in range(4)]
    drawn = sample_tokens(logits, tensors_of(params, [0] * 4, DEVICE)).tolist()
    assert all(0 <= token < 300 for token in drawn)
    assert drawn[1] % 3
    assert drawn[3] != 5


def test_a_row_does_not_depend_on_the_batch() -> None:
    logits, params = noise(3, VOCAB, seed=4), tensors_of(mixed_params(3), range(3), DEVICE)
    together = sample_tokens(logits, params).tolist()
    assert [int(sample_tokens(logits[row : row + 1], row_of(params, row))) for row in range(3)] == together


@pytest.mark.gpu
@pytest.mark.parametrize("vocab", [VOCAB, 128256, 151936])
def test_large_batches_draw_what_the_reference_draws(vocab: int) -> None:
    logits, params = noise(256, vocab, seed=5), tensors_of(mixed_params(256), range(256), DEVICE)
    check(logits, params)
    together = sample_tokens(logits, params)
    for size in (1, 7, 65):
        some = SamplingTensors(*(values[:size] for values in params))
        assert torch.equal(sample_tokens(logits[:size], some), together[:size])


@pytest.mark.gpu
@pytest.mark.parametrize("case", DEVICE_CASES)
def test_draws_follow_the_exact_distribution(case: str) -> None:
    params = SamplingParams(**DEVICE_CASES[case])
    expected = torch.tensor(expected_distribution(LOGITS, sequence_of(params), frozenset()), dtype=torch.float64)
    seeded = [replace(params, seed=seed) for seed in range(40_000)]
    logits = torch.tensor(LOGITS, device=DEVICE).repeat(40_000, 1)
    drawn = sample_tokens(logits, tensors_of(seeded, [5] * 40_000, DEVICE)).cpu()
    counts = torch.bincount(drawn, minlength=len(LOGITS)).double()
    assert counts[expected == 0].sum() == 0
    assert p_value(counts, expected) > 0.001


def test_what_does_not_fit_is_refused() -> None:
    params = tensors_of([SamplingParams()] * 2, [0, 1], DEVICE)
    with pytest.raises(ValueError, match=r"torch\.float32"):
        sample_tokens(noise(2, 8).half(), params)
    with pytest.raises(ValueError, match=r"top_k is torch\.int64 \(2,\); it must be contiguous torch\.int32 \[2\]"):
        sample_tokens(noise(2, 8), params._replace(top_k=params.top_k.long()))
    with pytest.raises(ValueError, match="temperature is"):
        sample_tokens(noise(3, 8), params)
