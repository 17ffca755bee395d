"""The shape of a model from a GGUF file's metadata, by way of the `config.json` that it was made from."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from workers.model_error import ModelError
from workers.models.config_fields import ConfigFields, shown
from workers.models.rope import DividedRope
from workers.models.spec import ModelSpec, spec_from_config
from workers.weights.gguf_header import GgufHeader, read_gguf_header
from workers.weights.gguf_tensors import read_tensor

ARCHITECTURES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM"}
ROPE_DIVISORS = "rope_freqs.weight"
FIELDS = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "max_position_embeddings": "context_length",
    "rope_theta": "rope.freq_base",
}
SCALING = {
    "rope_type": "type",
    "factor": "factor",
    "original_max_position_embeddings": "original_context_length",
}
TOKENS = "tokenizer.ggml.tokens"
END_TOKENS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")


def read_gguf_spec(path: Path) -> ModelSpec:
    """The model's shape. Raises ModelError for an architecture or a feature that is not served."""
    header = read_gguf_header(path)
    try:
        spec = spec_from_config(ConfigFields(config_of(header)))
        check_rotation(header.metadata, spec.head_dim)
        spec = replace(spec, num_tokens=len(header.metadata.get(TOKENS, ())) or spec.num_tokens)
        if ROPE_DIVISORS not in header.tensors:
            return spec
        divisors = read_tensor(header, ROPE_DIVISORS, (spec.head_dim // 2,))
        return replace(spec, rope=DividedRope(spec.rope.theta, tuple(divisors.tolist())))
    except ValueError as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{header.file.path}: {error}") from error


def check_rotation(metadata: dict[str, Any], head_dim: int) -> None:
    """Raise ValueError where only a part of each head is rotated."""
    key = f"{metadata['general.architecture']}.rope.dimension_count"
    if metadata.get(key, head_dim) != head_dim:
        raise ValueError(f"{key} is {shown(metadata[key])}, but heads have {head_dim}; whole heads are rotated")


def config_of(header: GgufHeader) -> dict[str, Any]:
    """What `config.json` would say. Raises ValueError for an architecture that is not served."""
    metadata = header.metadata
    name = metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise ValueError(f"general.architecture is {shown(name)}; served are {', '.join(ARCHITECTURES)}")
    if metadata.get(f"{name}.expert_count"):
        raise ValueError(f"{name}.expert_count is {shown(metadata[f'{name}.expert_count'])}; experts are not served")
    window = metadata.get(f"{name}.attention.sliding_window") or None
    architecture = ARCHITECTURES["mistral" if window and name == "llama" else name]  # converters call Mistral a Llama
    has_biases = "blk.0.attn_q.bias" in header.tensors
    return {
        "architectures": [architecture],
        "vocab_size": vocab_size(header),
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "sliding_window": window,
        "attention_bias": has_biases and architecture == ARCHITECTURES["llama"],
        "eos_token_id": [metadata[key] for key in END_TOKENS if key in metadata],
        "rope_scaling": scaling_of(metadata, name),
        **{field: metadata.get(f"{name}.{key}") for field, key in FIELDS.items()},
    }


def vocab_size(header: GgufHeader) -> int | None:
    """Rows of the embedding."""
    embedding = header.tensors.get("token_embd.weight")
    return embedding.shape[0] if embedding else None


def scaling_of(metadata: dict[str, Any], name: str) -> dict[str, Any] | None:
    """`rope_scaling`, None where there is none."""
    prefix = f"{name}.rope.scaling"
    if metadata.get(f"{prefix}.type", "none") == "none":
        return None
    return {field: metadata.get(f"{prefix}.{key}") for field, key in SCALING.items()}
