"""Quantised matrices as each format stores them: read bit by bit, never by way of floats."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from kernels.int4 import PackedInt4, ReorderedInt4, dequantize, unpack_nibbles
from tests.helpers import Tensors
from tests.quantized_models import Quantized, awq, compressed_tensors, gptq, random_quantized
from workers.models.spec import ModelError
from workers.weights.awq import AwqLayout
from workers.weights.checkpoint import Checkpoint
from workers.weights.compressed_tensors import CompressedTensorsLayout, Scheme
from workers.weights.gptq import GptqLayout
from workers.weights.matrix import Matrix
from workers.weights.quantized_checkpoint import Layout

GROUPS = st.sampled_from([2, 6, 8, 10, 16, 32])


def read(layout: Layout, tensors: Tensors, shape: tuple[int, int]) -> Matrix:
    """What a layout makes of the tensors of one module."""
    with TemporaryDirectory() as path:
        save_file({f"m.{name}": tensor.contiguous() for name, tensor in tensors.items()}, f"{path}/model.safetensors")
        return layout.read(Checkpoint(Path(path)), "m", shape)


def same(found: Matrix, matrix: Quantized, group_size: int) -> None:
    """Assert that integers, scales and zero points are those that were written."""
    assert not isinstance(found, torch.Tensor)
    packed = found.packed if isinstance(found, ReorderedInt4) else found
    order = found.order if isinstance(found, ReorderedInt4) else torch.arange(matrix.values.shape[1])
    assert packed.group_size == group_size
    assert torch.equal(unpack_nibbles(packed.nibbles), matrix.values[:, order])
    assert torch.equal(packed.scales, matrix.scales.float())
    assert torch.equal(packed.zeros, matrix.zeros)
    assert torch.equal(dequantize(found, torch.float32), matrix.floats())


@given(st.data(), st.booleans(), st.booleans(), st.integers(0, 1), st.integers(0, 99))
def test_gptq_is_read_bit_by_bit(
    data: st.DataObject, symmetric: bool, shuffled: bool, zero_offset: int, seed: int
) -> None:
    num_outputs, group_size = 8 * data.draw(st.integers(1, 4)), 8 * data.draw(st.integers(1, 4))
    num_inputs = group_size * data.draw(st.integers(1, 4))
    matrix = random_quantized(num_outputs, num_inputs, group_size, symmetric=symmetric, shuffled=shuffled, seed=seed)
    layout = GptqLayout(group_size, shuffled, symmetric, zero_offset)
    found = read(layout, gptq(matrix, zero_offset=zero_offset), (num_outputs, num_inputs))
    assert isinstance(found, ReorderedInt4 if (matrix.group_of.diff() < 0).any() else PackedInt4)
    same(found, matrix, group_size)


@given(st.integers(1, 4), st.integers(1, 4), GROUPS, st.integers(0, 99))
def test_awq_is_read_bit_by_bit(eights: int, groups: int, group_size: int, seed: int) -> None:
    matrix = random_quantized(8 * eights, groups * group_size, group_size, symmetric=False, seed=seed)
    same(read(AwqLayout(group_size), awq(matrix), (8 * eights, groups * group_size)), matrix, group_size)


@given(st.integers(1, 19), st.integers(1, 4), GROUPS, st.booleans(), st.booleans(), st.integers(0, 99))
def test_compressed_tensors_are_read_bit_by_bit(
    num_outputs: int, groups: int, group_size: int, symmetric: bool, shuffled: bool, seed: int
) -> None:
    num_inputs = groups * group_size
    matrix = random_quantized(num_outputs, num_inputs, group_size, symmetric=symmetric, shuffled=shuffled, seed=seed)
    layout = CompressedTensorsLayout((Scheme(4, group_size, symmetric),))
    found = read(layout, compressed_tensors(matrix, symmetric=symmetric), (num_outputs, num_inputs))
    same(found, matrix, group_size)


@pytest.mark.parametrize("layout", [GptqLayout(-1, False, None, 1), AwqLayout(-1)], ids=["gptq", "awq"])
def test_a_group_size_of_minus_one_is_a_whole_row(layout: Layout) -> None:
    matrix = random_quantized(8, 48, 48, symmetric=False)
    same(read(layout, gptq(matrix) if isinstance(layout, GptqLayout) else awq(matrix), (8, 48)), matrix, 48)


def test_the_published_words_are_read() -> None:
    """Inputs, or outputs, 0 to 7 with the values 0 to 7: as the formats' own documents write them down."""
    column = {"scales": torch.ones(1, 8).half(), "qzeros": torch.tensor([[0x76543210]], dtype=torch.int32)}
    words = torch.full((1, 8), 0x76543210, dtype=torch.int32)
    found = read(GptqLayout(8, False, None, 1), column | {"qweight": words}, (8, 8))
    assert isinstance(found, PackedInt4)
    assert found.nibbles.tolist() == [[0x01, 0x23, 0x45, 0x67]] * 8
    assert found.zeros.flatten().tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    gemm = column | {"qzeros": torch.tensor([[0x75316420]], dtype=torch.int32)}
    found = read(AwqLayout(2), {**gemm, "qweight": torch.full((2, 1), 0x75316420, dtype=torch.int32)}, (8, 2))
    assert isinstance(found, PackedInt4)
    assert found.nibbles.tolist() == [[0x11 * output] for output in range(8)]
    assert found.zeros.flatten().tolist() == list(range(8))


@given(
    st.integers(9, 19), st.integers(1, 4), GROUPS, st.booleans(), st.booleans(), st.sampled_from([4, 8]),
    st.sampled_from([torch.float16, torch.bfloat16]), st.integers(0, 99),
)  # fmt: skip
def test_what_the_compressed_tensors_library_writes_is_read(
    num_outputs: int,
    groups: int,
    group_size: int,
    symmetric: bool,
    by_group: bool,
    num_bits: int,
    dtype: torch.dtype,
    seed: int,
) -> None:
    """4 bits to the very integers, 8 bits to the floats that the library makes of them. It cannot unpack 8 outputs."""
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor  # some seconds
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    generator = torch.Generator().manual_seed(seed)
    num_inputs = groups * group_size
    arguments = QuantizationArgs(
        num_bits=num_bits,
        symmetric=symmetric,
        strategy="group" if by_group else "channel",
        group_size=group_size if by_group else None,
    )
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments)
    columns, limit = groups if by_group else 1, 1 << (num_bits - 1)
    zeros = torch.randint(-limit, limit, (num_outputs, columns), generator=generator, dtype=torch.int8)
    state = {
        "weight": torch.randn(num_outputs, num_inputs, generator=generator),
        "weight_scale": (torch.rand(num_outputs, columns, generator=generator) + 0.1).to(dtype).float(),
        "weight_zero_point": torch.zeros_like(zeros) if symmetric else zeros,
    }
    compressed = PackedQuantizationCompressor.compress(state, scheme)
    expected = PackedQuantizationCompressor.decompress(compressed, scheme)["weight"]
    layout = CompressedTensorsLayout((Scheme(num_bits, group_size if by_group else -1, symmetric),))
    stored = compressed | {"weight_scale": compressed["weight_scale"].to(dtype)}
    found = read(layout, stored, (num_outputs, num_inputs))
    assert isinstance(found, PackedInt4 if num_bits == 4 else torch.Tensor)
    floats = dequantize(found, torch.float32) if isinstance(found, PackedInt4) else found
    torch.testing.assert_close(floats, expected, rtol=1e-6, atol=0)


MATRIX = random_quantized(16, 32, 16, symmetric=True)
GPTQ, AWQ = GptqLayout(16, False, True, 1), AwqLayout(16)
COMPRESSED = CompressedTensorsLayout((Scheme(4, 16, True), Scheme(4, 16, False), Scheme(8, -1, True)))
ORDERED = GptqLayout(16, True, True, 1)


def edited(name: str, value: float, index: tuple[int, ...] = (1, 3)) -> Callable[[Tensors], object]:
    """An edit of one number."""

    def edit(tensors: Tensors) -> None:
        tensors[name] = tensors[name].clone()
        tensors[name][index] = value

    return edit


REFUSED: list[tuple[str, Layout, Callable[[Tensors], object], str]] = [
    ("no-qzeros", GPTQ, lambda tensors: tensors.pop("qzeros"), r"lacks m\.qzeros"),
    ("no-scales", AWQ, lambda tensors: tensors.pop("scales"), r"lacks m\.scales"),
    ("no-scale", COMPRESSED, lambda tensors: tensors.pop("weight_scale"), r"m\.weight_packed and weight_scale have"),
    ("float-words", AWQ, lambda tensors: tensors.update(qweight=torch.ones(32, 2)), r"m\.qweight is torch\.float32"),
    ("float-packed", GPTQ, lambda tensors: tensors.update(qweight=torch.ones(4, 16)), r"m\.qweight is torch\.float32"),
    ("transposed", GPTQ, lambda tensors: tensors.update(qweight=tensors["qweight"].T), r"m\.qweight is .*\[16, 4\]"),
    (
        "int-scales",
        GPTQ,
        lambda tensors: tensors.update(scales=tensors["qzeros"].clone()),
        r"m\.scales is torch\.int32",
    ),
    ("zero-scale", GPTQ, edited("scales", 0.0), r"m\.scales: 1 of 32 scales are not positive.*first 0 at \[1, 3\]"),
    ("negative-scale", AWQ, edited("scales", -1.0), r"m\.scales: 1 of 32 .* first -1 at \[1, 3\]; quantise"),
    (
        "nan-scale",
        COMPRESSED,
        edited("weight_scale", float("nan"), (3, 1)),
        r"m\.weight_scale: 1 of 32 .*nan at \[3",
    ),
    ("inf-scale", AWQ, edited("scales", float("inf")), r"first inf at"),
    ("zero-of-16", GptqLayout(16, False, None, 1), edited("qzeros", -1, (0, 0)), r"m\.qzeros has stored zero .* 15"),
    ("not-symmetric", GPTQ, edited("qzeros", 0x77777776, (1, 1)), r"m\.qzeros has zero points other than 8"),
    ("no-g-idx", ORDERED, lambda tensors: tensors.pop("g_idx"), r"lacks m\.g_idx, but config.json says desc_act"),
    ("g-idx-range", ORDERED, edited("g_idx", 2, (31,)), r"m\.g_idx does not name each of 2 groups 16 times"),
    ("g-idx-negative", ORDERED, edited("g_idx", -1, (0,)), r"m\.g_idx does not name each"),
    ("g-idx-uneven", ORDERED, edited("g_idx", 1, (0,)), r"m\.g_idx does not name each"),
    ("group-too-large", GptqLayout(48, False, True, 1), lambda tensors: None, "32 inputs, which groups of 48 do not"),
    ("odd-group", AwqLayout(1), lambda tensors: None, "groups of 1 do not tile"),
    ("unknown-scheme", COMPRESSED, lambda tensors: tensors.update(weight_scale=torch.ones(16, 4)), r"\[4, 4\] columns"),
    (
        "zero-point-missing",
        CompressedTensorsLayout((Scheme(4, 16, False),)),
        lambda tensors: None,
        r"without weight_zero_point: no scheme",
    ),
    (
        "other-shape",
        COMPRESSED,
        lambda tensors: tensors.update(weight_shape=torch.tensor([32, 16])),
        r"m\.weight_shape is \[32, 16\], but config.json asks for \[16, 32\]",
    ),
]


@pytest.mark.parametrize(("layout", "edit", "message"), [case[1:] for case in REFUSED], ids=[c[0] for c in REFUSED])
def test_a_part_that_is_wrong_is_named(layout: Layout, edit: Callable[[Tensors], object], message: str) -> None:
    if isinstance(layout, AwqLayout):
        tensors = awq(MATRIX)
    elif isinstance(layout, GptqLayout):
        tensors = gptq(MATRIX)
    else:
        tensors = compressed_tensors(MATRIX, symmetric=True)
    edit(tensors)
    with pytest.raises(ModelError, match=message):
        read(layout, tensors, (16, 32))
