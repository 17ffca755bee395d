"""Attention in two kernels, for few query rows over long contexts: each segment of keys alone, then in order as one.

A segment is a range of keys at absolute positions (Flash-Decoding splits contexts, Dao et al. 2023; in strict numerics
they are of one size, so that a position's bits do not depend on what else is computed). Its partial results lie in a
workspace, a row of it for each query row and segment: float32 `partial_acc` [rows, kv_heads, head_dim] and
`partial_sums` [rows, kv_heads, 2], highest score and sum of weights.

The grid of `attend_segments` is fixed, and how many items there are is read from the device: one CUDA graph serves
contexts of any length.
"""

import triton
import triton.language as tl

from kernels.triton_ops.attention_body import merge, nothing_seen, query_rows, see_keys, weighted_mean


@triton.jit(do_not_specialize=["table_stride", "window"], do_not_specialize_on_alignment=["items"])
def attend_segments(
    q: tl.tensor,
    k_cache: tl.tensor,
    v_cache: tl.tensor,
    block_tables: tl.tensor,
    items: tl.tensor,
    num_items: tl.tensor,
    partial_acc: tl.tensor,
    partial_sums: tl.tensor,
    table_stride: int,
    window: int,
    scale: float,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIMS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """Program (head, i) of a grid [kv_heads, programs] does items i, i + programs, ... (`AttentionWork.segments`)."""
    head = tl.program_id(0)
    dims = tl.arange(0, DIMS)
    for item in range(tl.program_id(1), tl.load(num_items), tl.num_programs(1)):
        sequence = tl.load(items + item * 8)
        segment_start = tl.load(items + item * 8 + 1)
        segment_end = tl.load(items + item * 8 + 2)
        first_row = tl.load(items + item * 8 + 3)
        first_partial = tl.load(items + item * 8 + 4)
        query_start = tl.load(items + item * 8 + 5)
        query_len = tl.load(items + item * 8 + 6)
        context_len = tl.load(items + item * 8 + 7)
        first_token = (query_start + first_row // GROUP).to(tl.int64)
        offsets, exists = query_rows(first_row, query_len, GROUP, HEAD_DIM, ROWS, DIMS, KV_HEADS * GROUP * HEAD_DIM)
        queries = tl.load(q + (first_token * KV_HEADS + head) * (GROUP * HEAD_DIM) + offsets, mask=exists, other=0.0)
        rows = first_row + tl.arange(0, ROWS)
        first_position = context_len - query_len + first_row // GROUP
        highest, total, acc = nothing_seen(ROWS, DIMS)
        highest, total, acc = see_keys(
            queries, highest, total, acc, context_len - query_len + rows // GROUP,
            k_cache + head * HEAD_DIM, v_cache + head * HEAD_DIM,
            block_tables + sequence.to(tl.int64) * table_stride,
            max(segment_start, (first_position - window + 1) // TILE * TILE),
            segment_end, context_len, window, scale,
            KV_HEADS * HEAD_DIM, BLOCK_SIZE, HEAD_DIM, TILE, STAGES, MASKED=True,
        )  # fmt: skip
        place = (first_partial + tl.arange(0, ROWS)).to(tl.int64) * KV_HEADS + head
        row_exists = rows < query_len * GROUP
        tl.store(partial_sums + place * 2, highest, mask=row_exists)
        tl.store(partial_sums + place * 2 + 1, total, mask=row_exists)
        tl.store(partial_acc + place[:, None] * HEAD_DIM + dims[None, :], acc, mask=exists)


@triton.jit
def merge_segments(
    out: tl.tensor,
    items: tl.tensor,
    partial_acc: tl.tensor,
    partial_sums: tl.tensor,
    scale: float,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIMS: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """Program (head, i) of a grid [heads, tokens] merges one head of one token (`AttentionWork.merges`)."""
    head = tl.program_id(0)
    item = items + tl.program_id(1) * 4
    token = tl.load(item).to(tl.int64)
    first_partial = tl.load(item + 1).to(tl.int64) + head % GROUP
    row_stride = tl.load(item + 2)
    one = tl.arange(0, 1)
    dims = tl.arange(0, DIMS)
    highest, total, acc = nothing_seen(1, DIMS)
    for segment in tl.range(0, tl.load(item + 3), num_stages=STAGES):
        place = (first_partial + segment * row_stride) * KV_HEADS + head // GROUP
        next_highest = tl.load(partial_sums + place * 2 + one)
        next_total = tl.load(partial_sums + place * 2 + 1 + one)
        next_acc = tl.load(partial_acc + place * HEAD_DIM + dims, mask=dims < HEAD_DIM, other=0.0)
        highest, total, acc = merge(highest, total, acc, next_highest, next_total, next_acc[None, :], scale)
    mean = weighted_mean(total, acc).to(out.dtype.element_ty)
    place = (token * (KV_HEADS * GROUP) + head) * HEAD_DIM + dims
    tl.store(out + place[None, :], mean, mask=(dims < HEAD_DIM)[None, :])
