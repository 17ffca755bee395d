"""Paged attention in Triton against torch's in float32, from the same K, V and Q.

Tolerance: weights are rounded to float16 before they are multiplied with V (relative error 2 ** -11), the result is
rounded once more; values are of order 1: 3e-3, and 8 times that for bfloat16.
"""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.attention_inputs import AttentionShape
from kernels.triton_ops.attention_tiling import AttentionTiling, attention_tiling
from kernels.triton_ops.attention_work import AttentionWork, plan_attention
from kernels.triton_ops.paged_attention import AttentionWorkspace, TritonPagedAttention
from tests.attention_batch import (
    Lens,
    Sequences,
    attend,
    block_tables,
    make_sequences,
    new_tokens,
    reference,
    small_tiling,
)
from tests.triton_device import DEVICE, DTYPES

TOLERANCE = {torch.float16: 3e-3, torch.bfloat16: 2.4e-2}
BATCHES = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 100)), min_size=1, max_size=3)
RAGGED = [(1, 70), (1, 1), (3, 45), (40, 67), (33, 33), (1, 32), (41, 140)]


def assert_right(
    sequences: Sequences, lens: Lens, tiling: AttentionTiling, window: int = 0, workspace_rows: int = 4096
) -> None:
    out = attend(sequences, lens, tiling, window, workspace_rows)
    assert out.dtype == sequences.cache.dtype
    assert (out.float() - reference(sequences, lens, window)).abs().max() <= TOLERANCE[out.dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("window", [0, 1, 20, 64])
def test_a_ragged_batch(dtype: torch.dtype, strict: bool, window: int) -> None:
    sequences = make_sequences([context for _, context in RAGGED], dtype=dtype)
    assert_right(sequences, RAGGED, small_tiling(strict=strict), window)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    ("shape", "block_size"),
    [
        (AttentionShape(2, 2, 16), 1),
        (AttentionShape(6, 2, 16), 32),
        (AttentionShape(8, 1, 64), 16),
        (AttentionShape(20, 1, 80), 5),
        (AttentionShape(4, 4, 96), 4),
        (AttentionShape(72, 1, 16), 16),
    ],
)
def test_heads_and_blocks(dtype: torch.dtype, strict: bool, shape: AttentionShape, block_size: int) -> None:
    lens = [(1, 39), (9, 20), (2, 100)]
    sequences = make_sequences([context for _, context in lens], shape, block_size, dtype)
    assert_right(sequences, lens, small_tiling(strict=strict))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("head_dim", [128, 256])
def test_the_sizes_that_are_served(dtype: torch.dtype, strict: bool, head_dim: int) -> None:
    lens = [(1, 1050), (40, 560)]
    sequences = make_sequences([context for _, context in lens], AttentionShape(4, 1, head_dim), dtype=dtype)
    assert_right(sequences, lens, attention_tiling(head_dim, strict=strict))


@settings(max_examples=8)
@given(BATCHES, st.integers(0, 50), st.data())
def test_any_batch(batch: list[tuple[int, int]], window: int, data: st.DataObject) -> None:
    lens = [(new, new + cached) for new, cached in batch]
    rows = data.draw(st.sampled_from([0, 30, 4096]), label="workspace rows")
    tiling = small_tiling(strict=data.draw(st.booleans(), label="strict"))
    assert_right(make_sequences([context for _, context in lens]), lens, tiling, window, rows)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strict", [False, True])
def test_rows_that_pad_a_batch_are_zero(dtype: torch.dtype, strict: bool) -> None:
    sequences = make_sequences([40, 0, 35, 0], dtype=dtype)
    lens = [(1, 40), (1, 0), (1, 35), (1, 0)]
    out = attend(sequences, lens, small_tiling(strict=strict))
    assert (out[[1, 3]] == 0).all()
    assert (out[[0, 2]].float() - reference(sequences, lens)).abs().max() <= TOLERANCE[dtype]


@pytest.mark.parametrize("programs", [1, 4, 100])
def test_programs_share_the_items(programs: int) -> None:
    lens = [(1, 100), (1, 40)]  # four segments and two
    sequences = make_sequences([context for _, context in lens], dtype=DTYPES[-1])
    assert_right(sequences, lens, replace(small_tiling(strict=False), programs=programs))


def test_heads_that_are_too_wide_are_refused() -> None:
    with pytest.raises(ValueError, match="up to 256"):
        attention_tiling(264, strict=False)


def test_work_is_filled_again_for_the_next_step() -> None:
    """As between two runs of a CUDA graph: the same tensors, with other contents."""
    sequences = make_sequences([80, 40, 70], dtype=DTYPES[-1])
    tiling = small_tiling(strict=True)
    workspace = AttentionWorkspace(sequences.shape, 64, DEVICE)
    attention = TritonPagedAttention(sequences.shape, tiling, workspace)
    work = AttentionWork(num_merges=3, num_tiles=0, max_segments=9, window=0, device=DEVICE)
    for contexts in ([80, 40, 70], [33, 1, 32], [79, 40, 0]):
        lens = [(1, context) for context in contexts]
        heads = sequences.group, sequences.shape.num_kv_heads
        work.fill(plan_attention([1, 1, 1], contexts, *heads, tiling, 0, workspace.rows))
        q = new_tokens(sequences, lens)
        out = attention(q, sequences.cache, block_tables(sequences), work).view(q.shape)
        assert torch.equal(out, attend(sequences, lens, tiling))


@pytest.mark.gpu
def test_a_cuda_graph_serves_contexts_of_any_length() -> None:
    shape = AttentionShape(32, 8, 128)
    sequences = make_sequences([3000, 700, 1500], shape, dtype=torch.bfloat16)
    tiling = attention_tiling(128, strict=True)
    attention = TritonPagedAttention(shape, tiling, AttentionWorkspace(shape, 256, DEVICE))
    work = AttentionWork(num_merges=3, num_tiles=0, max_segments=32, window=0, device=DEVICE)
    lens = [(1, 3000), (1, 700), (1, 1500)]
    q, tables = new_tokens(sequences, lens), block_tables(sequences)
    work.fill(plan_attention([1, 1, 1], [3000, 700, 1500], 4, 8, tiling, 0, 256))
    attention(q, sequences.cache, tables, work)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = attention(q, sequences.cache, tables, work)
    for contexts in ([3000, 700, 1500], [17, 512, 513], [2999, 0, 1]):
        lens = [(1, context) for context in contexts]
        work.fill(plan_attention([1, 1, 1], contexts, 4, 8, tiling, 0, 256))
        q.copy_(new_tokens(sequences, lens))
        graph.replay()
        assert torch.equal(out.view(q.shape), attend(sequences, lens, tiling))


@pytest.mark.gpu
def test_a_cache_of_more_than_two_to_the_31_elements() -> None:
    small = make_sequences([600, 300], AttentionShape(8, 2, 128), dtype=torch.bfloat16)
    moved = 2**31 // (16 * 2 * 128)
    cache = torch.empty(2, moved + small.cache.shape[1], *small.cache.shape[2:], dtype=torch.bfloat16, device=DEVICE)
    cache[:, moved:] = small.cache
    large = replace(small, cache=cache, tables=[table + moved for table in small.tables])
    tiling = attention_tiling(128, strict=False)
    for lens in ([(1, 600), (1, 300)], [(600, 600), (200, 300)]):
        assert torch.equal(attend(large, lens, tiling), attend(small, lens, tiling))
