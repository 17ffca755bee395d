"""Install, test, upgrade, roll back and uninstall, by Helm itself against the API server of the tests."""

import base64
import threading
import time
from collections.abc import Iterator
from typing import Any

import helm_python as helm
import pytest
import yaml

from cluster.haproxy import proxy_directory
from tests.helm_chart import NAMESPACE, RELEASE, VALUE_SETS, value_set
from tests.helm_kinds import needs_crds
from tests.helm_release import Cluster, cluster
from tests.kube_operator import operating

NAME = f"{RELEASE}-raydix"
STARTING = {"conditions": [{"type": "Ready", "status": "False", "reason": "Initializing"}], "observedGeneration": 1}
READY = {"conditions": [{"type": "Ready", "status": "True"}], "observedGeneration": 1}


@pytest.fixture
def kube() -> Iterator[Cluster]:
    with cluster() as empty:
        yield empty


@pytest.mark.parametrize("name", VALUE_SETS)
def test_every_value_set_installs_and_goes_again(kube: Cluster, name: str) -> None:
    assert kube.install(value_set(name))["status"] == "deployed"
    assert kube.store.names("rayservices") == [NAME]
    kube.config.uninstall(RELEASE, timeout=30)
    left = {kind for kind, _, _ in kube.store.objects} - {"namespaces"}
    kept = {"secrets"} if not value_set(name).get("ray", {}).get("auth") else set()
    assert left == kept | ({"persistentvolumeclaims"} if name == "gpu" else set())


def test_the_token_is_made_once(kube: Cluster) -> None:
    kube.install(value_set("minimal"))
    token = kube.token()
    assert len(base64.b64decode(token)) == 48
    kube.upgrade(value_set("ha"))
    assert kube.token() == token
    kube.config.rollback(RELEASE, version=1, wait="watcher", timeout=30)
    assert kube.token() == token
    kube.config.uninstall(RELEASE, timeout=30)
    kube.install(value_set("minimal"))
    assert kube.token() == token, "the Secret stays when the release goes"


def test_two_releases_have_two_tokens(kube: Cluster) -> None:
    kube.install(value_set("minimal"))
    first = kube.token()
    with cluster() as other:
        other.install(value_set("minimal"))
        assert other.token() != first


def test_an_upgrade_takes_away_what_is_no_longer_asked_for_and_a_rollback_brings_it_back(kube: Cluster) -> None:
    kube.install(value_set("ha"))
    budgets = [f"{NAME}-{role}" for role in ("decode", "head", "prefill")]
    assert kube.store.names("poddisruptionbudgets") == budgets
    assert kube.store.names("podmonitors") == [NAME]
    kube.upgrade(value_set("minimal"))
    assert kube.store.names("poddisruptionbudgets") == kube.store.names("podmonitors") == []
    kube.config.rollback(RELEASE, version=1, wait="watcher", timeout=30)
    assert kube.store.names("poddisruptionbudgets") == budgets
    assert [item["status"] for item in kube.config.history(RELEASE)] == ["superseded", "superseded", "deployed"]


def test_an_upgrade_of_the_configuration_leaves_the_pods_as_they_are(kube: Cluster) -> None:
    """KubeRay then hands the new configuration to the cluster that runs, instead of making another."""
    kube.install(value_set("minimal"))
    before = kube.service()["spec"]
    kube.upgrade({"config": {"pools": {"unified": {"policy": "least_loaded"}}}})
    after = kube.service()["spec"]
    assert after["rayClusterConfig"] == before["rayClusterConfig"]
    (application,) = yaml.safe_load(after["serveConfigV2"])["applications"]
    assert application["args"]["pools"]["unified"]["policy"] == "least_loaded"


def test_kinds_that_the_cluster_has_are_found_by_themselves(kube: Cluster) -> None:
    asked = {"podMonitor": {"enabled": True}, "rules": {"enabled": True}}
    values: dict[str, Any] = {"metrics": asked, "httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}]}}
    kube.install(values)
    assert kube.store.names("podmonitors") == kube.store.names("httproutes") == [NAME]
    kube.upgrade(values | {"capabilities": {"monitoring": "no"}})
    assert kube.store.names("podmonitors") == []
    assert kube.store.names("httproutes") == [NAME]


def test_waiting_ends_when_the_service_is_ready(kube: Cluster) -> None:
    kube.store.on_create["RayService"] = lambda service: STARTING
    ready_at: list[float] = []

    def become_ready() -> None:
        ready_at.append(time.monotonic())
        kube.store.set_status(("rayservices", NAMESPACE, NAME), READY)

    timer = threading.Timer(4.0, become_ready)
    timer.start()
    kube.install(value_set("minimal"))
    assert ready_at
    assert ready_at[0] < time.monotonic()


def test_a_service_that_does_not_become_ready_fails_the_install(kube: Cluster) -> None:
    kube.store.on_create["RayService"] = lambda service: STARTING
    with pytest.raises(helm.HelmError, match=f"{NAME} not ready"):
        kube.install(value_set("minimal"), timeout_s=3)


def test_what_the_operator_cannot_do_ends_the_install_at_once_with_the_reason(kube: Cluster) -> None:
    values = value_set("minimal") | {"ray": {"auth": {"existingSecret": "absent"}}}
    began_s = time.monotonic()
    with (
        proxy_directory() as directory,
        operating(kube.store, directory),
        pytest.raises(helm.HelmError, match="there is no Secret absent"),
    ):
        kube.install(values)
    assert time.monotonic() - began_s < 20, "Helm would have waited for a minute"


def test_the_test_of_the_release_runs_its_pod(kube: Cluster) -> None:
    kube.install(value_set("minimal"))
    kube.store.logs["pods", NAMESPACE, f"{NAME}-test-api"] = "what the container said"
    assert "what the container said" in kube.config.test(RELEASE, timeout=30, logs=True)["logs"]
    kube.store.on_create["Pod"] = lambda pod: {"phase": "Failed"}
    with pytest.raises(helm.HelmError):
        kube.config.test(RELEASE, timeout=30)


BROKEN = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "extra"}, "dta": {}}


def test_a_broken_extra_object_is_refused_at_install(kube: Cluster) -> None:
    with pytest.raises(helm.HelmError, match="dta"):
        kube.install(value_set("minimal") | {"extraObjects": [BROKEN]})


@needs_crds
def test_a_typo_in_a_custom_resource_is_refused_at_install(kube: Cluster) -> None:
    group = {"groupName": "a", "minReplica": 1, "template": {"spec": {"containers": []}}}
    spec = {"rayClusterConfig": {"headGroupSpec": {"template": {}}, "workerGroupSpecs": [group]}}
    extra = {"apiVersion": "ray.io/v1", "kind": "RayService", "metadata": {"name": "extra"}, "spec": spec}
    with pytest.raises(helm.HelmError, match="minReplica"):
        kube.install(value_set("minimal") | {"extraObjects": [extra]})
