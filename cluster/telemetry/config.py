"""The parts of the configuration that say what is told of requests, and where: spans and logs."""

import os
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from cluster.section import Section

OTLP_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def collector_url(url: str) -> str:
    """Check that it is one, and that nothing follows the port."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ValueError("it must be the address of an OTLP/HTTP collector without a path, such as http://host:4318")
    return url


class TracingSection(Section):
    """Where spans of requests go (docs/observability.md). Without an endpoint, here or in OpenTelemetry's own
    environment variables, nothing is traced and nothing of OpenTelemetry is loaded.

    Attributes:
        endpoint: of an OTLP/HTTP collector, without a path: http://host:4318.
        sampling_ratio: of the requests whose client has not decided.
    """

    endpoint: Annotated[str, AfterValidator(collector_url)] | None = None
    sampling_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0

    @property
    def is_on(self) -> bool:
        """Whether there is somewhere to send spans to, as far as this process knows."""
        return self.endpoint is not None or any(os.environ.get(name) for name in OTLP_ENDPOINTS)


class LogsSection(Section):
    """What replicas write to Serve's log files. The line on each request is written whatever the level is."""

    encoding: Literal["text", "json"] = "text"
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "WARNING"

    @property
    def for_serve(self) -> dict[str, str | bool]:
        """The same as Serve's `logging_config`. Its own line on each request gives way to ours, which says more."""
        return {"encoding": self.encoding.upper(), "log_level": self.level, "enable_access_log": False}
