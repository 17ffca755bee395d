"""A question to the router of a pool, put from the same process through the pool's handle."""

from concurrent.futures import Future
from dataclasses import dataclass, field

from router.explanation import Json
from router.request import RoutingRequest


@dataclass(frozen=True)
class RouteQuestion:
    """How a request would be routed now, or why one was routed as it was, or what became of where it went.

    It is given to a method of the pool's handle as a request would be, and so reaches the pool's router in the router's
    own thread. The router answers and lets the call wait, for it is never sent to a worker: whoever asks cancels it.

    Attributes:
        dry_run: the request to decide for; nothing is charged.
        request_id: the request to look up, where there is no `dry_run`; without either, the router's counts are asked
            for.
        workers: ask who there is.
        left: the request whose worker is asked after: whether it has been taken out of the pool.
        answer: an explanation, empty where there is none, or the counts, or `{"left": whether}`, or
            `{"workers": {name: endpoint of its own port}}`.
    """

    dry_run: RoutingRequest | None = None
    request_id: str = ""
    workers: bool = False
    left: str = ""
    answer: Future[Json] = field(default_factory=Future)
