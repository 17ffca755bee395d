"""What can befall a request on its way, and what a front door remembers of it."""

import asyncio
import hashlib
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import replace
from enum import Enum

from radix.block_hash import token_bytes
from workers.request import GenerationRequest

RETRY_RATIO, RETRY_BURST = 0.1, 256.0  # one worker may hold many requests, and all of them may try again once
QUARANTINE_S, MAX_QUARANTINED = 600.0, 1024
NO_WORKER_TIMEOUT_S = 60.0
TOGETHER_S = 0.25  # deaths of requests that one worker had are noticed within so long of each other


class Loss(Enum):
    """How a worker was lost to a request."""

    DIED = "its process or its engine failed, or the engine hangs"
    ABSENT = "it was gone before it gave a sign of life"
    SILENT = "it gives no sign of life"
    LEFT = "it was asked to stop"
    UNREACHED = "the request was never sent"

    @property
    def is_death(self) -> bool:
        """Whether the request may be the cause."""
        return self is Loss.DIED


class WorkerLostError(Exception):
    """The worker that has the request, or was to get it, is gone."""

    def __init__(self, loss: Loss) -> None:
        super().__init__(loss.value)
        self.loss = loss


class QuarantinedError(Exception):
    """Two workers died while they had this request. It is not tried again, nor is one like it for a while."""


class NoWorkerError(Exception):
    """Nobody can serve the request now; it may be sent again later."""


class TimeIsOverError(Exception):
    """The request has taken longer than it may."""


class RequestFailures:
    """A budget for retries and a list of requests that workers died of. One for each front door.

    Args:
        no_worker_timeout_s: how long a request looks for somebody to take it.
        clock: seconds, of a clock that does not jump.

    Attributes:
        num_resumed: times that a request went on after it had lost its worker.
    """

    def __init__(
        self, no_worker_timeout_s: float = NO_WORKER_TIMEOUT_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.no_worker_timeout_s = no_worker_timeout_s
        self._clock = clock
        self._retries_left = RETRY_BURST
        self.num_resumed = 0
        self._quarantined: OrderedDict[bytes, float] = OrderedDict()
        self._second_deaths_s: deque[float] = deque(maxlen=MAX_QUARANTINED)
        self.isolation = asyncio.Lock()  # held by the one suspect that may be tried

    def admit(self, request: GenerationRequest) -> None:
        """Count a request. Raises QuarantinedError for one that workers died of lately."""
        until_s = self._quarantined.get(digest(request))
        if until_s is not None and self._clock() < until_s:
            raise QuarantinedError
        self._retries_left = min(self._retries_left + RETRY_RATIO, RETRY_BURST)

    def may_retry(self) -> bool:
        """Take one retry out of the budget: a tenth of the requests, or a burst."""
        if self._retries_left < 1:
            return False
        self._retries_left -= 1
        self.num_resumed += 1
        return True

    async def died_alone(self) -> bool:
        """Whether one request only had its second death now. Several cannot all be the cause."""
        now_s = self._clock()
        self._second_deaths_s.append(now_s)
        await asyncio.sleep(TOGETHER_S)
        return sum(abs(then_s - now_s) <= TOGETHER_S for then_s in self._second_deaths_s) == 1

    def quarantine(self, request: GenerationRequest) -> None:
        """Refuse requests like this one for a while."""
        name = digest(request)
        self._quarantined[name] = self._clock() + QUARANTINE_S
        self._quarantined.move_to_end(name)
        if len(self._quarantined) > MAX_QUARANTINED:
            self._quarantined.popitem(last=False)


def digest(request: GenerationRequest) -> bytes:
    """Names a request by what it asks, whoever asks."""
    sampling = repr(replace(request.sampling, seed=None)).encode()  # a door gives each request a seed of its own
    return hashlib.blake2b(sampling + token_bytes(request.prompt_token_ids), digest_size=16).digest()
