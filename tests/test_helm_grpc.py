"""The gRPC API in the chart: off, or on a port of every worker pod behind a headless Service."""

import copy
from typing import Any

import pytest

from cluster.config import ConfigError, parse_config
from tests.helm_chart import application_args, of_kind, rendered, the, worker_groups
from tests.helm_kinds import check

VALUES: dict[str, Any] = {
    "config": {"grpc": {"port": 9000}, "auth": {"allow_anonymous": True}},
    "networkPolicy": {"enabled": True, "allowFrom": [{"podSelector": {}}]},
}


def ports_of(values: dict[str, Any]) -> list[set[int]]:
    """What the containers of each worker group listen on."""
    pods = [group["template"]["spec"]["containers"][0] for group in worker_groups(values).values()]
    return [{port["containerPort"] for port in pod["ports"]} for pod in pods]


def test_the_service_finds_the_pods_and_their_port() -> None:
    service = the("Service", VALUES)
    check(service)
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["ports"][0]["port"] == 9000
    assert ports_of(VALUES) == [{8000, 8080, 9000}] * 2
    selector = dict(service["spec"]["selector"])
    assert selector.pop("ray.io/node-type") == "worker", "KubeRay's own label"
    for group in worker_groups(VALUES).values():
        assert selector.items() <= group["template"]["metadata"]["labels"].items()


def test_the_policy_lets_those_in_who_may_ask() -> None:
    policy = the("NetworkPolicy", VALUES)
    check(policy)
    assert {port["port"] for port in policy["spec"]["ingress"][1]["ports"]} == {8000, 9000}


def test_it_listens_where_clients_reach_it_and_only_with_keys_or_for_anybody() -> None:
    args = application_args(VALUES)
    assert parse_config(args).grpc_address == ("0.0.0.0", 9000)
    closed = copy.deepcopy(args)
    del closed["auth"]
    with pytest.raises(ConfigError, match=r"grpc\.host is '0\.0\.0\.0'"):
        parse_config(closed)


def test_without_a_port_there_is_none() -> None:
    values = VALUES | {"config": {}}
    assert of_kind(rendered(values), "Service") == []
    assert ports_of(values) == [{8000, 8080}] * 2
    assert parse_config(application_args(values)).grpc_address is None
