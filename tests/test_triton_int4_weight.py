"""The int4 layout of the Triton kernels: nothing is lost, and every thread finds its own weights side by side."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels.int4 import PackedInt4, unpack_nibbles
from kernels.triton_ops.int4_weight import pack_for_triton, triton_int4_fits, unpack_from_triton


def random_packed(num_outputs: int, num_inputs: int, group_size: int, seed: int) -> PackedInt4:
    """Random in every part; scales have what float16 holds."""
    generator = torch.Generator().manual_seed(seed)
    groups = num_inputs // group_size
    return PackedInt4(
        nibbles=torch.randint(0, 256, (num_outputs, num_inputs // 2), generator=generator, dtype=torch.uint8),
        scales=torch.rand(num_outputs, groups, generator=generator).add(0.01).half().float(),
        zeros=torch.randint(0, 16, (num_outputs, groups), generator=generator, dtype=torch.uint8),
        group_size=group_size,
    )


@given(st.integers(1, 200), st.integers(1, 3), st.sampled_from([32, 64, 128]), st.integers(0, 2**32))
def test_nothing_is_lost(num_outputs: int, steps: int, group_size: int, seed: int) -> None:
    packed = random_packed(num_outputs, steps * max(64, group_size), group_size, seed)
    weight = pack_for_triton(packed)
    back = unpack_from_triton(weight)
    assert weight.shape == packed.shape
    assert weight.num_padded % 128 == 0
    assert weight.num_padded - num_outputs < 128
    assert torch.equal(back.nibbles, packed.nibbles)
    assert torch.equal(back.scales, packed.scales)
    assert torch.equal(back.zeros, packed.zeros)
    assert back.group_size == group_size


@given(st.tuples(*[st.integers(0, size - 1) for size in (3, 2, 4, 8, 4, 4, 2, 2, 2)]))
def test_a_weight_is_where_its_thread_looks(place: tuple[int, ...]) -> None:
    """A whole matrix of zeros but one."""
    tile, column, warp, group, lane, step, pair, late, high = place
    values = torch.zeros(192, 128, dtype=torch.uint8)
    row = tile * 64 + warp * 16 + high * 8 + group
    values[row, column * 64 + step * 16 + late * 8 + lane * 2 + pair] = 11
    nibbles = (values[:, 0::2] << 4) | values[:, 1::2]
    ones = torch.ones(192, 1)
    words = pack_for_triton(PackedInt4(nibbles, ones, ones.to(torch.uint8), 128)).words
    byte = ((((warp * 8 + group) * 4 + lane) * 4 + step) * 2 + pair) * 2 + late
    assert words[tile, column, byte] == (11 << 4 if high else 11)
    assert words.count_nonzero() == 1


def test_scales_of_bfloat16_fit_and_longer_ones_do_not() -> None:
    packed = random_packed(64, 128, 64, 0)
    tiny = torch.full_like(packed.scales, 1e-30).bfloat16().float()
    fitting = PackedInt4(packed.nibbles, tiny, packed.zeros, 64)
    assert torch.equal(unpack_from_triton(pack_for_triton(fitting)).scales, tiny)
    assert not triton_int4_fits(PackedInt4(packed.nibbles, packed.scales / 3, packed.zeros, 64))


@pytest.mark.parametrize(("num_inputs", "group_size"), [(96, 32), (256, 256), (64, 16), (192, 96)])
def test_what_does_not_fit_is_refused(num_inputs: int, group_size: int) -> None:
    packed = random_packed(64, num_inputs, group_size, 0)
    assert unpack_nibbles(packed.nibbles).shape == (64, num_inputs)
    assert not triton_int4_fits(packed)
    with pytest.raises(ValueError, match="does not fit the Triton kernels"):
        pack_for_triton(packed)
