"""API keys of the chart: the file of tenants reaches every front door, and a key those who ask."""

from typing import Any

import helm_python as helm
import pytest

from cluster.config import parse_config
from tests.helm_chart import CHART, NAMESPACE, RELEASE, application_args, of_kind, rendered, the, worker_groups

NAMED: dict[str, Any] = {"api": {"keysSecret": "tenants", "clientKeySecret": {"name": "one-of-them", "key": "k"}}}
KEY = {"name": "RAYDIX_API_KEY", "valueFrom": {"secretKeyRef": {"name": "one-of-them", "key": "k"}}}


@pytest.mark.parametrize("pools", [{}, {"unified": {}}])
def test_the_file_of_tenants_is_mounted_in_every_pod_that_may_have_a_front_door(pools: dict[str, Any]) -> None:
    values = NAMED | {"config": {"pools": pools}}
    auth = parse_config(application_args(values)).auth
    assert not auth.allow_anonymous
    for group in worker_groups(values).values():
        spec = group["template"]["spec"]
        (volume,) = [one for one in spec["volumes"] if one.get("secret") == {"secretName": "tenants"}]
        (mount,) = [one for one in spec["containers"][0]["volumeMounts"] if one["name"] == volume["name"]]
        assert auth.keys_file == f"{mount['mountPath']}/keys.yaml"
        assert "subPath" not in mount, "Kubernetes does not renew those"


@pytest.mark.parametrize("config", [{}, {"auth": {}}])
def test_without_one_somebody_has_to_say_that_anybody_may_ask(config: dict[str, Any]) -> None:
    with pytest.raises(helm.HelmError, match=r"who may ask the API: name api\.keysSecret, or set config\.auth"):
        helm.Chart.load(CHART).render({"config": config}, name=RELEASE, namespace=NAMESPACE)
    assert parse_config(application_args({"config": {"auth": {"allow_anonymous": True}}})).auth.allow_anonymous
    assert not parse_config(application_args({"config": {"auth": {"keys_file": "/keys"}}})).auth.allow_anonymous


def test_the_tests_pod_and_the_load_test_have_a_key() -> None:
    values = NAMED | {"loadTest": {"enabled": True}}
    head = the("RayJob", values)["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
    for pod in (the("Pod", values), head):
        assert pod["spec"]["containers"][0]["env"] == [KEY]
    assert "env" not in the("Pod", {})["spec"]["containers"][0]


def test_there_is_no_test_pod_that_nobody_has_a_key_for() -> None:
    assert of_kind(rendered({"api": {"keysSecret": "tenants"}}), "Pod") == []
