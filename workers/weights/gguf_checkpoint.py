"""GGUF files (llama.cpp's format) as a source of tensors with Hugging Face's names."""

from pathlib import Path

import torch

from kernels.int4 import PackedInt4
from workers.models.spec import ModelSpec
from workers.weights.gguf_header import read_gguf_header
from workers.weights.gguf_spec import ROPE_DIVISORS
from workers.weights.gguf_tensors import Kind, read_q4_0, read_tensor
from workers.weights.matrix import Matrix
from workers.weights.rotary_rows import halves_from_pairs

TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
PAIRED = ("llama", "mistral")  # architectures whose q and k have the halves of a rotation side by side
ROTATED = ("self_attn.q_proj", "self_attn.k_proj")


class GgufCheckpoint:
    """`workers.weights.loader.TensorSource`. Q4_0 stays packed; what the package decodes is a float like any other."""

    keeps_floats = False

    def __init__(self, path: Path, spec: ModelSpec) -> None:
        """Reads the header. Raises ModelError where it is damaged."""
        self._header = header = read_gguf_header(path)
        self._spec = spec
        self._paired = header.metadata["general.architecture"] in PAIRED

    @property
    def names(self) -> set[str]:
        """All tensors, by Hugging Face's names where they have one."""
        return {hugging_face_name(name) for name in self._header.tensors if name != ROPE_DIVISORS}

    def read(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """As floats."""
        tensor = read_tensor(self._header, gguf_name(name), shape)
        return tensor[self._rows(name, shape[0])] if self._is_paired(name) else tensor

    def read_matrix(self, name: str, shape: tuple[int, int]) -> Matrix:
        """Packed where it is Q4_0."""
        stored = self._header.tensors.get(gguf_name(name))
        if stored is None or stored.kind != Kind.Q4_0:
            return self.read(name, shape)
        packed = read_q4_0(self._header, gguf_name(name), shape)
        if not self._is_paired(name):
            return packed
        rows = self._rows(name, shape[0])
        return PackedInt4(packed.nibbles[rows], packed.scales[rows], packed.zeros[rows], packed.group_size)

    def _is_paired(self, name: str) -> bool:
        return self._paired and any(module in name for module in ROTATED)

    def _rows(self, name: str, num_rows: int) -> torch.Tensor:
        return halves_from_pairs(num_rows, self._spec.head_dim)


def gguf_name(name: str) -> str:
    """A tensor's name in the file: model.layers.3.mlp.up_proj.weight is blk.3.ffn_up.weight."""
    module, _, kind = name.rpartition(".")
    if module in TOP:
        return f"{TOP[module]}.{kind}"
    layer, _, inner = module.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{LAYER.get(inner, inner)}.{kind}"


def hugging_face_name(name: str) -> str:
    """The other way round; a name that is not known stays as it is."""
    module, _, kind = name.rpartition(".")
    for known, stored in TOP.items():
        if stored == module:
            return f"{known}.{kind}"
    for known, stored in LAYER.items():
        if module.startswith("blk.") and module.endswith(f".{stored}"):
            return f"model.layers.{module.removeprefix('blk.').removesuffix(f'.{stored}')}.{known}.{kind}"
    return name
