"""Strict attention: right, and the same to the last bit however a context is cut into chunks."""

import pytest
import torch

from kernels.paged_attention import attend_one
from kernels.strict_attention import CHUNK_ROWS, SEGMENT, TILE, attend_strict

HEADS = [(4, 2, 64), (4, 2, 16), (8, 8, 128), (32, 4, 64), (5, 1, 24)]  # heads, kv heads, head_dim
LENGTH = 700
WINDOWS = [0, 1, 37, 256]
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
@pytest.mark.parametrize("window", WINDOWS)
def test_it_equals_the_reference(shape: tuple[int, int, int], window: int) -> None:
    q, kv = random_context(*shape)
    for begin, end in CUTS:
        part, context = q[begin:end], kv[:, :end]
        torch.testing.assert_close(attend_strict(part, context, window), attend_one(part, context, window))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", HEADS)
@pytest.mark.parametrize("window", WINDOWS)
def test_no_cut_changes_a_bit(shape: tuple[int, int, int], window: int, dtype: torch.dtype) -> None:
    q, kv = (tensor.to(dtype) for tensor in random_context(*shape))
    whole = attend_strict(q, kv, window)
    for begin, end in CUTS:
        assert torch.equal(attend_strict(q[begin:end], kv[:, :end], window), whole[begin:end]), (begin, end)


@pytest.mark.parametrize("shape", HEADS)
def test_what_is_before_the_window_changes_no_bit(shape: tuple[int, int, int]) -> None:
    q, kv = random_context(*shape)
    other = kv.clone()
    other[:, :440] = 7.0
    assert torch.equal(attend_strict(q[650:], kv, 211), attend_strict(q[650:], other, 211))
    assert not torch.equal(attend_strict(q[650:], kv, 212), attend_strict(q[650:], other, 212))


@pytest.mark.parametrize("window", [LENGTH, LENGTH + 1, 10**6])
def test_a_window_as_long_as_the_context_is_none(window: int) -> None:
    q, kv = random_context(*HEADS[0])
    assert torch.equal(attend_strict(q, kv, window), attend_strict(q, kv))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_changes_no_bit(threads: int) -> None:
    q, kv = random_context(*HEADS[0])
    before, whole = torch.get_num_threads(), attend_strict(q, kv)
    torch.set_num_threads(threads)
    try:
        assert torch.equal(attend_strict(q, kv), whole)
    finally:
        torch.set_num_threads(before)
