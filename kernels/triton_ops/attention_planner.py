"""Plans the attention of each step, for all layers at once: those of one window share a plan."""

from collections.abc import Iterable, Mapping, Sequence

import torch

from kernels.attention_inputs import AttentionShape
from kernels.triton_ops.attention_tiling import AttentionTiling
from kernels.triton_ops.attention_work import AttentionPlan, AttentionWork, plan_attention

Works = Mapping[int, AttentionWork]


class AttentionPlanner:
    """Knows what the attention kernels of one model look like.

    Args:
        tiling: of the kernels.
        windows: of the layers; 0 for none.
        workspace_rows: of the workspace that the layers share.
    """

    def __init__(
        self, shape: AttentionShape, tiling: AttentionTiling, windows: Iterable[int], workspace_rows: int
    ) -> None:
        self._group = shape.num_heads // shape.num_kv_heads
        self._kv_heads = shape.num_kv_heads
        self._tiling = tiling
        self._windows = tuple(dict.fromkeys(windows))
        self._workspace_rows = workspace_rows

    def works(self, query_lens: Sequence[int], context_lens: Sequence[int], device: torch.device) -> Works:
        """One step's work by window, on the device. Lengths are those of `plan_attention`."""
        plans = self._plans(query_lens, context_lens)
        return {window: AttentionWork.of(plan, window, device) for window, plan in plans.items()}

    def decode_room(self, num_sequences: int, device: torch.device) -> Works:
        """Room for steps of one new token of each sequence, at addresses that stay: for a CUDA graph."""
        max_segments = self._workspace_rows // self._group
        return {window: AttentionWork(num_sequences, 0, max_segments, window, device) for window in self._windows}

    def fill(self, room: Works, query_lens: Sequence[int], context_lens: Sequence[int]) -> bool:
        """Put a step's work into the room made for it; False, and nothing done, where it does not fit."""
        plans = self._plans(query_lens, context_lens)
        if not all(room[window].fits(plan) for window, plan in plans.items()):
            return False
        for window, plan in plans.items():
            room[window].fill(plan)
        return True

    def _plans(self, query_lens: Sequence[int], context_lens: Sequence[int]) -> dict[int, AttentionPlan]:
        lengths, heads = (query_lens, context_lens), (self._group, self._kv_heads)
        return {
            window: plan_attention(*lengths, *heads, self._tiling, window, self._workspace_rows)
            for window in self._windows
        }
