"""Random little checkpoints of every family and feature that is served, made by Transformers' own classes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.helpers import VOCAB_SIZE

YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
# Transformers' configuration class, without "Config", and what differs from `plain`.
VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    "llama": ("Llama", {}),
    "llama-mha": ("Llama", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    "llama-mqa": ("Llama", {"num_key_value_heads": 1, "head_dim": 24}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5}}),
    "llama-llama3": ("Llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "llama-yarn": ("Llama", {"rope_parameters": YARN}),
    "mistral": ("Mistral", {"head_dim": 24, "sliding_window": None}),
    "mistral-window": ("Mistral", {"sliding_window": 19}),
    "mistral-window-of-two": ("Mistral", {"sliding_window": 2, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2-window": ("Qwen2", {"use_sliding_window": True, "sliding_window": 19, "max_window_layers": 1}),
    "qwen2-yarn": ("Qwen2", {"rope_parameters": {**YARN, "beta_fast": 8.0, "truncate": False}}),
    "qwen3": ("Qwen3", {"head_dim": 24}),
    "qwen3-everything": (
        "Qwen3",
        {
            "head_dim": 32,
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": 33,
            "layer_types": ["sliding_attention", "full_attention"],
            "tie_word_embeddings": True,
            "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5},
        },
    ),
}


def config_of(variant: str, **changes: object) -> Any:
    """Transformers' configuration of a variant."""
    import transformers  # some seconds

    plain: dict[str, object] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    family, own = VARIANTS[variant]
    make: Callable[..., Any] = getattr(transformers, f"{family}Config")
    return make(**plain | own | changes)


def save_random_model(path: Path, variant: str) -> Path:
    """Save a model whose biases and norms are random too: as Transformers makes them they would do nothing."""
    import transformers

    torch.manual_seed(11)
    model = getattr(transformers, f"{VARIANTS[variant][0]}ForCausalLM")(config_of(variant))
    for name, tensor in model.named_parameters():
        if name.endswith("bias"):
            tensor.data.normal_(0.0, 0.5)
        elif tensor.dim() == 1:
            tensor.data.uniform_(0.5, 1.5)
    model.save_pretrained(path)
    return path
