"""Two workers drawn at random, the less loaded first (Mitzenmacher, 2001)."""

from router.candidate import Candidate
from router.policies.least_loaded import by_queue
from router.pool import Pool
from router.request import RoutingRequest


def power_of_two(request: RoutingRequest, pool: Pool, now_s: float) -> list[Candidate]:
    """Needs no more than two loads to be known, and holds nobody's worst case above all others for long."""
    names = pool.table.names
    drawn = pool.rng.sample(names, min(2, len(names)))
    return by_queue(pool.by_load(drawn, request, now_s), pool)
