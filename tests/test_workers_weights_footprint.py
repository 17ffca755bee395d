"""Parameters and bytes by part, against those that Transformers counts and those that loaded weights have."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.families import save_random_model
from tests.helpers import load_weights
from tests.tiny_checkpoint import CONFIG
from workers.config import WeightConfig
from workers.models.config_fields import ConfigFields
from workers.models.spec import ModelError, ModelSpec, read_model_spec, spec_from_config
from workers.weights import footprint
from workers.weights.footprint import check_fits, count_parameters, memory_bytes, served_bytes
from workers.weights.model_dir import TINY_MODEL

CPU = torch.device("cpu")


def spec_of(**changes: object) -> ModelSpec:
    return spec_from_config(ConfigFields(CONFIG | changes))


@pytest.mark.parametrize("variant", ["llama", "llama-biases", "qwen2", "qwen3-everything", "mistral"])
def test_parameters_are_those_of_transformers(variant: str, tmp_path: Path) -> None:
    tensors = load_file(save_random_model(tmp_path, variant) / "model.safetensors")
    counts = count_parameters(read_model_spec(tmp_path))
    assert sum(counts.values()) == sum(tensor.numel() for tensor in tensors.values())
    assert counts["norms"] == sum(tensor.numel() for name, tensor in tensors.items() if "norm" in name)
    assert counts["mlp"] == sum(tensor.numel() for name, tensor in tensors.items() if ".mlp." in name)


@pytest.mark.parametrize("config", [WeightConfig(device="cpu"), WeightConfig(quantization="none", device="cpu")])
def test_bytes_are_those_of_loaded_weights(config: WeightConfig) -> None:
    weights, expected = load_weights(TINY_MODEL, config), served_bytes(read_model_spec(TINY_MODEL), config)
    layers = weights.layers
    assert expected["embedding"] == weights.embed_tokens.nbytes
    assert expected["attention"] == sum(layer.qkv_proj.num_bytes + layer.o_proj.num_bytes for layer in layers)
    assert expected["mlp"] == sum(layer.gate_up_proj.num_bytes + layer.down_proj.num_bytes for layer in layers)
    assert expected["head"] == weights.lm_head.num_bytes


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 2**22},
        {"vocab_size": 2**22, "hidden_size": 2**22},
        {"intermediate_size": 2**22, "hidden_size": 2**20},
    ],
)
def test_a_model_beyond_the_machine_is_refused_before_it_is_loaded(
    changes: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C32."""
    monkeypatch.setattr(footprint, "memory_bytes", lambda device: 2**30)
    with pytest.raises(ModelError, match=r"weights take [\d,.]+ GiB as they would be served .* has 1\.0 GiB in all"):
        check_fits(spec_of(**changes), WeightConfig(), CPU)
    check_fits(spec_of(), WeightConfig(), CPU)


def test_a_container_s_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(footprint, "CGROUP_LIMIT", limit)
    physical = memory_bytes(CPU)
    limit.write_text("max\n")
    assert memory_bytes(CPU) == physical > 2**20
    limit.write_text("1000\n")
    assert memory_bytes(CPU) == 1000
