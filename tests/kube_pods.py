"""A pod's container, run on this machine."""

import subprocess
import sys

from tests.kube_store import Object

TIMEOUT_S = 150


def run_container(pod: Object, services: dict[str, str]) -> tuple[bool, str]:
    """Whether the pod's only container ended well, and what it said.

    The image is this interpreter.

    Args:
        services: URLs of Services, and where those can be reached from here.
    """
    (container,) = pod["spec"]["containers"]
    words = [*container["command"], *container.get("args", [])]
    for url, reached in services.items():
        words = [word.replace(url, reached) for word in words]
    if words[0] == "python":
        words[0] = sys.executable
    done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S)
    return done.returncode == 0, done.stdout + done.stderr
