"""The environment that Ray reads when it is imported: which proxy, how fast, where it listens, a cluster's own HAProxy.

Serve 2.60 has its HAProxy switched on by environment variables alone. Their defaults put the files of every cluster of
a machine into one directory, and statistics and metrics onto fixed ports of every interface.
"""

import contextlib
import os
import random
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cluster.config import HttpSection
from cluster.haproxy_launcher import LOOPBACK, write_launcher

# RAY_SERVE_THROUGHPUT_OPTIMIZED without what goes with it: no warnings on the terminal, and ingress replicas that wait
# 30 s before they stop, whatever the proxy.
THROUGHPUT = {
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_FREEZE_GC_ON_STARTUP": "1",
}
# A replica that hangs does not stop when it is asked to.
RECOVERY = {"RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1"}
# A front door that stops closes connections that HAProxy may just have written a request to. It answered nothing, so
# the request goes to another one; were it only lost on the way back, an answer is computed twice.
RETRY = {"RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response"}
QUIET_PORTS = range(20_000, 32_768)  # above those of Ray's workers, below Linux's ephemeral ones
# Whoever speaks to Ray shows the cluster's token, and all of Ray listens on loopback: Ray has that for systems whose
# firewalls would ask their users, under this name. And a proxy that is not up within three checks is given up by Serve:
# of 5 s each, which is not much where everything starts at once on two busy cores.
ONE_MACHINE = {
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
}


@contextlib.contextmanager
def proxy_environment(http: HttpSection, max_ongoing_requests: int) -> Iterator[None]:
    """Set Ray's variables for as long as the context lasts; then end what is left of its HAProxy.

    It must be entered before `ray` is imported, and left after Ray has ended. Variables of speed and of
    access that are set already stay as they are.

    Args:
        max_ongoing_requests: of one ingress replica.

    Raises:
        ConfigError: there is no HAProxy on this machine.
    """
    before = dict(os.environ)
    with proxy_directory() as directory:
        os.environ.update(variables(http, max_ongoing_requests, directory))
        try:
            yield
        finally:
            end_processes(directory)
            for name in os.environ.keys() - before.keys():
                del os.environ[name]
            os.environ.update(before)


def variables(http: HttpSection, max_ongoing_requests: int, directory: Path) -> dict[str, str]:
    """What Serve is told; for HAProxy its launcher is written to `directory`."""
    settings = THROUGHPUT | RECOVERY | ONE_MACHINE
    throughput = settings | {name: os.environ[name] for name in settings if name in os.environ}
    if http.proxy == "serve":
        return throughput | {"RAY_SERVE_ENABLE_HA_PROXY": "0"}
    stats, metrics, fallback = free_ports(3)
    return throughput | {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(write_launcher(directory, max_ongoing_requests, stats, metrics)),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(directory / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(directory / "admin"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(directory / "metrics"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(directory),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(directory / "state"),
        **RETRY,
        # For load balancers outside to notice, 30 s otherwise. Here is none, and Ctrl-C would take as long.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
    }


@contextlib.contextmanager
def proxy_directory() -> Iterator[Path]:
    """A directory for the admin socket, readable by this user alone.

    In /tmp and with a short name: Serve adds 64 characters and HAProxy 15, and a socket's path has at most 107.
    """
    directory = Path(tempfile.mkdtemp(prefix="raydix-", dir="/tmp"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """That many different ports of loopback that nobody listens on now.

    They are bound a while later, so they lie where the kernel takes none for outgoing connections meanwhile.
    """
    found: list[int] = []
    for port in random.sample(QUIET_PORTS, len(QUIET_PORTS)):
        if len(found) == count:
            break
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            found.append(port)
    return found


def end_processes(directory: Path) -> None:
    """Kill every HAProxy that was started with a file of this directory: one whose manager died is nobody's child."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # gone meanwhile, or another user's
            if f"{directory}/".encode() in entry.read_bytes():
                os.kill(int(entry.parent.name), signal.SIGKILL)
