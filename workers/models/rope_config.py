"""The rotary embedding that a `config.json` asks for, in the words of Transformers 4 or of Transformers 5.

Transformers 4 wrote `rope_theta` and `rope_scaling`; 5 writes `rope_parameters` with the theta in it. Some checkpoints
have both, for readers of either kind.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from workers.models.config_fields import ConfigFields, shown
from workers.models.rope import LinearRope, Llama3Rope, Rope, YarnRope

BESIDE = ("rope_theta", "original_max_position_embeddings", "partial_rotary_factor")  # may stand outside both objects
LENGTH_DEPENDENT = {
    "dynamic": "its frequencies change with the length of the sequence",
    "longrope": "it has one table for short and another for long sequences",
}


def read_rope(config: ConfigFields) -> Rope:
    """The rotary embedding. Raises ValueError for a kind that is not served or a value out of range."""
    fields = ConfigFields(rope_fields(config))
    kind = fields.any("rope_type") if "rope_type" in fields else "default"
    if not isinstance(kind, str):
        raise ValueError(f"rope_type is {shown(kind)}; it must be a string")
    if kind in LENGTH_DEPENDENT:
        raise ValueError(
            f"rope type {kind} is not served: {LENGTH_DEPENDENT[kind]}, so the cached KV of a prefix would "
            "be wrong in a longer sequence. Where the checkpoint allows it, take the scaling out or make it yarn"
        )
    if kind not in READERS:
        raise ValueError(f"rope type {shown(kind)} is not served; {', '.join(READERS)} are")
    if fields.number("partial_rotary_factor", 1.0, least=0, most=1) != 1:
        raise ValueError("partial_rotary_factor is not 1; rotating a part of a head is not served")
    return READERS[kind](fields, config.integer("max_position_embeddings"))


def rope_fields(config: ConfigFields) -> Mapping[str, Any]:
    """All that is said of the embedding, in one object. Raises ValueError where two places contradict each other."""
    fields: dict[str, Any] = {key: config.any(key) for key in BESIDE if key in config}
    for place in ("rope_parameters", "rope_scaling"):
        for key, value in config.object(place).items():
            if isinstance(value, dict):
                raise ValueError(f"{place}.{key} is an object; one rotary embedding per layer type is not served")
            name = "rope_type" if key == "type" else key
            known = fields.setdefault(name, value) if value is not None else None
            if known is not value and known != value:
                raise ValueError(f"{name} is {shown(known)} in one place and {shown(value)} in {place}")
    return fields


def read_default(fields: ConfigFields, max_len: int) -> Rope:
    return LinearRope(theta_of(fields))


def read_linear(fields: ConfigFields, max_len: int) -> Rope:
    return LinearRope(theta_of(fields), factor_of(fields))


def read_llama3(fields: ConfigFields, max_len: int) -> Rope:
    low = fields.number("low_freq_factor", least=1e-3, most=1e6)
    high = fields.number("high_freq_factor", least=1e-3, most=1e6)
    if not low < high:
        raise ValueError(f"low_freq_factor is {low:g}; it must be below high_freq_factor, which is {high:g}")
    original = fields.integer("original_max_position_embeddings", max_len)
    return Llama3Rope(theta_of(fields), factor_of(fields), low, high, original)


def read_yarn(fields: ConfigFields, max_len: int) -> Rope:
    factor = factor_of(fields)
    fast = fields.number("beta_fast", 32.0, least=1e-3, most=1e6)
    slow = fields.number("beta_slow", 1.0, least=1e-3, most=1e6)
    if not slow < fast:
        raise ValueError(f"beta_slow is {slow:g}; it must be below beta_fast, which is {fast:g}")
    return YarnRope(
        theta_of(fields),
        factor,
        fields.integer("original_max_position_embeddings", max_len),
        fields.number("attention_factor", yarn_attention_factor(fields, factor), least=1e-3, most=1e3),
        fast,
        slow,
        fields.flag("truncate", True),
    )


def yarn_attention_factor(fields: ConfigFields, factor: float) -> float:
    """The paper's 0.1 ln(factor) + 1, or the ratio of two such terms that DeepSeek's checkpoints bring."""

    def term(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1.0

    both = [fields.number(key, 0.0, least=0, most=1e3) for key in ("mscale", "mscale_all_dim")]
    return term(both[0]) / term(both[1]) if all(both) else term(1.0)


def theta_of(fields: ConfigFields) -> float:
    return fields.number("rope_theta", 10000.0, least=2, most=1e12)


def factor_of(fields: ConfigFields) -> float:
    return fields.number("factor", least=1, most=1e4)


READERS: dict[str, Callable[[ConfigFields, int], Rope]] = {
    "default": read_default,
    "linear": read_linear,
    "llama3": read_llama3,
    "yarn": read_yarn,
}
