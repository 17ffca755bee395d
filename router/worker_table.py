"""The workers of a pool, and which of them each open request is charged to.

A request is charged once, when it is chosen for; it may move (the worker was full, the call was tried again) and is
settled once, however it ended. Only `charge` opens a reservation, so none is left behind by reports that come late,
twice, or in the wrong order.
"""

import statistics
from collections.abc import Iterable, Sequence

from router.reservation import Reservation
from router.worker_state import DEFAULT_TOKENS_PER_S, WorkerReport, WorkerState


class WorkerTable:
    """The states of all workers by name. Times are in seconds of one clock that does not jump."""

    def __init__(self) -> None:
        self.states: dict[str, WorkerState] = {}
        self.names: Sequence[str] = ()
        self._worker_of: dict[str, str] = {}
        self._measured: dict[str, float] = {}  # tokens per second of those that have reported any

    @property
    def num_open(self) -> int:
        """Requests that are charged and not settled."""
        return len(self._worker_of)

    def set_workers(self, names: Iterable[str]) -> None:
        """The pool has exactly these workers. What was charged to those that are gone is settled."""
        known = self.states
        self.states = {name: known.get(name) or WorkerState(self._usual_speed()) for name in names}
        self.names = list(self.states)
        self._measured = {name: speed for name, speed in self._measured.items() if name in self.states}
        for gone in known.keys() - self.states.keys():
            for request_id in known[gone].charges:
                del self._worker_of[request_id]

    def take_report(self, worker: str, report: WorkerReport, now_s: float) -> None:
        """Believe what a worker says of itself; one that is gone is ignored.

        Those that have measured nothing yet are taken to be as fast as the others.
        """
        if worker not in self.states:
            return
        self.states[worker].take_report(report, now_s)
        if report.tokens_per_s > 0:
            self._measured[worker] = report.tokens_per_s
        if len(self._measured) < len(self.states):
            usual = self._usual_speed()
            for name in self.states.keys() - self._measured.keys():
                self.states[name].tokens_per_s = usual

    def charge(self, worker: str, reservation: Reservation, now_s: float) -> None:
        """Open a request's reservation at a worker of the pool; one that is open already moves there."""
        self.settle(reservation.request_id, now_s)
        self.states[worker].charge(reservation, now_s)
        self._worker_of[reservation.request_id] = worker

    def settle(self, request_id: str, now_s: float, worker: str | None = None) -> None:
        """The request ended. With `worker`, only if that is where it is charged: a refusal reported late, after the
        request went elsewhere, ends nothing. Unknown and repeated ids are ignored."""
        at = self._worker_of.get(request_id)
        if at is None or worker not in (None, at):
            return
        del self._worker_of[request_id]
        self.states[at].settle(request_id, now_s)

    def worker_of(self, request_id: str) -> str | None:
        """Where an open request is charged."""
        return self._worker_of.get(request_id)

    def _usual_speed(self) -> float:
        return statistics.fmean(self._measured.values()) if self._measured else DEFAULT_TOKENS_PER_S
