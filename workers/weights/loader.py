"""From a checkpoint to the weights of a model: shards stacked, matrices packed to int4 one at a time."""

import torch

from kernels.int4 import quantize
from kernels.int4_linear import prepare
from workers.config import WeightConfig
from workers.models.decoder import DecoderWeights, LayerWeights
from workers.models.layers import Head, Linear, RMSNorm
from workers.models.spec import ModelError, ModelSpec
from workers.weights.checkpoint import Checkpoint
from workers.weights.packed_modules import shards_of

COMPUTED = ".rotary_emb.inv_freq"  # a buffer in old Llama checkpoints; computed from config.json since


class WeightLoader:
    """Reads every tensor that the model's family has exactly once, and refuses a checkpoint that has others besides."""

    def __init__(self, checkpoint: Checkpoint, spec: ModelSpec, config: WeightConfig, device: torch.device) -> None:
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
        embed = self._tensor("model.embed_tokens.weight", spec.vocab_size, spec.hidden_size)
        weights = DecoderWeights(
            embed_tokens=embed.to(self._dtype),
            layers=tuple(self._layer(f"model.layers.{index}") for index in range(spec.num_layers)),
            norm=self._norm("model.norm", spec.hidden_size),
            lm_head=Head(self._head(embed).float(), self._strict),
        )
        unexpected = self._checkpoint.names - self._read
        unexpected = {name for name in unexpected if not name.endswith(COMPUTED)}
        if unexpected:
            raise ModelError(f"the checkpoint has tensors that this model has no place for: {sorted(unexpected)[:5]}")
        return weights

    def _head(self, embed: torch.Tensor) -> torch.Tensor:
        """The output head. A tied one may be in the checkpoint as well, but then it must be the embedding."""
        tied, name = self._spec.tie_word_embeddings, "lm_head.weight"
        if tied and name not in self._checkpoint.names:
            return embed
        head = self._tensor(name, *embed.shape)
        if tied and not torch.equal(head, embed):
            raise ModelError(
                f"config.json ties the embeddings, but {name} is not model.embed_tokens.weight; set "
                "tie_word_embeddings to false where the head is the model's own"
            )
        return embed if tied else head

    def _layer(self, prefix: str) -> LayerWeights:
        spec, attention, mlp = self._spec, f"{prefix}.self_attn", f"{prefix}.mlp"
        traits = spec.traits
        q_size, kv_size = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
        hidden, inner = spec.hidden_size, spec.intermediate_size
        return LayerWeights(
            input_norm=self._norm(f"{prefix}.input_layernorm", hidden),
            qkv_proj=self._linear(f"{attention}.qkv_proj", (q_size, kv_size, kv_size), hidden, traits.qkv_bias),
            q_norm=self._norm(f"{attention}.q_norm", spec.head_dim) if traits.qk_norm else None,
            k_norm=self._norm(f"{attention}.k_norm", spec.head_dim) if traits.qk_norm else None,
            o_proj=self._linear(f"{attention}.o_proj", (hidden,), q_size, traits.o_bias),
            post_attention_norm=self._norm(f"{prefix}.post_attention_layernorm", hidden),
            gate_up_proj=self._linear(f"{mlp}.gate_up_proj", (inner, inner), hidden, traits.mlp_bias),
            down_proj=self._linear(f"{mlp}.down_proj", (hidden,), inner, traits.mlp_bias),
        )

    def _linear(self, module: str, num_outputs: tuple[int, ...], num_inputs: int, has_bias: bool) -> Linear:
        """Stack a packed module's shards of [num_outputs[i], num_inputs] and quantise them as one matrix."""
        shards = list(zip(shards_of(module), num_outputs, strict=True))
        matrix = torch.cat([self._tensor(f"{shard}.weight", rows, num_inputs) for shard, rows in shards])
        bias = torch.cat([self._tensor(f"{shard}.bias", rows) for shard, rows in shards]).float() if has_bias else None
        if self._config.quantization == "none":
            return Linear(matrix.to(self._dtype), self._dtype, bias)
        try:
            packed = quantize(matrix, self._config.group_size)
        except ValueError as error:
            raise ModelError(f"{module}: {error}") from error
        return Linear(prepare(packed, self._dtype, strict=self._strict), self._dtype, bias)

    def _norm(self, module: str, size: int) -> RMSNorm:
        return RMSNorm(self._tensor(f"{module}.weight", size).float(), self._spec.rms_norm_eps)

    def _tensor(self, name: str, *shape: int) -> torch.Tensor:
        self._read.add(name)
        return self._checkpoint.read(name, shape).to(self._device)
