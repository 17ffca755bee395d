"""serveConfigV2 of the chart: what Serve and our own parser make of it, for every value set."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve._private.deploy_utils import get_app_code_version
from ray.serve.schema import HTTPOptionsSchema, ServeApplicationSchema, ServeDeploySchema

from cluster.app import build_app_from_args
from cluster.config import load_config, parse_config
from tests.helm_chart import VALUE_SETS, application_args, serve_config, the, value_set, worker_groups

every_value_set = pytest.mark.parametrize("name", VALUE_SETS)


@every_value_set
def test_serve_takes_the_rendered_configuration(name: str) -> None:
    config = serve_config(value_set(name))
    ServeDeploySchema.model_validate(config)
    assert config["http_options"].keys() <= HTTPOptionsSchema.model_fields.keys(), "Serve would not tell"


def test_serve_listens_where_the_configuration_says_and_lets_the_application_say_that_it_is_late() -> None:
    options = serve_config(value_set("auth-network"))["http_options"]
    assert options == {"host": "0.0.0.0", "port": 9000, "request_timeout_s": 125.5}


@every_value_set
def test_serves_own_processes_log_as_the_replicas_do(name: str) -> None:
    logs = parse_config(value_set(name)["config"]).logs
    assert serve_config(value_set(name))["logging_config"] == logs.for_serve


@pytest.mark.parametrize(
    ("endpoint", "port"), [("http://c.obs:4318", 4318), ("https://[::1]", 443), ("http://c/", 80), (None, None)]
)
def test_a_policy_lets_spans_out_to_their_collector(endpoint: str | None, port: int | None) -> None:
    def ports(config: dict[str, Any]) -> list[int]:
        values = {"networkPolicy": {"enabled": True, "allowHub": False}, "config": config}
        rules = the("NetworkPolicy", values)["spec"]["egress"]
        return [one["port"] for rule in rules if "to" not in rule for one in rule["ports"]]

    assert ports({"tracing": {"endpoint": endpoint}}) == ([port] if port else [])


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
        assert worker_groups(value_set(name))[pool_name]["maxReplicas"] == pool.most_replicas


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
def test_a_file_for_raydix_serve_may_hold_the_same(name: str, tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    for mapping in (application_args(value_set(name)), value_set(name)["config"]):
        path.write_text(yaml.safe_dump(mapping), "utf-8")
        assert load_config(path) == parse_config(mapping)
