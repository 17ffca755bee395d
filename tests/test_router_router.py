"""The router of one pool: overlap against load, ties, stale indexes, and nobody lost from the ranking."""

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from radix.events import BlocksStored
from radix.prefix_index import PrefixIndex
from router.router import Router
from router.scoring import DECODE_SCORING, PREFILL_SCORING, Scoring

ROOT, BLOCK_SIZE = 0, 16
PROMPT = list(range(1, 11))
NUM_TOKENS = 10 * BLOCK_SIZE + 3
POOL = ["a", "b", "c", "d"]


def make_router(held: dict[str, int] | None = None, scoring: Scoring = PREFILL_SCORING, seed: int = 0) -> Router:
    """A router whose index says how many blocks of PROMPT each worker holds."""
    index = PrefixIndex(ROOT)
    for worker, blocks in (held or {}).items():
        index.apply(worker, BlocksStored(ROOT, 0, PROMPT[:blocks]))
    return Router(index, scoring, BLOCK_SIZE, random.Random(seed))


def best(router: Router) -> str:
    return router.rank(PROMPT, NUM_TOKENS, POOL)[0].worker


def test_the_worker_that_holds_most_comes_first() -> None:
    ranking = make_router({"b": 4, "c": 9, "d": 1}).rank(PROMPT, NUM_TOKENS, POOL)
    assert [(choice.worker, choice.num_held_tokens) for choice in ranking] == [
        ("c", 144),
        ("b", 64),
        ("d", 16),
        ("a", 0),
    ]
    assert [choice.cost for choice in ranking] == [19, 99, 147, 163]


def test_load_outweighs_overlap_once_it_costs_more_than_the_prefix_saves() -> None:
    router = make_router({"b": 4})
    for worker in ("a", "c", "d"):
        router.workers.charge(f"other {worker}", worker, 5)
    router.workers.charge("r", "b", 4 * BLOCK_SIZE + 4)
    assert best(router) == "b"
    router.workers.charge("r", "b", 4 * BLOCK_SIZE + 6)
    assert best(router) != "b"
    router.workers.settle("r")
    assert best(router) == "b"


def test_a_decode_pool_follows_load_sooner() -> None:
    for scoring, expected in ((PREFILL_SCORING, True), (DECODE_SCORING, False)):
        router = make_router({"b": 8}, scoring)
        router.workers.charge("r", "b", 4 * BLOCK_SIZE)
        assert (best(router) == "b") == expected


def test_ranking_charges_nothing() -> None:
    router = make_router({"b": 4})
    assert best(router) == best(router) == "b"
    assert [router.workers.outstanding_tokens(worker) for worker in POOL] == [0, 0, 0, 0]


def test_ties_are_broken_at_random_but_the_same_way_for_the_same_seed() -> None:
    first, second = make_router(seed=5), make_router(seed=5)
    choices = [best(first) for _ in range(400)]
    assert choices == [best(second) for _ in range(400)]
    assert set(Counter(choices)) == set(POOL)
    assert min(Counter(choices).values()) > 60, "100 each are expected"


def test_a_tie_never_beats_a_better_worker() -> None:
    router = make_router({"a": 2, "b": 2, "c": 1})
    for _ in range(50):
        ranking = [choice.worker for choice in router.rank(PROMPT, NUM_TOKENS, POOL)]
        assert set(ranking[:2]) == {"a", "b"}
        assert ranking[2:] == ["c", "d"]


def test_without_an_index_load_is_balanced() -> None:
    router = make_router()
    for request in range(400):
        router.workers.charge(str(request), best(router), NUM_TOKENS)
    assert [router.workers.outstanding_tokens(worker) for worker in POOL] == [100 * NUM_TOKENS] * 4


def test_workers_that_only_the_index_knows_are_left_out() -> None:
    router = make_router({"gone": 10, "b": 1})
    assert sorted(choice.worker for choice in router.rank(PROMPT, NUM_TOKENS, POOL)) == POOL
    assert best(router) == "b"
    assert [choice.worker for choice in router.rank(PROMPT, NUM_TOKENS, ["a"])] == ["a"]
    assert router.rank(PROMPT, NUM_TOKENS, []) == []


def test_a_prompt_without_a_full_block_is_ranked_by_load() -> None:
    router = make_router({"b": 10})
    for worker in ("a", "b", "d"):
        router.workers.charge(worker, worker, 1)
    assert router.rank([], 5, POOL)[0].worker == "c"


names = st.lists(st.sampled_from("abcdefgh"), unique=True)


@given(
    candidates=names,
    held=st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 10)),
    loads=st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 500)),
    seed=st.integers(0, 9),
)
@settings(deadline=None)
def test_a_ranking_is_the_candidates_in_order_of_cost(
    candidates: list[str], held: dict[str, int], loads: dict[str, int], seed: int
) -> None:
    router = make_router(held, seed=seed)
    for worker, load in loads.items():
        router.workers.charge(f"request at {worker}", worker, load)
    ranking = router.rank(PROMPT, NUM_TOKENS, candidates)
    assert sorted(choice.worker for choice in ranking) == sorted(candidates)
    costs = {name: NUM_TOKENS - 16 * held.get(name, 0) + loads.get(name, 0) for name in candidates}
    assert [choice.cost for choice in ranking] == sorted(costs.values())
    assert all(choice.cost == costs[choice.worker] for choice in ranking)
