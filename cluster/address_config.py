"""Where the APIs listen, as the configuration has it."""

from typing import Annotated, Literal

from pydantic import Field

from cluster.section import ConfigError, Port, Section

HAPROXY_HOSTS = ("127.0.0.1", "localhost", "0.0.0.0")  # Serve's replicas listen where its proxy does


class HttpSection(Section):
    """Where the API listens, and what listens there."""

    host: str = "127.0.0.1"
    port: Port = 8000
    proxy: Literal["haproxy", "serve"] = "haproxy"
    request_timeout_s: Annotated[float, Field(gt=0)] = 600.0


class GrpcSection(Section):
    """Where the gRPC API listens; without a port nowhere, without a host where the HTTP API does."""

    host: str | None = None
    port: Port | None = None


def check_proxy(http: HttpSection) -> None:
    """Raise ConfigError where HAProxy would listen and not reach the ingress replicas."""
    if http.proxy == "haproxy" and http.host not in HAPROXY_HOSTS:
        raise ConfigError(
            f"http.host is {http.host!r}, but HAProxy reaches the ingress at 127.0.0.1 only; "
            f"take one of {', '.join(HAPROXY_HOSTS)}, or set http.proxy to serve"
        )
