"""GPTQ: where errors can be made up for they are, and where they cannot it is plain rounding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.quantization.gptq import BLOCK, Gptq
from workers.quantization.grid import Grid, Scheme
from workers.quantization.input_statistics import InputStatistics, output_error
from workers.quantization.ranges import fit_grid


def random_case(seed: int, num_inputs: int, group_size: int, bits: int = 4) -> tuple[torch.Tensor, torch.Tensor, Grid]:
    """A matrix, the gram of inputs that have much to do with each other, and a grid."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(24, num_inputs, generator=generator)
    mix = torch.randn(num_inputs, num_inputs, generator=generator) / num_inputs**0.5
    inputs = torch.randn(4 * num_inputs, num_inputs, generator=generator) @ (mix + 0.5 * torch.eye(num_inputs))
    gram = inputs.T @ inputs / len(inputs)
    return weight, gram, fit_grid(weight, Scheme(bits, symmetric=False), "group", group_size, "minmax")


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.sampled_from([(48, 16), (BLOCK + 32, 32), (3 * BLOCK, BLOCK)]))
def test_outputs_change_less_than_by_rounding(seed: int, sizes: tuple[int, int]) -> None:
    weight, gram, grid = random_case(seed, *sizes)
    rounded = output_error(grid.nearest(weight) - weight, gram)
    assert output_error(Gptq(gram).quantize(weight, grid).values - weight, gram) < rounded


@given(st.integers(0, 2**31), st.sampled_from([4, 8]))
def test_inputs_that_have_nothing_to_do_with_each_other_make_up_for_nothing(seed: int, bits: int) -> None:
    weight, gram, grid = random_case(seed, 48, 16, bits)
    quantized = Gptq(gram.diagonal().diag()).quantize(weight, grid)
    assert torch.equal(quantized.levels, grid.round(weight))


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, gram, grid = random_case(5, 64, 16)
    whole = Gptq(gram).quantize(weight, grid)
    monkeypatch.setattr("workers.quantization.gptq.BLOCK", 8)
    different = (Gptq(gram).quantize(weight, grid).levels != whole.levels).float().mean()
    assert float(different) < 0.01  # the order of sums may tip a weight between two levels


def test_the_largest_inputs_are_rounded_first_and_to_their_nearest_level() -> None:
    weight, gram, grid = random_case(6, 32, 8)
    scale = torch.ones(32)
    scale[21] = 30.0
    gram = gram * torch.outer(scale, scale)
    levels = Gptq(gram).quantize(weight, grid).levels
    assert torch.equal(levels[:, 21], grid.round(weight)[:, 21])


def test_an_input_that_never_comes_is_no_harm() -> None:
    weight, gram, grid = random_case(7, 32, 8)
    gram[3], gram[:, 3] = 0, 0
    values = Gptq(gram).quantize(weight, grid).values
    assert output_error(values - weight, gram) < output_error(grid.nearest(weight) - weight, gram)
    assert torch.equal(Gptq(torch.zeros(32, 32)).quantize(weight, grid).levels, grid.round(weight))


@given(st.integers(0, 2**31), st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_statistics_do_not_depend_on_how_the_text_is_cut(seed: int, lengths: list[int]) -> None:
    inputs = torch.randn(sum(lengths), 5, generator=torch.Generator().manual_seed(seed))
    statistics = InputStatistics(5)
    for rows in torch.split(inputs, lengths):
        statistics.add(rows)
    torch.testing.assert_close(statistics.gram, inputs.T @ inputs / len(inputs))
    torch.testing.assert_close(statistics.sizes, inputs.abs().mean(0))


def test_the_output_error_is_the_mean_square_over_the_inputs() -> None:
    generator = torch.Generator().manual_seed(8)
    difference, inputs = torch.randn(3, 5, generator=generator), torch.randn(7, 5, generator=generator)
    expected = (inputs @ difference.T).square().sum(1).mean()
    assert output_error(difference, inputs.T @ inputs / 7) == pytest.approx(float(expected), rel=1e-5)
