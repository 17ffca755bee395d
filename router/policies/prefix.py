"""The worker with the lowest cost: what it does not hold of the prompt, and what it has to do before."""

from router.candidate import Candidate
from router.pool import Pool
from router.request import RoutingRequest

NEAR = 0.01  # costs that differ by less than this part, or by a thousandth of a unit, count as equal
NEAR_AT_LEAST = 0.001


def prefix(request: RoutingRequest, pool: Pool, now_s: float) -> list[Candidate]:
    """In the order of cost. Of those that cost about the same, the one of two drawn at random that was charged less of
    late comes first: never the first by name, or all routers of a quiet cluster would send everything to it."""
    ranked = sorted(pool.overlapping(request, now_s), key=lambda candidate: candidate.cost.total)
    if len(ranked) < 2:
        return ranked
    limit = ranked[0].cost.total * (1 + NEAR) + NEAR_AT_LEAST
    near = 1
    while near < len(ranked) and ranked[near].cost.total <= limit:
        near += 1
    if near > 1:
        states = pool.table.states
        drawn = pool.rng.sample(range(near), 2)
        fresher = min(drawn, key=lambda place: states[ranked[place].worker].charged_lately(now_s))
        ranked.insert(0, ranked.pop(fresher))
    return ranked
