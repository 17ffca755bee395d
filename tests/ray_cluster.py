"""The Ray cluster of a rendered RayService, on this machine, started as KubeRay 1.7 starts its pods.

Taken as rendered: `rayStartParams`, labels and numbers of pods of the groups, variables of the containers, the token in
the Secret that `authOptions` names, and `serveConfigV2`. What one machine forces:

- the repository and this interpreter stand for the image;
- ports and addresses are those of the node's place (`tests.ray_nodes`): Ray's by options of `ray start`, HAProxy's and
  those of Serve's fallback by variables; the dashboard listens at the head's address instead of all. Only the head's
  proxy takes the API's port from `serveConfigV2`, for that is one for all;
- limits of CPU and memory are not enforced, and the object store is small.
"""

import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.kube_pods import SecretValue, variables
from tests.kube_store import Object
from tests.ray_nodes import (
    AGENT,
    API,
    CLIENT,
    DASHBOARD,
    FALLBACK,
    FIRST_OF_WORKERS,
    GCS,
    METRICS,
    PROXY_METRICS,
    RUNTIME_ENV,
    STATS,
    NodeError,
    Place,
    RayNode,
    answers,
)
from tests.server import REPOSITORY

OBJECT_STORE_BYTES = 100_000_000
REST_TIMEOUT_S = 60


class RayCluster:
    """A head and the nodes of each worker group, started one after another: raylets of one machine must be."""

    def __init__(self, config: Object, directory: Path, places: Iterator[Place], secret: SecretValue) -> None:
        self._config, self._directory, self._places, self._secret = config, directory, places, secret
        self._token = secret(config["authOptions"]["secretName"], "auth_token")
        self.workers: dict[str, list[RayNode]] = {}
        self._nodes: list[RayNode] = []

    def start(self) -> None:
        """Start the head. Raises NodeError."""
        group = self._config["headGroupSpec"]
        here = next(self._places)
        own = {"port": here.ports[GCS], "dashboard-port": here.ports[DASHBOARD], "dashboard-host": here.address}
        own |= {"ray-client-server-port": here.ports[CLIENT], "temp-dir": self._directory / "ray"}
        self.head = self._start(here, ["--head"], group, own)

    def scale(self, groups: list[Object]) -> None:
        """Start the nodes that are missing. Raises NodeError where one does not come up, or there are too many."""
        for group in groups:
            running = self.workers.setdefault(group["groupName"], [])
            if len(running) > group["replicas"]:
                raise NodeError(f"{group['groupName']}: fewer nodes than {len(running)} are not played")
            while len(running) < group["replicas"]:
                address = [f"--address={self.head.place.at(GCS)}"]
                running.append(self._start(next(self._places), address, group, {}))

    def _start(self, place: Place, words: list[str], group: Object, own: dict[str, Any]) -> RayNode:
        params = group["rayStartParams"] | own | options_of(place)
        if labels := group.get("labels"):
            params["labels"] = ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
        (container,) = group["template"]["spec"]["containers"]
        environment = machine_of(place, self._directory) | variables(container, self._secret)
        environment |= {"RAY_AUTH_MODE": self._config["authOptions"]["mode"], "RAY_AUTH_TOKEN": self._token}
        node = RayNode(place, words + [f"--{name}={value}" for name, value in params.items()], environment)
        self._nodes.append(node)
        node.wait()
        return node

    def serve(self, config: str) -> None:
        """Hand a `serveConfigV2` to Serve, as it is."""
        self._rest("PUT", json.dumps(yaml.safe_load(config)).encode())

    def applications(self) -> dict[str, Object]:
        """What Serve says of each application."""
        return dict(self._rest("GET")["applications"])

    def states(self) -> dict[str, str]:
        """Of each application: DEPLOYING, RUNNING, ..."""
        return {name: application["status"] for name, application in self.applications().items()}

    def _rest(self, method: str, body: bytes | None = None) -> Object:
        url = f"http://{self.head.place.at(DASHBOARD)}/api/serve/applications/"
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        request = urllib.request.Request(url, body, headers, method=method)
        with urllib.request.urlopen(request, timeout=REST_TIMEOUT_S) as response:
            return dict(json.loads(response.read() or b"{}"))

    def endpoints(self) -> list[str]:
        """URLs of the workers' proxies that pass the probe which lets KubeRay's Service choose them; not the head's."""
        nodes = [node for group in self.workers.values() for node in group]
        urls = [f"http://{node.place.at(API)}" for node in nodes]
        return [url for url in urls if answers(f"{url}/-/healthz")]

    def end(self) -> None:
        """Every node, one that did not come up too."""
        for node in self._nodes:
            node.end()


def options_of(place: Place) -> dict[str, Any]:
    """Of `ray start`, for every node."""
    return {
        "node-ip-address": place.address,
        "dashboard-agent-listen-port": place.ports[AGENT],
        "runtime-env-agent-port": place.ports[RUNTIME_ENV],
        "metrics-export-port": place.ports[METRICS],
        "min-worker-port": place.ports[FIRST_OF_WORKERS],
        "max-worker-port": place.ports[-1],
        "object-store-memory": OBJECT_STORE_BYTES,
    }


def machine_of(place: Place, directory: Path) -> dict[str, str]:
    """Variables that stand for what an image and a pod have of their own."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "PYTHONPATH": str(REPOSITORY),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(place.ports[API]),  # the head's Serve leaves it alone
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(place.ports[FALLBACK]),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(place.ports[STATS]),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(place.ports[PROXY_METRICS]),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(directory / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(directory / "admin"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(directory / "metrics"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(directory),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(directory / "state"),
    }
