"""Sizes of the attention kernels' tiles: a small static table, nothing is tuned at run time."""

from dataclasses import dataclass

SEGMENT = 512  # keys whose attention is merged in order; less waits more often for memory, more leaves processors idle
WGMMA_ROWS = 64  # of one instruction of a warp group


@dataclass(frozen=True)
class AttentionTiling:
    """What the kernels are compiled for.

    Attributes:
        strict: bits of a position do not depend on which kernel computes it, nor with what else.
        segment: keys of a segment, in strict numerics; else from a quarter of that to twice.
        tile: keys of one step of a loop.
        segment_rows, segment_warps: query rows and warps of a program of `segment_attention`; where a sequence has more
            rows, WGMMA_ROWS.
        tile_rows, tile_warps: the same of `tile_attention`.
        stages: tiles of K and V in flight or in use, one program's.
        programs: programs of `segment_attention` with WGMMA_ROWS that an H200 (132 processors) holds at once.
    """

    strict: bool
    segment: int
    tile: int
    segment_rows: int
    segment_warps: int
    tile_rows: int
    tile_warps: int
    stages: int
    programs: int

    def segment_rows_for(self, most_rows: int) -> int:
        """Query rows of a program where the longest sequence has `most_rows`; the same for all in strict numerics."""
        return self.segment_rows if most_rows <= self.segment_rows else WGMMA_ROWS

    def programs_for(self, segment_rows: int, kv_heads: int) -> int:
        """Programs for one KV head: rounded down, because one too many would start when the others are done."""
        held = self.programs if segment_rows == WGMMA_ROWS else self.programs * 3 // 2
        return max(held // kv_heads, 1)


def attention_tiling(head_dim: int, *, strict: bool) -> AttentionTiling:
    """The tiling for a head_dim up to 256.

    Strict numerics multiply 64 rows at a time everywhere: with 16 an older instruction is taken (mma.sync,
    not wgmma), which adds in another order. 128 rows are twice 64 to the two warp groups that share them. Above 128,
    two warp groups share 64 rows, each half of the keys and then of V's columns: one has too few registers.

    Raises:
        ValueError: head_dim is larger.
    """
    if head_dim > 256:
        raise ValueError(f"heads of {head_dim} are too wide for the attention kernels, which take up to 256")
    wide = head_dim > 128
    return AttentionTiling(
        strict=strict,
        segment=SEGMENT,
        tile=32 if wide else 64,
        segment_rows=WGMMA_ROWS if strict else 16,
        segment_warps=8 if wide else 4,
        tile_rows=64 if wide else 128,
        tile_warps=8,
        stages=3,
        programs=264,
    )
