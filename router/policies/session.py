"""The worker that a session's name falls to, by consistent hashing (Karger et al., 1997)."""

import hashlib
from bisect import bisect
from collections.abc import Sequence

from router.candidate import Candidate
from router.policies.least_loaded import least_loaded
from router.pool import Pool
from router.request import RoutingRequest

POINTS_PER_WORKER = 64
FALLBACKS = 2  # workers that follow on the ring, for when the first is full


class Session:
    """Every router finds the same worker for a session, and when a worker comes or goes only its share moves."""

    def __init__(self) -> None:
        self._names: Sequence[str] = ()
        self._places: list[int] = []
        self._worker_at: list[str] = []

    def __call__(self, request: RoutingRequest, pool: Pool, now_s: float) -> list[Candidate]:
        """The session's worker and those next to it; a request without a session goes to the least loaded."""
        if request.session is None or not pool.table.names:
            return least_loaded(request, pool, now_s)
        if pool.table.names is not self._names:
            self._build(pool.table.names)
        return pool.by_load(self._following(place_of(request.session)), request, now_s)

    def _build(self, names: Sequence[str]) -> None:
        points = sorted((place_of(f"{name}/{point}"), name) for name in names for point in range(POINTS_PER_WORKER))
        self._names = names
        self._places = [place for place, _ in points]
        self._worker_at = [name for _, name in points]

    def _following(self, place: int) -> list[str]:
        """The first workers from a place of the ring on, each once."""
        found: dict[str, None] = {}
        start = bisect(self._places, place)
        for step in range(len(self._places)):
            found[self._worker_at[(start + step) % len(self._places)]] = None
            if len(found) > FALLBACKS:
                break
        return list(found)


def place_of(name: str) -> int:
    """Where a name lies on the ring, the same in every process."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
