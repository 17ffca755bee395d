"""The tensors that tell a model where one step's tokens belong; handed down, never global."""

from dataclasses import dataclass

import torch

from workers.engine.scheduler import ScheduledBatch


@dataclass(frozen=True)
class AttentionMetadata:
    """One step's tokens, the sequences' one after another.

    Attributes:
        positions: int64 [tokens], each token's place in its sequence.
        slot_mapping: int64 [tokens], where its K and V go (`kernels.kv_store`).
        block_tables: per sequence, int64 [blocks].
        query_lens: per sequence, tokens in this step.
        context_lens: per sequence, tokens in all, those of this step included.
        sample_rows: int64 [sampling sequences], the row whose logits draw each next token.
    """

    positions: torch.Tensor
    slot_mapping: torch.Tensor
    block_tables: tuple[torch.Tensor, ...]
    query_lens: tuple[int, ...]
    context_lens: tuple[int, ...]
    sample_rows: torch.Tensor


def build_attention_metadata(batch: ScheduledBatch, block_size: int, device: torch.device) -> AttentionMetadata:
    """Lay out a batch whose sequences' tables already cover it."""
    positions, slots, tables, rows = [], [], [], []
    query_lens = tuple(item.num_tokens for item in batch.items)
    num_rows = 0
    for item in batch.items:
        sequence = item.sequence
        begin = sequence.num_computed_tokens
        place = torch.arange(begin, begin + item.num_tokens)
        table = torch.tensor(sequence.block_table, dtype=torch.int64)
        positions.append(place)
        slots.append(table[place // block_size] * block_size + place % block_size)
        tables.append(table.to(device))
        num_rows += item.num_tokens
        if item.samples:
            rows.append(num_rows - 1)
    return AttentionMetadata(
        positions=torch.cat(positions).to(device),
        slot_mapping=torch.cat(slots).to(device),
        block_tables=tuple(tables),
        query_lens=query_lens,
        context_lens=tuple(item.sequence.num_computed_tokens + item.num_tokens for item in batch.items),
        sample_rows=torch.tensor(rows, dtype=torch.int64, device=device),
    )
