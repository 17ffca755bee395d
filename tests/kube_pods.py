"""Containers of pods, run on this machine."""

import os
import subprocess
import sys
from collections.abc import Callable

from tests.kube_store import Object

TIMEOUT_S = 150
SecretValue = Callable[[str, str], str]  # of a Secret's name and a key


def variables(container: Object, secret: SecretValue) -> dict[str, str]:
    """A container's own variables, those out of Secrets too."""
    found = {}
    for item in container.get("env", []):
        source = item.get("valueFrom", {}).get("secretKeyRef")
        found[item["name"]] = secret(source["name"], source["key"]) if source else item["value"]
    return found


def run_pod(pod: Object, services: dict[str, str], secret: SecretValue) -> tuple[bool, str]:
    """Whether the pod's only container ended well, and what it said. This interpreter stands for the image.

    Args:
        services: URLs of Services, and where those can be reached from here.
    """
    (container,) = pod["spec"]["containers"]
    words = [*container["command"], *container.get("args", [])]
    for url, reached in services.items():
        words = [word.replace(url, reached) for word in words]
    if words[0] == "python":
        words[0] = sys.executable
    environment = {"PATH": os.environ["PATH"]} | variables(container, secret)
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    return done.returncode == 0, done.stdout + done.stderr
