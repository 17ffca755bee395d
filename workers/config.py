"""Configuration of an engine, checked when it is made and never changed after."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args


@dataclass(frozen=True)
class CacheConfig:
    """Paged KV.

    Attributes:
        block_size: tokens per block.
        memory_bytes: size of one worker's KV pool. None for 512 MiB on a CPU, which are taken from the system as they
            fill, and on a GPU for what is left of the worker's share (`workers/engine/pool_memory.py`).
        gpu_memory_utilization: the share of a GPU's whole memory that one worker may take, weights, KV and buffers
            together; where several share a GPU, each has its own.
        enable_prefix_caching: keep the KV of prompts for others that begin like them.
    """

    block_size: int = 16
    memory_bytes: int | None = None
    gpu_memory_utilization: float = 0.9
    enable_prefix_caching: bool = True

    def __post_init__(self) -> None:
        if self.block_size < 1:
            raise ValueError(f"block_size is {self.block_size}; it must be at least 1")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ValueError(
                f"gpu_memory_utilization is {self.gpu_memory_utilization}; it must be above 0 and at most 1"
            )

    def num_blocks(self, pool_bytes: int, bytes_per_token: int) -> int:
        """Blocks that fit a pool. Raises ValueError where not even one does."""
        count = pool_bytes // (bytes_per_token * self.block_size)
        if count < 1:
            raise ValueError(
                f"a KV pool of {pool_bytes} bytes holds no block of {self.block_size} tokens at "
                f"{bytes_per_token} bytes each; give it more memory"
            )
        return count


@dataclass(frozen=True)
class SchedulerConfig:
    """What one engine step may hold.

    Attributes:
        max_num_seqs: sequences that run at once.
        max_num_batched_tokens: tokens computed in one step; longer prompts are prefilled in chunks of this.
    """

    max_num_seqs: int = 32
    max_num_batched_tokens: int = 2048

    def __post_init__(self) -> None:
        if not 1 <= self.max_num_seqs <= self.max_num_batched_tokens:
            raise ValueError(
                f"max_num_seqs {self.max_num_seqs} must be at least 1 and at most max_num_batched_tokens "
                f"{self.max_num_batched_tokens}: every running sequence needs one token a step"
            )


@dataclass(frozen=True)
class WeightConfig:
    """How a checkpoint is held in memory and computed with.

    Attributes:
        quantization: "int4" packs the linear layers, "none" keeps them in `dtype`.
        group_size: weights per int4 scale; 64 takes 4.5 bits a weight in all.
        dtype: of activations, KV and unpacked weights.
        activations: what rows are rounded to before they meet int4 weights: "dtype", or "int8" by groups, which is a
            third to a half faster in batches on a CPU and rounds three times as coarsely (docs/performance.md).
        numerics: "strict" computes a row the same whatever it is batched with; "fast" takes a batch-dependent GEMM
            for many rows (kernels/int4_linear.py).
        device: a torch device, "auto" for a GPU where there is one.
    """

    quantization: Literal["int4", "none"] = "int4"
    group_size: int = 64
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    activations: Literal["dtype", "int8"] = "dtype"
    numerics: Literal["strict", "fast"] = "strict"
    device: str = "auto"

    def __post_init__(self) -> None:
        for item in fields(self):
            value, allowed = getattr(self, item.name), get_args(item.type)
            if allowed and value not in allowed:
                raise ValueError(f"{item.name} is {value!r}; it must be one of {', '.join(allowed)}")
        if self.activations == "int8" and (self.quantization, self.dtype) != ("int4", "bfloat16"):
            raise ValueError("activations are int8 only with int4 weights and dtype bfloat16")


@dataclass(frozen=True)
class EngineConfig:
    """All of the above for one engine."""

    cache: CacheConfig = field(default_factory=CacheConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    weights: WeightConfig = field(default_factory=WeightConfig)


def engine_config(**options: Any) -> EngineConfig:
    """An engine's configuration from the options of its parts by name.

    Raises:
        TypeError: there is no such option.
        ValueError: an option has a value that it cannot have.
    """
    parts: dict[str, Any] = {"cache": CacheConfig, "scheduler": SchedulerConfig, "weights": WeightConfig}
    names = {part: [item.name for item in fields(kind)] for part, kind in parts.items()}
    known = [name for group in names.values() for name in group]
    unknown = sorted(options.keys() - set(known))
    if unknown:
        raise TypeError(f"no such engine option: {', '.join(unknown)}; there are {', '.join(known)}")
    given = {part: {name: options[name] for name in group if name in options} for part, group in names.items()}
    return EngineConfig(**{part: kind(**given[part]) for part, kind in parts.items()})
