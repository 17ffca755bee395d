"""Which tensors a Hugging Face checkpoint of a model has, by its configuration alone."""

from collections.abc import Iterator

from workers.models.spec import ModelSpec

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
Shapes = Iterator[tuple[str, tuple[int, ...]]]


def tensor_shapes(spec: ModelSpec) -> Shapes:
    """Every tensor's name and shape, without `lm_head.weight` where it is tied. One at a time: a configuration may
    claim millions of layers."""
    yield EMBEDDING, (spec.vocab_size, spec.hidden_size)
    for layer in range(spec.num_layers):
        for name, shape in layer_shapes(spec):
            yield f"model.layers.{layer}.{name}", shape
    yield "model.norm.weight", (spec.hidden_size,)
    if not spec.tie_word_embeddings:
        yield HEAD, (spec.vocab_size, spec.hidden_size)


def layer_shapes(spec: ModelSpec) -> Shapes:
    """The tensors of one layer, without the layer's name."""
    hidden, inner, traits = spec.hidden_size, spec.intermediate_size, spec.traits
    q_size, kv_size = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    yield "input_layernorm.weight", (hidden,)
    for name, rows in (("q", q_size), ("k", kv_size), ("v", kv_size)):
        yield from linear_shapes(f"self_attn.{name}_proj", rows, hidden, traits.qkv_bias)
    yield from linear_shapes("self_attn.o_proj", hidden, q_size, traits.o_bias)
    if traits.qk_norm:
        yield "self_attn.q_norm.weight", (spec.head_dim,)
        yield "self_attn.k_norm.weight", (spec.head_dim,)
    yield "post_attention_layernorm.weight", (hidden,)
    yield from linear_shapes("mlp.gate_proj", inner, hidden, traits.mlp_bias)
    yield from linear_shapes("mlp.up_proj", inner, hidden, traits.mlp_bias)
    yield from linear_shapes("mlp.down_proj", hidden, inner, traits.mlp_bias)


def linear_shapes(name: str, rows: int, columns: int, has_bias: bool) -> Shapes:
    yield f"{name}.weight", (rows, columns)
    if has_bias:
        yield f"{name}.bias", (rows,)
