"""The shape of a model, read from a Hugging Face `config.json` and checked."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class ModelError(ValueError):
    """The model directory cannot be served; the message says what is wrong with which file."""


@dataclass(frozen=True)
class ModelSpec:
    """What the decoder needs to know of a Llama-architecture model."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    max_model_len: int
    tie_word_embeddings: bool
    eos_token_ids: frozenset[int]

    def __post_init__(self) -> None:
        sizes = {name: value for name, value in vars(self).items() if isinstance(value, int | float)}
        for name, value in sizes.items():
            if name != "tie_word_embeddings" and not value > 0:
                raise ModelError(f"config.json: {name} is {value}; it must be positive")
        if self.num_heads % self.num_kv_heads:
            raise ModelError(f"config.json: {self.num_heads} heads cannot share {self.num_kv_heads} key-value heads")
        if self.head_dim % 2:
            raise ModelError(f"config.json: head_dim is {self.head_dim}; rotary embedding needs an even one")


def read_model_spec(model_dir: Path) -> ModelSpec:
    """Parse `config.json`. Raises ModelError for another architecture or a feature that is not implemented."""
    path = model_dir / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}. Is this a Hugging Face model directory?") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} must hold an object, not a {type(config).__name__}")
    check_supported(path, config)
    try:
        return spec_from_config(config)
    except KeyError as error:
        raise ModelError(f"{path}: {error} is missing") from error
    except TypeError as error:
        raise ModelError(f"{path}: {error}") from error


def spec_from_config(config: Mapping[str, Any]) -> ModelSpec:
    def integer(key: str) -> int:
        value: int = config[key]
        if type(value) is not int or value < 1:
            raise TypeError(f"{key} is {value!r}; it must be a positive integer")
        return value

    heads = integer("num_attention_heads")
    rope = config.get("rope_parameters") or {}
    eos = config.get("eos_token_id")
    return ModelSpec(
        vocab_size=integer("vocab_size"),
        hidden_size=integer("hidden_size"),
        intermediate_size=integer("intermediate_size"),
        num_layers=integer("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or integer("hidden_size") // heads,
        rms_norm_eps=config.get("rms_norm_eps", 1e-6),
        rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0),
        max_model_len=config.get("max_position_embeddings", 2048),
        tie_word_embeddings=config.get("tie_word_embeddings", False),
        eos_token_ids=frozenset([eos] if isinstance(eos, int) else eos or ()),
    )


def check_supported(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse what would otherwise run and give wrong tokens."""
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    rope_type = rope.get("rope_type") or rope.get("type") or "default"
    problems = {
        f"architectures is {config.get('architectures')}": config.get("architectures") != ["LlamaForCausalLM"],
        "the checkpoint is quantised already": config.get("quantization_config") is not None,
        f"rope type is {rope_type}": rope_type != "default",
        f"hidden_act is {config.get('hidden_act')}": config.get("hidden_act", "silu") != "silu",
        "attention_bias is set": bool(config.get("attention_bias")),
        "mlp_bias is set": bool(config.get("mlp_bias")),
    }
    found = [problem for problem, present in problems.items() if present]
    if found:
        raise ModelError(f"{path}: {'; '.join(found)}. This version serves plain LlamaForCausalLM checkpoints only")
