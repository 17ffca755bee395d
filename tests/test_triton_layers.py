"""All layers in Triton against the reference, layer by layer in torch.

Tolerance: rows are rounded to float16 before each product and the weights of a softmax too, the reference's are not.
"""

from dataclasses import replace

import pytest
import torch

from kernels.attention_inputs import AttentionShape, HeadNorms, RopeTables, StepTensors
from kernels.decoder_layers import ReferenceLayers
from kernels.fusion import FusedLinear, Fusion, Prologue
from kernels.int4 import PackedInt4, dequantize, quantize
from kernels.layer_weights import LayerWeights
from kernels.linear import TorchLinear
from kernels.triton_ops.layers import TritonLayers, triton_layers_fit
from kernels.triton_ops.linear import TritonLinear
from tests.triton_device import DEVICE, DTYPES

SHAPE = AttentionShape(4, 2, 32)
HIDDEN, BLOCK_SIZE, NUM_BLOCKS = 128, 8, 40
WINDOWS = (0, 11)
QUERY_LENS = (1, 37, 3, 1)
CONTEXT_LENS = (41, 37, 30, 1)
TOLERANCE = {torch.float16: 4e-3, torch.bfloat16: 3e-2}


class Layers:
    """The same random layers from the same seed, in Triton and in torch.

    Args:
        kind: "int4", or "dense" for matrices as they are.
        inner: half the outputs of gate and up; fused where a multiple of 64.
        mlp_bias: gate and up have one.
    """

    def __init__(self, dtype: torch.dtype, kind: str = "int4", inner: int = 128, *, mlp_bias: bool = False) -> None:
        self.dtype, self._kind, self._inner, self._mlp_bias = dtype, kind, inner, mlp_bias
        positions = torch.arange(64)[:, None] * 0.3 ** torch.arange(SHAPE.head_dim // 2)
        self.rope = RopeTables(positions.cos().to(DEVICE), positions.sin().to(DEVICE))

    def in_triton(self, *, strict: bool = True) -> TritonLayers:
        layers = [self._layer(index, triton=True) for index in range(len(WINDOWS))]
        return TritonLayers(SHAPE, self.rope, layers, self.dtype, strict=strict)

    def in_torch(self) -> ReferenceLayers:
        layers = [self._layer(index, triton=False) for index in range(len(WINDOWS))]
        return ReferenceLayers(SHAPE, self.rope, layers, strict=True)

    def _linear(self, weight: PackedInt4 | torch.Tensor, fusion: Fusion, triton: bool) -> FusedLinear:
        if triton:
            return TritonLinear(weight, fusion, self.dtype)
        matrix = dequantize(weight, torch.float32) if isinstance(weight, PackedInt4) else weight.float()
        return TorchLinear(matrix, fusion, torch.float32, strict=True)

    def _layer(self, index: int, *, triton: bool) -> LayerWeights:
        generator = torch.Generator().manual_seed(index)

        def matrix(num_outputs: int, num_inputs: int, fusion: Fusion) -> FusedLinear:
            weight = torch.randn(num_outputs, num_inputs, generator=generator) * num_inputs**-0.5
            weight = weight.to(DEVICE)
            return self._linear(quantize(weight, 32) if self._kind == "int4" else weight.to(self.dtype), fusion, triton)

        def vector(size: int) -> torch.Tensor:
            return (torch.rand(size, generator=generator) + 0.5).to(DEVICE)

        heads = SHAPE.num_heads * SHAPE.head_dim
        qkv_size = heads + 2 * SHAPE.num_kv_heads * SHAPE.head_dim
        gate_bias = vector(2 * self._inner) if self._mlp_bias else None
        return LayerWeights(
            qkv_proj=matrix(qkv_size, HIDDEN, Fusion(Prologue.RMS_NORM, vector(HIDDEN), 1e-5, vector(qkv_size))),
            head_norms=HeadNorms(vector(SHAPE.head_dim), vector(SHAPE.head_dim), 1e-6) if index else HeadNorms(),
            o_proj=matrix(HIDDEN, heads, Fusion(accumulate=True)),
            gate_up_proj=matrix(2 * self._inner, HIDDEN, Fusion(Prologue.RMS_NORM, vector(HIDDEN), 1e-5, gate_bias)),
            down_proj=matrix(HIDDEN, self._inner, Fusion(Prologue.SILU_MUL, accumulate=True, bias=vector(HIDDEN))),
            window=WINDOWS[index],
        )


class Case:
    """A ragged batch over a cache full of noise, blocks in no order."""

    def __init__(self, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(3)
        width = -(-max(CONTEXT_LENS) // BLOCK_SIZE)
        tables = torch.randperm(NUM_BLOCKS, generator=generator)[: width * len(CONTEXT_LENS)].view(-1, width).int()
        positions = [torch.arange(c - q, c) for q, c in zip(QUERY_LENS, CONTEXT_LENS, strict=True)]
        slots = [
            table[p // BLOCK_SIZE].long() * BLOCK_SIZE + p % BLOCK_SIZE
            for table, p in zip(tables, positions, strict=True)
        ]
        self.step = StepTensors(
            positions=torch.cat(positions).to(DEVICE),
            slot_mapping=torch.cat(slots).to(DEVICE),
            block_tables=tables.to(DEVICE),
            query_starts=torch.tensor([0, *QUERY_LENS]).cumsum(0).int().to(DEVICE),
            context_lens=torch.tensor(CONTEXT_LENS, dtype=torch.int32, device=DEVICE),
        )
        self.hidden = torch.randn(sum(QUERY_LENS), HIDDEN, generator=generator).to(DEVICE)
        shape = (len(WINDOWS), 2, NUM_BLOCKS, BLOCK_SIZE, SHAPE.num_kv_heads, SHAPE.head_dim)
        self.cache = torch.randn(shape, generator=generator).to(DEVICE, dtype)

    def run_triton(self, layers: TritonLayers) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states and the cache afterwards."""
        works = layers.planner.works(QUERY_LENS, CONTEXT_LENS, DEVICE)
        cache = self.cache.clone()
        return layers(self.hidden.clone(), replace(self.step, works=works), cache), cache

    def run_torch(self, layers: ReferenceLayers) -> tuple[torch.Tensor, torch.Tensor]:
        """The same by the reference."""
        cache = self.cache.clone()
        return layers(self.hidden.clone(), self.step, cache), cache


def largest_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.float() - wanted.float()).abs().max() / wanted.float().abs().max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("kind", "inner", "mlp_bias"), [("int4", 128, False), ("int4", 64, True), ("dense", 64, False)]
)
def test_near_the_reference(dtype: torch.dtype, kind: str, inner: int, mlp_bias: bool) -> None:
    layers, case = Layers(dtype, kind, inner, mlp_bias=mlp_bias), Case(dtype)
    hidden, cache = case.run_triton(layers.in_triton(strict=kind == "int4"))
    wanted_hidden, wanted_cache = case.run_torch(layers.in_torch())
    assert largest_error(hidden, wanted_hidden) < TOLERANCE[dtype]
    assert largest_error(cache, wanted_cache) < TOLERANCE[dtype]
    assert not torch.equal(cache, case.cache)


@pytest.mark.parametrize("num_padded", [1, 5])
def test_rows_that_pad_a_batch_change_nothing(num_padded: int) -> None:
    """A CUDA graph of n tokens runs smaller batches too: rows of position 0, slot -1 and no context fill it up."""
    layers, case = Layers(DTYPES[0]).in_triton(), Case(DTYPES[0])
    hidden, cache = case.run_triton(layers)
    step, pad = case.step, torch.zeros(num_padded, dtype=torch.int64, device=DEVICE)
    last = int(step.query_starts[-1])
    padded = StepTensors(
        positions=torch.cat([step.positions, pad]),
        slot_mapping=torch.cat([step.slot_mapping, pad - 1]),
        block_tables=torch.cat([step.block_tables, step.block_tables[:1].expand(num_padded, -1)]),
        query_starts=torch.cat([step.query_starts, (last + 1 + torch.arange(num_padded)).int().to(DEVICE)]),
        context_lens=torch.cat([step.context_lens, pad.int()]),
        works=layers.planner.works([*QUERY_LENS, *[1] * num_padded], [*CONTEXT_LENS, *[0] * num_padded], DEVICE),
    )
    padded_cache = case.cache.clone()
    rows = torch.cat([case.hidden, torch.randn(num_padded, HIDDEN, device=DEVICE)])
    padded_hidden = layers(rows, padded, padded_cache)
    assert torch.equal(padded_cache, cache)
    assert largest_error(padded_hidden[: len(hidden)], hidden) < 1e-6
    assert torch.isfinite(padded_hidden).all()


def test_layers_that_do_not_fit_are_refused() -> None:
    layers = [Layers(DTYPES[0])._layer(0, triton=False)]
    rope = RopeTables(torch.zeros(4, 16), torch.zeros(4, 16))
    assert not triton_layers_fit(SHAPE, layers, DTYPES[0])
    with pytest.raises(ValueError, match="ask triton_layers_fit"):
        TritonLayers(SHAPE, rope, layers, DTYPES[0], strict=True)
