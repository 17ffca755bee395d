"""Factors of a matrix's inputs taken into what makes those inputs, so that a layer computes the same as before."""

import torch

from workers.models.spec import ModelSpec

Tensors = dict[str, torch.Tensor]
SOURCES = {
    "attention": "input_layernorm",
    "attended": "self_attn.v_proj",
    "mlp": "post_attention_layernorm",
    "gated": "mlp.up_proj",
}


def fold_scales(
    tensors: Tensors, inputs: str, scales: torch.Tensor, spec: ModelSpec, dtype: torch.dtype
) -> torch.Tensor:
    """Divide some of the inputs in `float_layer.SHARED_INPUTS` by `scales`, where they are made.

    Args:
        tensors: of the layer, float32; those that make the inputs are replaced.
        scales: float32 [K], equal for heads of queries that share a head of values.
        dtype: what a norm's weights are stored as.

    Returns:
        What the inputs have really been divided by once norm weights are rounded to `dtype`: float32 [K].
    """
    source = SOURCES[inputs]
    weight = tensors[f"{source}.weight"]
    if weight.dim() == 1:
        tensors[f"{source}.weight"] = rounded = (weight / scales).to(dtype).float()
        return torch.where(rounded == 0, scales, weight / rounded)
    rows = scales if inputs != "attended" else scales.view(spec.num_kv_heads, -1, spec.head_dim)[:, 0].flatten()
    tensors[f"{source}.weight"] = weight / rows[:, None]
    if (bias := tensors.get(f"{source}.bias")) is not None:
        tensors[f"{source}.bias"] = bias / rows
    return scales
