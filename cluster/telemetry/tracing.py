"""Requests as OpenTelemetry spans, made when they are over: until then a request pays for some clock readings.

Only this and `span_exporter.py` import OpenTelemetry, and they are imported only where requests are traced.
"""

from opentelemetry.context import Context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import (
    Span,
    SpanKind,
    Status,
    StatusCode,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from cluster.api.protocol import GenerationBody
from cluster.door.leg import Leg
from cluster.telemetry.exchange import Exchange
from cluster.telemetry.span_attributes import leg_attributes, request_attributes, span_name

SERVICE = "raydix"


class Tracer:
    """Makes spans and has them sent in batches, by a thread of its own.

    Args:
        exporter: where they go.
        sampling_ratio: of the traces that begin here; a client that sends `traceparent` has decided for its own.
        instance: what this front door is called.
    """

    def __init__(self, exporter: SpanExporter, sampling_ratio: float, instance: str) -> None:
        ours = Resource({"service.name": SERVICE, "service.instance.id": instance})
        said = OTELResourceDetector().detect()  # by the environment, which has the last word
        resource = Resource.create().merge(ours).merge(said)
        self._provider = TracerProvider(ParentBasedTraceIdRatio(sampling_ratio), resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(SERVICE)
        self._propagator = TraceContextTextMapPropagator()

    def trace(self, exchange: Exchange) -> str:
        """Make the spans of a request that is over; returns the trace's id, 32 hexadecimal digits.

        Empty for a request whose body could not be read, which has none.
        """
        body = exchange.body
        if body is None:
            return ""
        span = self._request_span(exchange, body)
        if span.is_recording():
            inside = set_span_in_context(span, Context())
            for choice, leg in exchange.legs():
                self._add_leg(exchange, inside, choice, leg)
                add_loss(exchange, span, choice, leg)
        span.end(moment_ns(exchange, exchange.ended_s))
        return format_trace_id(span.get_span_context().trace_id)

    def flush(self) -> None:
        """Send what there is. Takes as long as the exporter tries."""
        self._provider.force_flush()

    def close(self) -> None:
        """The same, and no more after it."""
        self._provider.shutdown()

    def _request_span(self, exchange: Exchange, body: GenerationBody) -> Span:
        span = self._tracer.start_span(
            span_name(body),
            self._parent(exchange),
            SpanKind.SERVER,
            request_attributes(exchange, body),
            start_time=exchange.began_ns,
        )
        if exchange.status >= 500 or exchange.error:
            span.set_status(Status(StatusCode.ERROR))
        return span

    def _parent(self, exchange: Exchange) -> Context:
        """Serve's span of this call where Serve traces as well, for that has the client's as its parent; else that."""
        current = get_current_span()
        if current.get_span_context().is_valid:
            return set_span_in_context(current, Context())
        return self._propagator.extract(exchange.headers)

    def _add_leg(self, exchange: Exchange, inside: Context, choice: int, leg: Leg) -> None:
        attributes = leg_attributes(choice, leg)
        for name, began_s, ended_s in leg.phases():
            span = self._tracer.start_span(name, inside, attributes=attributes, start_time=moment_ns(exchange, began_s))
            if leg.loss is not None and ended_s == leg.ended_s:
                span.set_status(Status(StatusCode.ERROR, leg.loss.value))
            span.end(moment_ns(exchange, ended_s))


def add_loss(exchange: Exchange, span: Span, choice: int, leg: Leg) -> None:
    """An event where a worker was lost, after which another one went on."""
    if leg.loss is not None and leg.ended_s is not None:
        attributes = leg_attributes(choice, leg) | {"raydix.loss": leg.loss.name.lower()}
        span.add_event("worker_lost", attributes, moment_ns(exchange, leg.ended_s))


def moment_ns(exchange: Exchange, at_s: float) -> int:
    """A moment of the request's clock since the epoch."""
    return exchange.began_ns + round((at_s - exchange.began_s) * 1e9)
