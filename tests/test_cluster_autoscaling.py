"""cluster/autoscaling.py: how many workers a pool should have, and that Serve is told to ask."""

import asyncio
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray import serve
from ray.serve.config import AutoscalingConfig

from cluster.app import build_app
from cluster.autoscaling import PoolScaling, autoscaling_config, wanted_replicas
from cluster.config import ClusterConfig, ConfigError, DecodeAutoscaling, PrefillAutoscaling, parse_config
from cluster.deployments import PoolReplica
from cluster.placement import check_enough_gpus, place
from workers.load import WorkerLoad

QUEUE, USAGE = {"queued_tokens": 1000.0}, {"kv_usage": 0.8}
POOLS: dict[str, Any] = {
    "prefill": {"autoscaling": {"max_replicas": 4, "target_queued_tokens": 500}},
    "decode": {"autoscaling": {"min_replicas": 2, "max_replicas": 6, "target_kv_usage": 0.5}},
}


@pytest.mark.parametrize(
    ("num_wanted", "queued", "wanted"),
    [
        (1, [1000], 1),
        (1, [1001], 2),
        (1, [9500], 10),
        (2, [9500], 10),  # the second is on its way
        (2, [9500, 500], 10),
        (3, [700, 700, 700], 3),  # two would have 1050 each
        (3, [500, 500, 500], 3),  # two would have 750 each, and soon a third
        (3, [400, 400, 400], 2),
        (3, [0, 0, 0], 1),
        (3, [0, 0, 2500], 3),
    ],
)
def test_a_pool_has_the_workers_that_its_queue_asks_for(num_wanted: int, queued: list[float], wanted: int) -> None:
    assert wanted_replicas(num_wanted, len(queued), {"queued_tokens": queued}, QUEUE) == wanted


def test_a_pool_of_which_nothing_is_known_stays_as_it_is() -> None:
    for num_running in (0, 1, 3):
        assert wanted_replicas(3, num_running, {}, USAGE) == 3
        assert wanted_replicas(3, num_running, {"other": [9.0] * 3}, USAGE) == 3


def test_while_a_worker_is_silent_nobody_is_sent_away_but_others_may_come() -> None:
    assert wanted_replicas(3, 3, {"kv_usage": [0.0, 0.0]}, USAGE) == 3
    assert wanted_replicas(3, 3, {"kv_usage": [0.0, 0.0, 0.0]}, USAGE) == 1
    assert wanted_replicas(2, 2, {"kv_usage": [1.7]}, USAGE) == 3


def test_a_worker_that_has_just_come_asks_for_no_more_of_its_kind() -> None:
    full = {"kv_usage": [1.0]}
    assert wanted_replicas(1, 1, full, USAGE) == 2
    assert wanted_replicas(2, 1, full, USAGE) == 2
    assert wanted_replicas(2, 2, full, USAGE) == 2
    assert wanted_replicas(2, 2, {"kv_usage": [1.0, 0.0]}, USAGE) == 2


def test_of_two_measures_the_one_that_asks_for_more_counts() -> None:
    busy, full = {"queued_tokens": [3000.0], "kv_usage": [0.1]}, {"queued_tokens": [10.0], "kv_usage": [1.0]}
    assert wanted_replicas(1, 1, busy, QUEUE | USAGE) == 3
    assert wanted_replicas(1, 1, full, QUEUE | USAGE) == 2
    assert wanted_replicas(4, 4, {"queued_tokens": [0.0] * 4, "kv_usage": [0.5] * 4}, QUEUE | USAGE) == 4


@given(total=st.floats(0, 1e6), num_wanted=st.integers(1, 50), share=st.floats(0.01, 1e4))
def test_under_a_steady_load_a_pool_settles_at_once_and_has_enough(total: float, num_wanted: int, share: float) -> None:
    """However it is spread: what is decided once is decided again, so nothing flaps, and nobody has too much."""
    targets = {"load": share}
    first = wanted_replicas(num_wanted, num_wanted, {"load": [total / num_wanted] * num_wanted}, targets)
    assert total / first <= share * (1 + 1e-6)
    if first < 10_000:
        assert wanted_replicas(first, first, {"load": [total / first] * first}, targets) == first
    if first < num_wanted:  # and it does not come back at the next breath
        assert wanted_replicas(first, 1, {"load": [1.3 * total]}, targets) == first


def context(num_wanted: int, metrics: dict[str, dict[str, float]] | None, num_running: int) -> Any:
    return SimpleNamespace(
        target_num_replicas=num_wanted, running_replicas=[None] * num_running, aggregated_metrics=metrics
    )


def test_the_policy_reads_what_serve_has_gathered() -> None:
    policy = PoolScaling(targets=USAGE)
    assert policy(context(1, {"kv_usage": {"a": 1.0, "b": 0.7}, "queued_tokens": {"a": 9.0, "b": 9.0}}, 2)) == (3, {})
    assert policy(context(2, None, 2)) == (2, {})
    assert policy(context(2, {}, 0)) == (2, {})


def test_the_policy_needs_nothing_of_ours_in_serves_controller(tmp_path: Path) -> None:
    """Serve sends the class itself, and nobody promises that our packages are on its controller's path."""
    config = autoscaling_config(DecodeAutoscaling(max_replicas=3))
    (tmp_path / "policy").write_bytes(pickle.dumps((config.policy.get_serialized_policy_def(), USAGE)))
    code = """
import pickle, sys, types
sys.modules["cluster"] = sys.modules["workers"] = None
from ray import cloudpickle
policy, targets = pickle.load(open("policy", "rb"))
ctx = types.SimpleNamespace(target_num_replicas=1, running_replicas=[0], aggregated_metrics={"kv_usage": {0: 1.0}})
print(cloudpickle.loads(policy)(targets=targets)(ctx))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "(2, {})\n", done.stderr


def test_a_worker_tells_what_its_pool_is_scaled_by() -> None:
    class Worker:
        async def load(self) -> WorkerLoad:
            return WorkerLoad(queued_tokens=7, free_blocks=30, num_blocks=40)

    replica = PoolReplica()
    replica._host = SimpleNamespace(worker=Worker())  # type: ignore[assignment]
    told = asyncio.run(replica.record_autoscaling_stats())
    assert told == {"queued_tokens": 7.0, "kv_usage": 0.25}
    assert {type(value) for value in told.values()} == {float}
    for section in (PrefillAutoscaling(max_replicas=1), DecodeAutoscaling(max_replicas=1)):
        assert section.targets.keys() <= told.keys()


def deployments(config: ClusterConfig) -> dict[str, Any]:
    """What Serve would deploy, by name."""
    ingress = build_app(config, gpus=0, worker_host="127.0.0.1")._bound_deployment
    pools = ingress.init_args[1]
    return {"ingress": ingress} | {name: pool._bound_deployment for name, pool in pools.items()}


def scaling_of(deployment: serve.Deployment) -> AutoscalingConfig | None:
    found: AutoscalingConfig | None = deployment._deployment_config.autoscaling_config
    return found


def test_serve_is_told_the_bounds_and_whom_to_ask() -> None:
    built = deployments(parse_config({"pools": POOLS}))
    prefill, decode = scaling_of(built["prefill"]), scaling_of(built["decode"])
    assert prefill is not None
    assert decode is not None
    assert (prefill.min_replicas, prefill.max_replicas, prefill.initial_replicas) == (1, 4, None)
    assert (decode.min_replicas, decode.max_replicas, decode.initial_replicas) == (2, 6, None)
    assert prefill.policy.policy_kwargs == {"targets": {"queued_tokens": 500.0}}
    assert decode.policy.policy_kwargs == {"targets": {"kv_usage": 0.5}}
    assert decode.policy.get_policy().__name__ == "PoolScaling"


def test_a_pool_without_it_keeps_its_number_of_replicas() -> None:
    built = deployments(parse_config({"pools": {"decode": {"replicas": 3}}}))
    assert [scaling_of(built[name]) for name in ("prefill", "decode")] == [None, None]
    assert (built["prefill"].num_replicas, built["decode"].num_replicas) == (1, 3)


def test_a_unified_pool_scales_by_both() -> None:
    config = parse_config({"pools": {"unified": {"autoscaling": {"max_replicas": 2}}}})
    scaling = scaling_of(deployments(config)["unified"])
    assert scaling is not None
    assert scaling.policy.policy_kwargs == {"targets": {"queued_tokens": 8192.0, "kv_usage": 0.8}}


def test_serve_lets_a_front_door_refuse_for_itself() -> None:
    ingress = deployments(parse_config({"ingress": {"max_ongoing_requests": 5}}))["ingress"]
    assert ingress.max_ongoing_requests >= 100
    assert ingress.max_queued_requests == -1, "what Serve refuses it refuses in plain text"
    assert ingress.init_args[2].max_ongoing_requests == 5


def test_gpus_are_shared_by_as_many_workers_as_there_may_be() -> None:
    config = parse_config({"pools": POOLS})
    assert place(config, config.pools.decode, gpus=1).num_gpus == 0.1
    with pytest.raises(ConfigError, match="10 workers ask for 10 GPUs"):
        check_enough_gpus(parse_config({"pools": POOLS, "engine": {"device": "cuda"}}), gpus=4)


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({"replicas": 2, "autoscaling": {"max_replicas": 4}}, "pools.decode: .*leave replicas out"),
        ({"autoscaling": {}}, r"pools\.decode\.autoscaling\.max_replicas: Field required"),
        ({"autoscaling": {"max_replicas": 1, "min_replicas": 2}}, "must be at least min_replicas"),
        ({"autoscaling": {"max_replicas": 1, "min_replicas": 0}}, "min_replicas: .* greater than or equal to 1"),
        ({"autoscaling": {"max_replicas": 1, "target_kv_usage": 1.5}}, "target_kv_usage: .* less than or equal to 1"),
        ({"autoscaling": {"max_replicas": 1, "target_queued_tokens": 9}}, "target_queued_tokens: no such key"),
    ],
)
def test_what_autoscaling_may_say(section: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parse_config({"pools": {"decode": section}})
