"""The tensors that tell a model where one step's tokens belong; handed down, never global."""

from dataclasses import dataclass

import numpy as np
import torch

from kernels.attention_inputs import StepTensors
from workers.engine.scheduler import ScheduledBatch


@dataclass(frozen=True)
class AttentionMetadata:
    """One step's tokens, the sequences' one after another.

    Attributes:
        step: positions, slots and block tables.
        sample_rows: int64 [sampling sequences], the row whose logits draw each next token.
    """

    step: StepTensors
    sample_rows: torch.Tensor


def build_attention_metadata(batch: ScheduledBatch, block_size: int, device: torch.device) -> AttentionMetadata:
    """Lay out a batch whose sequences' tables already cover it."""
    counts = [item.num_tokens for item in batch.items]
    lengths = [item.sequence.num_computed_tokens + item.num_tokens for item in batch.items]
    starts = np.cumsum([0, *counts])
    tables = np.zeros((len(batch.items), max(len(item.sequence.block_table) for item in batch.items)), dtype=np.int32)
    positions, slots = np.empty((2, starts[-1]), dtype=np.int64)
    for index, item in enumerate(batch.items):
        table = tables[index, : len(item.sequence.block_table)]
        table[:] = item.sequence.block_table
        place = np.arange(lengths[index] - counts[index], lengths[index])
        rows = slice(starts[index], starts[index + 1])
        positions[rows] = place
        slots[rows] = table[place // block_size].astype(np.int64) * block_size + place % block_size
    step = StepTensors(
        positions=torch.from_numpy(positions).to(device),
        slot_mapping=torch.from_numpy(slots).to(device),
        block_tables=torch.from_numpy(tables).to(device),
        query_starts=torch.from_numpy(starts.astype(np.int32)).to(device),
        context_lens=torch.tensor(lengths, dtype=torch.int32, device=device),
    )
    rows_that_sample = [int(starts[index + 1]) - 1 for index, item in enumerate(batch.items) if item.samples]
    return AttentionMetadata(step, torch.tensor(rows_that_sample, dtype=torch.int64, device=device))
