"""Where a pool's workers compute: on which device, on how much of a GPU, with how much of its memory."""

import math
from dataclasses import dataclass, replace

import ray

from cluster.config import ClusterConfig, ConfigError, PoolSection
from workers.config import CacheConfig, EngineConfig

SHARES_OF_ONE = 10_000  # Ray counts GPUs in ten-thousandths


@dataclass(frozen=True)
class Placement:
    """A pool with all that was left open decided.

    Attributes:
        num_gpus: what each worker asks Ray for.
        engine: names the device, "cpu" or "cuda". A worker does not choose: Ray 2.60 leaves CUDA_VISIBLE_DEVICES as it
            is for an actor that asks for no GPU, so it would see them all.
    """

    pool: PoolSection
    num_gpus: float
    engine: EngineConfig


def cluster_gpus() -> float:
    """GPUs of the Ray cluster that this process is connected to."""
    return float(ray.cluster_resources().get("GPU", 0.0)) if ray.is_initialized() else 0.0


def place(config: ClusterConfig, pool: PoolSection, gpus: float) -> Placement:
    """Settle one pool on a cluster of so many GPUs."""
    num_gpus = default_num_gpus(config, gpus) if pool.num_gpus is None else pool.num_gpus
    engine = config.engine.engine_config()
    weights = replace(engine.weights, device="cuda" if num_gpus else "cpu")
    if config.engine.gpu_memory_utilization is not None or not num_gpus:
        return Placement(pool, num_gpus, replace(engine, weights=weights))
    utilization = CacheConfig.gpu_memory_utilization * min(num_gpus, 1.0)
    cache = replace(engine.cache, gpu_memory_utilization=utilization)
    return Placement(pool, num_gpus, replace(engine, weights=weights, cache=cache))


def default_num_gpus(config: ClusterConfig, gpus: float) -> float:
    """GPUs of a worker whose pool names none: one where the device is "cuda".

    Where it is "auto": none without a GPU in the cluster, else one, or where there are too few an equal part of one.
    """
    if config.engine.device != "auto":
        return 1.0 if config.engine.device == "cuda" else 0.0
    if gpus < 1:
        return 0.0
    workers_of_a_gpu = math.ceil(num_workers(config) / int(gpus))
    return SHARES_OF_ONE // workers_of_a_gpu / SHARES_OF_ONE


def num_workers(config: ClusterConfig) -> int:
    """Of all pools."""
    return sum(pool.most_replicas for pool in config.pools.by_name.values())


def check_enough_gpus(config: ClusterConfig, gpus: float) -> None:
    """Raise ConfigError where the pools ask for more GPUs than there are: Ray would wait for them for ever."""
    asked = sum(pool.most_replicas * place(config, pool, gpus).num_gpus for pool in config.pools.by_name.values())
    if asked > gpus + 1 / SHARES_OF_ONE:
        raise ConfigError(
            f"pools: {num_workers(config)} workers ask for {asked:g} GPUs and Ray finds {gpus:g} here; set num_gpus of "
            "the pools (0.5 lets two workers share one), or engine.device to cpu"
        )
