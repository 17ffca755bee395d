"""Outstanding work per worker: every charge is settled once, however often and in whatever order that is reported."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.worker_table import WorkerTable

WORKERS = ("a", "b", "c")
charges = st.tuples(st.sampled_from("rst"), st.sampled_from(WORKERS[:2]), st.integers(0, 2))
settlements = st.tuples(st.sampled_from("rst"), st.none(), st.just(0))


def outstanding(table: WorkerTable) -> list[int]:
    return [table.outstanding_tokens(worker) for worker in WORKERS]


def test_charges_add_up_per_worker() -> None:
    table = WorkerTable()
    assert outstanding(table) == [0, 0, 0]
    table.charge("r", "a", 10)
    table.charge("s", "a", 5)
    table.charge("t", "b", 7)
    assert outstanding(table) == [15, 7, 0]


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_request_is_settled_once(times: int) -> None:
    table = WorkerTable()
    table.charge("r", "a", 10)
    table.charge("s", "a", 5)
    for _ in range(times):
        table.settle("r")
    assert outstanding(table) == [5, 0, 0]


def test_settling_an_unknown_request_changes_nothing() -> None:
    table = WorkerTable()
    table.settle("never seen")
    table.charge("r", "a", 10)
    table.settle("never seen")
    assert outstanding(table) == [10, 0, 0]


def test_a_retry_moves_the_charge() -> None:
    table = WorkerTable()
    table.charge("r", "a", 10)
    table.charge("r", "b", 4)
    assert outstanding(table) == [0, 4, 0]
    table.settle("r")
    assert outstanding(table) == [0, 0, 0]


def test_a_charge_of_no_tokens_is_settled_like_any_other() -> None:
    """A prompt that a worker holds whole costs it nothing."""
    table = WorkerTable()
    table.charge("r", "a", 0)
    table.charge("s", "a", 5)
    table.settle("s")
    table.settle("r")
    assert outstanding(table) == [0, 0, 0]


@given(history=st.lists(charges | settlements, max_size=30))
@settings(deadline=None)
def test_any_history_leaves_the_sum_of_what_is_open(history: list[tuple[str, str | None, int]]) -> None:
    table, open_charges = WorkerTable(), dict[str, tuple[str, int]]()
    for request, worker, num_tokens in history:
        if worker is None:
            table.settle(request)
            open_charges.pop(request, None)
        else:
            table.charge(request, worker, num_tokens)
            open_charges[request] = (worker, num_tokens)
        expected = [sum(tokens for at, tokens in open_charges.values() if at == worker) for worker in WORKERS]
        assert outstanding(table) == expected
