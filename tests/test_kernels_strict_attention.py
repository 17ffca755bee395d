"""Strict attention: right, and the same to the last bit however a context is cut into chunks."""

import pytest
import torch

from kernels.paged_attention import attend_one
from kernels.strict_attention import CHUNK_ROWS, SEGMENT, TILE, attend_strict

HEADS = [(4, 2, 64), (4, 2, 16), (8, 8, 128), (32, 4, 64), (5, 1, 24)]  # heads, kv heads, head_dim
LENGTH = 700
# New tokens [begin, end) of a context of `end` tokens: single ones, odd ones, across segments, tiles and row chunks.
CUTS = [
    (0, 1),
    (0, 7),
    (5, 6),
    (100, 101),
    (255, 256),
    (255, 257),
    (256, 257),
    (511, 530),
    (0, 600),
    (600, 700),
    (3, 700),
]


def random_context(heads: int, kv_heads: int, head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(heads * head_dim)
    q = torch.randn(LENGTH, heads, head_dim, generator=generator)
    return q, torch.randn(2, LENGTH, kv_heads, head_dim, generator=generator)


def test_the_cuts_cross_every_border() -> None:
    assert LENGTH > 2 * SEGMENT
    assert LENGTH * HEADS[0][0] // HEADS[0][1] > CHUNK_ROWS > TILE


@pytest.mark.parametrize("shape", HEADS)
def test_it_equals_the_reference(shape: tuple[int, int, int]) -> None:
    q, kv = random_context(*shape)
    for begin, end in CUTS:
        torch.testing.assert_close(attend_strict(q[begin:end], kv[:, :end]), attend_one(q[begin:end], kv[:, :end]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", HEADS)
def test_no_cut_changes_a_bit(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    q, kv = (tensor.to(dtype) for tensor in random_context(*shape))
    whole = attend_strict(q, kv)
    for begin, end in CUTS:
        assert torch.equal(attend_strict(q[begin:end], kv[:, :end]), whole[begin:end]), (begin, end)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_changes_no_bit(threads: int) -> None:
    q, kv = random_context(*HEADS[0])
    before, whole = torch.get_num_threads(), attend_strict(q, kv)
    torch.set_num_threads(threads)
    try:
        assert torch.equal(attend_strict(q, kv), whole)
    finally:
        torch.set_num_threads(before)
