"""A router over an index that says what each worker holds, for tests."""

import random
from collections.abc import Sequence

from radix.prefix_index import PrefixIndex
from router.cost import CostModel, PrefillCost
from router.expected import ExpectedPrefixes
from router.policies import PolicyName, make_policy
from router.request import RoutingRequest
from router.router import Router

ROOT, BLOCK_SIZE = 0, 16
PROMPT = list(range(1, 11))
NUM_TOKENS = 10 * BLOCK_SIZE + 3
POOL = ["a", "b", "c", "d"]


class Ages(dict[str, float]):
    """Seconds since each worker's events; fresh where nothing is said."""

    def of(self, worker: str) -> float:
        return self.get(worker, 0.0)


def make_router(
    held: dict[str, int] | None = None,
    policy: PolicyName = "prefix",
    cost: CostModel | None = None,
    workers: Sequence[str] = POOL,
    seed: int = 0,
    ages: Ages | None = None,
) -> Router:
    """A router whose index says how many blocks of PROMPT each worker holds. By default waiting costs what it lasts."""
    index = PrefixIndex(ROOT)
    for worker, blocks in (held or {}).items():
        index.insert(worker, PROMPT[:blocks])
    cost = cost or PrefillCost(wait_weight=1.0, over_budget_weight=0.0)
    age_of = (ages or Ages()).of
    expected = ExpectedPrefixes(ROOT)
    router = Router(index, expected, make_policy(policy), cost, BLOCK_SIZE, random.Random(seed), age_of)
    router.set_workers(workers)
    return router


def prompt(
    request_id: str = "r",
    hashes: Sequence[int] = tuple(PROMPT),
    num_tokens: int = NUM_TOKENS,
    session: str | None = None,
) -> RoutingRequest:
    """A request for PROMPT."""
    return RoutingRequest(request_id, hashes, num_tokens, session)


def fill(router: Router, worker: str, num_tokens: int, request_id: str = "other") -> None:
    """Charge a worker with a prompt that nobody holds."""
    request = prompt(request_id, (), num_tokens)
    router.choose(request, 0.0)
    router.place(request, worker, 0.0)
