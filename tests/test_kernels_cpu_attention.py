"""Rotary embedding, KV store and attention in C++ against the torch reference, and bits that depend on positions only.

Tolerance: Q, K and V are rounded to bfloat16 in both. The C++ operator also rounds the weights of a softmax to bfloat16
(2^-9 relative), as flash attention does, so its result is held within 2^-8 of the largest.
"""

import pytest
import torch

from kernels.attention_inputs import AttentionShape, HeadNorms, RopeTables, StepTensors
from kernels.attention_step import TorchAttentionStep, attention_step
from kernels.cpu_ops.attention import CpuAttentionStep, cpu_attention_fits
from kernels.cpu_ops.loader import load_library

pytestmark = pytest.mark.skipif(load_library() is None, reason="no C++ compiler, or a CPU without AVX2")

CPU = torch.device("cpu")
SHAPES = [  # and block sizes
    (AttentionShape(9, 3, 64), 16),
    (AttentionShape(4, 2, 16), 4),
    (AttentionShape(8, 1, 128), 1),
    (AttentionShape(6, 6, 32), 7),
    (AttentionShape(32, 4, 48), 16),
    (AttentionShape(96, 1, 16), 32),
]
Shape = tuple[AttentionShape, int]
QUERY_LENS = (1, 5, 300, 1, 70, 33)
CONTEXT_LENS = (700, 5, 300, 1, 600, 289)


class Case:
    """A ragged batch over a cache full of noise, blocks in no order."""

    def __init__(self, shape_and_size: Shape, query_lens: tuple[int, ...], context_lens: tuple[int, ...]) -> None:
        shape, size = shape_and_size
        generator = torch.Generator().manual_seed(shape.num_heads)
        width = -(-max(context_lens) // size)
        num_blocks = width * len(context_lens)
        tables = torch.randperm(num_blocks, generator=generator).view(-1, width).int()
        positions = [torch.arange(c - q, c) for q, c in zip(query_lens, context_lens, strict=True)]
        slots = [table[p // size].long() * size + p % size for table, p in zip(tables, positions, strict=True)]
        starts = torch.tensor([0, *query_lens]).cumsum(0).int()
        self.shape = shape
        self.step = StepTensors(
            torch.cat(positions), torch.cat(slots), tables, starts, torch.tensor(context_lens).int()
        )
        noise = torch.randn(2, num_blocks, size, shape.num_kv_heads, shape.head_dim, generator=generator)
        self.cache = noise.bfloat16()
        angles = torch.rand(1024, shape.head_dim // 2, generator=generator) * 6
        self.rope = RopeTables(angles.cos(), angles.sin())
        heads = shape.num_heads + 2 * shape.num_kv_heads
        self.qkv = torch.randn(sum(query_lens), heads * shape.head_dim, generator=generator)

    def part(self, sequence: int, begin: int, end: int) -> tuple[StepTensors, torch.Tensor]:
        """Tokens `begin` to `end` of what is new in one sequence, as a step of their own."""
        first = int(self.step.query_starts[sequence])
        new = int(self.step.query_starts[sequence + 1]) - first
        rows = slice(first + begin, first + end)
        context = int(self.step.context_lens[sequence]) - new + end
        step = StepTensors(
            self.step.positions[rows],
            self.step.slot_mapping[rows],
            self.step.block_tables[sequence : sequence + 1],
            torch.tensor([0, end - begin]).int(),
            torch.tensor([context]).int(),
        )
        return step, self.qkv[rows]


def norms_of(head_dim: int) -> HeadNorms:
    generator = torch.Generator().manual_seed(5)
    q, k = torch.rand(2, head_dim, generator=generator) + 0.5
    return HeadNorms(q, k, 1e-5)


@pytest.mark.parametrize("window", [0, 1, 37, 256, 400])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("normed", [False, True])
def test_attention_and_cache_are_those_of_the_reference(shape: Shape, window: int, normed: bool) -> None:
    case, norms = Case(shape, QUERY_LENS, CONTEXT_LENS), norms_of(shape[0].head_dim) if normed else HeadNorms()
    caches = case.cache.clone(), case.cache.clone()
    out = CpuAttentionStep(case.shape, case.rope, case.step)(case.qkv, caches[0], norms, window)
    reference = TorchAttentionStep(case.shape, case.rope, case.step, strict=False)(case.qkv, caches[1], norms, window)
    torch.testing.assert_close(caches[0], caches[1], rtol=2**-7, atol=1e-6)  # one unit of bfloat16
    untouched = torch.ones(case.cache.shape[1] * shape[1], dtype=torch.bool)
    untouched[case.step.slot_mapping] = False
    for kind in range(2):
        before, after = (cache[kind].flatten(0, 1)[untouched] for cache in (case.cache, caches[0]))
        assert torch.equal(before, after)
    assert (out - reference.float()).abs().max() <= reference.abs().max() * 2**-8


@pytest.mark.parametrize("window", [0, 100])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bits_do_not_depend_on_chunk_or_batch(shape: Shape, window: int) -> None:
    case = Case(shape, QUERY_LENS, CONTEXT_LENS)
    cache = case.cache.clone()
    whole = CpuAttentionStep(case.shape, case.rope, case.step)(case.qkv, cache, HeadNorms(), window).clone()
    for sequence, new in ((0, 1), (2, 300), (4, 70)):
        first = int(case.step.query_starts[sequence])
        for begin, end in ((0, new), (0, 1), (new // 3, new // 2 + 1), (new - 1, new)):
            step, qkv = case.part(sequence, begin, end)
            out = CpuAttentionStep(case.shape, case.rope, step)(qkv, cache.clone(), HeadNorms(), window)
            assert torch.equal(out, whole[first + begin : first + end]), (sequence, begin, end)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bits_do_not_depend_on_the_number_of_threads(threads: int) -> None:
    case, before = Case(SHAPES[0], QUERY_LENS, CONTEXT_LENS), torch.get_num_threads()
    whole = CpuAttentionStep(case.shape, case.rope, case.step)(case.qkv, case.cache.clone(), HeadNorms(), 0).clone()
    torch.set_num_threads(threads)
    try:
        step = CpuAttentionStep(case.shape, case.rope, case.step)
        assert torch.equal(step(case.qkv, case.cache.clone(), HeadNorms(), 0), whole)
    finally:
        torch.set_num_threads(before)


def test_what_lies_beyond_a_sequence_is_not_read() -> None:
    """Blocks hold what earlier sequences left, or nothing that was ever a number."""
    case = Case(SHAPES[0], (3, 1), (41, 20))
    clean, dirty = case.cache.clone(), case.cache.clone()
    used = torch.cat([
        table[torch.arange(length) // 16].long() * 16 + torch.arange(length) % 16
        for table, length in zip(case.step.block_tables, (41, 20), strict=True)
    ])  # fmt: skip
    unused = torch.ones(dirty.shape[1] * 16, dtype=torch.bool)
    unused[used] = False
    dirty.view(2, -1, 3, 64)[:, unused] = float("nan")
    outs = [
        CpuAttentionStep(case.shape, case.rope, case.step)(case.qkv, cache, HeadNorms(), 0).clone()
        for cache in (clean, dirty)
    ]
    assert torch.equal(outs[0], outs[1])


def test_large_scores_neither_overflow_nor_vanish() -> None:
    case = Case(SHAPES[1], (4,), (300,))
    case.qkv *= 60
    case.cache *= 20
    out = CpuAttentionStep(case.shape, case.rope, case.step)(case.qkv, case.cache.clone(), HeadNorms(), 0)
    reference = TorchAttentionStep(case.shape, case.rope, case.step, strict=False)
    wanted = reference(case.qkv, case.cache.clone(), HeadNorms(), 0).float()
    assert torch.isfinite(out).all()
    assert (out - wanted).abs().max() <= wanted.abs().max() * 2**-7


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        (AttentionShape(4, 2, 24), torch.bfloat16),
        (AttentionShape(4, 2, 272), torch.bfloat16),
        (AttentionShape(97, 1, 16), torch.bfloat16),
        (AttentionShape(4, 2, 16), torch.float32),
    ],
)
def test_what_the_operator_does_not_take_goes_to_torch(shape: AttentionShape, dtype: torch.dtype) -> None:
    assert not cpu_attention_fits(shape, dtype, CPU)
    case = Case((shape, 16), (1,), (3,))
    assert isinstance(attention_step(shape, case.rope, case.step, dtype, strict=True), TorchAttentionStep)
    fitting = Case(SHAPES[1], (1,), (3,))
    step = attention_step(fitting.shape, fitting.rope, fitting.step, torch.bfloat16, strict=True)
    assert isinstance(step, CpuAttentionStep)
