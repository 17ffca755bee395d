"""Quantised checkpoints: they compute what Transformers computes with the matrices that they stand for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kernels.cpu_ops.layers import CpuLayers
from kernels.reordered_linear import ReorderedLinear
from tests.families import save_random_model
from tests.helpers import Tensors, edit_json, edit_tensors, generate, load_weights, request_of, small_engine
from tests.parity import LogitsRecorder, generate_reference, load_reference
from tests.quantized_models import (
    AWQ_CONFIG,
    GPTQ_CONFIG,
    GROUP_SIZE,
    Quantized,
    awq,
    compressed_config,
    compressed_tensors,
    gptq,
    quantize_checkpoint,
    quantized_from,
)
from workers.config import WeightConfig
from workers.models.spec import ModelError

PROMPTS = [[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8]]
Q_PROJ = "model.layers.0.self_attn.q_proj"


def in_groups(weight: torch.Tensor) -> Quantized:
    return quantized_from(weight, GROUP_SIZE)


def in_rows(weight: torch.Tensor) -> Quantized:
    return quantized_from(weight, weight.shape[1])


def in_spread_groups(weight: torch.Tensor) -> Quantized:
    """With columns put into groups as act-order does: by something that has nothing to do with where they stand."""
    num_inputs = weight.shape[1]
    order = torch.randperm(num_inputs, generator=torch.Generator().manual_seed(num_inputs))
    matrix = quantized_from(weight[:, order], GROUP_SIZE)
    back = order.argsort()
    return Quantized(matrix.values[:, back], matrix.scales, matrix.zeros, matrix.group_of[back])


Format = tuple[Callable[[Quantized], Tensors], dict[str, object], Callable[[torch.Tensor], Quantized]]
FORMATS: dict[str, Format] = {
    "gptq": (gptq, GPTQ_CONFIG, in_groups),
    "gptq-v2": (lambda m: gptq(m, zero_offset=0), GPTQ_CONFIG | {"checkpoint_format": "gptq_v2"}, in_groups),
    "gptq-act-order": (gptq, GPTQ_CONFIG | {"desc_act": True}, in_spread_groups),
    "awq": (awq, AWQ_CONFIG, in_groups),
    "compressed": (lambda m: compressed_tensors(m, symmetric=False), compressed_config(), in_groups),
    "compressed-rows": (
        lambda m: compressed_tensors(m, symmetric=False),
        compressed_config(strategy="channel", group_size=None),
        in_rows,
    ),
    "compressed-act-order": (
        lambda m: compressed_tensors(m, symmetric=False),
        compressed_config(actorder="group"),
        in_spread_groups,
    ),
}


def logits_of(model_dir: Path, **options: Any) -> torch.Tensor:
    """float32 [prompts, vocab] after each prompt."""
    built = small_engine(model_dir, **options)
    recorder = LogitsRecorder(built)
    generate(built.engine, [request_of(str(index), prompt, 1) for index, prompt in enumerate(PROMPTS)])
    return torch.stack([recorder.rows[str(index)][0] for index in range(len(PROMPTS))])


def reference_logits(model_dir: Path) -> torch.Tensor:
    return torch.stack([rows[0] for _, rows in generate_reference(load_reference(model_dir), PROMPTS, 1)])


@pytest.fixture(scope="module")
def biased_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with all the biases there are, and norms that are no ones."""
    return save_random_model(tmp_path_factory.mktemp("biased"), "llama-biases")


@pytest.fixture(params=FORMATS)
def pair(request: pytest.FixtureRequest, biased_dir: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A quantised checkpoint, and the float one that it stands for."""
    return quantize_checkpoint(biased_dir, tmp_path, *FORMATS[request.param])


def test_logits_are_those_of_the_dequantised_model(pair: tuple[Path, Path]) -> None:
    """In float32, packed and as floats, to 1e-4 of the largest logit; in bfloat16, by C++, to 3 in a hundred."""
    packed, floats = pair
    expected = reference_logits(floats)
    scale = float(expected.abs().max())
    for quantization in ("int4", "none"):
        found = logits_of(packed, quantization=quantization)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * scale)
    found = logits_of(packed, quantization="int4", dtype="bfloat16")
    torch.testing.assert_close(found, expected, rtol=0, atol=0.03 * scale)


def in_symmetric_groups(weight: torch.Tensor) -> Quantized:
    """8 stands for zero in every group."""
    groups = weight.view(len(weight), -1, GROUP_SIZE)
    scales = (groups.abs().amax(-1) / 7).half()
    values = ((groups / scales.float()[..., None]).round() + 8).clamp(0, 15).view(weight.shape)
    group_of = torch.arange(weight.shape[1], dtype=torch.int32) // GROUP_SIZE
    return Quantized(values.to(torch.uint8), scales, torch.full(scales.shape, 8, dtype=torch.uint8), group_of)


def test_logits_are_those_that_transformers_reads_from_the_same_files(biased_dir: Path, tmp_path: Path) -> None:
    """By its own class for compressed-tensors, which in these versions takes symmetric schemes only."""
    write, config = (lambda matrix: compressed_tensors(matrix, symmetric=True)), compressed_config(symmetric=True)
    packed, _ = quantize_checkpoint(biased_dir, tmp_path, write, config, in_symmetric_groups)
    expected = reference_logits(packed)
    found = logits_of(packed, quantization="int4")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_act_order_leaves_the_fast_path_and_nothing_else_does(untied_dir: Path, tmp_path: Path) -> None:
    for name in ("gptq-act-order", "awq"):
        packed, _ = quantize_checkpoint(untied_dir, tmp_path / name, *FORMATS[name])
        model = small_engine(packed, quantization="int4", dtype="bfloat16").engine._runner
        layers = model._model._layers  # type: ignore[attr-defined]
        assert isinstance(layers, CpuLayers) == (name == "awq")


@pytest.fixture
def gptq_dir(untied_dir: Path, tmp_path: Path) -> Path:
    """A GPTQ checkpoint to be edited."""
    return quantize_checkpoint(untied_dir, tmp_path, *FORMATS["gptq"])[0]


def test_biases_of_zeros_are_left_out(gptq_dir: Path) -> None:
    """Old GPTQ files have them for models that have none."""
    before = logits_of(gptq_dir)
    edit_tensors(gptq_dir, lambda tensors: tensors.update({f"{Q_PROJ}.bias": torch.zeros(64)}))
    assert torch.equal(logits_of(gptq_dir), before)
    edit_tensors(gptq_dir, lambda tensors: tensors[f"{Q_PROJ}.bias"][5].fill_(0.25))
    with pytest.raises(ModelError, match=rf"no place for: .'{Q_PROJ}\.bias'"):
        load_weights(gptq_dir, WeightConfig())


def unpack(tensors: Tensors, module: str) -> None:
    """Put a module of floats in the place of a quantised one."""
    shape = tensors[f"{module}.scales"].shape[1], tensors[f"{module}.g_idx"].shape[0]
    for part in ("qweight", "qzeros", "scales", "g_idx"):
        del tensors[f"{module}.{part}"]
    tensors[f"{module}.weight"] = torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_matrices_that_were_left_as_floats_stay_floats(gptq_dir: Path) -> None:
    edit_tensors(gptq_dir, lambda tensors: unpack(tensors, "model.layers.0.self_attn.o_proj"))
    weight = load_file(gptq_dir / "model.safetensors")["model.layers.0.self_attn.o_proj.weight"]
    o_proj = load_weights(gptq_dir, WeightConfig(dtype="float32")).layers[0].o_proj
    assert torch.equal(o_proj(torch.eye(64)), weight.T)


@pytest.mark.parametrize("quantization", ["int4", "none"])
def test_a_packed_module_is_quantised_whole_or_not_at_all(gptq_dir: Path, quantization: Any) -> None:
    """Turned to floats, the shards go together."""
    edit_tensors(gptq_dir, lambda tensors: unpack(tensors, Q_PROJ))
    if quantization == "none":
        assert logits_of(gptq_dir, quantization="none").isfinite().all()
        return
    with pytest.raises(ModelError, match=r"layers\.0\.self_attn\.qkv_proj: some of its shards are quantised and some"):
        load_weights(gptq_dir, WeightConfig())


def test_shards_with_orders_of_their_own_are_refused(untied_dir: Path, tmp_path: Path) -> None:
    model_dir, _ = quantize_checkpoint(untied_dir, tmp_path, *FORMATS["gptq-act-order"])
    edit_tensors(model_dir, lambda tensors: tensors.update({f"{Q_PROJ}.g_idx": tensors[f"{Q_PROJ}.g_idx"].flip(0)}))
    with pytest.raises(ModelError, match=r"qkv_proj: its shards are quantised with different act-orders"):
        load_weights(model_dir, WeightConfig())


def test_shards_with_groups_of_different_sizes_go_together(untied_dir: Path, tmp_path: Path) -> None:
    """In the smaller groups, exactly."""
    config = compressed_config()
    schemes = [compressed_config(group_size=size)["config_groups"]["group_0"] for size in (16, 32)]  # type: ignore[index]
    config["config_groups"] = {"a": schemes[0], "b": schemes[1]}
    sizes = iter([16, 32] * 100)
    packed, floats = quantize_checkpoint(
        untied_dir,
        tmp_path,
        lambda matrix: compressed_tensors(matrix, symmetric=False),
        config,
        lambda weight: quantized_from(weight, next(sizes)),
    )
    found, expected = logits_of(packed, quantization="int4"), logits_of(floats)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_a_quantised_head_is_turned_to_floats(gptq_dir: Path, tmp_path: Path) -> None:
    before = logits_of(gptq_dir)
    tensors = load_file(gptq_dir / "model.safetensors")
    matrix = in_groups(tensors.pop("lm_head.weight"))
    parts = {f"lm_head.{part}": tensor for part, tensor in gptq(matrix).items()}
    save_file(tensors | parts, gptq_dir / "model.safetensors")
    after = logits_of(gptq_dir)
    assert not torch.equal(after, before)
    del parts
    save_file(tensors | {"lm_head.weight": matrix.floats()}, gptq_dir / "model.safetensors")
    torch.testing.assert_close(logits_of(gptq_dir), after)


def test_scales_beyond_float16_are_not_rounded(untied_dir: Path, tmp_path: Path) -> None:
    """bfloat16 has smaller numbers than float16, and the C++ operator holds its scales in float16."""

    def tiny(weight: torch.Tensor) -> Quantized:
        matrix = in_groups(weight)
        scales = matrix.scales.bfloat16()
        scales[3] = 2.0**-27
        return Quantized(matrix.values, scales, matrix.zeros, matrix.group_of)

    packed, floats = quantize_checkpoint(
        untied_dir, tmp_path, lambda m: compressed_tensors(m, symmetric=False), compressed_config(), tiny
    )
    expected = load_file(floats / "model.safetensors")["model.layers.0.self_attn.o_proj.weight"]
    o_proj = load_weights(packed, WeightConfig()).layers[0].o_proj
    assert not isinstance(o_proj, ReorderedLinear)
    found = o_proj(torch.eye(64)).T[3]
    torch.testing.assert_close(found, expected[3], rtol=0.01, atol=0)


CONFIGS: list[tuple[dict[str, object], str]] = [
    ({"quant_method": "bitsandbytes"}, "quant_method is 'bitsandbytes'; served are awq, compressed-tensors, gptq"),
    ({}, "quant_method is None; served are"),
    ({"quant_method": ["gptq"]}, "quant_method is .'gptq'.; served"),
    (GPTQ_CONFIG | {"bits": 3}, "gptq's bits is 3; only 4"),
    (AWQ_CONFIG | {"bits": 8}, "awq's bits is 8; only 4"),
    (GPTQ_CONFIG | {"group_size": 0}, "group_size is 0; it must be"),
    (GPTQ_CONFIG | {"group_size": -2}, "group_size is -2"),
    (AWQ_CONFIG | {"group_size": "16"}, "group_size is '16'"),
    (GPTQ_CONFIG | {"sym": "yes"}, "sym is 'yes'"),
    (GPTQ_CONFIG | {"checkpoint_format": "marlin"}, "checkpoint_format is 'marlin'; served are gptq, gptq_v2"),
    (GPTQ_CONFIG | {"dynamic": {"+:x": {"bits": 8}}}, "dynamic is .* not served"),
    (AWQ_CONFIG | {"version": "gemv"}, "version is 'gemv'; only 'gemm'"),
    (AWQ_CONFIG | {"zero_point": False}, "zero_point is false"),
    (compressed_config() | {"format": "int-quantized"}, "format is 'int-quantized'; only pack-quantized"),
    (compressed_config() | {"kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme is not served"),
    (compressed_config() | {"config_groups": {}}, "config_groups is {}"),
    (compressed_config() | {"config_groups": {"group_0": ["Linear"]}}, "config_groups is"),
    (compressed_config(num_bits=3), "group_0 has int weights of 3 bits; served are int of 4 or 8"),
    (compressed_config(type="float"), "group_0 has float weights of 4 bits"),
    (compressed_config(strategy="block"), "group_0 has the strategy 'block'"),
    (compressed_config(group_size=None), "group_size is missing"),
]


@pytest.mark.parametrize(("config", "message"), CONFIGS)
def test_a_scheme_that_is_not_served_is_named(gptq_dir: Path, config: dict[str, object], message: str) -> None:
    edit_json(gptq_dir / "config.json", quantization_config=config)
    with pytest.raises(ModelError, match=rf"config\.json: .*{message}"):
        load_weights(gptq_dir, WeightConfig())


def test_activations_that_were_quantised_are_refused(gptq_dir: Path) -> None:
    config = json.loads(json.dumps(compressed_config()))
    config["config_groups"]["group_0"]["input_activations"] = {"num_bits": 8}
    edit_json(gptq_dir / "config.json", quantization_config=config)
    with pytest.raises(ModelError, match=r"group_0 quantises activations \(input_activations\)"):
        load_weights(gptq_dir, WeightConfig())


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda tensors: tensors.update({f"{Q_PROJ}.weight": torch.ones(64, 64)}),
            f"has {Q_PROJ}.weight quantised and",
        ),
        (lambda tensors: tensors.pop(f"{Q_PROJ}.qweight"), f"lacks {Q_PROJ}.weight"),
        (lambda tensors: tensors.update({"x.qzeros": torch.ones(1)}), "no place for: .'x.qzeros'"),
        (lambda tensors: [tensors.pop(n) for n in list(tensors) if n.endswith("qweight")], "no tensor is a qweight"),
    ],
    ids=["twice", "not-at-all", "left-over", "none"],
)
def test_modules_that_are_not_whole_are_named(gptq_dir: Path, edit: Callable[[Tensors], object], message: str) -> None:
    edit_tensors(gptq_dir, edit)
    with pytest.raises(ModelError, match=message):
        load_weights(gptq_dir, WeightConfig())
