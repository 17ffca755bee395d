"""What the router itself knows of each worker's load: the requests it has sent there and not seen finish."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reservation:
    """Work charged to a worker for one request, in tokens."""

    worker: str
    num_tokens: int


class WorkerTable:
    """Outstanding tokens per worker. A request is charged when it is routed and settled once when it ends."""

    def __init__(self) -> None:
        self._reservations: dict[str, Reservation] = {}
        self._outstanding: dict[str, int] = {}

    def outstanding_tokens(self, worker: str) -> int:
        """Tokens of all requests charged to the worker and not yet settled."""
        return self._outstanding.get(worker, 0)

    def charge(self, request_id: str, worker: str, num_tokens: int) -> None:
        """Charge a request to a worker; a request that was charged before moves there (a retry)."""
        self.settle(request_id)
        self._reservations[request_id] = Reservation(worker, num_tokens)
        self._outstanding[worker] = self.outstanding_tokens(worker) + num_tokens

    def settle(self, request_id: str) -> None:
        """The request ended, however it ended. Unknown and repeated ids are ignored: Serve may report twice."""
        reservation = self._reservations.pop(request_id, None)
        if reservation is None:
            return
        left = self.outstanding_tokens(reservation.worker) - reservation.num_tokens
        if left:
            self._outstanding[reservation.worker] = left
        else:
            self._outstanding.pop(reservation.worker, None)
