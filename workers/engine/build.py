"""Putting an engine together from a model directory."""

from dataclasses import dataclass
from pathlib import Path

import torch

from kernels.cpu_ops.loader import arithmetic
from radix.block_hash import BlockHasher
from radix.prefix_cache import PrefixCache
from workers.config import EngineConfig, WeightConfig
from workers.engine.block_pool import BlockPool
from workers.engine.decode_graphs import CudaRecorder
from workers.engine.device_runner import DeviceRunner
from workers.engine.engine import Engine
from workers.engine.kv_cache import KVCache
from workers.engine.kv_manager import KVManager
from workers.engine.model_runner import ModelRunner
from workers.engine.pool_memory import known_pool_bytes, kv_pool_bytes
from workers.engine.runner import Runner
from workers.models.decoder import Decoder, DecoderWeights
from workers.models.spec import ModelError, ModelSpec
from workers.weights.footprint import check_fits
from workers.weights.loader import TensorSource, WeightLoader
from workers.weights.model_digest import model_digest
from workers.weights.open_checkpoint import open_checkpoint, read_spec


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


def build_engine(model_dir: Path, config: EngineConfig, secret: bytes = b"") -> BuiltEngine:
    """Load a model and make an engine for it.

    Args:
        secret: the cluster's key for block hashes, at most 64 bytes.

    Raises:
        ModelError: the directory holds no model that can be served.
    """
    spec, checkpoint = check_model(model_dir)
    device = pick_device(config.weights.device)
    check_fits(spec, config.weights, device)
    namespace = kv_namespace(model_dir, config.weights, config.cache.block_size)  # holds all files against a manifest
    weights = WeightLoader(checkpoint, spec, config.weights, device).load()
    return assemble_engine(spec, weights, config, namespace, secret)


def check_model(model_dir: Path) -> tuple[ModelSpec, TensorSource]:
    """What a directory says of its model and where its tensors are; nothing is loaded.

    Raises:
        ModelError: configuration, tokenizer and headers are not those of one model that can be served.
    """
    spec = read_spec(model_dir)
    return spec, open_checkpoint(model_dir, spec)


def assemble_engine(
    spec: ModelSpec, weights: DecoderWeights, config: EngineConfig, namespace: str, secret: bytes = b""
) -> BuiltEngine:
    """Make an engine on the device that the weights lie on. Block hashes are chained from `namespace`.

    Raises:
        ModelError: the weights leave no memory for a KV pool.
    """
    block_size = config.cache.block_size
    kv_cache = make_kv_cache(spec, config, weights.embed_tokens.device)
    max_len = min(spec.max_model_len, kv_cache.num_blocks * block_size)
    hasher = BlockHasher(namespace, secret, block_size, spec.vocab_size)
    model = Decoder(spec, weights, max_len, strict=config.weights.numerics == "strict")
    engine = Engine(
        make_runner(model, kv_cache, config, spec.eos_token_ids, max_len),
        KVManager(
            BlockPool(kv_cache.num_blocks),
            PrefixCache(block_size, hasher.root),
            kv_cache,
            block_size,
            shares_prefixes=config.cache.enable_prefix_caching,
        ),
        config.scheduler,
        hasher=hasher,
        vocab_size=spec.vocab_size,
        max_model_len=max_len,
        eos_token_ids=spec.eos_token_ids,
    )
    return BuiltEngine(engine, kv_cache, spec, layout_id(namespace, config.weights, kv_cache.tensor.device))


def make_runner(
    model: Decoder, kv_cache: KVCache, config: EngineConfig, eos_token_ids: frozenset[int], max_len: int
) -> Runner:
    """What computes the steps: on a GPU, ahead of the host, where the kernels take the model."""
    block_size = config.cache.block_size
    if model.planner is None:
        return ModelRunner(model, kv_cache, block_size, eos_token_ids)
    from kernels.triton_ops.sampling import sample_tokens  # needs Triton, which a CPU has not

    return DeviceRunner(
        model,
        model.planner,
        kv_cache,
        block_size,
        eos_token_ids,
        max_num_seqs=config.scheduler.max_num_seqs,
        max_num_batched_tokens=config.scheduler.max_num_batched_tokens,
        max_len=max_len,
        draw=sample_tokens,
        record=CudaRecorder(),
    )


def make_kv_cache(spec: ModelSpec, config: EngineConfig, device: torch.device) -> KVCache:
    """The memory for KV. On a GPU its size depends on what is free: the weights must be there already."""
    dtype: torch.dtype = getattr(torch, config.weights.dtype)
    num_blocks = pool_blocks(spec, config, kv_pool_bytes(spec, config, device))
    block_size = config.cache.block_size
    return KVCache(spec.num_layers, num_blocks, block_size, spec.num_kv_heads, spec.head_dim, dtype, device)


def kv_namespace(model_dir: Path, config: WeightConfig, block_size: int) -> str:
    """Names everything that makes one worker's KV usable by another. Raises ModelError as `model_digest` does."""
    return (
        f"{model_digest(model_dir)}/{config.quantization}/g{config.group_size}/{config.dtype}/{config.activations}"
        f"/{config.numerics}/b{block_size}"
    )


def layout_id(namespace: str, config: WeightConfig, device: torch.device) -> str:
    """The namespace, and where bits matter whose arithmetic made the KV."""
    if config.numerics == "fast":
        return namespace
    if device.type == "cuda":
        from kernels.triton_ops.arithmetic import arithmetic as gpu_arithmetic

        return f"{namespace}/{gpu_arithmetic(device)}"
    return f"{namespace}/{arithmetic()}"


def kv_bytes_per_token(spec: ModelSpec, dtype: torch.dtype) -> int:
    """Bytes of K and V that one token takes over all layers."""
    return 2 * spec.num_layers * spec.num_kv_heads * spec.head_dim * dtype.itemsize


def pool_blocks(spec: ModelSpec, config: EngineConfig, pool_bytes: int) -> int:
    """Blocks that fit a pool. Raises ModelError where not even one does."""
    dtype: torch.dtype = getattr(torch, config.weights.dtype)
    try:
        return config.cache.num_blocks(pool_bytes, kv_bytes_per_token(spec, dtype))
    except ValueError as error:
        raise ModelError(f"{error}") from error


def max_sequence_len(spec: ModelSpec, config: EngineConfig) -> int:
    """Tokens one request may have in all: the model's context, or what the KV pool holds where that is less.

    A pool of what a GPU has left is known when the model is there; its worker refuses what does not fit it.
    """
    pool_bytes = known_pool_bytes(config.cache, pick_device(config.weights.device))
    if pool_bytes is None:
        return spec.max_model_len
    num_blocks = pool_blocks(spec, config, pool_bytes)
    return min(spec.max_model_len, num_blocks * config.cache.block_size)


def pick_device(device: str) -> torch.device:
    """The device named, or for "auto" a GPU where there is one and else the CPU.

    Raises ValueError for a GPU other than the first: a worker steps in a thread of its own, where that is current.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    picked = torch.device(device)
    if picked.type == "cuda" and picked.index:
        raise ValueError(
            f"device is {device!r}; an engine computes on the first GPU that its process sees: set "
            f'CUDA_VISIBLE_DEVICES={picked.index} and name "cuda"'
        )
    return picked
