"""A collector of OpenTelemetry spans over HTTP, in this process."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

PATIENCE_S = 30


@dataclass(frozen=True)
class Received:
    """A span as it arrived.

    Attributes:
        resource: attributes of whoever made it.
    """

    span: Span
    resource: dict[str, Any]

    @property
    def attributes(self) -> dict[str, Any]:
        return plain(self.span.attributes)

    @property
    def name(self) -> str:
        return str(self.span.name)

    @property
    def events(self) -> list[tuple[str, dict[str, Any]]]:
        return [(event.name, plain(event.attributes)) for event in self.span.events]

    @property
    def seconds(self) -> float:
        return float(self.span.end_time_unix_nano - self.span.start_time_unix_nano) / 1e9


class Collector:
    """Keeps what it is sent at `endpoint`.

    Attributes:
        status: what it answers with.
    """

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.spans: list[Received] = []
        self.raw = b""
        self.status = 200

    def take(self, body: bytes) -> None:
        self.raw += body
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = plain(group.resource.attributes)
            self.spans += [Received(span, resource) for scope in group.scope_spans for span in scope.spans]

    def children_of(self, parent: Received) -> list[Received]:
        """In the order in which they began."""
        found = [one for one in self.spans if one.span.parent_span_id == parent.span.span_id]
        return sorted(found, key=lambda one: (one.span.start_time_unix_nano, one.span.end_time_unix_nano))

    def servers(self) -> list[Received]:
        return [one for one in self.spans if one.span.kind == Span.SPAN_KIND_SERVER]

    def wait_for_servers(self, count: int) -> list[Received]:
        """Until the spans of so many requests have come."""
        deadline_s = time.monotonic() + PATIENCE_S
        while len(self.servers()) < count and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert len(self.servers()) == count, [one.name for one in self.spans]
        return self.servers()


def plain(attributes: Any) -> dict[str, Any]:
    """Attributes off the wire as Python values."""
    return {item.key: value_of(item.value) for item in attributes}


def value_of(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [value_of(one) for one in value.array_value.values]
    return getattr(value, kind)


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector for as long as the context lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.path == "/v1/traces"
            if collector.status == 200:
                collector.take(body)
            self.send_response(collector.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Not to the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(server.server_port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
