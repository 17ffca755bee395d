"""Paged attention against causal softmax attention written out per head, position by position.

Tolerances: float32 1e-5 absolute (values are of order 1, sums have under 100 terms); bfloat16 0.02, a little over
two units in the last place of a number just below 2.
"""

from dataclasses import dataclass

import pytest
import torch

from kernels.paged_attention import paged_attention

HEAD_DIM = 8
RAGGED = [(1, 1), (1, 33), (5, 5), (7, 23), (16, 16), (3, 32), (17, 49)]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.02}


@dataclass
class Batch:
    """Sequences with known K and V, and the same laid out in blocks; whatever no sequence owns is NaN."""

    q: torch.Tensor
    kv: list[torch.Tensor]
    cache: torch.Tensor
    tables: list[torch.Tensor]
    query_lens: list[int]
    context_lens: list[int]

    def attend(self, window: int = 0) -> torch.Tensor:
        return paged_attention(self.q, self.cache, self.tables, self.query_lens, self.context_lens, window=window)


def make_batch(
    lens: list[tuple[int, int]],
    heads: tuple[int, int] = (4, 2),
    block_size: int = 4,
    dtype: torch.dtype = torch.float32,
) -> Batch:
    generator = torch.Generator().manual_seed(len(lens) * 100 + heads[0])
    needed = [-(-context // block_size) for _, context in lens]
    order = torch.randperm(sum(needed) + 3, generator=generator)
    tables = list(torch.split(order[: sum(needed)], needed))
    cache = torch.full((2, len(order), block_size, heads[1], HEAD_DIM), float("nan"), dtype=dtype)
    kv = [torch.randn(2, context, heads[1], HEAD_DIM, generator=generator).to(dtype) for _, context in lens]
    for table, own in zip(tables, kv, strict=True):
        for position in range(own.shape[1]):
            cache[:, table[position // block_size], position % block_size] = own[:, position]
    q = torch.randn(sum(new for new, _ in lens), heads[0], HEAD_DIM, generator=generator).to(dtype)
    return Batch(q, kv, cache, tables, [new for new, _ in lens], [context for _, context in lens])


def plain_attention(q: torch.Tensor, kv: torch.Tensor, window: int) -> torch.Tensor:
    """The newest len(q) positions of one sequence, one head and one position at a time, in float64."""
    k, v = kv.double()
    out = torch.empty(q.shape, dtype=torch.float64)
    group = q.shape[1] // k.shape[1]
    for row in range(q.shape[0]):
        end = k.shape[0] - q.shape[0] + row + 1
        seen = slice(max(0, end - window) if window else 0, end)
        for head in range(q.shape[1]):
            scores = k[seen, head // group] @ q[row, head].double() / HEAD_DIM**0.5
            out[row, head] = torch.softmax(scores, 0) @ v[seen, head // group]
    return out


def assert_right(batch: Batch, window: int = 0) -> None:
    parts = torch.split(batch.q, batch.query_lens)
    expected = torch.cat([plain_attention(q, kv, window) for q, kv in zip(parts, batch.kv, strict=True)])
    out = batch.attend(window)
    assert out.dtype == batch.q.dtype
    assert out.shape == batch.q.shape
    assert (out.double() - expected).abs().max() <= TOLERANCE[batch.q.dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("heads", [(4, 4), (8, 2), (6, 1)])
def test_a_ragged_batch_over_shuffled_blocks(heads: tuple[int, int], dtype: torch.dtype) -> None:
    assert_right(make_batch(RAGGED, heads, dtype=dtype))


@pytest.mark.parametrize("block_size", [1, 3, 16, 64])
def test_any_block_size(block_size: int) -> None:
    assert_right(make_batch(RAGGED, block_size=block_size))


@pytest.mark.parametrize("window", [1, 2, 7, 22, 23, 24, 49, 50, 10**6])
def test_a_sliding_window(window: int) -> None:
    assert_right(make_batch(RAGGED), window)


@pytest.mark.parametrize("new", [1, 2, 15, 16, 17, 40])
def test_a_chunk_at_the_end_of_a_context(new: int) -> None:
    assert_right(make_batch([(new, 40)]))


def test_chunks_together_equal_the_whole_prompt() -> None:
    whole = make_batch([(40, 40)])
    parts = []
    for begin, end in [(0, 13), (13, 14), (14, 32), (32, 40)]:
        table = whole.tables[0][: -(-end // 4)]
        parts.append(paged_attention(whole.q[begin:end], whole.cache, [table], [end - begin], [end]))
    torch.testing.assert_close(torch.cat(parts), whole.attend(), atol=1e-5, rtol=0)


def test_a_sequence_gets_the_same_bits_alone_and_in_a_batch() -> None:
    batch = make_batch(RAGGED)
    at = 0
    for part, table, new, context in zip(
        torch.split(batch.attend(), batch.query_lens), batch.tables, batch.query_lens, batch.context_lens, strict=True
    ):
        alone = paged_attention(batch.q[at : at + new], batch.cache, [table], [new], [context])
        assert torch.equal(alone, part)
        at += new


def test_nothing_outside_the_context_is_read() -> None:
    batch = make_batch(RAGGED)
    clean = batch.attend()
    assert batch.cache.isnan().any(), "the unused slots are poisoned"
    batch.cache.nan_to_num_(nan=1e6)
    assert torch.equal(batch.attend(), clean)


def test_a_table_longer_than_the_context_is_cut() -> None:
    batch = make_batch([(3, 9)])
    clean = batch.attend()
    unused = torch.tensor(sorted(set(range(batch.cache.shape[1])) - set(batch.tables[0].tolist())))
    batch.tables = [torch.cat([batch.tables[0], unused])]
    assert torch.equal(batch.attend(), clean)


def test_later_tokens_do_not_change_earlier_ones() -> None:
    batch = make_batch([(8, 8)])
    clean = batch.attend()
    batch.cache[:, batch.tables[0][1], 3] = 99.0
    assert torch.equal(batch.attend()[:7], clean[:7])
    assert not torch.equal(batch.attend()[7], clean[7])


def test_lists_of_different_lengths_are_refused() -> None:
    batch = make_batch([(1, 4), (1, 5)])
    batch.context_lens.pop()
    with pytest.raises(ValueError, match="zip"):
        batch.attend()
