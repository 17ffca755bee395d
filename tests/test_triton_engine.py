"""A whole engine on the Triton kernels, interpreted where there is no GPU: weights, layers, recorded steps, draws."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import workers.engine.build as build
from kernels import linear
from kernels.attention_inputs import AttentionShape, RopeTables
from kernels.fusion import FusedLinear, Fusion
from kernels.int4 import PackedInt4
from kernels.layer_weights import LayerWeights
from kernels.triton_ops.layers import TritonLayers
from kernels.triton_ops.linear import TritonLinear
from tests.helpers import drain, request_of
from tests.test_workers_device_runner import run_once
from tests.triton_device import DEVICE, HAS_GPU
from workers.config import engine_config
from workers.engine.device_runner import DeviceRunner
from workers.request import RequestOutput

PROMPTS = ([5, 9, 200, 31, 7, 7, 90, 14, 3, 77, 250, 6], [5, 9, 200, 31, 7, 7, 90, 14, 1], [42])
MAX_TOKENS = 3


def in_triton(weight: PackedInt4 | torch.Tensor, fusion: Fusion, dtype: torch.dtype) -> FusedLinear:
    return TritonLinear(weight, fusion, dtype)


def layers_in_triton(
    shape: AttentionShape, rope: RopeTables, layers: Sequence[LayerWeights], dtype: torch.dtype, *, strict: bool
) -> TritonLayers:
    return TritonLayers(shape, rope, layers, dtype, strict=strict)


def take_cpu_for_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none."""
    if not HAS_GPU:
        monkeypatch.setattr(linear, "triton_linear", in_triton)
        monkeypatch.setattr("workers.models.decoder.decoder_layers", layers_in_triton)
        monkeypatch.setattr(build, "CudaRecorder", lambda: run_once)


def complete(model_dir: Path, dtype: str, device: str, numerics: str = "strict") -> list[list[int]]:
    """What the engine says to all prompts at once."""
    options = {"dtype": dtype, "device": device, "numerics": numerics, "group_size": 32, "block_size": 4}
    config = engine_config(**options, memory_bytes=2**18, max_num_seqs=3, max_num_batched_tokens=16)
    engine = build.build_engine(model_dir, config).engine
    assert isinstance(engine._runner, DeviceRunner) == (dtype == "float16")
    for number, prompt in enumerate(PROMPTS):
        engine.add_request(request_of(str(number), prompt, MAX_TOKENS, ignore_eos=True))
    outputs: list[RequestOutput] = drain(engine.step, engine)
    engine.check_integrity()
    return [
        [token for output in outputs if output.request_id == str(number) for token in output.token_ids]
        for number in range(len(PROMPTS))
    ]


@pytest.mark.parametrize("numerics", ["strict", "fast"])
def test_says_what_the_reference_says(untied_dir: Path, monkeypatch: pytest.MonkeyPatch, numerics: str) -> None:
    """Prompts in chunks, a shared prefix, single tokens in recorded steps; the reference rounds nothing to float16."""
    wanted = complete(untied_dir, "float32", "cpu")
    take_cpu_for_gpu(monkeypatch)
    assert complete(untied_dir, "float16", DEVICE.type, numerics) == wanted
    assert [len(tokens) for tokens in wanted] == [MAX_TOKENS] * len(PROMPTS)
