"""How many requests a front door takes at once. Whoever comes beyond is told at once when to come again: a request that
waited here would hold memory and a connection, and its client could not tell a queue from a stall."""

import math
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from cluster.api.errors import ApiError

GENERATION_PATHS = frozenset({"/v1/completions", "/v1/chat/completions"})
MEMORY_S = 10.0  # over which ends and refusals are remembered
MAX_RETRY_AFTER_S = 60  # OpenAI's clients take no longer time from a server, and come back sooner instead


class FadingCount:
    """Counts what happened lately: of an event so many seconds ago, 1/e is left after `MEMORY_S`."""

    def __init__(self, value: float, now_s: float) -> None:
        self._value = value
        self._at_s = now_s

    def at(self, now_s: float) -> float:
        """What is left by now."""
        return self._value * math.exp((self._at_s - now_s) / MEMORY_S)

    def add(self, now_s: float) -> None:
        """It happened once more."""
        self._value, self._at_s = self.at(now_s) + 1, now_s


class Admission:
    """The slots of one front door. Lives on one event loop.

    Args:
        limit: requests in flight.
        clock: seconds, of a clock that does not jump.

    Attributes:
        num_refused: requests that found no slot, so far.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._ended = FadingCount(limit, clock())  # as if each slot had been left once when the door opened
        self._refused = FadingCount(0, clock())
        self.num_in_flight = 0
        self.num_refused = 0

    def enter(self) -> bool:
        """Take a slot, if there is one. Whoever has got it gives it back with `leave`, once."""
        if self.num_in_flight >= self._limit:
            self._refused.add(self._clock())
            self.num_refused += 1
            return False
        self.num_in_flight += 1
        return True

    def leave(self) -> None:
        """Give a slot back."""
        self.num_in_flight -= 1
        self._ended.add(self._clock())

    def retry_after_s(self) -> int:
        """When to come again: in the time that it takes for one request to end for each that was refused lately."""
        now_s = self._clock()
        ends_per_s = max(self._ended.at(now_s), 1e-9) / MEMORY_S  # not 0, which it fades to where nothing ends
        return max(1, math.ceil(min(self._refused.at(now_s) / ends_per_s, MAX_RETRY_AFTER_S)))


class AdmissionMiddleware:
    """Refuses requests for generation that find no slot, with HTTP 429, before their body is so much as looked at.

    A slot is held for as long as the app is busy with a request, and that ends with the last byte of the answer or when
    the client has gone, whichever way it ends.
    """

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        self._app = app
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Called by the server with each request."""
        if not is_generation(scope):
            await self._app(scope, receive, send)
        elif not self._admission.enter():
            await refusal(self._admission.retry_after_s()).response()(scope, receive, send)
        else:
            try:
                await self._app(scope, receive, send)
            finally:
                self._admission.leave()


def is_generation(scope: Scope) -> bool:
    """Whether workers will be asked to do something. All else costs little, and is answered however busy they are."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return False
    return scope["path"].removeprefix(scope.get("root_path", "")) in GENERATION_PATHS


def refusal(retry_after_s: int) -> ApiError:
    """What is said to a request that finds no slot."""
    message = f"too many requests are in flight; try again in {retry_after_s} s"
    return ApiError(429, message, code="queue_full", retry_after_s=retry_after_s)
