"""helm/raydix: what the value sets of ci/ render to."""

import helm_python as helm
import pytest

from cluster.config import parse_config
from cluster.haproxy import RECOVERY, RETRY, THROUGHPUT
from tests.helm_chart import (
    CHART,
    VALUE_SETS,
    application_args,
    of_kind,
    pod_specs,
    ray_cluster,
    rendered,
    the,
    value_set,
    worker_groups,
)

every_value_set = pytest.mark.parametrize("name", VALUE_SETS)


def test_there_are_value_sets_for_what_the_chart_is_for() -> None:
    assert VALUE_SETS == ["auth-network", "gpu", "ha", "minimal", "pools"]


@every_value_set
def test_it_passes_a_strict_lint(name: str) -> None:
    report = helm.lint(CHART, value_set(name), strict=True, kube_version="v1.32.0")
    assert report["errors"] == []


@every_value_set
def test_each_pool_has_a_group_whose_label_it_selects(name: str) -> None:
    values = value_set(name)
    config = parse_config(application_args(values))
    assert worker_groups(values).keys() == config.pools.by_name.keys()
    for pool_name, pool in config.pools.by_name.items():
        group = worker_groups(values)[pool_name]
        assert pool.label_selector.items() <= group["labels"].items()
        assert pool.num_cpus == float(group["rayStartParams"]["num-cpus"])
        assert pool.num_gpus == float(group["rayStartParams"]["num-gpus"])


def test_the_head_takes_no_replica_and_no_request() -> None:
    for name in VALUE_SETS:
        assert the("RayService", value_set(name))["spec"]["excludeHeadPodFromServeSvc"] is True
        assert ray_cluster(value_set(name))["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        assert "label_selector" in application_args(value_set(name))["ingress"]


def test_pools_that_scale_have_an_autoscaler_and_bounds() -> None:
    assert ray_cluster(value_set("pools"))["enableInTreeAutoscaling"] is True
    bounds = {
        name: (group["minReplicas"], group["maxReplicas"]) for name, group in worker_groups(value_set("pools")).items()
    }
    assert bounds == {"prefill": (1, 4), "decode": (2, 8)}
    assert "enableInTreeAutoscaling" not in ray_cluster(value_set("gpu"))


@every_value_set
def test_ray_always_asks_for_its_token(name: str) -> None:
    values = value_set(name)
    given = values.get("ray", {}).get("auth", {}).get("existingSecret")
    assert ray_cluster(values)["authOptions"] == {"mode": "token", "secretName": given or "demo-raydix-ray-token"}
    assert len(of_kind(rendered(values), "Secret")) == (0 if given else 1)


@every_value_set
def test_pods_run_without_privileges_and_name_the_port_that_kuberay_probes(name: str) -> None:
    objects = rendered(value_set(name))
    for spec in pod_specs(objects):
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert all(c["securityContext"]["allowPrivilegeEscalation"] is False for c in spec["containers"])
    port = parse_config(value_set(name)["config"]).http.port
    for group in worker_groups(value_set(name)).values():
        (container,) = group["template"]["spec"]["containers"]
        assert {"name": "serve", "containerPort": port} in container["ports"]


@pytest.mark.parametrize(("name", "haproxy"), [("minimal", "1"), ("auth-network", "0")])
def test_the_environment_is_the_one_of_raydix_serve(name: str, haproxy: str) -> None:
    for group in worker_groups(value_set(name)).values():
        (container,) = group["template"]["spec"]["containers"]
        told = {item["name"]: item.get("value") for item in container["env"]}
        assert (THROUGHPUT | RECOVERY | RETRY | {"RAY_SERVE_ENABLE_HA_PROXY": haproxy}).items() <= told.items()
