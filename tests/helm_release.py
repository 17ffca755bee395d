"""A release of the chart on the API server of the tests."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import helm_python as helm

from tests.helm_chart import CHART, NAMESPACE, RELEASE, said
from tests.kube_server import kube_server
from tests.kube_store import Object, Store

WAIT_S = 60


class Cluster:
    """Helm, connected to a cluster that has KubeRay."""

    def __init__(self, store: Store, config: helm.Config) -> None:
        self.store, self.config = store, config

    def install(self, values: dict[str, Any], timeout_s: int = WAIT_S) -> dict[str, Any]:
        """`helm install --create-namespace --wait`."""
        release = self.config.install(
            CHART, RELEASE, said(values), create_namespace=True, wait="watcher", timeout=timeout_s
        )
        return dict(release)

    def upgrade(self, values: dict[str, Any]) -> dict[str, Any]:
        """`helm upgrade --wait`."""
        return dict(self.config.upgrade(CHART, RELEASE, said(values), wait="watcher", timeout=WAIT_S))

    def token(self) -> str:
        """Ray's token as the Secret has it."""
        return str(self.store.named("secrets", f"{RELEASE}-raydix-ray-token")["data"]["auth_token"])

    def service(self) -> Object:
        """The RayService."""
        return self.store.named("rayservices", f"{RELEASE}-raydix")


@contextmanager
def cluster() -> Iterator[Cluster]:
    """An empty cluster."""
    store = Store()
    with kube_server(store) as url, helm.Config(kubeconfig_content=kubeconfig(url), namespace=NAMESPACE) as config:
        yield Cluster(store, config)


def kubeconfig(url: str) -> str:
    """How to reach it, without certificates."""
    context = {"cluster": "tests", "user": "tests", "namespace": NAMESPACE}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": {"server": url}}],
            "users": [{"name": "tests", "user": {}}],
            "contexts": [{"name": "tests", "context": context}],
            "current-context": "tests",
        }
    )
