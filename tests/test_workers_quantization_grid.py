"""Levels and their ranges: what rounding may do to a weight, for every search and granularity."""

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels.int4 import quantize, unpack_nibbles
from workers.quantization.grid import Grid, Scheme
from workers.quantization.options import Granularity, Search
from workers.quantization.ranges import OUTLIERS, SHRINKS, fit_grid, percentile_range
from workers.quantization.weight_histogram import divergence_of_clipping, weight_histogram

GROUP = 16
schemes = st.builds(Scheme, st.sampled_from([4, 8]), st.booleans(), st.sampled_from([torch.float16, torch.bfloat16]))
searches = st.sampled_from(get_args(Search))
granularities = st.sampled_from(get_args(Granularity))
weights = st.builds(
    lambda seed, size, shift: (torch.randn(6, 48, generator=torch.Generator().manual_seed(seed)) + shift) * size,
    st.integers(0, 2**31),
    st.sampled_from([1e-3, 0.02, 1.0, 100.0]),
    st.sampled_from([-3.0, -0.5, 0.0, 3.0]),
)


def fit(weight: torch.Tensor, scheme: Scheme, search: Search = "minmax", granularity: Granularity = "group") -> Grid:
    return fit_grid(weight, scheme, granularity, GROUP, search)


@given(weights, schemes, granularities)
def test_between_least_and_largest_no_weight_moves_by_more_than_half_a_step(
    weight: torch.Tensor, scheme: Scheme, granularity: Granularity
) -> None:
    grid = fit(weight, scheme, "minmax", granularity)
    error = (grid.nearest(weight) - weight).abs().view(*grid.scales.shape, -1)
    precision = 2**-8 if scheme.scale_dtype == torch.bfloat16 else 2**-11
    slack = scheme.highest * precision  # the scale is rounded, and so the ends of the range move
    assert (error <= (0.51 + slack) * grid.scales[..., None]).all()


@given(weights, schemes, searches, granularities)
def test_a_rounded_matrix_rounds_to_itself(
    weight: torch.Tensor, scheme: Scheme, search: Search, granularity: Granularity
) -> None:
    grid = fit(weight, scheme, search, granularity)
    levels = grid.round(weight)
    assert torch.equal(grid.round(grid.values(levels)), levels)


@given(weights, schemes, searches, granularities)
def test_zero_stays_zero(weight: torch.Tensor, scheme: Scheme, search: Search, granularity: Granularity) -> None:
    weight[:, ::3] = 0
    assert (fit(weight, scheme, search, granularity).nearest(weight)[:, ::3] == 0).all()


@given(weights, schemes, searches, granularities)
def test_levels_fit_their_bits_and_scales_their_dtype(
    weight: torch.Tensor, scheme: Scheme, search: Search, granularity: Granularity
) -> None:
    grid = fit(weight, scheme, search, granularity)
    assert grid.scales.shape == grid.zeros.shape == (6, 3 if granularity == "group" else 1)
    assert torch.equal(grid.scales.to(scheme.scale_dtype).float(), grid.scales)
    assert (grid.scales > 0).all()
    assert int(grid.round(weight * 2).max()) <= scheme.highest
    assert ((grid.zeros >= 0) & (grid.zeros <= scheme.highest) & (grid.zeros == grid.zeros.round())).all()
    if scheme.symmetric:
        assert (grid.zeros == 2 ** (scheme.bits - 1)).all()
    if granularity == "tensor":
        assert (grid.scales == grid.scales[0, 0]).all()


@given(weights)
def test_four_bits_between_least_and_largest_are_what_the_engine_packs(weight: torch.Tensor) -> None:
    grid, packed = fit(weight, Scheme(4, symmetric=False)), quantize(weight, GROUP)
    assert torch.equal(grid.scales, packed.scales)
    assert torch.equal(grid.zeros.to(torch.uint8), packed.zeros)
    assert torch.equal(grid.round(weight), unpack_nibbles(packed.nibbles))


def squared(difference: torch.Tensor, gram: torch.Tensor | None = None) -> torch.Tensor:
    return ((difference if gram is None else difference @ gram) * difference).sum()


@given(weights, schemes, granularities)
def test_the_least_squared_error_is_less_than_that_of_the_full_range(
    weight: torch.Tensor, scheme: Scheme, granularity: Granularity
) -> None:
    plain, fitted = (fit(weight, scheme, search, granularity).nearest(weight) for search in ("minmax", "mse"))
    assert squared(fitted - weight) <= squared(plain - weight) * (1 + 1e-6)


def test_what_matters_in_the_outputs_is_rounded_better() -> None:
    """Of two inputs that always come together the errors may cancel; one that never comes may have any."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(64, GROUP, generator=generator)
    weight[:, 0] = 8.0  # stretches the range of all groups, and is multiplied with nothing
    inputs = torch.randn(200, GROUP, generator=generator)
    inputs[:, 0] = 0
    gram = inputs.T @ inputs / 200
    scheme = Scheme(4, symmetric=False)
    blind, seeing = (fit_grid(weight, scheme, "group", GROUP, "mse", known) for known in (None, gram))
    assert squared(seeing.nearest(weight) - weight, gram) < 0.7 * squared(blind.nearest(weight) - weight, gram)


def test_a_percentile_leaves_out_what_is_far_away() -> None:
    weight = torch.linspace(-1, 1, 400)[None].repeat(2, 1)
    weight[0, 7], weight[1, 8] = 50.0, -50.0
    grid = fit_grid(weight, Scheme(8, symmetric=False), "channel", 0, "percentile")
    assert (grid.scales * 255 < 2.1).all()


@given(st.integers(0, 2**31), st.sampled_from([2, 16, 400, 1000]))
def test_the_range_without_outliers_is_torchs_quantile(seed: int, size: int) -> None:
    units = torch.randn(3, 2, size, generator=torch.Generator().manual_seed(seed))
    expected = [torch.quantile(units, share, dim=-1) for share in (OUTLIERS, 1 - OUTLIERS)]
    torch.testing.assert_close(list(percentile_range(units)), expected)


def test_the_distribution_says_whether_to_clip() -> None:
    """Evenly spread weights are kept; of a narrow peak with one weight far out the far one is given up."""
    even = torch.linspace(-1, 1, 4096).view(1, 1, -1)
    peak = torch.randn(1, 1, 4096, generator=torch.Generator().manual_seed(0)) * 0.1
    peak[0, 0, 0] = 1.0

    def best(units: torch.Tensor) -> float:
        histogram = weight_histogram(units)
        return min(SHRINKS, key=lambda shrink: divergence_of_clipping(histogram, shrink, 15))

    assert best(even) == 1.0
    assert best(peak) < 0.7


def test_a_matrix_of_zeros_has_a_grid() -> None:
    for search in get_args(Search):
        for granularity in get_args(Granularity):
            grid = fit(torch.zeros(2, 32), Scheme(4, symmetric=False), search, granularity)
            assert (grid.nearest(torch.zeros(2, 32)) == 0).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_a_symmetric_grid_reaches_as_far_down_as_up(bits: int) -> None:
    grid = fit(torch.tensor([[-1.0, 1.0] * 8]), Scheme(bits, symmetric=True))
    values = grid.nearest(torch.tensor([[-1.0, 1.0] * 8]))
    step = float(grid.scales)
    assert values.abs().sub(1).abs().max() <= 0.51 * step
    assert float(values.min()) >= -1 - 0.51 * step
