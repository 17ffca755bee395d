"""From a checkpoint to the weights of a model: shards stacked, matrices packed to int4 one at a time."""

import torch

from kernels.int4 import quantize
from kernels.int4_linear import prepare
from workers.config import WeightConfig
from workers.models.layers import Head, Linear, RMSNorm
from workers.models.llama import LlamaLayerWeights, LlamaWeights
from workers.models.spec import ModelError, ModelSpec
from workers.weights.checkpoint import Checkpoint
from workers.weights.packed_modules import shards_of


class LlamaLoader:
    """Reads every tensor of a Llama checkpoint exactly once, and refuses one that has others besides."""

    def __init__(self, checkpoint: Checkpoint, spec: ModelSpec, config: WeightConfig, device: torch.device) -> None:
        self._checkpoint = checkpoint
        self._spec = spec
        self._config = config
        self._device = device
        self._dtype: torch.dtype = getattr(torch, config.dtype)
        self._strict = config.numerics == "strict"
        self._read: set[str] = set()

    def load(self) -> LlamaWeights:
        """All weights. Raises ModelError for missing, unexpected, misshapen or non-finite tensors."""
        spec = self._spec
        embed = self._tensor("model.embed_tokens.weight", spec.vocab_size, spec.hidden_size)
        head = embed
        if not spec.tie_word_embeddings:
            head = self._tensor("lm_head.weight", spec.vocab_size, spec.hidden_size)
        weights = LlamaWeights(
            embed_tokens=embed.to(self._dtype),
            layers=tuple(self._layer(f"model.layers.{index}") for index in range(spec.num_layers)),
            norm=self._norm("model.norm"),
            lm_head=Head(head.float(), self._strict),
        )
        unexpected = self._checkpoint.names - self._read - {"lm_head.weight"}
        if unexpected:
            raise ModelError(f"the checkpoint has tensors that this model has no place for: {sorted(unexpected)[:5]}")
        return weights

    def _layer(self, prefix: str) -> LlamaLayerWeights:
        spec, attention, mlp = self._spec, f"{prefix}.self_attn", f"{prefix}.mlp"
        q_size, kv_size = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
        hidden, inner = spec.hidden_size, spec.intermediate_size
        return LlamaLayerWeights(
            input_norm=self._norm(f"{prefix}.input_layernorm"),
            qkv_proj=self._linear(f"{attention}.qkv_proj", (q_size, kv_size, kv_size), hidden),
            o_proj=self._linear(f"{attention}.o_proj", (hidden,), q_size),
            post_attention_norm=self._norm(f"{prefix}.post_attention_layernorm"),
            gate_up_proj=self._linear(f"{mlp}.gate_up_proj", (inner, inner), hidden),
            down_proj=self._linear(f"{mlp}.down_proj", (hidden,), inner),
        )

    def _linear(self, module: str, num_outputs: tuple[int, ...], num_inputs: int) -> Linear:
        """Stack a packed module's shards of [num_outputs[i], num_inputs] and quantise them as one matrix."""
        shards = zip(shards_of(module), num_outputs, strict=True)
        matrix = torch.cat([self._tensor(f"{shard}.weight", rows, num_inputs) for shard, rows in shards])
        if self._config.quantization == "none":
            return Linear(matrix.to(self._dtype), self._dtype)
        try:
            packed = quantize(matrix, self._config.group_size)
        except ValueError as error:
            raise ModelError(f"{module}: {error}") from error
        return Linear(prepare(packed, self._dtype, strict=self._strict), self._dtype)

    def _norm(self, module: str) -> RMSNorm:
        return RMSNorm(self._tensor(f"{module}.weight", self._spec.hidden_size).float(), self._spec.rms_norm_eps)

    def _tensor(self, name: str, *shape: int) -> torch.Tensor:
        self._read.add(name)
        return self._checkpoint.read(name, shape).to(self._device)
