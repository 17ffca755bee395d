"""Every draw is a function of (logits, parameters, seed, position), and follows the distribution asked for."""

from collections import Counter

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.engine.sampler import draw, sample, uniform
from workers.request import SamplingParams

GOLDEN = [0.42857041310917643, 0.3623965548971775, 0.4244488753016006, 0.019183700800816994, 0.19559404349401033]
LOGITS = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -3.0, -9.0])
SEEDS = st.integers(-(2**70), 2**70)
POSITIONS = st.integers(0, 2**20)
ROWS = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=20)
PARAMS = st.builds(
    SamplingParams,
    temperature=st.floats(0.05, 5),
    top_p=st.floats(0.01, 1),
    top_k=st.integers(0, 25),
    seed=SEEDS,
)


def kept_tokens(row: list[float], params: SamplingParams) -> set[int]:
    """The tokens that top-k and then top-p leave, ties with the last one included; in plain Python."""
    ranked = sorted(row, reverse=True)[: params.top_k or None]
    weights = [2.718281828459045 ** ((logit - ranked[0]) / params.temperature) for logit in ranked]
    total, lowest = 0.0, ranked[0]
    for logit, weight in zip(ranked, weights, strict=True):
        if total >= params.top_p + 1e-6:
            break
        total, lowest = total + weight / sum(weights), logit
    return {token for token, logit in enumerate(row) if logit >= lowest}


def draw_at(row: list[float], params: SamplingParams, position: int) -> int:
    return sample(torch.tensor([row]), [params], [position])[0]


@given(SEEDS, POSITIONS)
def test_uniform_lies_in_the_unit_interval(seed: int, position: int) -> None:
    assert 0 <= uniform(seed, position) < 1


def test_uniform_never_changes_between_versions() -> None:
    """Streams are resumed on other workers, perhaps of another version: these numbers are for ever."""
    assert [uniform(0, 0), uniform(1, 0), uniform(0, 1), uniform(42, 1000), uniform(-1, 7)] == GOLDEN


def test_uniform_is_uniform() -> None:
    counts = Counter(int(uniform(seed, position) * 16) for seed in range(20) for position in range(1000))
    chi_square = sum((counts[cell] - 1250) ** 2 / 1250 for cell in range(16))
    assert chi_square < 37.7  # 15 degrees of freedom, one in a thousand


@given(ROWS, st.integers(0, 5), st.sampled_from([1.0, 0.3]), SEEDS)
def test_temperature_zero_is_greedy(row: list[float], top_k: int, top_p: float, seed: int) -> None:
    assert draw_at(row, SamplingParams(temperature=0, top_k=top_k, top_p=top_p, seed=seed), 3) == row.index(max(row))


@given(ROWS, SEEDS, POSITIONS)
def test_top_k_of_one_and_a_tiny_top_p_are_greedy(row: list[float], seed: int, position: int) -> None:
    for params in (SamplingParams(top_k=1, seed=seed), SamplingParams(top_p=1e-9, seed=seed)):
        assert draw_at(row, params, position) == row.index(max(row))


@given(ROWS, SEEDS, st.floats(0, 1e-8, exclude_min=True))
def test_a_temperature_near_zero_is_greedy(row: list[float], seed: int, temperature: float) -> None:
    choice = draw_at(row, SamplingParams(temperature=temperature, seed=seed), 5)
    assert row[choice] >= max(row) - 1e-6


@settings(max_examples=300)
@given(ROWS, PARAMS, POSITIONS)
def test_nothing_outside_the_kept_tokens_is_drawn(row: list[float], params: SamplingParams, position: int) -> None:
    row = [round(logit, 3) for logit in row]
    assert draw_at(row, params, position) in kept_tokens(row, params)


@given(ROWS, PARAMS)
def test_the_ends_of_the_interval_draw_a_token(row: list[float], params: SamplingParams) -> None:
    for threshold in (0.0, 1 - 2**-53):
        assert 0 <= draw(torch.tensor(row), params, threshold) < len(row)


def test_a_draw_does_not_depend_on_the_batch() -> None:
    logits = torch.randn(60, 32, generator=torch.Generator().manual_seed(3))
    params = [SamplingParams(temperature=0.5 + row % 3, top_k=row % 2 * 20, seed=row // 4) for row in range(60)]
    positions = [row * 7 % 13 for row in range(60)]
    alone = [sample(logits[row : row + 1], [params[row]], [positions[row]])[0] for row in range(60)]
    assert sample(logits, params, positions) == alone
    assert sample(logits.flip(0), params[::-1], positions[::-1]) == alone[::-1]


def total_variation(params: SamplingParams, wanted: torch.Tensor) -> float:
    """Between the draws of 20,000 positions and a distribution."""
    row = LOGITS.expand(20_000, -1)
    counts = torch.bincount(torch.tensor(sample(row, [params] * 20_000, range(20_000))), minlength=len(wanted))
    return float((counts / 20_000 - wanted).abs().sum() / 2)


def test_draws_follow_the_tempered_softmax() -> None:
    assert total_variation(SamplingParams(temperature=0.7, seed=11), (LOGITS / 0.7).softmax(-1)) < 0.012


def test_draws_follow_the_distribution_that_top_k_leaves() -> None:
    cut = LOGITS.masked_fill(LOGITS.topk(3).values[-1] > LOGITS, float("-inf"))
    assert total_variation(SamplingParams(top_k=3, seed=5), cut.softmax(-1)) < 0.012


def test_draws_follow_the_distribution_that_top_p_leaves() -> None:
    order = LOGITS.softmax(-1).sort(descending=True)
    kept = int((order.values.cumsum(-1) < 0.8).sum()) + 1
    wanted = torch.zeros(len(LOGITS)).index_copy(0, order.indices[:kept], order.values[:kept])
    assert total_variation(SamplingParams(top_p=0.8, seed=5), wanted / wanted.sum()) < 0.012
