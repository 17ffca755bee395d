"""Strict attention in Triton: a position's bits depend neither on the kernel, nor on the chunk, nor on the batch.

Where there is no GPU this holds the kernels' arithmetic to it, with products by rows in place of the tensor cores'.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.attention_inputs import AttentionShape
from kernels.triton_ops.attention_tiling import attention_tiling
from tests.attention_batch import Sequences, attend, make_sequences, small_tiling
from tests.triton_device import DTYPES

LENGTHS = [140, 77, 33]
IN_TILES = 0  # workspace rows that leave everything to attend_tiles
STRICT = small_tiling(strict=True)


@pytest.fixture(scope="module", params=DTYPES)
def sequences(request: pytest.FixtureRequest) -> Sequences:
    return make_sequences(LENGTHS, dtype=request.param)


@pytest.mark.parametrize("window", [0, 10, 50])
def test_segments_and_tiles_are_the_same_to_the_last_bit(sequences: Sequences, window: int) -> None:
    prompts = torch.split(attend(sequences, [(n, n) for n in LENGTHS], STRICT, window, IN_TILES), LENGTHS)
    for contexts in ([140, 77, 33], [139, 64, 32], [97, 65, 1]):
        tokens = attend(sequences, [(1, context) for context in contexts], STRICT, window)
        for token, prompt, context in zip(tokens, prompts, contexts, strict=True):
            assert torch.equal(token, prompt[context - 1])


def test_fast_numerics_would_not_pass() -> None:
    fast = small_tiling(strict=False)
    sequences = make_sequences(LENGTHS, dtype=DTYPES[-1])
    prompts = torch.split(attend(sequences, [(n, n) for n in LENGTHS], fast, 0, IN_TILES), LENGTHS)
    tokens = attend(sequences, [(1, n) for n in LENGTHS], fast)
    assert not all(torch.equal(token, prompt[-1]) for token, prompt in zip(tokens, prompts, strict=True))


@settings(max_examples=4)
@given(st.sampled_from([0, 10]), st.sampled_from([IN_TILES, 100, 4096]), st.data())
def test_any_chunks_in_any_batch(window: int, workspace_rows: int, data: st.DataObject) -> None:
    sequences = make_sequences(LENGTHS, dtype=DTYPES[-1])
    prompts = torch.split(attend(sequences, [(n, n) for n in LENGTHS], STRICT, window, IN_TILES), LENGTHS)
    ends = [data.draw(st.integers(1, n), label="end") for n in LENGTHS]
    news = [data.draw(st.integers(1, min(end, 40)), label="new") for end in ends]
    chunks = torch.split(attend(sequences, list(zip(news, ends, strict=True)), STRICT, window, workspace_rows), news)
    for chunk, prompt, new, end in zip(chunks, prompts, news, ends, strict=True):
        assert torch.equal(chunk, prompt[end - new : end])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [0, 700])
@pytest.mark.parametrize(
    "shape",
    [AttentionShape(32, 8, 128), AttentionShape(64, 8, 128), AttentionShape(9, 3, 64), AttentionShape(4, 2, 256)],
)
def test_bits_of_served_sizes(shape: AttentionShape, window: int, dtype: torch.dtype) -> None:
    lengths = [2300, 1024, 513]
    sequences = make_sequences(lengths, shape, dtype=dtype)
    tiling = attention_tiling(shape.head_dim, strict=True)
    prompts = torch.split(attend(sequences, [(n, n) for n in lengths], tiling, window, IN_TILES), lengths)
    batches = [[2300, 1024, 513], [2049, 1023, 512], [512, 1, 511], [1025, 700, 65]]
    for contexts in batches:
        for new in (1, 2, 7, 17, 65, 130):
            news = [min(new, context) for context in contexts]
            for rows in (IN_TILES, 1 << 16):
                lens = list(zip(news, contexts, strict=True))
                chunks = torch.split(attend(sequences, lens, tiling, window, rows), news)
                for chunk, prompt, (size, end) in zip(chunks, prompts, lens, strict=True):
                    assert torch.equal(chunk, prompt[end - size : end]), (size, end, rows)


@pytest.mark.gpu
def test_bits_alone_and_in_a_large_batch() -> None:
    lengths = [1 + 37 * index for index in range(48)]
    sequences = make_sequences(lengths, AttentionShape(32, 8, 128), dtype=torch.bfloat16)
    tiling = attention_tiling(128, strict=True)
    together = attend(sequences, [(1, n) for n in lengths], tiling, workspace_rows=1 << 14)
    for index in (0, 13, 14, 27, 47):
        lens = [(1, n) if other == index else (0, 0) for other, n in enumerate(lengths)]
        assert torch.equal(attend(sequences, lens, tiling)[0], together[index])
