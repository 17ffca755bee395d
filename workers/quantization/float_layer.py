"""One decoder layer in float32, from its tensors by name, that tells what its matrices are multiplied with."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

from kernels.attention_inputs import AttentionShape, HeadNorms, RopeTables, StepTensors
from kernels.attention_step import attention_step
from workers.models.spec import ModelSpec

# Matrices that are multiplied with the same inputs, by the layer's order of computation.
SHARED_INPUTS: dict[str, tuple[str, ...]] = {
    "attention": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attended": ("self_attn.o_proj",),
    "mlp": ("mlp.gate_proj", "mlp.up_proj"),
    "gated": ("mlp.down_proj",),
}
MATRICES = tuple(matrix for matrices in SHARED_INPUTS.values() for matrix in matrices)
Observer = Callable[[str, torch.Tensor], None]


class FloatLayer:
    """A layer of `ModelSpec`'s decoder (`kernels.decoder_layers` for whole texts, one at a time).

    Args:
        tensors: float32, by their names within the layer.
        rope: for as many positions as the longest text has.
        window: keys that a token sees, itself included; 0 for all.
    """

    def __init__(self, spec: ModelSpec, tensors: Mapping[str, torch.Tensor], rope: RopeTables, window: int) -> None:
        self._spec = spec
        self._tensors = tensors
        self._rope = rope
        self._window = window

    def __call__(self, hidden: torch.Tensor, observe: Observer = lambda name, rows: None) -> torch.Tensor:
        """The residual stream of one text behind the layer, float32 [tokens, hidden].

        `observe` is shown each of the inputs in `SHARED_INPUTS`, float32 [tokens, K].
        """
        rows = self._norm(hidden, "input_layernorm")
        observe("attention", rows)
        attended = self._attend(torch.cat([self._multiply(rows, name) for name in SHARED_INPUTS["attention"]], dim=1))
        observe("attended", attended)
        hidden = hidden + self._multiply(attended, "self_attn.o_proj")
        rows = self._norm(hidden, "post_attention_layernorm")
        observe("mlp", rows)
        gated = F.silu(self._multiply(rows, "mlp.gate_proj")) * self._multiply(rows, "mlp.up_proj")
        observe("gated", gated)
        return hidden + self._multiply(gated, "mlp.down_proj")

    def _norm(self, rows: torch.Tensor, name: str) -> torch.Tensor:
        return F.rms_norm(rows, rows.shape[-1:], self._tensors[f"{name}.weight"], self._spec.rms_norm_eps)

    def _multiply(self, rows: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(rows, self._tensors[f"{name}.weight"], self._tensors.get(f"{name}.bias"))

    def _attend(self, qkv: torch.Tensor) -> torch.Tensor:
        spec, rows = self._spec, torch.arange(len(qkv))
        shape = AttentionShape(spec.num_heads, spec.num_kv_heads, spec.head_dim)
        count = torch.tensor([len(qkv)], dtype=torch.int32)
        step = StepTensors(rows, rows, torch.zeros(1, 1, dtype=torch.int32), F.pad(count, (1, 0)), count)
        cache = torch.zeros(2, 1, len(qkv), spec.num_kv_heads, spec.head_dim)
        q_norm, k_norm = (self._tensors.get(f"self_attn.{name}_norm.weight") for name in "qk")
        attend = attention_step(shape, self._rope, step, torch.float32, strict=False)
        return attend(qkv, cache, HeadNorms(q_norm, k_norm, spec.rms_norm_eps), self._window)
