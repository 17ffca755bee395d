"""The cost of a choice: what is held lowers it, what waits raises it, and over budget it rises faster."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.cost import DecodeCost, PrefillCost
from router.reservation import Reservation
from router.worker_state import WorkerReport, WorkerState

tokens = st.integers(1, 10**6)


def worker(queued: int = 0, *, tokens_per_s: float = 100.0, free: int | None = None, blocks: int = 0) -> WorkerState:
    state = WorkerState(tokens_per_s)
    if free is not None:
        state.take_report(WorkerReport(free_blocks=free), 0.0)
    state.charge(Reservation("r", queued, blocks), 0.0)
    return state


def test_prefill_costs_seconds() -> None:
    cost = PrefillCost(wait_weight=0.5, budget_s=2.0, over_budget_weight=0.25)
    assert cost(worker(100), 300, 200, 0.0) == (1.0, 0.5)
    assert cost(worker(400), 300, 200, 0.0) == (1.0, 0.5 * 4 + 0.25 * 2)
    assert cost(worker(400, tokens_per_s=200.0), 300, 200, 0.0) == (0.5, 1.0)
    assert cost(worker(400), 300, 200, 0.0).total == 3.5


def test_the_last_token_is_always_computed() -> None:
    assert PrefillCost()(worker(), 300, 300, 0.0).own == 0.01


@given(prompt=tokens, held=tokens, queued=tokens)
def test_holding_more_never_costs_more_and_waiting_longer_never_less(prompt: int, held: int, queued: int) -> None:
    for cost in (PrefillCost(), DecodeCost(16)):
        before = cost(worker(queued, blocks=queued), prompt, held, 0.0).total
        assert cost(worker(queued, blocks=queued), prompt, held + 16, 0.0).total <= before
        assert cost(worker(queued + 16, blocks=queued + 1), prompt, held, 0.0).total > before


def test_decode_costs_blocks_and_those_that_are_missing_several_times() -> None:
    cost = DecodeCost(16, overlap_weight=0.25, shortage_weight=4.0)
    assert cost(worker(blocks=7), 320, 0, 0.0) == (20, 7)
    assert cost(worker(blocks=7), 320, 160, 0.0) == (17.5, 7)
    assert cost(worker(free=27, blocks=7), 320, 0, 0.0) == (20, 7)
    assert cost(worker(free=22, blocks=7), 320, 0, 0.0) == (20 + 4 * 5, 7)


def test_what_other_routers_decode_counts_as_requests_like_this_one() -> None:
    state = WorkerState()
    state.take_report(WorkerReport(free_blocks=1000, num_running=3), 0.0)
    assert DecodeCost(16)(state, 320, 0, 0.0).queue == 60


def test_a_worker_waits_for_a_prefix_as_long_as_the_weight_says() -> None:
    cost = PrefillCost(wait_weight=0.5, budget_s=100.0)
    elsewhere = cost(worker(), 1000, 0, 0.0).total
    assert cost(worker(1500), 1000, 800, 0.0).total < elsewhere
    assert cost(worker(1700), 1000, 800, 0.0).total > elsewhere
    assert pytest.approx(elsewhere) == cost(worker(1600), 1000, 800, 0.0).total
