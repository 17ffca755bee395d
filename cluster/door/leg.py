"""One call to a worker, as the request that is on its way lives through it."""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from cluster.door.failures import Loss
from workers.pools.kv_handoff import Prefilled
from workers.request import Beat, RequestOutput, WorkerTimes


class Phase(NamedTuple):
    """Part of a leg, in seconds of the leg's clock."""

    name: str
    began_s: float
    ended_s: float


class Leg:
    """From the question where to go to the last item that the worker gave.

    Args:
        attempt: the request's, counted from 0.
        clock: seconds, of a clock that does not jump.

    Attributes:
        work: "prefill" or "decode"; empty where it was lost before that was known.
        worker: who had it; empty where nobody gave a sign of life.
        began_s, reached_s, first_s, ended_s: when it was asked where to go, and when the first sign of life, the first
            output and the end came.
        times: where the worker says that its time went before the first output.
        loss: how the worker was lost, if it was.
    """

    def __init__(self, attempt: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.attempt = attempt
        self.work = ""
        self.worker = ""
        self.began_s = clock()
        self.reached_s: float | None = None
        self.first_s: float | None = None
        self.ended_s: float | None = None
        self.times: WorkerTimes | None = None
        self.loss: Loss | None = None

    def take(self, item: object) -> None:
        """The worker gave this."""
        if self.first_s is not None:
            return
        if self.reached_s is None:
            self.reached_s = self._clock()
        if isinstance(item, Beat):
            self.worker = item.worker
        elif isinstance(item, Prefilled | RequestOutput):
            self.first_s, self.times = self._clock(), item.times

    def end(self, loss: Loss | None = None) -> None:
        """It is over, one way or another."""
        self.loss = loss
        if self.ended_s is None:
            self.ended_s = self._clock()

    def phases(self) -> Iterator[Phase]:
        """What it was doing when: route, then what of kv_transfer, queue, prefill and decode it came to.

        The worker's times are laid one after another from its first sign of life on, for that goes out before anything
        else is done. A leg that ended before it had an output was at its work for all that is known.
        """
        ended_s = self.began_s if self.ended_s is None else self.ended_s
        now_s = ended_s if self.reached_s is None else self.reached_s
        yield Phase("route", self.began_s, now_s)
        if self.reached_s is None:
            return
        for name, seconds in self._told():
            began_s, now_s = now_s, min(now_s + seconds, ended_s)
            yield Phase(name, began_s, now_s)
        if self.work == "decode" or self.times is None:
            yield Phase(self.work, now_s, ended_s)

    def _told(self) -> Iterator[tuple[str, float]]:
        """The worker's own account, as far as there is one."""
        if self.times is None:
            return
        if self.times.transfer_s is not None:
            yield "kv_transfer", self.times.transfer_s
        yield "queue", self.times.queue_s
        if self.times.prefill_s:
            yield "prefill", self.times.prefill_s
