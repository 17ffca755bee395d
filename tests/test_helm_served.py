"""A release that serves: Helm waits for raylets that the operator of the tests starts, and the API answers."""

import base64
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from bench.processes import living_in
from cluster.commands.keys import new_key
from cluster.haproxy import proxy_directory
from tests.helm_chart import NAMESPACE, RELEASE
from tests.helm_kinds import check
from tests.helm_release import Cluster, cluster
from tests.kube_kinds import KINDS
from tests.kube_operator import Operator, operating
from tests.ray_cluster import RayCluster
from tests.ray_nodes import DASHBOARD, RayNode
from tests.server import assert_none_left

pytestmark = [pytest.mark.ray, pytest.mark.long]
INSTALL_TIMEOUT_S, UPDATE_TIMEOUT_S = 400, 240
(SECRET,) = (kind for kind in KINDS if kind.name == "Secret")
PROMPT = "def read_file(path):"


class Release:
    """A release of the chart with a Ray cluster behind it."""

    def __init__(self, kube: Cluster, operator: Operator) -> None:
        self.kube, self.operator = kube, operator
        self.key, tenant = new_key("alice")
        keys_file = operator.directory / "keys.yaml"
        keys_file.write_text(tenant)
        encoded = base64.b64encode(self.key.encode()).decode()
        kube.store.put(SECRET, NAMESPACE, {"metadata": {"name": "client-key"}, "data": {"api_key": encoded}})
        self.values: dict[str, Any] = {
            "config": {"http": {"port": operator.api_port}, "auth": {"keys_file": str(keys_file)}},
            "api": {"clientKeySecret": {"name": "client-key"}},
            "groups": {name: {"cpus": 1} for name in ("prefill", "decode")},
        }

    @property
    def ray(self) -> RayCluster:
        assert self.operator.cluster is not None
        return self.operator.cluster

    @property
    def token(self) -> str:
        return base64.b64decode(self.kube.token()).decode()

    @property
    def nodes(self) -> dict[str, list[RayNode]]:
        return {"head": [self.ray.head]} | self.ray.workers

    def upgrade(self, section: dict[str, Any]) -> None:
        """`helm upgrade --wait`, and then until Serve has made the change."""
        self.values["config"] |= section
        self.kube.upgrade(self.values)
        deadline_s = time.monotonic() + UPDATE_TIMEOUT_S
        while self.ray.states() != {"raydix": "RUNNING"}:
            assert time.monotonic() < deadline_s, self.ray.applications()
            time.sleep(0.5)

    def complete(self, model: str, key: str | None = None) -> list[str]:
        """A completion from the proxy of each worker pod."""
        texts = []
        for url in self.ray.endpoints():
            with openai.OpenAI(base_url=f"{url}/v1", api_key=key or self.key, max_retries=0) as client:
                answer = client.completions.create(model=model, prompt=PROMPT, max_tokens=8, temperature=0)
            texts.append(answer.choices[0].text)
        return texts

    def raylets(self) -> dict[str, list[int]]:
        return {name: [node.raylet for node in nodes] for name, nodes in self.nodes.items()}

    def replicas(self) -> dict[str, set[tuple[str, int]]]:
        """Name and process of each replica, by the group of the node that it runs on."""
        return {name: {found for node in nodes for found in replicas_on(node)} for name, nodes in self.nodes.items()}


def replicas_on(node: RayNode) -> Iterator[tuple[str, int]]:
    for pid in living_in(node.place.directory):
        title = Path(f"/proc/{pid}/cmdline").read_text()  # and then what it is at
        if found := re.match(r"ray::.*ServeReplica:raydix:(\w+)", title):
            yield found[1], pid


@pytest.fixture(scope="module")
def release() -> Iterator[Release]:
    """Installed, and at the end uninstalled without a process left."""
    with proxy_directory() as directory, cluster() as kube, operating(kube.store, directory) as operator:
        release = Release(kube, operator)
        kube.install(release.values, INSTALL_TIMEOUT_S)
        yield release
        places = [node.place for nodes in release.nodes.values() for node in nodes]
        kube.config.uninstall(RELEASE, timeout=60)
        for place in places:
            assert_none_left(place.directory)


def test_installed_means_serving(release: Release) -> None:
    service = release.kube.service()
    assert service["status"]["numServeEndpoints"] == 2
    check(service)
    first, second = release.complete("tiny")
    assert first == second != ""


def test_nobody_gets_in_without_a_key(release: Release) -> None:
    with pytest.raises(openai.AuthenticationError):
        release.complete("tiny", "another")


def test_each_pools_workers_are_in_its_pods_and_none_on_the_head(release: Release) -> None:
    names = {group: {name for name, _ in found} for group, found in release.replicas().items()}
    assert names["head"] == set()
    assert names["prefill"] - {"ingress"} == {"prefill"}
    assert names["decode"] - {"ingress"} == {"decode"}
    assert "ingress" in names["prefill"] | names["decode"]


def test_rays_own_ports_ask_for_the_token_of_the_secret(release: Release) -> None:
    url = f"http://{release.ray.head.place.at(DASHBOARD)}/api/version"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url)
    refused.value.close()
    assert refused.value.code == 401


def test_the_test_of_the_release_asks_the_service(release: Release) -> None:
    logs = release.kube.config.test(RELEASE, timeout=120, logs=True)["logs"]
    assert "models: tiny" in logs
    assert "completion: '" in logs


def test_a_load_test_is_a_job_of_its_cluster_and_its_key_is_not_seen_there(release: Release) -> None:
    dashboard = f"http://{release.ray.head.place.at(DASHBOARD)}"
    words = ["loadtest", "--address", dashboard, "--url", release.ray.endpoints()[0], "--json"]
    words += ["--profile", "shared-prefix", "--prefixes", "1", "--requests", "8", "--concurrency", "2"]
    tokens = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": release.token, "RAYDIX_API_KEY": release.key}
    command = [sys.executable, "-c", "import sys; from cluster.cli import main; sys.exit(main())", *words]
    done = subprocess.run(command, env=os.environ | tokens, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    total = json.loads(done.stdout)["total"]
    assert (total["answered"], total["failed"]) == (8, 0)
    assert total["cached_share"] > 0
    ask = urllib.request.Request(f"{dashboard}/api/jobs/", headers={"Authorization": f"Bearer {release.token}"})
    with urllib.request.urlopen(ask) as response:
        jobs = response.read().decode()
    assert "shared-prefix" in jobs
    assert release.key not in jobs + done.stdout + done.stderr


def test_a_changed_configuration_goes_to_the_cluster_that_runs(release: Release) -> None:
    text, raylets, replicas = release.complete("tiny")[0], release.raylets(), release.replicas()
    release.upgrade({"served_model_name": "renamed"})
    assert set(release.complete("renamed")) == {text}
    with pytest.raises(openai.NotFoundError, match="serves 'renamed'"):
        release.complete("tiny")
    assert release.raylets() == raylets
    assert not release.replicas()["prefill"] & replicas["prefill"], "every worker is replaced"
    release.upgrade({"served_model_name": "tiny"})


def test_another_replica_comes_in_a_pod_of_its_own_and_the_others_stay(release: Release) -> None:
    raylets, replicas = release.raylets(), release.replicas()
    release.upgrade({"pools": {"decode": {"replicas": 2}}})
    assert release.raylets()["decode"][:1] == raylets["decode"]
    assert len(release.raylets()["decode"]) == 2
    now = release.replicas()
    assert all(now[group] >= replicas[group] for group in replicas)
    assert sum(name == "decode" for name, _ in now["decode"]) == 2
    assert len(set(release.complete("tiny"))) == 1
