"""Which device each pool computes on, what its workers ask Ray for, and how much of a GPU's memory each takes."""

from typing import Any

import pytest

from cluster.app import bind_pool
from cluster.config import ConfigError, parse_config
from cluster.placement import Placement, check_enough_gpus, cluster_gpus, place
from cluster.worker_host import WorkerSettings


def placed(gpus: float, **values: Any) -> Placement:
    """The decode pool."""
    config = parse_config(values)
    return place(config, config.pools.decode, gpus)


def device_and_gpus(gpus: float, **values: Any) -> tuple[str, float]:
    at = placed(gpus, **values)
    return at.engine.weights.device, at.num_gpus


def test_without_a_gpu_in_the_cluster_workers_compute_on_the_cpu() -> None:
    assert device_and_gpus(0) == ("cpu", 0)


@pytest.mark.parametrize(
    ("gpus", "decoders", "share"), [(1, 1, 0.5), (2, 1, 1), (8, 1, 1), (1, 2, 0.3333), (2, 2, 0.5), (3, 2, 1)]
)
def test_workers_share_the_gpus_there_are(gpus: float, decoders: int, share: float) -> None:
    values = {"pools": {"decode": {"replicas": decoders}}}
    assert device_and_gpus(gpus, **values) == ("cuda", share)
    check_enough_gpus(parse_config(values), gpus)


def test_a_device_that_is_named_gets_one_gpu_or_none_whatever_the_cluster_has() -> None:
    assert device_and_gpus(0, engine={"device": "cuda"}) == ("cuda", 1)
    assert device_and_gpus(1, engine={"device": "cuda"}) == ("cuda", 1)
    assert device_and_gpus(8, engine={"device": "cpu"}) == ("cpu", 0)


def test_what_a_pool_asks_for_decides_where_it_computes() -> None:
    assert device_and_gpus(0, pools={"decode": {"num_gpus": 0.25}}) == ("cuda", 0.25)
    assert device_and_gpus(8, pools={"decode": {"num_gpus": 0.0}}) == ("cpu", 0)
    assert device_and_gpus(8, pools={"prefill": {"num_gpus": 0.0}}) == ("cuda", 1)


@pytest.mark.parametrize(("num_gpus", "utilization"), [(0.5, 0.45), (1.0, 0.9), (2.0, 0.9)])
def test_a_worker_takes_its_part_of_the_memory(num_gpus: float, utilization: float) -> None:
    at = placed(1, pools={"decode": {"num_gpus": num_gpus}})
    assert at.engine.cache.gpu_memory_utilization == pytest.approx(utilization)


def test_a_part_of_the_memory_that_is_given_is_taken_as_it_is() -> None:
    at = placed(1, engine={"gpu_memory_utilization": 0.3}, pools={"decode": {"num_gpus": 0.5}})
    assert at.engine.cache.gpu_memory_utilization == 0.3


def test_all_else_of_the_engine_stays() -> None:
    at = placed(1, engine={"block_size": 32, "numerics": "fast", "kv_cache_mib": 3})
    assert (at.engine.cache.block_size, at.engine.weights.numerics) == (32, "fast")
    assert at.engine.cache.memory_bytes == 3 * 2**20


def test_more_gpus_than_there_are_is_an_error_and_not_a_wait() -> None:
    on_gpus = parse_config({"engine": {"device": "cuda"}})
    with pytest.raises(ConfigError, match="2 workers ask for 2 GPUs and Ray finds 1 here; set num_gpus"):
        check_enough_gpus(on_gpus, 1)
    check_enough_gpus(on_gpus, 2)
    three = parse_config({"pools": {"decode": {"replicas": 3, "num_gpus": 0.75}, "prefill": {"num_gpus": 0.0}}})
    with pytest.raises(ConfigError, match=r"4 workers ask for 2.25 GPUs and Ray finds 2 here"):
        check_enough_gpus(three, 2)
    check_enough_gpus(parse_config({}), 0)


def test_the_deployment_asks_ray_for_it_and_its_workers_get_the_device() -> None:
    at = placed(1, pools={"decode": {"num_cpus": 2.0}})
    settings = WorkerSettings("tiny", parse_config({}).engine.engine_config(), b"", "", None, 8.0, "tiny")
    deployment = bind_pool(parse_config({}), "decode", at, {}, settings)._bound_deployment
    assert deployment.ray_actor_options == {"num_cpus": 2.0, "num_gpus": 0.5}
    assert deployment.init_args[0].engine.weights.device == "cuda"


def test_without_a_connection_to_ray_no_gpu_is_counted() -> None:
    assert cluster_gpus() == 0
