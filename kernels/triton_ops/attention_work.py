"""What the programs of the attention kernels do in one step, decided on the host, which knows all lengths.

Sequences of one new token, or of few over a long context (the end of a prompt whose beginning was cached), go to
`segment_attention`: in `tile_attention`, where the others go, they would leave most of the GPU idle. In strict numerics
both compute the same bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from kernels.triton_ops.attention_tiling import AttentionTiling

SHORT_ROWS = 512  # query rows of a KV head: up to so many are few,
LONG_SEGMENTS = 4  # and from so many segments on a context is long
PROGRAMS = 128  # that keep an H200's processors at work
NO_WINDOW = 1 << 30  # longer than any context
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class AttentionPlan:
    """Items of the kernels, int32.

    Attributes:
        segments: [items, 8], (sequence, first key, the key behind the last, first query row, first row of the
            workspace, then the sequence's first token, new tokens, and tokens in its context).
        merges: [tokens, 4], (token, first row of the workspace, rows from segment to segment, segments).
        tiles: [items, 5], (sequence, first query row, then as in `segments`), the one that sees most keys first.
        segment_rows: query rows of an item of `segments`.
    """

    segments: npt.NDArray[np.int32]
    merges: npt.NDArray[np.int32]
    tiles: npt.NDArray[np.int32]
    segment_rows: int


def plan_attention(
    query_lens: Sequence[int],
    context_lens: Sequence[int],
    group: int,
    kv_heads: int,
    tiling: AttentionTiling,
    window: int,
    workspace_rows: int,
) -> AttentionPlan:
    """Divide one step's attention into items.

    Args:
        query_lens: per sequence, its new tokens, one after another in the batch.
        context_lens: per sequence, tokens in its context, the new ones included; 0 for a row that only pads a batch,
            whose attention is zeros.
        group: query heads of a KV head.
        kv_heads: how many of those there are.
        tiling: of the kernels that are to do the items.
        window: keys that a token sees, its own included; 0 for all.
        workspace_rows: of the workspace; sequences that do not fit any more go to `tile_attention`.
    """
    queries, contexts = np.array(query_lens, np.int64), np.array(context_lens, np.int64)
    rows = queries * group
    first_seen = np.maximum(contexts - queries - (window or NO_WINDOW) + 1, 0)
    segment = segment_for(first_seen, contexts, tiling, kv_heads)
    segments = num_segments(first_seen, contexts, segment)
    is_long = num_segments(first_seen, contexts, tiling.segment) >= LONG_SEGMENTS
    short = (queries == 1) | ((rows <= SHORT_ROWS) & is_long)
    short = while_room(short, segments * rows, workspace_rows)
    needed = segments * rows * short
    starts, bases = np.cumsum(queries) - queries, np.cumsum(needed) - needed
    lengths = np.stack([starts, queries, contexts], 1)
    segment_rows = tiling.segment_rows_for(int((rows * short).max(initial=0)))
    return AttentionPlan(
        segment_items(short, first_seen // segment * segment, segments, rows, bases, lengths, segment, segment_rows),
        merge_items(short, starts, queries, bases, rows, segments, group),
        tile_items(~short, rows, lengths, group, tiling.tile_rows),
        segment_rows,
    )


def segment_for(first_seen: Ints, contexts: Ints, tiling: AttentionTiling, kv_heads: int) -> int:
    """Keys of a segment: where bits may depend on the batch, as many as leave every processor a program or so.

    Merging is work for nothing, and a program that sees many keys keeps the others waiting: one token over 2,048 keys
    took 13.2 us in segments of 512 and 9.8 in segments of 128, 64 such tokens 138 us in 512 and 135 in 1,024.
    """
    if tiling.strict:
        return tiling.segment
    sizes = [size for size in (tiling.segment * 2 >> halved for halved in range(4)) if size % tiling.tile == 0]
    programs = (kv_heads * int(num_segments(first_seen, contexts, size).sum()) for size in sizes)
    return next((size for size, count in zip(sizes, programs, strict=True) if count >= PROGRAMS), sizes[-1])


def num_segments(first_seen: Ints, contexts: Ints, segment: int) -> Ints:
    """Per sequence, that hold the keys from the first seen on."""
    segments: Ints = np.maximum(-(-contexts // segment) - first_seen // segment, 0)
    return segments


def while_room(wanted: npt.NDArray[np.bool_], needed: Ints, room: int) -> npt.NDArray[np.bool_]:
    """Which of those `wanted` are granted what they need, the smallest first, while there is room."""
    order = np.argsort(np.where(wanted, needed, np.iinfo(np.int64).max), kind="stable")
    granted = np.cumsum((needed * wanted)[order]) <= room
    return wanted & granted[np.argsort(order)]


def count_within(counts: Ints) -> tuple[Ints, Ints]:
    """For owners of `counts` things each, one after another: each thing's owner, and its number among the owner's."""
    owners = np.repeat(np.arange(len(counts)), counts)
    return owners, np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)


def segment_items(
    short: npt.NDArray[np.bool_],
    first_keys: Ints,
    segments: Ints,
    rows: Ints,
    bases: Ints,
    lengths: Ints,
    segment_keys: int,
    segment_rows: int,
) -> npt.NDArray[np.int32]:
    """`AttentionPlan.segments`."""
    tiles = -(-rows // segment_rows)
    owners, index = count_within(segments * tiles * short)
    segment, first_rows = index // tiles[owners], index % tiles[owners] * segment_rows
    keys = first_keys[owners] + segment * segment_keys
    ends = np.minimum(keys + segment_keys, lengths[owners, 2])
    places = bases[owners] + segment * rows[owners] + first_rows
    return np.column_stack([owners, keys, ends, first_rows, places, lengths[owners]]).astype(np.int32)


def merge_items(
    short: npt.NDArray[np.bool_], starts: Ints, queries: Ints, bases: Ints, rows: Ints, segments: Ints, group: int
) -> npt.NDArray[np.int32]:
    """`AttentionPlan.merges`."""
    owners, token = count_within(queries * short)
    columns = [starts[owners] + token, bases[owners] + token * group, rows[owners], segments[owners]]
    return np.stack(columns, 1).astype(np.int32)


def tile_items(
    long: npt.NDArray[np.bool_], rows: Ints, lengths: Ints, group: int, tile_rows: int
) -> npt.NDArray[np.int32]:
    """`AttentionPlan.tiles`."""
    owners, tile = count_within(-(-rows // tile_rows) * long)
    first_rows = tile * tile_rows
    first_positions = (lengths[:, 2] - lengths[:, 1])[owners] + first_rows // group
    order = np.argsort(-first_positions, kind="stable")
    return np.column_stack([owners, first_rows, lengths[owners]])[order].astype(np.int32)


class AttentionWork:
    """A plan on the device, at addresses that stay the same from step to step.

    Attributes:
        window: keys that a token sees, as the kernels want it.
        num_segments: int32 [1], how many of `segments` are items.
        merges, tiles, segments, segment_rows: as in `AttentionPlan`, on the device.
    """

    def __init__(self, num_merges: int, num_tiles: int, max_segments: int, window: int, device: torch.device) -> None:
        """Make room for a step's items; nothing is to be done before `fill`.

        A CUDA graph of n tokens, one of each sequence, has n merges, no tiles, and segments for the longest contexts.
        Fill it before the graph is captured.
        """
        self.window = window or NO_WINDOW
        self.segment_rows = 0
        sizes = [4, 4 * num_merges, 5 * num_tiles, 8 * max_segments]
        self._buffer = torch.zeros(sum(sizes), dtype=torch.int32, device=device)
        count, merges, tiles, segments = torch.split(self._buffer, sizes)
        self.num_segments, self.merges = count[:1], merges.view(-1, 4)
        self.tiles, self.segments = tiles.view(-1, 5), segments.view(-1, 8)

    @classmethod
    def of(cls, plan: AttentionPlan, window: int, device: torch.device) -> "AttentionWork":
        """A step's work outside of CUDA graphs."""
        work = cls(len(plan.merges), len(plan.tiles), len(plan.segments), window, device)
        work.fill(plan)
        return work

    def fits(self, plan: AttentionPlan) -> bool:
        """Whether there is room for a plan."""
        wanted = len(plan.merges), len(plan.tiles), len(plan.segments)
        room = len(self.merges), len(self.tiles), len(self.segments)
        return wanted[:2] == room[:2] and wanted[2] <= room[2]

    def fill(self, plan: AttentionPlan) -> None:
        """Copy a plan to the device, in one copy.

        Raises:
            ValueError: there is no room for it.
        """
        if not self.fits(plan):
            raise ValueError(
                f"a plan of {len(plan.merges)} merges, {len(plan.tiles)} tiles and {len(plan.segments)} segments does "
                f"not fit work for {len(self.merges)}, {len(self.tiles)} and {len(self.segments)}: make room for it"
            )
        self.segment_rows = plan.segment_rows
        count = np.array([len(plan.segments), 0, 0, 0], np.int32)
        items = np.concatenate([count, plan.merges.ravel(), plan.tiles.ravel(), plan.segments.ravel()])
        self._buffer[: len(items)].copy_(pinned(torch.from_numpy(items), self._buffer.device), non_blocking=True)


def pinned(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor whose copy to `device` does not wait: torch keeps pinned memory until such a copy is through."""
    return tensor.pin_memory() if device.type == "cuda" else tensor
