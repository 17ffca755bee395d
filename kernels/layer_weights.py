"""The weights of one decoder layer, as operations."""

from dataclasses import dataclass

from kernels.attention_inputs import HeadNorms
from kernels.fusion import FusedLinear


@dataclass(frozen=True)
class LayerWeights:
    """One layer's matrices, q/k/v and gate/up packed into one each, with what stands around them fused in.

    Attributes:
        qkv_proj: normalises its rows first.
        head_norms: of each head of q and k, in families that have them.
        o_proj: adds to the residual stream.
        gate_up_proj: normalises its rows first.
        down_proj: takes gate and up to silu(gate) * up, and adds to the residual stream.
        window: keys that a query sees, itself included; 0 for all.
    """

    qkv_proj: FusedLinear
    head_norms: HeadNorms
    o_proj: FusedLinear
    gate_up_proj: FusedLinear
    down_proj: FusedLinear
    window: int = 0
