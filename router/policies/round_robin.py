"""The workers in turn."""

from router.candidate import Candidate
from router.pool import Pool
from router.request import RoutingRequest


class RoundRobin:
    """Each router goes round on its own, from a place of its own."""

    def __init__(self) -> None:
        self._place: int | None = None

    def __call__(self, request: RoutingRequest, pool: Pool, now_s: float) -> list[Candidate]:
        """The next worker only."""
        names = pool.table.names
        if not names:
            return []
        place = pool.rng.randrange(len(names)) if self._place is None else self._place + 1
        self._place = place % len(names)
        return pool.by_load([names[self._place]], request, now_s)
