"""What is written, held against the compressed-tensors library, Transformers' configuration class and our reader."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workers.models.config_fields import ConfigFields
from workers.quantization.grid import Quantized, Scheme
from workers.quantization.options import QuantizeOptions, choose_options
from workers.quantization.pack_quantized import pack_words, quantization_config, stored_tensors
from workers.quantization.ranges import fit_grid
from workers.weights.compressed_tensors import CompressedTensorsLayout

levels = st.builds(
    lambda rows, columns, bits, seed: (
        torch.randint(0, 2**bits, (rows, columns), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8),
        bits,
    ),
    st.integers(1, 19),
    st.integers(1, 40),
    st.sampled_from([4, 8]),
    st.integers(0, 2**31),
)


def test_the_first_level_is_in_the_lowest_bits_and_words_are_filled_with_zeros() -> None:
    assert pack_words(torch.arange(1, 10, dtype=torch.uint8)[None], 4).tolist() == [[0x87654321 - 2**32, 0x9]]
    assert pack_words(torch.arange(1, 6, dtype=torch.uint8)[None], 8).tolist() == [[0x04030201, 0x5]]


@given(levels)
def test_words_are_those_of_the_compressed_tensors_library(case: tuple[torch.Tensor, int]) -> None:
    from compressed_tensors.compressors.pack_quantized import pack_to_int32, unpack_from_int32

    values, bits = case
    signed = (values.int() - 2 ** (bits - 1)).to(torch.int8)
    assert torch.equal(pack_words(values, bits), pack_to_int32(signed, bits))
    assert torch.equal(pack_words(values.T, bits).T, pack_to_int32(signed, bits, packed_dim=0))
    assert torch.equal(unpack_from_int32(pack_words(values, bits), bits, signed.shape), signed)


def quantized(options: QuantizeOptions, num_outputs: int = 20) -> Quantized:
    weight = torch.randn(num_outputs, 64, generator=torch.Generator().manual_seed(9)) - 0.3
    scheme = Scheme(options.bits, options.symmetric, torch.bfloat16)
    grid = fit_grid(weight, scheme, options.granularity, options.group_size, "minmax")
    return Quantized(grid.round(weight), grid)


OPTIONS = [
    choose_options("rtn", bits, granularity, 16 if granularity == "group" else None, symmetric)
    for bits in (4, 8)
    for granularity in ("tensor", "channel", "group")
    for symmetric in (False, True)
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_library_and_transformers_read_what_is_written(options: QuantizeOptions) -> None:
    from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationConfig

    config = QuantizationConfig.model_validate(quantization_config(options))
    (scheme,) = config.config_groups.values()
    matrix = quantized(options)
    tensors = {name.removeprefix("m."): tensor for name, tensor in stored_tensors("m", matrix).items()}
    expected = set(PackedQuantizationCompressor.compression_param_names(scheme))
    assert set(tensors) == expected
    values = PackedQuantizationCompressor.decompress(tensors, scheme)["weight"]
    assert values.dtype == torch.bfloat16  # the library computes in the scales' dtype: one rounding, of the product
    assert torch.equal(values, matrix.values.to(torch.bfloat16))


def test_transformers_know_the_configuration() -> None:
    from transformers.utils.quantization_config import CompressedTensorsConfig

    config = CompressedTensorsConfig.from_dict(quantization_config(choose_options("gptq")))
    assert config.is_quantized
    assert config.quantization_config.ignore == ["lm_head"]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_our_reader_knows_the_configuration(options: QuantizeOptions) -> None:
    layout = CompressedTensorsLayout.from_config(ConfigFields(quantization_config(options)))
    (scheme,) = layout.schemes
    assert (scheme.num_bits, scheme.symmetric) == (options.bits, options.symmetric)
    assert scheme.group_size == (options.group_size or -1)
