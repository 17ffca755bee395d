"""From a checkpoint to the weights of a model: shards stacked, matrices packed to int4 one at a time."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from tqdm import tqdm

from kernels.attention_inputs import HeadNorms
from kernels.fusion import FusedLinear, Fusion, Prologue
from kernels.int4 import PackedInt4, ReorderedInt4
from kernels.layer_weights import LayerWeights
from kernels.linear import head, int8_linear, linear
from kernels.reordered_linear import ReorderedLinear, reorder_fusion
from workers.config import WeightConfig
from workers.models.decoder import DecoderWeights
from workers.models.spec import ModelError, ModelSpec
from workers.weights.checkpoint import COMPUTED
from workers.weights.matrix import Matrix, hold, stack, to_device
from workers.weights.packed_modules import shards_of


@dataclass(frozen=True)
class Module:
    """A packed matrix of the decoder: its dotted name, and how many outputs each of its shards has."""

    name: str
    num_outputs: tuple[int, ...]


class TensorSource(Protocol):
    """Where tensors come from: one reader for each format of checkpoints, all with Hugging Face's names for Llama."""

    @property
    def names(self) -> set[str]:
        """Those that must all be used, and no others where a tensor is optional."""

    @property
    def keeps_floats(self) -> bool:
        """Whether a matrix of floats was meant to stay one: who quantised the checkpoint has chosen what is packed."""

    def read(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """One tensor as floats, on any device. Raises ModelError where there is none of this shape."""

    def read_matrix(self, name: str, shape: tuple[int, int]) -> Matrix:
        """The same for a matrix that may be packed, as it is stored."""


class WeightLoader:
    """Reads every tensor that the model's family has exactly once, and refuses a checkpoint that has others besides."""

    def __init__(self, checkpoint: TensorSource, spec: ModelSpec, config: WeightConfig, device: torch.device) -> None:
        self._checkpoint = checkpoint
        self._spec = spec
        self._config = config
        self._device = device
        self._dtype: torch.dtype = getattr(torch, config.dtype)
        self._strict = config.numerics == "strict"
        self._read: set[str] = set()

    def load(self) -> DecoderWeights:
        """All weights. Raises ModelError for missing, unexpected, misshapen or non-finite tensors."""
        spec = self._spec
        embed = self._tensor("model.embed_tokens.weight", spec.vocab_size, spec.hidden_size).to(self._dtype)
        # The head is the largest tensor and needs a copy on the way: it comes while the rest of the memory is free.
        lm_head = head(self._head(embed), self._normed("model.norm"), strict=self._strict)
        windows: Iterable[tuple[int, int]] = enumerate(
            tqdm(spec.traits.windows, "Loading weights", unit="layer", disable=None)  # none where stderr is no terminal
        )
        layers = tuple(self._layer(f"model.layers.{index}", window) for index, window in windows)
        unexpected = self._checkpoint.names - self._read
        unexpected = {name for name in unexpected if not name.endswith(COMPUTED)}
        if unexpected:
            raise ModelError(f"the checkpoint has tensors that this model has no place for: {sorted(unexpected)[:5]}")
        return DecoderWeights(embed, layers, lm_head)

    def _head(self, embed: torch.Tensor) -> torch.Tensor:
        """The output head. A tied one may be in the checkpoint as well, but then it must be the embedding."""
        tied, name = self._spec.tie_word_embeddings, "lm_head.weight"
        if tied and name not in self._checkpoint.names:
            return embed
        head = self._tensor(name, *embed.shape).to(self._dtype)
        if tied and not torch.equal(head, embed):
            raise ModelError(
                f"config.json ties the embeddings, but {name} is not model.embed_tokens.weight; set "
                "tie_word_embeddings to false where the head is the model's own"
            )
        return embed if tied else head

    def _layer(self, prefix: str, window: int) -> LayerWeights:
        spec, attention, mlp = self._spec, f"{prefix}.self_attn", f"{prefix}.mlp"
        traits = spec.traits
        q_size, kv_size = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
        hidden, inner = spec.hidden_size, spec.intermediate_size
        qkv, o = Module(f"{attention}.qkv_proj", (q_size, kv_size, kv_size)), Module(f"{attention}.o_proj", (hidden,))
        gate_up, down = Module(f"{mlp}.gate_up_proj", (inner, inner)), Module(f"{mlp}.down_proj", (hidden,))
        gated = Fusion(Prologue.SILU_MUL, accumulate=True)
        return LayerWeights(
            qkv_proj=self._linear(qkv, hidden, self._normed(f"{prefix}.input_layernorm"), traits.qkv_bias),
            head_norms=self._head_norms(attention) if traits.qk_norm else HeadNorms(),
            o_proj=self._linear(o, q_size, Fusion(accumulate=True), traits.o_bias),
            gate_up_proj=self._linear(
                gate_up, hidden, self._normed(f"{prefix}.post_attention_layernorm"), traits.mlp_bias
            ),
            down_proj=self._linear(down, inner, gated, traits.mlp_bias),
            window=window,
        )

    def _linear(self, module: Module, num_inputs: int, fusion: Fusion, has_bias: bool) -> FusedLinear:
        """Stack a packed module's shards and lay them out as one matrix."""
        shards = list(zip(shards_of(module.name), module.num_outputs, strict=True))
        if has_bias:
            fusion = replace(fusion, bias=torch.cat([self._tensor(f"{s}.bias", rows) for s, rows in shards]).float())
        weight = self._weight(module.name, [(f"{shard}.weight", rows, num_inputs) for shard, rows in shards])
        if not isinstance(weight, ReorderedInt4):
            return self._fused(weight, fusion)
        inner = self._fused(weight.packed, reorder_fusion(fusion, weight.order))
        return ReorderedLinear(inner, weight.order, fusion)

    def _fused(self, weight: torch.Tensor | PackedInt4, fusion: Fusion) -> FusedLinear:
        if isinstance(weight, PackedInt4) and self._config.activations == "int8":
            return int8_linear(weight, fusion, strict=self._strict)
        return linear(weight, fusion, self._dtype, strict=self._strict)

    def _weight(self, name: str, shards: list[tuple[str, int, int]]) -> Matrix:
        """One matrix of the shards, each packed or rounded to the engine's dtype before the next one is read."""
        try:
            return stack([self._shard(*shard) for shard in shards])
        except ModelError:
            raise
        except ValueError as error:
            raise ModelError(f"{name}: {error}") from error

    def _shard(self, name: str, rows: int, columns: int) -> Matrix:
        self._read.add(name)
        matrix = to_device(self._checkpoint.read_matrix(name, (rows, columns)), self._device)
        return hold(matrix, self._config, keep_floats=self._checkpoint.keeps_floats)

    def _normed(self, module: str) -> Fusion:
        """A norm over the hidden size, as what stands before a matrix."""
        weight = self._tensor(f"{module}.weight", self._spec.hidden_size).float()
        return Fusion(Prologue.RMS_NORM, norm_weight=weight, eps=self._spec.rms_norm_eps)

    def _head_norms(self, attention: str) -> HeadNorms:
        q, k = (self._tensor(f"{attention}.{name}_norm.weight", self._spec.head_dim).float() for name in "qk")
        return HeadNorms(q, k, self._spec.rms_norm_eps)

    def _tensor(self, name: str, *shape: int) -> torch.Tensor:
        self._read.add(name)
        return self._checkpoint.read(name, shape).to(self._device)
