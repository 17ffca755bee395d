"""The router of one pool: overlap against load, charges, bursts, predictions, and an index that is wrong or gone."""

import random
from collections import Counter

import pytest

from router.cost import PrefillCost
from router.worker_state import DEFAULT_TOKENS_PER_S
from tests.routing import BLOCK_SIZE, NUM_TOKENS, POOL, PROMPT, Ages, fill, make_router, prompt


def test_the_worker_that_holds_most_comes_first() -> None:
    explanation = make_router({"b": 4, "c": 9, "d": 1}).explain(prompt(), 0.0)
    assert [(c.worker, c.held_tokens) for c in explanation.candidates] == [("c", 144), ("b", 64), ("d", 16), ("a", 0)]
    assert [c.cost.own * DEFAULT_TOKENS_PER_S for c in explanation.candidates] == pytest.approx([19, 99, 147, 163])


@pytest.mark.parametrize(("queued", "first"), [(60, True), (90, False)])
def test_load_outweighs_overlap_once_it_costs_more_than_the_prefix_saves(queued: int, first: bool) -> None:
    router = make_router({"b": 5})
    fill(router, "b", queued)
    for worker in ("a", "c", "d"):
        fill(router, worker, 1, f"at {worker}")
    assert (router.choose(prompt(), 0.0)[0] == "b") == first


def test_a_choice_is_charged_at_once_and_settled_when_it_ends() -> None:
    router = make_router({"b": 4})
    assert router.choose(prompt(), 0.0)[0] == "b"
    assert router.table.states["b"].reserved_tokens == NUM_TOKENS - 4 * BLOCK_SIZE
    router.settle("r", 1.0)
    assert router.table.states["b"].reserved_tokens == router.table.num_open == 0


def test_a_dry_run_charges_and_remembers_nothing() -> None:
    router = make_router({"b": 4})
    before = router.explain(prompt(), 0.0).candidates
    assert router.explain(prompt(), 0.0).candidates == before
    assert (router.table.num_open, len(router.explanations)) == (0, 0)


def test_a_request_that_goes_elsewhere_is_charged_there_with_what_it_finds_there() -> None:
    router = make_router({"b": 4})
    router.choose(prompt(), 0.0)
    router.place(prompt(), "a", 0.0)
    assert router.table.worker_of("r") == "a"
    assert router.table.states["a"].reserved_tokens == NUM_TOKENS
    assert router.table.states["b"].reserved_tokens == 0
    explanation = router.explanations.get("r")
    assert explanation is not None
    assert (explanation.worker, explanation.lost_tokens) == ("a", 4 * BLOCK_SIZE)


def test_an_end_that_is_heard_of_before_the_placing_leaves_no_charge() -> None:
    router = make_router()
    first = router.choose(prompt(), 0.0)[0]
    router.settle("r", 0.0, first)
    router.place(prompt(), first, 0.0)
    assert router.table.num_open == 0


def test_a_refusal_that_is_reported_late_does_not_end_the_next_attempt() -> None:
    router = make_router()
    first = router.choose(prompt(), 0.0)[0]
    second = next(worker for worker in POOL if worker != first)
    router.place(prompt(), second, 0.0)
    router.settle("r", 0.0, first)
    assert router.table.worker_of("r") == second


def test_a_burst_of_one_new_prompt_stays_together_until_its_worker_is_over_budget() -> None:
    router = make_router(cost=PrefillCost())
    hashes, num_tokens = list(range(100, 1100)), 1000 * BLOCK_SIZE
    chosen = [router.choose(prompt(str(n), hashes, num_tokens), 0.0)[0] for n in range(20)]
    assert len(set(chosen)) == 1, "nobody else holds it, and all but one token of it is expected to be held"
    fill(router, chosen[0], 10 * num_tokens)
    assert router.choose(prompt("late", hashes, num_tokens), 0.0)[0] != chosen[0]


def test_what_was_expected_and_never_shown_by_events_is_forgotten() -> None:
    router = make_router()
    worker = router.choose(prompt(), 0.0)[0]
    held = {c.worker: c.held_tokens for c in router.explain(prompt("s"), 59.0).candidates}
    assert held[worker] == 10 * BLOCK_SIZE
    held = {c.worker: c.held_tokens for c in router.explain(prompt("s"), 61.0).candidates}
    assert set(held.values()) == {0}


def test_equals_are_drawn_the_same_way_for_the_same_seed() -> None:
    chosen = []
    for _ in range(2):
        router = make_router(seed=5)
        picks = []
        for n in range(400):
            picks.append(router.choose(prompt(str(n), ()), 0.0)[0])
            router.settle(str(n), 0.0)
        chosen.append(picks)
    assert chosen[0] == chosen[1]
    assert min(Counter(chosen[0])[worker] for worker in POOL) > 80, "100 each are expected"


@pytest.mark.parametrize(("age_s", "credited"), [(0.0, 160), (3.0, 160), (9.0, 80), (15.0, 0), (float("inf"), 0)])
def test_an_old_index_is_believed_less(age_s: float, credited: float) -> None:
    router = make_router({"b": 10}, ages=Ages(b=age_s))
    (candidate,) = [c for c in router.explain(prompt(), 0.0).candidates if c.worker == "b"]
    assert candidate.held_tokens == 160
    assert candidate.credited_tokens == pytest.approx(credited)


def test_predictions_are_held_against_what_the_worker_found() -> None:
    router = make_router({"a": 10, "b": 4}, workers=["b"])
    for request_id, actual in (("over", 16), ("right", 64), ("under", 96)):
        router.choose(prompt(request_id), 0.0)
        router._expected._young.drop("b")
        router.settle(request_id, 0.0)
        router.observe(request_id, actual, 0.0)
        router.observe(request_id, actual, 0.0)
    router.observe("of another router", 7, 0.0)
    counts = router.counts
    assert (counts.num_requests, counts.predicted_tokens, counts.actual_tokens) == (3, 192, 176)
    assert (counts.overpredicted_tokens, counts.underpredicted_tokens) == (48, 32)


def test_a_worker_whose_index_lies_is_believed_less_and_less() -> None:
    router = make_router({"b": 10})
    lost = 0
    for n in range(60):
        lost += router.choose(prompt(str(n), PROMPT[:10]), 100.0 * n)[0] == "b"
        router.settle(str(n), 100.0 * n)
        router.observe(str(n), 0, 0.0)
    assert 5 < lost < 45, "at first always, in the end as often as any other"


def test_an_index_that_names_others_or_nobody_is_no_error() -> None:
    router = make_router({"gone": 10, "b": 1})
    assert router.choose(prompt(), 0.0)[0] == "b"
    router.set_workers([])
    assert router.choose(prompt("s"), 0.0) == ()
    assert router.table.num_open == 0
    router.set_workers(["new"])
    assert router.choose(prompt("t"), 0.0) == ["new"]


def test_twenty_prompt_groups_spread_over_two_idle_workers() -> None:
    """Each group shares a prefix. Sticking to it is right; sticking all of them to one worker is not."""
    for seed in range(5):
        router = make_router(workers=["a", "b"], seed=seed)
        rng = random.Random(seed)
        held: dict[str, set[int]] = {"a": set(), "b": set()}
        hits, share, seen, ideal = 0, Counter[str](), set[int](), 0
        for n in range(400):
            group = rng.randrange(20)
            hashes = [1000 * group + block for block in range(1, 61)] + [10**6 + n]
            now_s = 0.5 * n
            worker = router.choose(prompt(str(n), hashes, 62 * BLOCK_SIZE), now_s)[0]
            router.settle(str(n), now_s + 0.4)
            share[worker] += 1
            hits += len(held[worker] & set(hashes))
            ideal += len(seen & set(hashes))
            held[worker] |= set(hashes)
            seen |= set(hashes)
            router._pool._index.insert(worker, hashes)
        assert max(share.values()) <= 0.6 * 400, f"seed {seed}: {share}"
        assert hits >= 0.95 * ideal, f"seed {seed}: {hits} of {ideal}"


def test_what_workers_found_often_is_hot() -> None:
    """By what they say, not by what was believed; to sixteen blocks."""
    router = make_router()
    shared = list(range(1, 33))
    for number, found in enumerate([20, 33, 15]):
        router.choose(prompt(str(number), [*shared, 100 + number]), 0.0)
        router.observe(str(number), found * BLOCK_SIZE, float(number))
    listed = [(hot.num_blocks, hot.last_hash, hot.num_hits, hot.last_used) for hot in router.hottest(5)]
    assert listed == [(16, 16, 2, 1.0), (32, 32, 1, 1.0)]
    assert router.hottest(1) == router.hottest(5)[:1]
