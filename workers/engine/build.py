"""Putting an engine together from a model directory."""

from dataclasses import dataclass
from pathlib import Path

import torch

from kernels.cpu_ops.loader import arithmetic
from radix.block_hash import BlockHasher
from radix.prefix_cache import PrefixCache
from workers.config import EngineConfig, WeightConfig
from workers.engine.block_pool import BlockPool
from workers.engine.engine import Engine
from workers.engine.kv_cache import KVCache
from workers.engine.kv_manager import KVManager
from workers.engine.model_runner import ModelRunner
from workers.models.decoder import Decoder
from workers.models.spec import ModelSpec, read_model_spec
from workers.weights.checkpoint import Checkpoint
from workers.weights.loader import WeightLoader
from workers.weights.model_dir import model_digest


@dataclass(frozen=True)
class BuiltEngine:
    """An engine and the parts of it that its worker deals with.

    Attributes:
        layout_id: two workers may exchange KV only where theirs are equal.
    """

    engine: Engine
    kv_cache: KVCache
    spec: ModelSpec
    layout_id: str


def build_engine(model_dir: Path, config: EngineConfig, secret: bytes = b"", namespace: str = "") -> BuiltEngine:
    """Load a model and make an engine for it.

    Args:
        secret: the cluster's key for block hashes, at most 64 bytes.
        namespace: what block hashes are chained from; `kv_namespace(...)` where empty.

    Raises:
        ModelError: the directory holds no model that can be served.
    """
    spec = read_model_spec(model_dir)
    device = pick_device(config.weights.device)
    weights = WeightLoader(Checkpoint(model_dir), spec, config.weights, device).load()
    block_size = config.cache.block_size
    dtype: torch.dtype = getattr(torch, config.weights.dtype)
    num_blocks = config.cache.num_blocks(kv_bytes_per_token(spec, dtype))
    kv_cache = KVCache(spec.num_layers, num_blocks, block_size, spec.num_kv_heads, spec.head_dim, dtype, device)
    namespace = namespace or kv_namespace(model_dir, config.weights, block_size)
    hasher = BlockHasher(namespace, secret, block_size, spec.vocab_size)
    eos_token_ids = spec.eos_token_ids.intersection(range(spec.vocab_size))  # some configurations name one too many
    max_len = max_sequence_len(spec, config)
    model = Decoder(spec, weights, max_len, strict=config.weights.numerics == "strict")
    engine = Engine(
        ModelRunner(model, kv_cache, block_size, eos_token_ids),
        KVManager(BlockPool(num_blocks), PrefixCache(block_size, hasher.root), kv_cache, block_size),
        config.scheduler,
        hasher=hasher,
        vocab_size=spec.vocab_size,
        max_model_len=max_len,
        eos_token_ids=eos_token_ids,
    )
    return BuiltEngine(engine, kv_cache, spec, layout_id(namespace, config.weights, device))


def kv_namespace(model_dir: Path, config: WeightConfig, block_size: int) -> str:
    """Names everything that makes one worker's KV usable by another."""
    return (
        f"{model_digest(model_dir)}/{config.quantization}/g{config.group_size}/{config.dtype}/{config.activations}"
        f"/{config.numerics}/b{block_size}"
    )


def layout_id(namespace: str, config: WeightConfig, device: torch.device) -> str:
    """The namespace, and where bits matter whose arithmetic made the KV."""
    if config.numerics == "fast":
        return namespace
    return f"{namespace}/{arithmetic() if device.type == 'cpu' else 'torch'}"


def kv_bytes_per_token(spec: ModelSpec, dtype: torch.dtype) -> int:
    """Bytes of K and V that one token takes over all layers."""
    return 2 * spec.num_layers * spec.num_kv_heads * spec.head_dim * dtype.itemsize


def max_sequence_len(spec: ModelSpec, config: EngineConfig) -> int:
    """Tokens one request may have in all: the model's context, or what the KV pool holds where that is less."""
    dtype: torch.dtype = getattr(torch, config.weights.dtype)
    pool_tokens = config.cache.num_blocks(kv_bytes_per_token(spec, dtype)) * config.cache.block_size
    return min(spec.max_model_len, pool_tokens)


def pick_device(device: str) -> torch.device:
    """The device named, or for "auto" a GPU where there is one and else the CPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)
