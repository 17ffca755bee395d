"""What attention is told about a model and about a step, whoever computes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from kernels.triton_ops.attention_work import AttentionWork

# Partial results of attention on a GPU: 64 sequences of 32,000 tokens, with 8 KV heads of 128 and 4 query heads each.
WORKSPACE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class AttentionShape:
    """What all layers and steps share."""

    num_heads: int
    num_kv_heads: int
    head_dim: int


class RopeTables(NamedTuple):
    """cos and sin of every position's angles, float32 [max_len, head_dim / 2]."""

    cos: torch.Tensor
    sin: torch.Tensor


@dataclass(frozen=True)
class StepTensors:
    """Where a step's tokens belong, the sequences' one after another; all contiguous, on one device.

    Attributes:
        positions: int64 [tokens], each token's place in its sequence.
        slot_mapping: int64 [tokens], where its K and V go (`kernels.kv_store`).
        block_tables: int32 [sequences, blocks], padded with any block ids.
        query_starts: int32 [sequences + 1], the first token of each sequence.
        context_lens: int32 [sequences], tokens in all, those of this step included.
        works: the attention of this step, planned, by the window of the layers; for the Triton kernels only.
    """

    positions: torch.Tensor
    slot_mapping: torch.Tensor
    block_tables: torch.Tensor
    query_starts: torch.Tensor
    context_lens: torch.Tensor
    works: Mapping[int, "AttentionWork"] = field(default_factory=dict)


@dataclass(frozen=True)
class HeadNorms:
    """RMS normalisation of each head of Q and K (Qwen 3): float32 [head_dim], None where there is none."""

    q: torch.Tensor | None = None
    k: torch.Tensor | None = None
    eps: float = 0.0
