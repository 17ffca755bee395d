"""A second driver of the cluster that a `raydix serve` has started, in the same directories.

    python -m bench.soak.attach '{"http": {"port": 8000}}'

Speaks as `bench.faults.cluster` does. It looks into the replicas and deploys the application anew.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from bench.faults.cluster import obey, own_answers
from bench.processes import living_in
from cluster.config import ClusterConfig, parse_config
from cluster.haproxy_launcher import LOOPBACK

KEPT = ("RAY_SERVE_", "RAY_AUTH_")
Json = dict[str, Any]


class Attached:
    """What can be asked of the second driver."""

    def __init__(self, config: ClusterConfig) -> None:
        from bench.faults import replicas

        self._config = config
        replicas.connect(gcs_address())

    def look(self, _: Json) -> Json:
        """All replicas that answer."""
        from bench.faults import replicas

        return {"replicas": replicas.looks(timeout_s=10.0)}

    def tasks(self, _: Json) -> Json:
        """What is pending on the event loop of each replica."""
        from bench.faults import replicas

        return replicas.ask(replicas.replica_names(), replicas.task_names)

    def redeploy(self, _: Json) -> Json:
        """Run the same configuration again. Its secret and token are new, so Serve replaces every replica."""
        from ray import serve

        from cluster.app import build_app
        from cluster.local import APP_NAME

        serve.run(build_app(self._config, 0.0, LOOPBACK), name=APP_NAME, route_prefix="/")
        return {}


def gcs_address() -> str:
    """Of the cluster whose Ray directory this process shares."""
    (port,) = Path(os.environ["RAY_TMPDIR"]).glob("ray/session_latest/gcs_server_port_*")
    return f"{LOOPBACK}:{port.read_text().strip()}"


def serve_environment() -> dict[str, str]:
    """The variables that the server gave Serve and Ray's authentication, as its raylet has them."""
    found: dict[str, str] = {}
    for pid in living_in(Path.cwd()):
        if Path(f"/proc/{pid}/comm").read_text().strip() == "raylet":
            items = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
            found |= {(pair := item.partition("="))[0]: pair[2] for item in items if item.startswith(KEPT)}
    return found


def main() -> None:
    answers = own_answers()
    os.environ.update(serve_environment())  # before ray is imported
    obey(Attached(parse_config(json.loads(sys.argv[1]))), answers)


if __name__ == "__main__":
    main()
