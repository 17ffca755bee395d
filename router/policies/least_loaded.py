"""The worker with the least to do, whatever it holds."""

from router.candidate import Candidate
from router.pool import SMALL_POOL, Pool
from router.request import RoutingRequest


def least_loaded(request: RoutingRequest, pool: Pool, now_s: float) -> list[Candidate]:
    """By length of queue, among all workers of a small pool and a sample of a large one; ties are drawn."""
    return by_queue(pool.by_load(pool.sample(SMALL_POOL), request, now_s), pool)


def by_queue(candidates: list[Candidate], pool: Pool) -> list[Candidate]:
    """Sorted by what stands before the request; equals in a drawn order."""
    pool.rng.shuffle(candidates)
    return sorted(candidates, key=lambda candidate: candidate.cost.queue)
