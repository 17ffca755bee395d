"""What runs in a Kubernetes cluster that has KubeRay 1.7, played on this machine: RayServices serve, pods run.

As KubeRay does it: a RayService is not ready until all its applications run and a worker's proxy passes its probe; then
there is the Service `<name>-serve-svc`. A change of `serveConfigV2` goes to the cluster that runs, and so do more
replicas of a group; the service stays ready meanwhile, before the change has come through. Any other change of
`rayClusterConfig` would have KubeRay start a second cluster: here that is an error, and so are fewer replicas.

What fails here ends the install, with the reason: by the condition `Stalled`, which KubeRay does not have.
"""

import base64
import copy
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.helm_chart import NAMESPACE
from tests.kube_pods import run_pod
from tests.kube_selection import selection
from tests.kube_store import Object, Store
from tests.kube_watch import events
from tests.ray_cluster import RayCluster
from tests.ray_nodes import API, POLL_S, free_places

DEPLOY_TIMEOUT_S = 240.0
# Told to whoever creates the object, before the controller has seen it: a real cluster is as quick only mostly.
FIRST_STATUS: dict[str, Object] = {
    "RayService": {"conditions": [{"type": "Ready", "status": "False", "reason": "Initializing"}]},
    "Pod": {"phase": "Pending"},
}
READY = {
    "type": "Ready",
    "status": "True",
    "reason": "NonZeroServeEndpoints",
    "message": "Number of serve endpoints is greater than 0",
    "lastTransitionTime": "2026-01-01T00:00:00Z",
}


class OperatorError(Exception):
    """The objects cannot be made real."""


class Operator:
    """Makes one RayService real, and pods.

    Attributes:
        api_port: free for `config.http.port`.
        cluster: of the RayService, while there is one.
    """

    def __init__(self, store: Store, directory: Path) -> None:
        self.store, self.directory = store, directory
        self.cluster: RayCluster | None = None
        self._made: Object = {}  # the spec of the cluster that runs
        self._generation = 0  # of the RayService when it was last looked at
        places = free_places(directory)
        head = next(places)
        self.api_port = head.ports[API]
        self._places = itertools.chain([head], places)

    def watch(self, target: str, handle: Callable[[str, Object], None], ended: threading.Event) -> None:
        """Handle each change of the objects at a path of the API; what fails is told in the object's status."""
        meant = selection(target)
        assert meant is not None
        for event in events(self.store, meant, None, ended):
            item = event["object"]
            try:
                if event["type"] != "BOOKMARK":
                    handle(event["type"], item)
            except Exception as error:  # whatever it is, the install must not wait for it
                stalled = {"type": "Stalled", "status": "True", "message": f"{error!r}"}
                status = {"phase": "Failed", "conditions": [stalled]}  # a pod has a phase, a RayService conditions
                self.set_status(meant.kind.plural, item, status)

    def reconcile(self, what: str, service: Object) -> None:
        """Make the RayService so. Raises OperatorError, NodeError or OSError."""
        if what == "DELETED":
            self.end()
        elif service["metadata"]["generation"] != self._generation:
            self._generation = service["metadata"]["generation"]
            self._make(service)
            self._made = service["spec"]

    def _make(self, service: Object) -> None:
        config, serve_config = service["spec"]["rayClusterConfig"], service["spec"]["serveConfigV2"]
        if self.cluster is None:
            self.cluster = RayCluster(config, self.directory, self._places, self.secret)
            self.cluster.start()
        elif self._made and fixed(self._made["rayClusterConfig"]) != fixed(config):
            raise OperatorError("KubeRay would start a second cluster")
        self.cluster.scale(config["workerGroupSpecs"])
        if serve_config != self._made.get("serveConfigV2"):
            self.cluster.serve(serve_config)
        if not self._made:
            self._wait_for_applications(self.cluster)
        self._say_ready(service, self.cluster)

    def end(self) -> None:
        """End the cluster, if there is one."""
        if self.cluster is not None:
            self.cluster.end()
        self.cluster, self._made, self._generation = None, {}, 0

    def _wait_for_applications(self, cluster: RayCluster) -> None:
        deadline_s = time.monotonic() + DEPLOY_TIMEOUT_S
        while not (states := cluster.states()) or set(states.values()) != {"RUNNING"} or not cluster.endpoints():
            if "DEPLOY_FAILED" in states.values() or time.monotonic() > deadline_s:
                raise OperatorError(f"not served: {cluster.applications()}")
            time.sleep(POLL_S)

    def _say_ready(self, service: Object, cluster: RayCluster) -> None:
        status = {"conditions": [READY], "numServeEndpoints": len(cluster.endpoints())}
        self.set_status("rayservices", service, status)

    def set_status(self, plural: str, item: Object, status: Object) -> None:
        """Say how it is with an object as it was then: Helm waits for more where it has changed since."""
        metadata = item["metadata"]
        told = status | {"observedGeneration": metadata["generation"]}
        self.store.set_status((plural, metadata["namespace"], metadata["name"]), told)

    def secret(self, name: str, key: str) -> str:
        """A value of a Secret. Raises OperatorError where there is none."""
        found = self.store.objects.get(("secrets", NAMESPACE, name))
        if found is None or key not in found["data"]:
            raise OperatorError(f"there is no Secret {name} with the key {key}")
        return base64.b64decode(found["data"][key]).decode()

    def run_pod(self, what: str, pod: Object) -> None:
        """Run a pod to its end, with the release's Service in reach."""
        if what != "ADDED":
            return
        services = {}
        if self.cluster is not None:
            (name,) = self.store.names("rayservices")
            services[f"http://{name}-serve-svc:{self.api_port}"] = self.cluster.endpoints()[0]
        done, log = run_pod(pod, services, self.secret)
        self.store.logs["pods", NAMESPACE, pod["metadata"]["name"]] = log
        self.set_status("pods", pod, {"phase": "Succeeded" if done else "Failed"})


def fixed(config: Object) -> Object:
    """What of a `rayClusterConfig` cannot be changed in a cluster that runs."""
    kept: dict[str, Any] = copy.deepcopy(config)
    for group in kept["workerGroupSpecs"]:
        for name in ("replicas", "minReplicas", "maxReplicas"):
            del group[name]
    return kept


@contextmanager
def operating(store: Store, directory: Path) -> Iterator[Operator]:
    """An operator at work on this store. Sockets of Ray lie below `directory`: its path must be short."""
    operator, ended = Operator(store, directory), threading.Event()
    store.on_create |= dict.fromkeys(FIRST_STATUS, lambda item: FIRST_STATUS[item["kind"]])
    tasks = {"/apis/ray.io/v1/rayservices": operator.reconcile, "/api/v1/pods": operator.run_pod}
    threads = [threading.Thread(target=operator.watch, args=(*task, ended)) for task in tasks.items()]
    for thread in threads:
        thread.start()
    try:
        yield operator
    finally:
        ended.set()
        operator.end()  # what a controller still waits for will not come
        for thread in threads:
            thread.join()
        operator.end()
