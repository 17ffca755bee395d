"""Which checkpoint matrices are stacked into one, and in what order. The only place that knows these names."""

PACKED_MODULES: dict[str, tuple[str, ...]] = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}


def shards_of(module: str) -> tuple[str, ...]:
    """The checkpoint modules whose rows, one after another, make up `module` (a dotted path).

    >>> shards_of("model.layers.0.self_attn.qkv_proj")[1]
    'model.layers.0.self_attn.k_proj'
    """
    prefix, _, name = module.rpartition(".")
    return tuple(f"{prefix}.{shard}" for shard in PACKED_MODULES.get(name, (name,)))
