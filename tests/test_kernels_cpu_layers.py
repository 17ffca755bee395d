"""All layers in one call: the bits of the same operators called one by one, and near torch's.

Tolerance against torch: the C++ operators round the weights of a softmax to bfloat16, and a norm or an exponential that
differs in its last bit may round to another bfloat16.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from kernels.attention_inputs import AttentionShape, HeadNorms, RopeTables, StepTensors
from kernels.attention_step import TorchAttentionStep
from kernels.cpu_ops.attention import CpuAttentionStep
from kernels.cpu_ops.layers import CpuLayers, cpu_layers_fit
from kernels.cpu_ops.loader import load_library
from kernels.decoder_layers import ReferenceLayers, decoder_layers
from kernels.fusion import FusedLinear, Fusion, Prologue
from kernels.int4 import PackedInt4, dequantize, quantize
from kernels.layer_weights import LayerWeights
from kernels.linear import TorchLinear, linear

pytestmark = [
    pytest.mark.skipif(load_library() is None, reason="no C++ compiler, or a CPU without AVX2"),
    pytest.mark.usefixtures("one_thread"),
]

SHAPE = AttentionShape(6, 2, 32)
HIDDEN, INNER, BLOCK_SIZE, NUM_BLOCKS = 96, 160, 8, 200
QUERY_LENS = (1, 37, 300, 1, 5)
CONTEXT_LENS = (290, 37, 300, 1, 520)
WINDOWS = (0, 70, 300)
MakeLinear = Callable[[PackedInt4 | torch.Tensor, Fusion], FusedLinear]


def cpu_linear(weight: PackedInt4 | torch.Tensor, fusion: Fusion) -> FusedLinear:
    return linear(weight, fusion, torch.bfloat16, strict=True)


def torch_linear(weight: PackedInt4 | torch.Tensor, fusion: Fusion) -> FusedLinear:
    matrix = dequantize(weight, torch.float32) if isinstance(weight, PackedInt4) else weight.float()
    return TorchLinear(matrix, fusion, torch.float32, strict=True)


def layer_of(index: int, kind: str, make: MakeLinear) -> LayerWeights:
    """The same random layer from the same index, whatever its matrices are made into."""
    generator = torch.Generator().manual_seed(index)

    def matrix(num_outputs: int, num_inputs: int, fusion: Fusion) -> FusedLinear:
        weight = torch.randn(num_outputs, num_inputs, generator=generator) * num_inputs**-0.5
        return make(quantize(weight, 32) if kind == "int4" else weight.bfloat16(), fusion)

    def vector(size: int) -> torch.Tensor:
        return torch.rand(size, generator=generator) + 0.5

    heads = SHAPE.num_heads * SHAPE.head_dim
    qkv_size = heads + 2 * SHAPE.num_kv_heads * SHAPE.head_dim
    return LayerWeights(
        qkv_proj=matrix(qkv_size, HIDDEN, Fusion(Prologue.RMS_NORM, vector(HIDDEN), 1e-5, vector(qkv_size))),
        head_norms=HeadNorms(vector(SHAPE.head_dim), vector(SHAPE.head_dim), 1e-6) if index else HeadNorms(),
        o_proj=matrix(HIDDEN, heads, Fusion(accumulate=True)),
        gate_up_proj=matrix(2 * INNER, HIDDEN, Fusion(Prologue.RMS_NORM, vector(HIDDEN), 1e-5)),
        down_proj=matrix(HIDDEN, INNER, Fusion(Prologue.SILU_MUL, accumulate=True, bias=vector(HIDDEN))),
        window=WINDOWS[index],
    )


def layers_of(kind: str, make: MakeLinear = cpu_linear) -> list[LayerWeights]:
    return [layer_of(index, kind, make) for index in range(len(WINDOWS))]


class Case:
    """A ragged batch over a cache full of noise, blocks in no order."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        width = -(-max(CONTEXT_LENS) // BLOCK_SIZE)
        tables = torch.full((len(CONTEXT_LENS), width), NUM_BLOCKS - 1, dtype=torch.int32)
        ids, taken = torch.randperm(NUM_BLOCKS - 1, generator=generator).int(), 0
        for row, length in zip(tables, CONTEXT_LENS, strict=True):
            needed = -(-length // BLOCK_SIZE)
            row[:needed] = ids[taken : taken + needed]
            taken += needed
        positions = [torch.arange(c - q, c) for q, c in zip(QUERY_LENS, CONTEXT_LENS, strict=True)]
        slots = [
            table[p // BLOCK_SIZE].long() * BLOCK_SIZE + p % BLOCK_SIZE
            for table, p in zip(tables, positions, strict=True)
        ]
        starts = torch.tensor([0, *QUERY_LENS]).cumsum(0).int()
        self.step = StepTensors(
            torch.cat(positions), torch.cat(slots), tables, starts, torch.tensor(CONTEXT_LENS).int()
        )
        self.hidden = torch.randn(sum(QUERY_LENS), HIDDEN, generator=generator)
        size = (len(WINDOWS), 2, NUM_BLOCKS, BLOCK_SIZE, SHAPE.num_kv_heads, SHAPE.head_dim)
        self.cache = torch.randn(size, generator=generator).bfloat16()
        angles = torch.rand(max(CONTEXT_LENS), SHAPE.head_dim // 2, generator=generator) * 6
        self.rope = RopeTables(angles.cos(), angles.sin())

    def single(self, sequence: int) -> tuple[torch.Tensor, StepTensors]:
        """One sequence's rows of the hidden states, and its step."""
        begin, end = self.step.query_starts[sequence : sequence + 2].tolist()
        step = StepTensors(
            self.step.positions[begin:end],
            self.step.slot_mapping[begin:end],
            self.step.block_tables[sequence : sequence + 1],
            torch.tensor([0, end - begin]).int(),
            self.step.context_lens[sequence : sequence + 1],
        )
        return self.hidden[begin:end].clone(), step


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kind", ["int4", "bfloat16"])
def test_one_call_gives_the_bits_of_many(kind: str, threads: int) -> None:
    case, layers, before = Case(), layers_of(kind), torch.get_num_threads()
    wanted, reference_cache = case.hidden.clone(), case.cache.clone()
    ReferenceLayers(SHAPE, case.rope, layers, strict=True)(wanted, case.step, reference_cache)
    hidden, cache = case.hidden.clone(), case.cache.clone()
    run = CpuLayers(SHAPE, case.rope, layers)
    torch.set_num_threads(threads)
    try:
        assert run(hidden, case.step, cache) is hidden
    finally:
        torch.set_num_threads(before)
    assert not torch.equal(hidden, case.hidden)
    assert torch.equal(hidden, wanted)
    assert torch.equal(cache, reference_cache)


def test_only_the_slots_of_the_step_are_written() -> None:
    case = Case()
    cache = case.cache.clone()
    CpuLayers(SHAPE, case.rope, layers_of("int4"))(case.hidden.clone(), case.step, cache)
    flat, before = (tensor.flatten(2, 3) for tensor in (cache, case.cache))
    written = torch.zeros(flat.shape[2], dtype=torch.bool)
    written[case.step.slot_mapping] = True
    assert torch.equal(flat[:, :, ~written], before[:, :, ~written])
    assert (flat[:, :, written] != before[:, :, written]).flatten(3).any(-1).all()


@pytest.mark.parametrize("kind", ["int4", "bfloat16"])
def test_it_is_close_to_torch(kind: str) -> None:
    """Each layer by itself, so that errors do not add up: within 1 % of the norm of what the layer adds."""
    case = Case()
    for index in range(len(WINDOWS)):
        cache, wanted_cache = case.cache[index : index + 1].clone(), case.cache[index : index + 1].clone()
        hidden, wanted = case.hidden.clone(), case.hidden.clone()
        CpuLayers(SHAPE, case.rope, [layer_of(index, kind, cpu_linear)])(hidden, case.step, cache)
        layer = layer_of(index, kind, torch_linear)
        attend = TorchAttentionStep(SHAPE, case.rope, case.step, strict=False)
        qkv = layer.qkv_proj(wanted)
        layer.o_proj(attend(qkv, wanted_cache[0], layer.head_norms, layer.window).float(), wanted)
        layer.down_proj(layer.gate_up_proj(wanted), wanted)
        assert (hidden - wanted).norm() <= 0.01 * (wanted - case.hidden).norm()
        torch.testing.assert_close(cache, wanted_cache, rtol=2**-6, atol=0.03)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kind", ["int4", "bfloat16"])
def test_bits_do_not_depend_on_the_sequences_beside(kind: str, threads: int) -> None:
    """Several times: with fewer pieces of attention than threads, some would run ahead if they did not wait."""
    case, before = Case(), torch.get_num_threads()
    run = CpuLayers(SHAPE, case.rope, layers_of(kind))
    whole = run(case.hidden.clone(), case.step, case.cache.clone())
    torch.set_num_threads(threads)
    try:
        for sequence in [*range(len(QUERY_LENS))] * (10 if threads == 1 else 100):
            hidden, step = case.single(sequence)
            rows = slice(*case.step.query_starts[sequence : sequence + 2].tolist())
            assert torch.equal(run(hidden, step, case.cache.clone()), whole[rows]), sequence
    finally:
        torch.set_num_threads(before)


def test_the_fastest_implementation_is_chosen() -> None:
    case, layers = Case(), layers_of("int4")
    assert cpu_layers_fit(SHAPE, layers, torch.bfloat16, torch.device("cpu"))
    assert isinstance(decoder_layers(SHAPE, case.rope, layers, torch.bfloat16, strict=True), CpuLayers)
    assert isinstance(decoder_layers(SHAPE, case.rope, layers, torch.float32, strict=True), ReferenceLayers)


@pytest.mark.parametrize("place", ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"])
def test_one_matrix_in_torch_keeps_all_layers_out(place: str) -> None:
    layers = layers_of("bfloat16")
    other: dict[str, FusedLinear] = {place: getattr(layer_of(2, "bfloat16", torch_linear), place)}
    layers[2] = replace(layers[2], **other)  # type: ignore[arg-type]
    assert not cpu_layers_fit(SHAPE, layers, torch.bfloat16, torch.device("cpu"))
    with pytest.raises(ValueError, match="cpu_layers_fit"):
        CpuLayers(SHAPE, Case().rope, layers)


@pytest.mark.parametrize(
    ("shape", "dtype", "device"),
    [
        (SHAPE, torch.float32, "cpu"),
        (SHAPE, torch.float16, "cpu"),
        (SHAPE, torch.bfloat16, "meta"),
        (AttentionShape(6, 2, 24), torch.bfloat16, "cpu"),
        (AttentionShape(6, 2, 272), torch.bfloat16, "cpu"),
        (AttentionShape(97, 1, 32), torch.bfloat16, "cpu"),
    ],
)
def test_what_the_operators_do_not_take_does_not_fit(shape: AttentionShape, dtype: torch.dtype, device: str) -> None:
    assert not cpu_layers_fit(shape, layers_of("int4"), dtype, torch.device(device))


def strided(tensor: torch.Tensor) -> torch.Tensor:
    """The same values, not contiguous."""
    return torch.stack([tensor, tensor], dim=-1)[..., 0]


@pytest.mark.parametrize("name", ["positions", "slot_mapping", "block_tables", "query_starts", "context_lens"])
def test_a_step_that_would_be_misread_is_refused(name: str) -> None:
    case = Case()
    run = CpuLayers(SHAPE, case.rope, layers_of("int4"))
    right: torch.Tensor = getattr(case.step, name)
    for wrong in (right.float(), right[1:].contiguous(), strided(right), right.unsqueeze(0), right.to("meta")):
        changes: dict[str, Any] = {name: wrong}
        step = replace(case.step, **changes)
        with pytest.raises(ValueError, match=r"must be contiguous torch.int"):
            run(case.hidden, step, case.cache)
        with pytest.raises(ValueError, match=r"must be contiguous torch.int"):
            CpuAttentionStep(SHAPE, case.rope, step)


def test_rows_that_would_be_misread_are_refused() -> None:
    case = Case()
    run, hidden = CpuLayers(SHAPE, case.rope, layers_of("int4")), case.hidden
    for wrong in (hidden.double(), hidden[1:], hidden[:, 1:].contiguous(), strided(hidden), hidden.to("meta")):
        with pytest.raises(ValueError, match=r"hidden must be contiguous torch.float32 \(344, 96\) on the CPU, not"):
            run(wrong, case.step, case.cache)


def test_a_cache_that_would_be_misread_is_refused() -> None:
    case = Case()
    run, cache = CpuLayers(SHAPE, case.rope, layers_of("int4")), case.cache
    attend = CpuAttentionStep(SHAPE, case.rope, case.step)
    qkv = torch.zeros(len(case.hidden), 10 * SHAPE.head_dim)
    for wrong in (cache.float(), cache[:, :1], cache[..., 1:], cache[0], strided(cache), cache.to("meta")):
        with pytest.raises(ValueError, match=r"the cache must be contiguous torch.bfloat16"):
            run(case.hidden, case.step, wrong)
        with pytest.raises(ValueError, match=r"the cache must be contiguous torch.bfloat16"):
            attend(qkv, wrong[0], HeadNorms(), 0)
    with pytest.raises(ValueError, match="the cache must be"):
        run(case.hidden, case.step, cache[:2])
    for other in (qkv.half(), qkv[1:], qkv[:, 1:].contiguous(), strided(qkv)):
        with pytest.raises(ValueError, match=r"qkv must be contiguous torch.float32"):
            attend(other, cache[0], HeadNorms(), 0)


def test_tables_and_norms_that_would_be_misread_are_refused() -> None:
    case = Case()
    cos, sin = case.rope
    tables = [(cos.double(), sin), (cos, sin[1:]), (cos[:, 1:].contiguous(), sin), (cos, strided(sin))]
    for wrong in tables:
        with pytest.raises(ValueError, match=r"(cos|sin) must be contiguous torch.float32 \(520, 16\)"):
            CpuLayers(SHAPE, RopeTables(*wrong), layers_of("int4"))
        with pytest.raises(ValueError, match=r"(cos|sin) must be"):
            CpuAttentionStep(SHAPE, RopeTables(*wrong), case.step)
    layers = layers_of("int4")
    layers[1] = replace(layers[1], head_norms=HeadNorms(torch.ones(31), None))
    with pytest.raises(ValueError, match=r"expected a contiguous float32 \[32\]"):
        CpuLayers(SHAPE, case.rope, layers)


def test_matrices_that_do_not_fit_each_other_are_refused() -> None:
    """The rows between them are as long as the first layer wants."""
    gated, added = Fusion(Prologue.SILU_MUL, accumulate=True), Fusion(accumulate=True)
    wrong: list[dict[str, FusedLinear]] = [
        {"qkv_proj": cpu_linear(torch.ones(352, 96).bfloat16(), Fusion())},
        {"qkv_proj": cpu_linear(torch.ones(320, 96).bfloat16(), gated)},
        {"o_proj": cpu_linear(torch.ones(112, 192).bfloat16(), added)},
        {"o_proj": cpu_linear(torch.ones(96, 208).bfloat16(), added)},
        {"gate_up_proj": cpu_linear(torch.ones(352, 96).bfloat16(), Fusion())},
        {"down_proj": cpu_linear(torch.ones(96, 176).bfloat16(), gated)},
        {"down_proj": cpu_linear(torch.ones(96, 320).bfloat16(), added)},
    ]
    for index in (0, 2):
        for changes in wrong:
            layers = layers_of("bfloat16")
            layers[index] = replace(layers[index], **changes)  # type: ignore[arg-type]
            with pytest.raises(ValueError, match=r"matrices of layer \d do not fit rows of LayerSizes"):
                CpuLayers(SHAPE, Case().rope, layers)
