"""What metrics cost where they are recorded, in microseconds: one record, one request, one second of a worker.

    python -m bench.metrics [--json]

Needs no cluster: a record goes as far as Ray's recorder in this process. What is exported from there, now and then,
is another thread's work.
"""

import argparse
from collections.abc import Callable

from bench.timing import alternate, show_spreads, spread
from cluster.telemetry import metric_names as names
from cluster.telemetry.ray_metrics import RaySink
from cluster.telemetry.request_metrics import RequestTimer
from cluster.telemetry.worker_metrics import WorkerMetrics
from workers.engine.stats import EngineCounts
from workers.load import WorkerLoad

REPEATS, CALLS, TOKENS = 15, 2000, 100


def cases(sink: RaySink) -> dict[str, Callable[[], object]]:
    """What is timed, once each."""
    worker = WorkerMetrics(sink)

    def request() -> None:
        timer = RequestTimer(sink)
        for _ in range(TOKENS):
            timer.take_tokens(1)
        timer.end("stop", 100)

    return {
        "counter": lambda: sink.record(names.PROMPT_TOKENS, 3),
        "counter with a label": lambda: sink.record(names.REQUEST_SUCCESS, 1, "stop"),
        "gauge": lambda: sink.record(names.NUM_RUNNING, 3),
        "histogram": lambda: sink.record(names.INTER_TOKEN_LATENCY, 0.012),
        f"a request of {TOKENS} tokens": request,
        "a second of a worker": lambda: worker.record(WorkerLoad(), EngineCounts()),
    }


def many(function: Callable[[], object]) -> Callable[[], None]:
    """The same, often enough to be timed."""

    def run() -> None:
        for _ in range(CALLS):
            function()

    return run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    timed = alternate({name: many(case) for name, case in cases(RaySink("tiny", "decode", "w")).items()}, REPEATS)
    found = {name: spread([total_s / CALLS for total_s in seconds]) for name, seconds in timed.items()}
    show_spreads(found, as_json=as_json)


if __name__ == "__main__":
    main()
