"""Launches the kernels of paged attention (Kwon et al. 2023, arXiv 2309.06180); `kernels.paged_attention` in Triton."""

import math

import torch
import triton

from kernels.attention_inputs import AttentionShape
from kernels.triton_ops.attention_tiling import AttentionTiling
from kernels.triton_ops.attention_work import AttentionWork
from kernels.triton_ops.segment_attention import attend_segments, merge_segments
from kernels.triton_ops.tile_attention import attend_tiles

MERGE_STAGES = 8  # partial results in flight; they are small


class AttentionWorkspace:
    """Partial results of segments, float32: rows * kv_heads * (head_dim + 2) * 4 bytes; one serves all layers.

    A sequence of one new token needs (segments of its context) * (query heads of a KV head) rows.
    """

    def __init__(self, shape: AttentionShape, rows: int, device: torch.device) -> None:
        self.rows = rows
        self.acc = torch.empty(rows, shape.num_kv_heads, shape.head_dim, dtype=torch.float32, device=device)
        self.sums = torch.empty(rows, shape.num_kv_heads, 2, dtype=torch.float32, device=device)


class TritonPagedAttention:
    """Attention of a step's tokens over paged K and V, float16 or bfloat16.

    For a CUDA graph these must be at the same addresses whenever it runs: q, layer_cache, block_tables (of the same
    width), the work and the workspace; their contents may change, the number of tokens may not. The result lies in the
    graph's memory. Nothing is read back from the device.
    """

    def __init__(self, shape: AttentionShape, tiling: AttentionTiling, workspace: AttentionWorkspace) -> None:
        self._group = shape.num_heads // shape.num_kv_heads
        self._shape = shape
        self._tiling = tiling
        self._workspace = workspace
        self._scale = shape.head_dim**-0.5 * math.log2(math.e)  # weights are powers of two
        self._constants = {
            "KV_HEADS": shape.num_kv_heads,
            "GROUP": self._group,
            "HEAD_DIM": shape.head_dim,
            "DIMS": triton.next_power_of_2(max(shape.head_dim, 16)),
        }

    def __call__(
        self, q: torch.Tensor, layer_cache: torch.Tensor, block_tables: torch.Tensor, work: AttentionWork
    ) -> torch.Tensor:
        """Attend one layer's tokens; their K and V are in the cache already.

        Args:
            q: [tokens, heads, head_dim], rotated, in the cache's dtype, contiguous.
            layer_cache: [2, num_blocks, block_size, kv_heads, head_dim], contiguous.
            block_tables: int32 [sequences, blocks], as of `StepTensors`.
            work: planned with this tiling, for the layer's window, for no more rows than the workspace has.

        Returns:
            [tokens, heads * head_dim] in the dtype of q; zeros for a token of a sequence of no context.
        """
        out = torch.empty_like(q)
        if len(work.merges):
            self._attend_segments(q, layer_cache, block_tables, work)
            self._merge_segments(out, work)
        if len(work.tiles):
            self._attend_tiles(q, out, layer_cache, block_tables, work)
        return out.flatten(1)

    def _attend_segments(
        self, q: torch.Tensor, cache: torch.Tensor, block_tables: torch.Tensor, work: AttentionWork
    ) -> None:
        tiling, kv_heads = self._tiling, self._shape.num_kv_heads
        programs = min(tiling.programs_for(work.segment_rows, kv_heads), max(len(work.segments), 1))
        attend_segments[(kv_heads, programs)](
            q, cache[0], cache[1], block_tables,
            work.segments, work.num_segments, self._workspace.acc, self._workspace.sums,
            block_tables.stride(0), work.window, self._scale,
            **self._constants, BLOCK_SIZE=cache.shape[2], ROWS=work.segment_rows, TILE=tiling.tile,
            STAGES=tiling.stages, num_warps=tiling.segment_warps,
        )  # fmt: skip

    def _merge_segments(self, out: torch.Tensor, work: AttentionWork) -> None:
        merge_segments[(self._shape.num_heads, len(work.merges))](
            out, work.merges, self._workspace.acc, self._workspace.sums, self._scale,
            **self._constants, STAGES=MERGE_STAGES, num_warps=1,
        )  # fmt: skip

    def _attend_tiles(
        self, q: torch.Tensor, out: torch.Tensor, cache: torch.Tensor, block_tables: torch.Tensor, work: AttentionWork
    ) -> None:
        tiling = self._tiling
        attend_tiles[(self._shape.num_kv_heads, len(work.tiles))](
            q, out, cache[0], cache[1], block_tables, work.tiles,
            block_tables.stride(0), work.window, self._scale,
            **self._constants, BLOCK_SIZE=cache.shape[2], ROWS=tiling.tile_rows, TILE=tiling.tile,
            SEGMENT=tiling.segment, STAGES=tiling.stages, STRICT=tiling.strict, num_warps=tiling.tile_warps,
        )  # fmt: skip
