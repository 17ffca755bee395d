"""Spans on their way to a collector, and what is said where it cannot be reached."""

import logging
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

logger = logging.getLogger("ray.serve")

TRACES_PATH = "/v1/traces"  # of OTLP over HTTP


class TellingOnce(SpanExporter):
    """An exporter whose failures are one line in the log when they begin, and one when they end.

    OpenTelemetry's own lines, several for each batch that fails, are not written.

    Args:
        name: where it sends spans, for the log.
    """

    def __init__(self, exporter: SpanExporter, name: str) -> None:
        self._exporter = exporter
        self._name = name
        self._num_lost = 0
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Called by OpenTelemetry, on its own thread, with each batch."""
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            if self._num_lost:
                logger.warning("spans reach %s again; %d were lost", self._name, self._num_lost)
            self._num_lost = 0
        else:
            if not self._num_lost:
                logger.warning("spans cannot be sent to %s; requests are served, and their spans lost", self._name)
            self._num_lost += len(spans)
        return result

    def shutdown(self) -> None:
        """Called by OpenTelemetry at the end."""
        self._exporter.shutdown()


def make_exporter(endpoint: str | None) -> SpanExporter:
    """To an OTLP/HTTP collector at `http://host:4318`, or where OpenTelemetry's own environment variables say."""
    url = None if endpoint is None else endpoint.rstrip("/") + TRACES_PATH
    exporter = OTLPSpanExporter(url)
    return TellingOnce(exporter, url or "the collector that the environment names")
