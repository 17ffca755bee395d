"""Checkpoints of every family: exactly the family's biases and norms are read, and put where they belong."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.families import save_random_model
from tests.helpers import edit_tensors, load_weights
from workers.config import WeightConfig
from workers.models.spec import ModelError

PLAIN = WeightConfig(quantization="none", dtype="float32")
ATTENTION = "model.layers.0.self_attn"


@pytest.mark.parametrize(
    ("variant", "module"),
    [
        ("llama-biases", "self_attn q_proj k_proj v_proj"),
        ("llama-biases", "self_attn o_proj"),
        ("llama-biases", "mlp gate_proj up_proj"),
        ("llama-biases", "mlp down_proj"),
        ("qwen2", "self_attn q_proj k_proj v_proj"),
    ],
)
@pytest.mark.parametrize("config", [PLAIN, WeightConfig(dtype="bfloat16", group_size=32)], ids=["plain", "int4"])
def test_a_bias_is_added_in_the_order_of_its_shards(
    variant: str, module: str, config: WeightConfig, tmp_path: Path
) -> None:
    """Seen alone, on an input of zeros."""
    model_dir = save_random_model(tmp_path, variant)
    tensors, layer = load_file(model_dir / "model.safetensors"), load_weights(model_dir, config).layers[1]
    name, *shards = module.split()
    linears = {"q": layer.qkv_proj, "o": layer.o_proj, "g": layer.gate_up_proj, "d": layer.down_proj}
    inputs = tensors[f"model.layers.1.{name}.{shards[0]}.weight"].shape[1]
    y = linears[shards[0][0]](torch.zeros(3, 2 * inputs if shards == ["down_proj"] else inputs))
    bias = torch.cat([tensors[f"model.layers.1.{name}.{shard}.bias"] for shard in shards])
    assert torch.equal(y, bias.expand_as(y))


def test_norms_of_heads_are_where_they_belong(tmp_path: Path) -> None:
    model_dir = save_random_model(tmp_path, "qwen3")
    tensors, layer = load_file(model_dir / "model.safetensors"), load_weights(model_dir, PLAIN).layers[1]
    for weight, name in ((layer.head_norms.q, "q_norm"), (layer.head_norms.k, "k_norm")):
        assert weight is not None
        assert torch.equal(weight, tensors[f"model.layers.1.self_attn.{name}.weight"])


@pytest.mark.parametrize(
    ("variant", "missing"),
    [
        ("llama-biases", f"{ATTENTION}.o_proj.bias"),
        ("llama-biases", "model.layers.0.mlp.up_proj.bias"),
        ("qwen2", f"{ATTENTION}.k_proj.bias"),
        ("qwen3", f"{ATTENTION}.q_norm.weight"),
        ("qwen3", f"{ATTENTION}.k_norm.weight"),
    ],
)
def test_a_tensor_that_the_family_has_must_be_there(variant: str, missing: str, tmp_path: Path) -> None:
    model_dir = save_random_model(tmp_path, variant)
    edit_tensors(model_dir, lambda tensors: tensors.pop(missing))
    with pytest.raises(ModelError, match=f"lacks {missing}"):
        load_weights(model_dir, PLAIN)


@pytest.mark.parametrize(
    ("variant", "extra"),
    [
        ("llama", f"{ATTENTION}.q_proj.bias"),
        ("llama", f"{ATTENTION}.q_norm.weight"),
        ("mistral", f"{ATTENTION}.k_proj.bias"),
        ("qwen2", f"{ATTENTION}.o_proj.bias"),
        ("qwen3", f"{ATTENTION}.v_proj.bias"),
    ],
)
def test_a_tensor_that_the_family_lacks_must_not_be_there(variant: str, extra: str, tmp_path: Path) -> None:
    model_dir = save_random_model(tmp_path, variant)
    edit_tensors(model_dir, lambda tensors: tensors.update({extra: torch.zeros(64)}))
    with pytest.raises(ModelError, match=f"no place in the model .*: .'{extra}'"):
        load_weights(model_dir, PLAIN)
