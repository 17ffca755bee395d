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
    positions: list[int] = []
    slots: list[int] = []
    starts, lengths, sample_rows = [0], [], []
    tables = np.zeros((len(batch.items), max(len(item.sequence.block_table) for item in batch.items)), dtype=np.int32)
    for item, row in zip(batch.items, tables, strict=True):
        table, begin = item.sequence.block_table, item.sequence.num_computed_tokens
        places = range(begin, begin + item.num_tokens)
        row[: len(table)] = table
        positions += places
        slots += [table[place // block_size] * block_size + place % block_size for place in places]
        starts.append(len(positions))
        lengths.append(places.stop)
        if item.samples:
            sample_rows.append(len(positions) - 1)
    step = StepTensors(
        positions=torch.tensor(positions, device=device),
        slot_mapping=torch.tensor(slots, device=device),
        block_tables=torch.from_numpy(tables).to(device),
        query_starts=torch.tensor(starts, dtype=torch.int32, device=device),
        context_lens=torch.tensor(lengths, dtype=torch.int32, device=device),
    )
    return AttentionMetadata(step, torch.tensor(sample_rows, dtype=torch.int64, device=device))
