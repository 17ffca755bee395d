"""The policies by name: what each looks at, and that none but prefix looks at the index."""

from collections import Counter

import pytest

from router.cost import PrefillCost
from router.policies import PolicyName, make_policy
from tests.routing import POOL, fill, make_router, prompt

MANY = [f"worker-{n}" for n in range(100)]
WITHOUT_INDEX: list[PolicyName] = ["least_loaded", "power_of_two", "round_robin", "session"]


@pytest.mark.parametrize("policy", WITHOUT_INDEX)
def test_only_prefix_follows_the_index(policy: PolicyName) -> None:
    router = make_router({"b": 10}, policy)
    chosen = [router.choose(prompt(str(n), session=str(n)), 0.0)[0] for n in range(100)]
    assert set(chosen) == set(POOL)
    explanations = [router.explanations.get(str(n)) for n in range(100)]
    assert {explanation.predicted_tokens for explanation in explanations if explanation} == {0}


@pytest.mark.parametrize("policy", ["prefix", *WITHOUT_INDEX])
def test_every_policy_finds_somebody_or_says_that_there_is_nobody(policy: PolicyName) -> None:
    assert make_router({}, policy, workers=[]).choose(prompt(), 0.0) == ()
    for workers in (["only"], POOL, MANY):
        (first, *_) = make_router({}, policy, workers=workers).choose(prompt(session="s"), 0.0)
        assert first in workers


def test_least_loaded_goes_where_the_queue_is_shortest() -> None:
    router = make_router({"a": 10}, "least_loaded")
    for tokens, worker in enumerate(POOL, start=10):
        fill(router, worker, tokens, worker)
    assert list(router.choose(prompt(), 0.0)) == POOL


def test_round_robin_goes_round() -> None:
    router = make_router({}, "round_robin")
    chosen = [router.choose(prompt(str(n)), 0.0)[0] for n in range(8)]
    assert set(chosen[:4]) == set(POOL)
    assert chosen[4:] == chosen[:4]
    assert {make_router({}, "round_robin", seed=s).choose(prompt(), 0.0)[0] for s in range(20)} == set(POOL)


def test_power_of_two_never_takes_the_most_loaded_and_draws_the_others() -> None:
    router = make_router({}, "power_of_two")
    fill(router, "c", 10**6)
    chosen = Counter[str]()
    for n in range(300):
        chosen[router.choose(prompt(str(n)), 0.0)[0]] += 1
        router.settle(str(n), 0.0)
    assert set(chosen) == {"a", "b", "d"}


def test_a_session_stays_with_its_worker_and_few_move_when_one_goes() -> None:
    before = make_router({}, "session", workers=MANY)
    after = make_router({}, "session", workers=MANY[1:], seed=9)
    homes = {n: before.choose(prompt(f"a{n}", session=str(n)), 0.0)[0] for n in range(500)}
    moved = [n for n in range(500) if after.choose(prompt(f"b{n}", session=str(n)), 0.0)[0] != homes[n]]
    assert moved
    assert {homes[n] for n in moved} == {MANY[0]}
    assert max(Counter(homes.values()).values()) < 20, "5 each are expected"


def test_a_session_that_is_full_goes_next_door() -> None:
    ranked = make_router({}, "session").choose(prompt(session="s"), 0.0)
    assert len(set(ranked)) == 3


def test_prefix_in_a_large_pool_finds_the_one_that_holds_it() -> None:
    router = make_router({"worker-77": 10}, workers=MANY)
    for n in range(20):
        assert router.explain(prompt(str(n)), 0.0).candidates[0].worker == "worker-77"


def test_prefix_in_a_large_pool_spreads_what_all_hold() -> None:
    router = make_router(dict.fromkeys(MANY, 10), workers=MANY, cost=PrefillCost())
    chosen = Counter(router.choose(prompt(str(n), num_tokens=1000), 0.0)[0] for n in range(1000))
    assert len(chosen) == 100
    assert max(chosen.values()) < 30, "10 each are expected"


def test_an_unknown_name_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="round_robin"):
        make_policy("random")  # type: ignore[arg-type]
