"""Attention in one kernel, for many query rows: a program sees all keys of its tile of rows."""

import triton
import triton.language as tl

from kernels.triton_ops.attention_body import merge, nothing_seen, query_rows, see_keys, weighted_mean


@triton.jit(do_not_specialize=["table_stride", "window"])
def attend_tiles(
    q: tl.tensor,
    out: tl.tensor,
    k_cache: tl.tensor,
    v_cache: tl.tensor,
    block_tables: tl.tensor,
    items: tl.tensor,
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
    SEGMENT: tl.constexpr,
    STAGES: tl.constexpr,
    STRICT: tl.constexpr,
) -> None:
    """Program (head, i) of a grid [kv_heads, tiles] does item i (`AttentionWork.tiles`).

    With STRICT it sees segment by segment and merges them as `merge_segments` does, to the same bits.
    """
    head = tl.program_id(0)
    item = items + tl.program_id(1) * 5
    sequence = tl.load(item)
    first_row = tl.load(item + 1)
    query_start = tl.load(item + 2)
    query_len = tl.load(item + 3)
    context_len = tl.load(item + 4)
    offsets, exists = query_rows(first_row, query_len, GROUP, HEAD_DIM, ROWS, DIMS, KV_HEADS * GROUP * HEAD_DIM)
    base = ((query_start + first_row // GROUP).to(tl.int64) * KV_HEADS + head) * (GROUP * HEAD_DIM)
    queries = tl.load(q + base + offsets, mask=exists, other=0.0)
    positions = context_len - query_len + (first_row + tl.arange(0, ROWS)) // GROUP
    first_position = context_len - query_len + first_row // GROUP
    end = min(context_len, context_len - query_len + (first_row + ROWS - 1) // GROUP + 1)
    STEP: tl.constexpr = SEGMENT if STRICT else TILE
    begin = max(first_position - window + 1, 0) // STEP * STEP
    seen_by_all = (first_position + 1) // STEP * STEP if end <= window else begin  # no row's window ends before it
    k_cache += head * HEAD_DIM
    v_cache += head * HEAD_DIM
    block_table = block_tables + sequence.to(tl.int64) * table_stride
    KEY_STRIDE: tl.constexpr = KV_HEADS * HEAD_DIM
    highest, total, acc = nothing_seen(ROWS, DIMS)
    for MASKED in tl.static_range(2):
        phase_begin = seen_by_all if MASKED else begin
        phase_end = end if MASKED else seen_by_all
        if STRICT:
            for segment in range(phase_begin, phase_end, SEGMENT):
                segment_end = min(segment + SEGMENT, phase_end)
                next_highest, next_total, next_acc = nothing_seen(ROWS, DIMS)
                next_highest, next_total, next_acc = see_keys(
                    queries, next_highest, next_total, next_acc, positions, k_cache, v_cache, block_table,
                    segment, segment_end, context_len, window, scale,
                    KEY_STRIDE, BLOCK_SIZE, HEAD_DIM, TILE, STAGES, MASKED,
                )  # fmt: skip
                highest, total, acc = merge(highest, total, acc, next_highest, next_total, next_acc, scale)
        else:
            highest, total, acc = see_keys(
                queries, highest, total, acc, positions, k_cache, v_cache, block_table,
                phase_begin, phase_end, context_len, window, scale,
                KEY_STRIDE, BLOCK_SIZE, HEAD_DIM, TILE, STAGES, MASKED,
            )  # fmt: skip
    tl.store(out + base + offsets, weighted_mean(total, acc).to(out.dtype.element_ty), mask=exists)
