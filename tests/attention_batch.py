"""Ragged batches over paged K and V, for tests of the kernels in Triton."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from kernels.attention_inputs import AttentionShape
from kernels.paged_attention import paged_attention
from kernels.triton_ops.attention_tiling import AttentionTiling, attention_tiling
from kernels.triton_ops.attention_work import AttentionWork, plan_attention
from kernels.triton_ops.paged_attention import AttentionWorkspace, TritonPagedAttention
from tests.triton_device import DEVICE

Lens = Sequence[tuple[int, int]]  # of each sequence, new tokens and tokens in its context


@dataclass(frozen=True)
class Sequences:
    """K, V and Q of whole sequences, in blocks of a cache; whatever no sequence owns is NaN.

    q: per sequence, [tokens, heads, head_dim], as if all of its tokens were new.
    """

    shape: AttentionShape
    cache: torch.Tensor
    tables: list[torch.Tensor]
    q: list[torch.Tensor]

    @property
    def group(self) -> int:
        return self.shape.num_heads // self.shape.num_kv_heads


def make_sequences(
    lengths: Sequence[int],
    shape: AttentionShape = AttentionShape(4, 2, 16),  # noqa: B008 - frozen
    block_size: int = 16,
    dtype: torch.dtype = torch.float16,
    seed: int = 0,
) -> Sequences:
    generator = torch.Generator().manual_seed(seed)
    needed = [-(-length // block_size) for length in lengths]
    order = torch.randperm(sum(needed) + 2, generator=generator)
    tables = list(torch.split(order[: sum(needed)], needed))
    cache = torch.full((2, len(order), block_size, shape.num_kv_heads, shape.head_dim), float("nan"), dtype=dtype)
    for table, length in zip(tables, lengths, strict=True):
        places = torch.arange(length)
        values = torch.randn(2, length, shape.num_kv_heads, shape.head_dim, generator=generator)
        cache[:, table[places // block_size], places % block_size] = values.to(dtype)
    q = [torch.randn(length, shape.num_heads, shape.head_dim, generator=generator).to(dtype) for length in lengths]
    return Sequences(shape, cache.to(DEVICE), tables, [part.to(DEVICE) for part in q])


def new_tokens(sequences: Sequences, lens: Lens) -> torch.Tensor:
    """Q of the newest tokens of contexts `lens`; ones for a sequence of no context, which only pads a batch."""
    parts = zip(sequences.q, lens, strict=True)
    return torch.cat([q[end - new : end] if end else q.new_ones(new, *q.shape[1:]) for q, (new, end) in parts])


def block_tables(sequences: Sequences) -> torch.Tensor:
    """int32 [sequences, blocks]."""
    width = max(len(table) for table in sequences.tables)
    tables = torch.zeros(len(sequences.tables), width, dtype=torch.int32)
    for row, table in zip(tables, sequences.tables, strict=True):
        row[: len(table)] = table
    return tables.to(DEVICE)


def small_tiling(*, strict: bool) -> AttentionTiling:
    """Segments of 32 keys in tiles of 16, so that short contexts have several; the instructions stay the same."""
    return replace(attention_tiling(16, strict=strict), segment=32, tile=16)


def attend(
    sequences: Sequences, lens: Lens, tiling: AttentionTiling, window: int = 0, workspace_rows: int = 4096
) -> torch.Tensor:
    """The kernels: [tokens, heads, head_dim]."""
    new, contexts = zip(*lens, strict=True)
    plan = plan_attention(new, contexts, sequences.group, sequences.shape.num_kv_heads, tiling, window, workspace_rows)
    workspace = AttentionWorkspace(sequences.shape, workspace_rows, DEVICE)
    workspace.acc.fill_(float("nan"))  # not what an earlier call has left there
    attention = TritonPagedAttention(sequences.shape, tiling, workspace)
    q = new_tokens(sequences, lens)
    return attention(q, sequences.cache, block_tables(sequences), AttentionWork.of(plan, window, DEVICE)).view(q.shape)


def reference(sequences: Sequences, lens: Lens, window: int = 0) -> torch.Tensor:
    """The same in torch, float32, without the sequences of no context."""
    held = [index for index, (_, context) in enumerate(lens) if context]
    q = torch.cat([sequences.q[index][lens[index][1] - lens[index][0] : lens[index][1]] for index in held]).float()
    block_size = sequences.cache.shape[2]
    tables = [sequences.tables[index][: -(-lens[index][1] // block_size)].to(DEVICE) for index in held]
    new, contexts = zip(*[lens[index] for index in held], strict=True)
    return paged_attention(q, sequences.cache, tables, new, contexts, window=window)
