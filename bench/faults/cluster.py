"""The process that owns the cluster under test: a head node without CPUs and two worker nodes, all on this machine.

    python -m bench.faults.cluster '{"http": {"port": 8000}}'

Reads one JSON command a line from its standard input and answers each with a line; `bench.faults.remote` talks to it.
All that Ray prints goes to standard error. It ends with its input.
"""

import json
import os
import random
import secrets
import signal
import sys
import time
from collections.abc import Callable
from typing import IO, Any

from cluster.config import ClusterConfig, parse_config
from cluster.haproxy import proxy_environment
from cluster.haproxy_launcher import LOOPBACK

CPUS = 4  # of each worker node, in Ray's books: one alone can hold both pools while the other is away
OBJECT_STORE_BYTES = 100 * 2**20
Json = dict[str, Any]


class FaultyCluster:
    """Ray's nodes and the application on them, and the faults that need a driver."""

    def __init__(self, config: ClusterConfig) -> None:
        from ray.cluster_utils import Cluster

        self._config = config
        self._rng = random.Random(0)
        self._cluster = Cluster(initialize_head=True, head_node_args=self._node(0, "head"))
        self._workers = {name: self._cluster.add_node(**self._node(CPUS, name)) for name in ("a", "b")}
        self._dead: str | None = None

    def deploy(self, _: Json) -> Json:
        """Connect and run the application, or put a new version of it in the old one's place."""
        import ray
        from ray import serve

        from bench.faults import replicas
        from cluster.app import build_app
        from cluster.local import APP_NAME

        if not ray.is_initialized():
            replicas.connect(self._cluster.address, LOOPBACK)
            http = {"host": LOOPBACK, "port": self._config.http.port, "request_timeout_s": 600.0}
            serve.start(proxy_location="HeadOnly", http_options=http, logging_config=self._config.logs.for_serve)
        app = build_app(self._config, 0.0, worker_host=LOOPBACK)
        serve.run(app, name=APP_NAME, route_prefix="/")
        return {}

    def look(self, _: Json) -> Json:
        """All replicas that answer, and how many there should be."""
        from bench.faults import replicas

        pools = self._config.pools
        wanted = {"prefill": pools.prefill.replicas, "decode": pools.decode.replicas}
        return {"replicas": replicas.looks(), "wanted": wanted | {"ingress": self._config.ingress.replicas}}

    def strike(self, command: Json) -> Json:
        """Send a signal to one replica of a pool."""
        from bench.faults import replicas

        return replicas.strike(command["pool"], signal.Signals[command["signal"]], self._rng)

    def kill_node(self, _: Json) -> Json:
        """SIGKILL a worker node's raylet, which takes its workers with it."""
        from bench.faults import replicas

        self._dead = self._rng.choice(list(self._workers))
        node = self._workers[self._dead]
        there = [one for one in replicas.looks(timeout_s=1.0) if one["node"] == node.node_id]
        at_s = time.monotonic()
        os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
        lost = {"pools": sorted({one["pool"] for one in there}), "names": [one["name"] for one in there]}
        return lost | {"at_s": at_s, "ids": [request for one in there for request in one["ids"]]}

    def restart_node(self, _: Json) -> Json:
        """Start the node that was killed anew."""
        assert self._dead is not None
        self._cluster.remove_node(self._workers[self._dead], allow_graceful=False)
        self._workers[self._dead] = self._cluster.add_node(**self._node(CPUS, self._dead))
        return {}

    def die_at(self, command: Json) -> Json:
        """Let the decode replica that is the first to deliver so many tokens die of it."""
        from bench.faults import replicas

        names = replicas.replica_names("decode#")
        mark = os.path.abspath(f"died-at-{command['tokens']}")
        armed = replicas.ask(names, replicas.die_at, command["tokens"], mark)
        return {"armed": sorted(armed)}

    def disarm(self, _: Json) -> Json:
        """Take the traps away."""
        from bench.faults import replicas

        return {"disarmed": list(replicas.ask(replicas.replica_names("decode#"), replicas.disarm))}

    def tasks(self, _: Json) -> Json:
        """What is pending on the event loop of each replica."""
        from bench.faults import replicas

        return replicas.ask(replicas.replica_names(), replicas.task_names)

    def end(self) -> None:
        """Every process."""
        import ray
        from ray import serve

        if ray.is_initialized():
            serve.shutdown()
            ray.shutdown()
        self._cluster.shutdown()

    def _node(self, num_cpus: int, name: str) -> Json:
        own = {"num_cpus": num_cpus, "labels": {"raydix/node": name}, "node_ip_address": LOOPBACK}
        return own | {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}


def own_answers() -> IO[str]:
    """Standard output for answers alone: whatever else is printed in this process goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return answers


def obey(cluster: object, answers: IO[str]) -> None:
    """Until the input ends."""
    for line in sys.stdin:
        command = json.loads(line)
        method: Callable[[Json], Json] = getattr(cluster, command["do"])
        try:
            answer = method(command)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def main() -> None:
    answers = own_answers()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end ends the input
    config = parse_config(json.loads(sys.argv[1]))
    with proxy_environment(config.http, config.ingress.max_ongoing_requests):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # ray.init makes one, nodes of their own do not
        cluster = FaultyCluster(config)
        try:
            obey(cluster, answers)
        finally:
            cluster.end()


if __name__ == "__main__":
    main()
