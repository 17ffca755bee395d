"""The tensors that tell a model where one step's tokens belong; handed down, never global."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
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


@dataclass(frozen=True)
class StepLayout:
    """The same on the host.

    Attributes:
        positions, slot_mapping, sample_rows: one number a token, or a sequence that samples.
        block_tables: int32 [sequences, blocks], padded with zeros.
        query_lens, context_lens: tokens of each sequence, those of this step and those in all.
    """

    positions: list[int]
    slot_mapping: list[int]
    block_tables: npt.NDArray[np.int32]
    query_lens: list[int]
    context_lens: list[int]
    sample_rows: list[int]

    @property
    def query_starts(self) -> list[int]:
        """The first token of each sequence, and the end of the last."""
        return [0, *np.cumsum(self.query_lens).tolist()]


def lay_out(batch: ScheduledBatch, block_size: int) -> StepLayout:
    """Lay out a batch whose sequences' tables already cover it."""
    tables = np.zeros((len(batch.items), max(len(item.sequence.block_table) for item in batch.items)), dtype=np.int32)
    layout = StepLayout([], [], tables, [], [], [])
    for item, row in zip(batch.items, tables, strict=True):
        table, begin = item.sequence.block_table, item.sequence.num_computed_tokens
        places = range(begin, begin + item.num_tokens)
        row[: len(table)] = table
        layout.positions.extend(places)
        layout.slot_mapping.extend(table[place // block_size] * block_size + place % block_size for place in places)
        layout.query_lens.append(item.num_tokens)
        layout.context_lens.append(places.stop)
        if item.samples:
            layout.sample_rows.append(len(layout.positions) - 1)
    return layout


def build_attention_metadata(layout: StepLayout, device: torch.device) -> AttentionMetadata:
    """Put a step's layout where the model is."""
    int32, int64 = torch.int32, torch.int64
    step = StepTensors(
        positions=send(layout.positions, int64, device),
        slot_mapping=send(layout.slot_mapping, int64, device),
        block_tables=send(layout.block_tables, int32, device),
        query_starts=send(layout.query_starts, int32, device),
        context_lens=send(layout.context_lens, int32, device),
    )
    return AttentionMetadata(step, send(layout.sample_rows, int64, device))


Numbers = list[int] | list[float] | npt.NDArray[np.int32]


def send(values: Numbers, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Numbers as a tensor on a device. Does not wait for a GPU, which still has other work to do."""
    tensor = torch.as_tensor(values, dtype=dtype)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
