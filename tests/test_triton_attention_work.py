"""What the attention kernels are given to do: every visible key once for every row, and nothing that does not fit."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels.triton_ops.attention_tiling import attention_tiling
from kernels.triton_ops.attention_work import SHORT_ROWS, AttentionWork, plan_attention

TILING = replace(attention_tiling(64, strict=False), segment=32, tile=16)
KV_HEADS = 8
FIXED = replace(TILING, strict=True)  # in its segments
CPU = torch.device("cpu")
BATCHES = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 200)), min_size=1, max_size=6)


@given(
    BATCHES, st.sampled_from([1, 3, 4, 70]), st.sampled_from([1, 8]), st.integers(0, 100),
    st.sampled_from([0, 200, 10**6]),
)  # fmt: skip
def test_every_row_is_done_once(
    batch: list[tuple[int, int]], group: int, kv_heads: int, window: int, room: int
) -> None:
    news, contexts = [new for new, _ in batch], [new + cached for new, cached in batch]
    plan = plan_attention(news, contexts, group, kv_heads, TILING, window, room)
    wanted = {(sequence, row) for sequence, new in enumerate(news) for row in range(new * group)}
    in_tiles = Counter(
        (sequence, row)
        for sequence, first, *_ in plan.tiles.tolist()
        for row in range(first, min(first + TILING.tile_rows, news[sequence] * group))
    )
    places: dict[int, tuple[int, int, int, int]] = {}  # row of the workspace: sequence, query row, first key, end
    for sequence, key, end, first, place, start, new, context in plan.segments.tolist():
        assert (start, new, context) == (sum(news[:sequence]), news[sequence], contexts[sequence])
        for row in range(first, min(first + plan.segment_rows, news[sequence] * group)):
            assert place + row - first not in places
            places[place + row - first] = sequence, row, key, end
    assert all(place < room for place in places)
    merged = Counter[tuple[int, int]]()
    starts = [sum(news[:sequence]) for sequence in range(len(news))]
    for token, first_place, stride, segments in plan.merges.tolist():
        sequence = max(index for index, start in enumerate(starts) if start <= token)
        position = contexts[sequence] - news[sequence] + token - starts[sequence]
        for head in range(group):
            row = (token - starts[sequence]) * group + head
            merged[sequence, row] += 1
            seen = [places[first_place + head + index * stride] for index in range(segments)]
            keys, ends = [place[2] for place in seen], [place[3] for place in seen]
            assert {place[:2] for place in seen} == {(sequence, row)}
            assert [*keys[1:], contexts[sequence]] == ends
            assert all(key % TILING.tile == 0 for key in keys)
            assert keys[0] <= max(0, position - window + 1 if window else 0)
    assert Counter(wanted) == in_tiles + merged


def test_one_new_token_of_many_heads_is_short() -> None:
    plan = plan_attention([1], [100], SHORT_ROWS + 1, 1, TILING, 0, 10**6)
    assert len(plan.tiles) == 0


def test_few_tokens_are_short_where_the_context_is_long() -> None:
    for new, context, short in ((2, 97, True), (2, 96, False), (128, 1000, True), (129, 1000, False)):
        plan = plan_attention([new], [context], 4, KV_HEADS, TILING, 0, 10**6)
        assert (len(plan.merges), len(plan.tiles) == 0) == (new if short else 0, short)


def test_single_tokens_come_first_where_room_is_scarce() -> None:
    plan = plan_attention([9, 1, 1], [200, 200, 90], 4, KV_HEADS, TILING, 0, 7 * 4 + 3 * 4)
    assert plan.merges[:, 0].tolist() == [9, 10]
    assert plan.tiles[:, 0].tolist() == [0]


def test_strict_items_have_the_same_rows_for_any_batch() -> None:
    strict = replace(attention_tiling(64, strict=True), segment=32, tile=16)
    rows = [
        [plan_attention(news, [200, 300], 4, KV_HEADS, tiling, 0, 10**6).segment_rows for news in ([1, 1], [1, 9])]
        for tiling in (TILING, strict)
    ]
    assert rows == [[16, 64], [64, 64]]


def test_segments_are_as_long_as_keep_the_gpu_busy() -> None:
    """Of 64 keys where each head has two programs; of 16, a tile, where there is not enough work anyway."""
    sizes = [
        plan_attention([1] * batch, [context] * batch, 4, heads, TILING, 0, 10**6).segments[0, 2]
        for batch, context, heads in ((1, 128, 64), (1, 100, 64), (2, 100, 64), (1, 64, 64), (1, 16, 1), (1, 1000, 4))
    ]
    assert sizes == [64, 64, 64, 32, 16, 32]
    assert plan_attention([1], [1000], 4, 64, FIXED, 0, 10**6).segments[0, 2] == TILING.segment


def test_programs_fit_the_gpu_together() -> None:
    for strict, held in ((False, 396), (True, 264)):
        tiling = attention_tiling(128, strict=strict)
        programs = [heads * tiling.programs_for(tiling.segment_rows, heads) for heads in (1, 5, 8)]
        assert all(held - heads < total <= held for heads, total in zip((1, 5, 8), programs, strict=True))
    assert attention_tiling(128, strict=True).programs_for(64, 300) == 1


def test_a_window_leaves_out_the_segments_before_it() -> None:
    plan = plan_attention([1], [100], 4, KV_HEADS, FIXED, 5, 10**6)
    assert plan.segments[:, 1].tolist() == [64, 96]


def test_the_tiles_that_see_most_come_first() -> None:
    plan = plan_attention([100, 60], [100, 400], 4, KV_HEADS, TILING, 0, 0)
    assert plan.tiles[:, :2].tolist() == [[1, 128], [1, 0], [0, 384], [0, 256], [0, 128], [0, 0]]
    assert plan.tiles[[0, 2], 2:].tolist() == [[100, 60, 400], [0, 100, 100]]


def test_a_padding_row_has_nothing_to_merge() -> None:
    plan = plan_attention([1, 1], [0, 40], 4, KV_HEADS, FIXED, 0, 10**6)
    assert plan.segments[:, 0].tolist() == [1, 1]
    assert plan.merges[:, 3].tolist() == [0, 2]


def test_work_without_room_is_refused() -> None:
    plan = plan_attention([1, 1], [64, 65], 4, KV_HEADS, FIXED, 0, 10**6)
    AttentionWork(2, 0, 5, 0, CPU).fill(plan)
    for room in ((2, 0, 4), (1, 0, 5), (2, 1, 5)):
        with pytest.raises(ValueError, match="does not fit"):
            AttentionWork(*room, window=0, device=CPU).fill(plan)


def test_work_holds_the_plan() -> None:
    plan = plan_attention([1, 90], [64, 90], 4, KV_HEADS, FIXED, 0, 10**6)
    work = AttentionWork(1, 3, 7, 0, CPU)
    work.fill(plan)
    assert work.num_segments.tolist() == [2]
    assert work.segments[:2].tolist() == plan.segments.tolist()
    assert work.merges.tolist() == plan.merges.tolist()
    assert work.tiles.tolist() == plan.tiles.tolist()
