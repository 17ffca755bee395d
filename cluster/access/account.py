"""What one tenant may take of one front door, and has taken."""

import math
import time
from collections.abc import Callable

from cluster.access.allowance import Meter
from cluster.access.tenants import Limits
from cluster.api.errors import ApiError

MAX_RETRY_AFTER_S = 60  # OpenAI's clients take no longer time from a server, and come back sooner instead


class Account:
    """One tenant's requests in flight, and what it has used lately. Its limits come with each request: they may change.

    Args:
        clock: seconds, of a clock that does not jump.

    Attributes:
        num_in_flight: requests.
        num_refused: requests that were too many or too large, so far.
        num_tokens: of prompts and completions, so far.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._requests, self._tokens = Meter(clock()), Meter(clock())
        self.num_in_flight = 0
        self.num_refused = 0
        self.num_tokens = 0

    def enter(self, limits: Limits) -> "Visit":
        """Begin a request. Raises ApiError where it is one too many."""
        if limits.concurrent_requests is not None and self.num_in_flight >= limits.concurrent_requests:
            raise self._refusal(f"{limits.concurrent_requests} requests at a time", 1.0)
        if limits.requests_per_minute is not None:
            wait_s = self._requests.wait_s(1, limits.requests_per_minute, self._clock())
            if wait_s > 0:
                raise self._refusal(f"{limits.requests_per_minute} requests a minute", wait_s)
            self._requests.take(1)
        self.num_in_flight += 1
        return Visit(self, limits)

    def charge(self, num_tokens: int, limits: Limits) -> None:
        """Take tokens out of the allowance. Raises ApiError where it does not hold as many."""
        if limits.tokens_per_minute is None:
            return
        wait_s = self._tokens.wait_s(num_tokens, limits.tokens_per_minute, self._clock())
        if wait_s > 0:
            limit = f"{limits.tokens_per_minute} tokens a minute, and this request may come to {num_tokens}"
            raise self._refusal(limit, wait_s)
        self._tokens.take(num_tokens)

    def leave(self, num_charged: int, num_used: int) -> None:
        """End a request, and give back what it did not use of what it was charged for."""
        self.num_in_flight -= 1
        self.num_tokens += num_used
        self._tokens.take(num_used - num_charged)

    def _refusal(self, limit: str, wait_s: float) -> ApiError:
        self.num_refused += 1
        if math.isinf(wait_s):
            message = f"your limit is {limit}: lower max_tokens or n, or shorten the prompt"
            return ApiError(429, message, param="max_tokens", code="rate_limit_exceeded")
        after_s = min(max(math.ceil(wait_s), 1), MAX_RETRY_AFTER_S)
        message = f"your limit is {limit}; try again in {after_s} s"
        return ApiError(429, message, code="rate_limit_exceeded", retry_after_s=after_s)


class Visit:
    """One request of a tenant, from its arrival to the last byte of its answer."""

    def __init__(self, account: Account, limits: Limits) -> None:
        self._account = account
        self._limits = limits
        self._num_charged = 0
        self._used: Callable[[], int] = int

    def charge(self, num_tokens: int, used: Callable[[], int]) -> None:
        """Take what the request may come to, prompt and completions, before anything is computed of it.

        Args:
            used: tells what it has come to; asked at its end.

        Raises:
            ApiError: the allowance does not hold as much.
        """
        self._account.charge(num_tokens, self._limits)
        self._num_charged, self._used = num_tokens, used

    def end(self) -> None:
        """The request is over, whichever way."""
        self._account.leave(self._num_charged, self._used())
