"""What it costs a front door to tell of a request afterwards, in microseconds: its legs, its log line, its spans.

    python -m bench.telemetry [--json]

Needs no cluster and no collector. A request has gone through a prefill and a decode worker and generated 100 tokens;
its line is written to a file, as Serve does it. To encode its spans for the wire is another thread's work, but of the
same process.
"""

import argparse
import logging
import tempfile
from collections.abc import Callable, Sequence

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from ray.serve._private.logging_utils import configure_component_logger
from ray.serve.schema import LoggingConfig

from bench.timing import alternate, show_spreads, spread
from cluster.api.protocol import CompletionBody
from cluster.door.batch import Batch
from cluster.door.completion import Completion
from cluster.door.journey import Journey
from cluster.door.leg import Leg
from cluster.telemetry.access_log import access_logger, tell
from cluster.telemetry.config import LogsSection
from cluster.telemetry.exchange import Exchange
from cluster.telemetry.ray_metrics import RaySink
from cluster.telemetry.request_metrics import RequestTimer
from cluster.telemetry.tracing import Tracer
from workers.request import Beat, GenerationRequest, RequestOutput, SamplingParams, WorkerTimes
from workers.tokenizer import Tokenizer
from workers.weights.model_dir import TINY_MODEL

REPEATS, CALLS, TOKENS = 15, 100, 100
NOT_SAMPLED = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"}


class Encoding(SpanExporter):
    """Encodes spans and sends them nowhere."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        encode_spans(spans).SerializeToString()
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Nothing is open."""


class Dropping(Encoding):
    """Does nothing with them."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def legs_of() -> list[Leg]:
    """Two calls to workers as a journey keeps them, an item for each token."""
    legs = [Leg(0), Leg(0)]
    for leg, work, count in zip(legs, ("prefill", "decode"), (1, TOKENS - 1), strict=True):
        leg.work = work
        leg.take(Beat("10.0.0.5:1234", "lre8qfm5"))
        output = RequestOutput("r", (1,), 0, times=WorkerTimes(1e-3, 1e-3, 1e-3))
        for _ in range(count):
            leg.take(output)
        leg.end()
    return legs


def exchange_of(headers: dict[str, str]) -> Exchange:
    """A request that is over."""
    request = GenerationRequest("cmpl-1", (1,) * 100, SamplingParams(max_tokens=TOKENS))
    completion = Completion(request, Tokenizer(TINY_MODEL), (), RequestTimer(RaySink("tiny", "ingress", "i")))
    completion.legs, completion.ending, completion.num_tokens = legs_of(), "length", TOKENS

    def journey_of(_: Completion) -> Journey:
        raise AssertionError("it has been made")

    exchange = Exchange("POST", "/v1/completions", "an-id", headers, status=200, answer_id="cmpl-1")
    exchange.body = CompletionBody(model="tiny", prompt="x", max_tokens=TOKENS)
    exchange.batch = Batch([[completion]], journey_of)
    exchange.end(None)
    return exchange


def many(function: Callable[[], object]) -> Callable[[], None]:
    """The same, often enough to be timed."""

    def run() -> None:
        for _ in range(CALLS):
            function()

    return run


def cases() -> dict[str, Callable[[], object]]:
    """What is timed, once each."""
    exchange, unsampled = exchange_of({}), exchange_of(NOT_SAMPLED)
    dropping, encoding = (Tracer(exporter, 1.0, "i") for exporter in (Dropping(), Encoding()))

    def encoded() -> None:
        encoding.trace(exchange)
        encoding.flush()

    return {
        f"legs of {TOKENS} tokens": legs_of,
        "a line of the log": lambda: tell(exchange, None),
        "spans": lambda: dropping.trace(exchange),
        "spans, not sampled": lambda: dropping.trace(unsampled),
        "spans, encoded": encoded,
    }


def log_to(directory: str) -> None:
    """As a replica does, in JSON."""
    config = LoggingConfig(**LogsSection(encoding="json").for_serve, logs_dir=directory)
    configure_component_logger(
        component_name="ingress", component_id="i", logging_config=config, max_bytes=2**30, backup_count=1
    )
    access_logger.setLevel(logging.INFO)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    with tempfile.TemporaryDirectory() as directory:
        log_to(directory)
        timed = alternate({name: many(case) for name, case in cases().items()}, REPEATS)
    found = {name: spread([total_s / CALLS for total_s in seconds]) for name, seconds in timed.items()}
    show_spreads(found, as_json=as_json)


if __name__ == "__main__":
    main()
