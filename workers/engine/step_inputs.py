"""What a step computes: its tokens, some of which only the device knows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from workers.engine.attention_metadata import AttentionMetadata, StepLayout, lay_out
from workers.engine.scheduler import ScheduledBatch

Works = Mapping[int, Any]
NO_SOURCE = -1


class Planner(Protocol):
    """What plans a step's attention (`kernels.triton_ops.attention_planner.AttentionPlanner`)."""

    def works(self, query_lens: Sequence[int], context_lens: Sequence[int], device: torch.device) -> Works:
        """One step's work by window."""

    def decode_room(self, num_sequences: int, device: torch.device) -> Works:
        """Room for the work of steps of one new token of each sequence, at addresses that stay."""

    def fill(self, room: Works, query_lens: Sequence[int], context_lens: Sequence[int]) -> bool:
        """Put a step's work there; False where it does not fit."""


class Model(Protocol):
    """A decoder whose steps bring their attention's works along (`Decoder` on a GPU)."""

    def forward(self, token_ids: torch.Tensor, metadata: AttentionMetadata, kv_cache: torch.Tensor) -> torch.Tensor:
        """Logits of the rows that sample."""


@dataclass(frozen=True)
class StepInputs:
    """One step's tokens, the sequences' one after another.

    Attributes:
        token_ids: 0 where the host does not know a token yet.
        sources: for those, its place among the tokens that the batch before draws; -1 for the others.
    """

    token_ids: list[int]
    sources: list[int]
    layout: StepLayout

    @classmethod
    def of(cls, batch: ScheduledBatch, block_size: int) -> "StepInputs":
        """Read all that a step needs of its sequences."""
        token_ids: list[int] = []
        sources: list[int] = []
        for item in batch.items:
            begin = item.sequence.num_computed_tokens
            known = item.fed_from is None
            token_ids += item.sequence.token_ids[begin : begin + item.num_tokens] if known else [0]
            sources += [NO_SOURCE if item.fed_from is None else item.fed_from] * item.num_tokens
        return cls(token_ids, sources, lay_out(batch, block_size))
