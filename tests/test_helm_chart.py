"""helm/raydix: what the value sets of ci/ render to."""

from typing import Any

import helm_python as helm
import pytest
from ray.serve._private.deploy_utils import get_app_code_version
from ray.serve.schema import HTTPOptionsSchema, ServeApplicationSchema, ServeDeploySchema

from cluster.app import build_app_from_args
from cluster.config import parse_config
from cluster.haproxy import RECOVERY, THROUGHPUT
from tests.helm_chart import (
    CHART,
    VALUE_SETS,
    application_args,
    of_kind,
    pod_specs,
    rendered,
    serve_config,
    the,
    value_set,
)

every_value_set = pytest.mark.parametrize("name", VALUE_SETS)


def cluster(values: dict[str, Any]) -> dict[str, Any]:
    return dict(the("RayService", values)["spec"]["rayClusterConfig"])


def groups(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {group["groupName"]: group for group in cluster(values)["workerGroupSpecs"]}


def test_there_are_value_sets_for_what_the_chart_is_for() -> None:
    assert VALUE_SETS == ["auth-network", "gpu", "ha", "minimal", "pools"]


@every_value_set
def test_it_passes_a_strict_lint(name: str) -> None:
    report = helm.lint(CHART, value_set(name), strict=True, kube_version="v1.32.0")
    assert report["errors"] == []


@every_value_set
def test_serve_takes_the_rendered_configuration(name: str) -> None:
    config = serve_config(value_set(name))
    ServeDeploySchema.model_validate(config)
    assert config["http_options"].keys() <= HTTPOptionsSchema.model_fields.keys(), "Serve would not tell"


def test_serve_listens_where_the_configuration_says_and_lets_the_application_say_that_it_is_late() -> None:
    options = serve_config(value_set("auth-network"))["http_options"]
    assert options == {"host": "0.0.0.0", "port": 8080, "request_timeout_s": 125.5}


@every_value_set
def test_our_own_parser_takes_the_args_and_finds_what_the_values_say(name: str) -> None:
    values = value_set(name)
    config = parse_config(application_args(values))
    given = parse_config(values["config"])
    assert (config.model, config.http, config.engine) == (given.model, given.http, given.engine)
    assert config.pools.by_name.keys() == given.pools.by_name.keys()
    assert [pool.autoscaling for pool in config.pools.by_name.values()] == [
        pool.autoscaling for pool in given.pools.by_name.values()
    ]


@every_value_set
def test_there_are_as_many_replicas_and_pods_as_the_values_say(name: str) -> None:
    given = parse_config(value_set(name)["config"])
    (application,) = serve_config(value_set(name))["applications"]
    told = {deployment["name"]: deployment["num_replicas"] for deployment in application["deployments"]}
    fixed: dict[str, int] = {
        key: pool.replicas for key, pool in given.pools.by_name.items() if pool.autoscaling is None
    }
    assert told == fixed | {"ingress": given.ingress.replicas}
    for pool_name, pool in given.pools.by_name.items():
        assert groups(value_set(name))[pool_name]["maxReplicas"] == pool.most_replicas


def test_another_number_of_replicas_leaves_the_application_as_it_is() -> None:
    def application(replicas: int) -> dict[str, Any]:
        pools = {"prefill": {"replicas": replicas}}
        values = {"config": {"pools": pools, "ingress": {"replicas": replicas}}}
        return dict(serve_config(values)["applications"][0])

    assert application(1)["deployments"] != application(2)["deployments"]
    versions = {get_app_code_version(ServeApplicationSchema.model_validate(application(n))) for n in (1, 2)}
    assert len(versions) == 1, "Serve would replace every replica"


def test_the_import_path_builds_the_app() -> None:
    (application,) = serve_config(value_set("minimal"))["applications"]
    assert application["import_path"] == f"{build_app_from_args.__module__}:{build_app_from_args.__name__}"
    ingress = build_app_from_args(application["args"])._bound_deployment
    assert ingress.ray_actor_options["label_selector"] == {"pool": "in(unified)"}


@every_value_set
def test_each_pool_has_a_group_whose_label_it_selects(name: str) -> None:
    values = value_set(name)
    config = parse_config(application_args(values))
    assert groups(values).keys() == config.pools.by_name.keys()
    for pool_name, pool in config.pools.by_name.items():
        group = groups(values)[pool_name]
        assert pool.label_selector.items() <= group["labels"].items()
        assert pool.num_cpus == float(group["rayStartParams"]["num-cpus"])
        assert pool.num_gpus == float(group["rayStartParams"]["num-gpus"])


def test_the_head_takes_no_replica_and_no_request() -> None:
    for name in VALUE_SETS:
        assert the("RayService", value_set(name))["spec"]["excludeHeadPodFromServeSvc"] is True
        assert cluster(value_set(name))["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        assert "label_selector" in application_args(value_set(name))["ingress"]


def test_pools_that_scale_have_an_autoscaler_and_bounds() -> None:
    assert cluster(value_set("pools"))["enableInTreeAutoscaling"] is True
    bounds = {name: (group["minReplicas"], group["maxReplicas"]) for name, group in groups(value_set("pools")).items()}
    assert bounds == {"prefill": (1, 4), "decode": (2, 8)}
    assert "enableInTreeAutoscaling" not in cluster(value_set("gpu"))


@every_value_set
def test_ray_always_asks_for_its_token(name: str) -> None:
    values = value_set(name)
    given = values.get("ray", {}).get("auth", {}).get("existingSecret")
    assert cluster(values)["authOptions"] == {"mode": "token", "secretName": given or "demo-raydix-ray-token"}
    assert len(of_kind(rendered(values), "Secret")) == (0 if given else 1)


@every_value_set
def test_pods_run_without_privileges_and_name_the_port_that_kuberay_probes(name: str) -> None:
    objects = rendered(value_set(name))
    for spec in pod_specs(objects):
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert all(c["securityContext"]["allowPrivilegeEscalation"] is False for c in spec["containers"])
    port = parse_config(value_set(name)["config"]).http.port
    for group in groups(value_set(name)).values():
        (container,) = group["template"]["spec"]["containers"]
        assert {"name": "serve", "containerPort": port} in container["ports"]


@pytest.mark.parametrize(("name", "haproxy"), [("minimal", "1"), ("auth-network", "0")])
def test_the_environment_is_the_one_of_raydix_serve(name: str, haproxy: str) -> None:
    for group in groups(value_set(name)).values():
        (container,) = group["template"]["spec"]["containers"]
        told = {item["name"]: item.get("value") for item in container["env"]}
        assert (THROUGHPUT | RECOVERY | {"RAY_SERVE_ENABLE_HA_PROXY": haproxy}).items() <= told.items()
