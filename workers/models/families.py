"""What tells the model families apart. Everything else is one decoder (`workers/models/decoder.py`).

A family is known by its architecture's name in `config.json`; what that name stands for is said nowhere in the file,
so it is said here, after Transformers' own classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

from workers.models.config_fields import ConfigFields, shown

FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class Traits:
    """What a family adds to the plain decoder.

    Attributes:
        qkv_bias, o_bias, mlp_bias: which matrices have a bias.
        qk_norm: whether q and k of each head are normalised before they are rotated.
        windows: per layer, how many tokens a token sees, itself included; 0 for all before it.
    """

    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    windows: tuple[int, ...]


def read_traits(config: ConfigFields) -> Traits:
    """The traits of the model's family. Raises ValueError for one that is not served."""
    architectures = config.any("architectures")
    name = architectures[0] if isinstance(architectures, list) and len(architectures) == 1 else None
    if not isinstance(name, str) or name not in FAMILIES:
        raise ValueError(f"architectures is {shown(architectures)}; served are {', '.join(FAMILIES)}, one of them")
    model_type, read = FAMILIES[name]
    if config.any("model_type") not in (None, model_type):
        raise ValueError(f"model_type is {shown(config.any('model_type'))}, but {name} is {model_type!r}; correct one")
    return read(config)


def read_llama(config: ConfigFields) -> Traits:
    """Llama 1 to 3 (Touvron et al. 2023, arXiv 2302.13971), TinyLlama, SmolLM: biases where the file says so."""
    attention_bias = config.flag("attention_bias")
    return Traits(attention_bias, attention_bias, config.flag("mlp_bias"), False, full_attention(config))


def read_mistral(config: ConfigFields) -> Traits:
    """Mistral (Jiang et al. 2023, arXiv 2310.06825): a sliding window in every layer, or in none where it is null."""
    refuse_biases(config, "attention_bias", "mlp_bias")
    window = read_window(config)
    windows = (window,) * config.integer("num_hidden_layers")
    if "layer_types" in config and layer_windows(config, window) != windows:
        raise ValueError("layer_types differ from layer to layer; in MistralForCausalLM all layers are alike")
    return Traits(False, False, False, False, windows)


def read_qwen2(config: ConfigFields) -> Traits:
    """Qwen 2 and 2.5 (Yang et al. 2024, arXiv 2407.10671): q, k and v have biases; late layers may have a window."""
    refuse_biases(config, "mlp_bias")
    return Traits(True, False, False, False, qwen_windows(config))


def read_qwen3(config: ConfigFields) -> Traits:
    """Qwen 3 (Yang et al. 2025, arXiv 2505.09388): heads' q and k are normalised."""
    refuse_biases(config, "mlp_bias")
    attention_bias = config.flag("attention_bias")
    return Traits(attention_bias, attention_bias, False, True, qwen_windows(config))


def full_attention(config: ConfigFields) -> tuple[int, ...]:
    return (0,) * config.integer("num_hidden_layers")


def qwen_windows(config: ConfigFields) -> tuple[int, ...]:
    """A window in the layers that `layer_types` names, or else from `max_window_layers` on; none unless in use."""
    window = read_window(config) if config.flag("use_sliding_window") else 0
    if "layer_types" in config:
        return layer_windows(config, window)
    if not window:
        return full_attention(config)
    num_layers, first = config.integer("num_hidden_layers"), config.any("max_window_layers")
    if type(first) is not int or first < 0:
        raise ValueError(f"max_window_layers is {shown(first)}; with a sliding window it must be an integer from 0")
    return tuple(window if layer >= first else 0 for layer in range(num_layers))


def read_window(config: ConfigFields) -> int:
    """`sliding_window`, 0 where it is null. It must be there: what its absence means differs between families."""
    config.require("sliding_window")
    return config.integer("sliding_window") if "sliding_window" in config else 0


def layer_windows(config: ConfigFields, window: int) -> tuple[int, ...]:
    """Each layer's window by `layer_types`."""
    types, num_layers = config.any("layer_types"), config.integer("num_hidden_layers")
    if not isinstance(types, list) or len(types) != num_layers or any(kind not in (FULL, SLIDING) for kind in types):
        raise ValueError(f"layer_types must be {num_layers} times {FULL!r} or {SLIDING!r}, one for each layer")
    if SLIDING in types and not window:
        raise ValueError(f"layer_types has {SLIDING!r}, but no sliding_window is in use")
    return tuple(window if kind == SLIDING else 0 for kind in types)


def refuse_biases(config: ConfigFields, *keys: str) -> None:
    """Raise ValueError where a family that has no such biases is said to have them."""
    for key in keys:
        if config.flag(key):
            raise ValueError(f"{key} is set, but {config.any('architectures')[0]} has no such bias")


FAMILIES: dict[str, tuple[str, Callable[[ConfigFields], Traits]]] = {
    "LlamaForCausalLM": ("llama", read_llama),
    "MistralForCausalLM": ("mistral", read_mistral),
    "Qwen2ForCausalLM": ("qwen2", read_qwen2),
    "Qwen3ForCausalLM": ("qwen3", read_qwen3),
}
