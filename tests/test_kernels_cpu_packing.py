"""Weights as the CPU operators read them: the layouts of int4.h and gemm.h, said once more in torch."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from kernels.cpu_ops.loader import load_library
from kernels.cpu_ops.packing import pack_bfloat16, pack_int4
from kernels.int4 import PackedInt4, unpack_nibbles

pytestmark = pytest.mark.skipif(load_library() is None, reason="the CPU operators cannot be compiled here")

LANES = 16
PAIR_SHIFTS = (0, 16, 4, 20, 8, 24, 12, 28)  # of a word's eight inputs: pair j stands at bits 4j and 4j + 16


def by_panel(matrix: torch.Tensor) -> torch.Tensor:
    """[N, columns] to [N / 16, columns, 16]."""
    padded = F.pad(matrix, (0, 0, 0, -len(matrix) % LANES))
    return padded.view(-1, LANES, matrix.shape[1]).transpose(1, 2).contiguous()


def expected_int4(packed: PackedInt4) -> torch.Tensor:
    num_outputs, num_inputs = packed.shape
    groups, lines = num_inputs // packed.group_size, packed.group_size // 8
    eights = unpack_nibbles(packed.nibbles).view(num_outputs, groups * lines, 8).to(torch.int32)
    words = torch.zeros(num_outputs, groups * lines, dtype=torch.int32)
    for index, shift in enumerate(PAIR_SHIFTS):
        words |= eights[..., index] << shift
    coefficients = torch.stack([by_panel(packed.scales.half()), by_panel(packed.zeros.half() + 128)], dim=2)
    nibbles = by_panel(words).view(-1, groups, lines * LANES).view(torch.uint8)
    return torch.cat([coefficients.flatten(2).view(torch.uint8), nibbles], dim=2).flatten()


@given(st.integers(1, 40), st.integers(1, 4), st.sampled_from([16, 32, 48, 128]), st.integers(0, 99))
def test_int4_panels(num_outputs: int, groups: int, group_size: int, seed: int) -> None:
    library = load_library()
    assert library is not None
    generator = torch.Generator().manual_seed(seed)
    shape = (num_outputs, groups)
    packed = PackedInt4(
        torch.randint(0, 256, (num_outputs, groups * group_size // 2), generator=generator, dtype=torch.uint8),
        torch.rand(shape, generator=generator).half().float(),
        torch.randint(0, 16, shape, generator=generator, dtype=torch.uint8),
        group_size,
    )
    found = pack_int4(library, packed)
    assert found.data_ptr() % 64 == 0
    assert torch.equal(found, expected_int4(packed))


@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 99))
def test_bfloat16_panels(num_outputs: int, columns: int, seed: int) -> None:
    library = load_library()
    assert library is not None
    weight = torch.randn(num_outputs, 16 * columns, generator=torch.Generator().manual_seed(seed)).bfloat16()
    found = pack_bfloat16(library, weight)
    assert found.data_ptr() % 64 == 0
    assert torch.equal(found, by_panel(weight.view(torch.int32)).view(torch.uint8).flatten())
