"""A request as its client lives through it, whatever workers it goes through."""

import time
from collections.abc import Callable

from cluster.telemetry import metric_names as names
from cluster.telemetry.metric_sink import Sink

ENDINGS = ("stop", "length")
ABORT, ERROR = "abort", "error"


class RequestTimer:
    """Times one request, from its arrival on.

    Args:
        sink: where what is measured goes.
        clock: seconds, of a clock that does not jump.
    """

    def __init__(self, sink: Sink, clock: Callable[[], float] = time.monotonic) -> None:
        self._sink = sink
        self._clock = clock
        self._arrived_s = clock()
        self._last_s = self._arrived_s
        self._num_tokens = 0

    def take_tokens(self, count: int) -> None:
        """So many tokens have come together, and share the time since the last one."""
        now_s = self._clock()
        if self._num_tokens == 0 and count:
            self._sink.record(names.TIME_TO_FIRST_TOKEN, now_s - self._arrived_s)
        elif count:
            for _ in range(count):
                self._sink.record(names.INTER_TOKEN_LATENCY, (now_s - self._last_s) / count)
        self._num_tokens += count
        self._last_s = now_s

    def end(self, reason: str, num_prompt_tokens: int) -> None:
        """It has ended: by a finish reason of the API, `ABORT` or `ERROR`."""
        self._sink.record(names.REQUEST_SUCCESS, 1, reason)
        if reason in ENDINGS:
            self._sink.record(names.E2E_LATENCY, self._clock() - self._arrived_s)
            self._sink.record(names.REQUEST_PROMPT_TOKENS, num_prompt_tokens)
            self._sink.record(names.REQUEST_GENERATION_TOKENS, self._num_tokens)


def announce(sink: Sink) -> None:
    """Have the counts of all reasons appear, at 0."""
    for reason in (*ENDINGS, ABORT, ERROR):
        sink.record(names.REQUEST_SUCCESS, 0, reason)
