"""What `raydix inspect` says of a model, against its files and against the loaded weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.cli import main
from tests.gguf_models import Kind, save_gguf
from tests.helpers import Tensors, edit_json, load_weights
from tests.quantized_models import Quantized, awq, compressed_tensors, gptq, quantize_checkpoint, quantized_from
from workers.config import WeightConfig
from workers.engine.build import check_model
from workers.models.decoder import DecoderWeights
from workers.models.spec import ModelError
from workers.weights.inspection import inspect_model
from workers.weights.model_dir import TINY_MODEL
from workers.weights.q80_export import export_q80

CONFIG = WeightConfig(device="cpu")
COMPRESSED: dict[str, object] = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {"group_0": {"weights": {"num_bits": 4, "strategy": "group", "group_size": 16}}},
}
FORMATS: dict[str, tuple[Callable[[Quantized], Tensors], dict[str, object]]] = {
    "gptq": (gptq, {"quant_method": "gptq", "bits": 4, "group_size": 16, "sym": False}),
    "awq": (awq, {"quant_method": "awq", "bits": 4, "group_size": 16}),
    "compressed-tensors": (lambda matrix: compressed_tensors(matrix, symmetric=True), COMPRESSED),
}


def layer_bytes(weights: DecoderWeights) -> tuple[int, int]:
    """Of the attention's matrices and of the other's, all layers together."""
    attention = sum(layer.qkv_proj.num_bytes + layer.o_proj.num_bytes for layer in weights.layers)
    return attention, sum(layer.gate_up_proj.num_bytes + layer.down_proj.num_bytes for layer in weights.layers)


def test_the_bundled_model_is_what_its_card_says() -> None:
    inspection = inspect_model(TINY_MODEL, CONFIG)
    assert (inspection.architecture, inspection.format) == ("LlamaForCausalLM", "safetensors bfloat16")
    assert f"{inspection.total.parameters / 1e6:.1f} million parameters" in (TINY_MODEL / "README.md").read_text()
    assert inspection.total.stored_bytes == 2 * inspection.total.parameters
    assert inspection.kv_bytes_per_token == 2 * 6 * 2 * 64 * 2
    assert (inspection.max_model_len, inspection.vocab_size) == (2048, 4096)


@pytest.mark.parametrize("method", FORMATS)
def test_a_quantised_checkpoint_is_served_as_it_is_stored(method: str, untied_dir: Path, tmp_path: Path) -> None:
    write, quantization = FORMATS[method]
    model_dir, _ = quantize_checkpoint(untied_dir, tmp_path, write, quantization, in_groups)
    inspection = inspect_model(model_dir, CONFIG)
    assert (inspection.format, inspection.served_as) == (method, "as it is stored")
    parts = inspection.parts
    assert (parts["attention"].served_bytes, parts["mlp"].served_bytes) == layer_bytes(load_weights(model_dir, CONFIG))
    assert parts["mlp"].parameters == 2 * 3 * 64 * 128
    assert parts["mlp"].parameters // 2 < parts["mlp"].stored_bytes < parts["mlp"].parameters


@pytest.mark.parametrize(
    ("kind", "served_as"),
    [
        (Kind.Q4_0, "as it is stored where that is int4, else int4 in groups of 32"),
        (Kind.Q8_0, "int4 in groups of 32"),
    ],
)
def test_a_gguf_file_is_looked_at_too(kind: Any, served_as: str, untied_dir: Path, tmp_path: Path) -> None:
    path = save_gguf(tmp_path / "model.gguf", untied_dir, lambda name: kind)
    config = WeightConfig(device="cpu", group_size=32)
    inspection = inspect_model(path, config)
    assert (inspection.format, inspection.served_as) == (f"gguf {kind.name}", served_as)
    assert inspection.architecture == "LlamaForCausalLM"
    parts = inspection.parts
    assert (parts["attention"].served_bytes, parts["mlp"].served_bytes) == layer_bytes(load_weights(path, config))
    assert parts["mlp"].stored_bytes == parts["mlp"].parameters * {Kind.Q4_0: 18, Kind.Q8_0: 34}[kind] // 32


def test_a_llama2_c_file_is_served_as_floats(untied_dir: Path, tmp_path: Path) -> None:
    spec, source = check_model(untied_dir)
    path = export_q80(untied_dir, source, spec, tmp_path / "exported")
    inspection = inspect_model(path, CONFIG)
    assert (inspection.format, inspection.served_as) == ("q80", "bfloat16")
    parts = inspection.parts
    assert (parts["attention"].served_bytes, parts["mlp"].served_bytes) == layer_bytes(load_weights(path, CONFIG))
    assert inspection.total.stored_bytes == path.stat().st_size - 32


def in_groups(weight: torch.Tensor) -> Quantized:
    matrix = quantized_from(weight, 16)
    return Quantized(matrix.values, matrix.scales, matrix.zeros * 0 + 8, matrix.group_of)


def test_what_fits_is_what_the_weights_leave() -> None:
    inspection = inspect_model(TINY_MODEL, CONFIG)
    weights, token = inspection.total.served_bytes, inspection.kv_bytes_per_token
    room = inspection.room_in(weights + 4100 * token + token - 1)
    assert (room.kv_tokens, room.full_sequences) == (4100, 2)
    assert inspection.room_in(weights - 1).kv_tokens == 0


def test_a_group_size_that_does_not_fit_is_refused_as_it_would_be_in_a_worker(untied_dir: Path) -> None:
    for group_size in (48, 0):
        with pytest.raises(ModelError, match=rf"q_proj.weight: group_size {group_size} does not fit"):
            inspect_model(untied_dir, WeightConfig(group_size=group_size))


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(TINY_MODEL), "--memory", "1GiB"]) == 0
    shown = capsys.readouterr().out
    assert "LlamaForCausalLM, safetensors bfloat16, served int4 in groups of 64" in shown
    assert "total             5,770,496    11.01 MiB     6.54 MiB" in shown
    assert "1.00 GiB hold the weights and 347,291 tokens of KV: 169 sequences of the whole context" in shown


def test_the_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(TINY_MODEL), "--json", "--memory", "7MB", "--group-size", "32"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["served_as"] == "int4 in groups of 32"
    assert shown["total"]["parameters"] == sum(part["parameters"] for part in shown["parts"].values()) == 5_770_496
    assert shown["room"] == {"memory_bytes": 7_000_000, "kv_tokens": 0, "full_sequences": 0}


@pytest.mark.parametrize("size", ["", "much", "24 gigs", "-1GiB", "1e9", "nan"])
def test_a_size_that_is_none_is_refused(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["inspect", str(TINY_MODEL), f"--memory={size}"])
    assert f"{size!r} is no size; write one as 24GiB" in capsys.readouterr().err


def test_a_model_that_cannot_be_served_is_one_line(model_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_json(model_copy / "config.json", num_hidden_layers=7)
    assert main(["inspect", str(model_copy)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "lacks model.layers.2.input_layernorm.weight" in shown.err
