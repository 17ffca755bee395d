"""Reservations: every charge is settled once, however often and in whatever order that is reported."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.reservation import Reservation
from router.worker_state import WorkerReport
from router.worker_table import WorkerTable

WORKERS = ("a", "b", "c")
charges = st.tuples(st.just("charge"), st.sampled_from("rst"), st.sampled_from(WORKERS), st.integers(0, 2))
endings = st.tuples(
    st.just("settle"), st.sampled_from("rst"), st.sampled_from([*WORKERS, None, "never seen"]), st.just(0)
)
pools = st.tuples(st.just("pool"), st.just(""), st.sampled_from(WORKERS), st.booleans().map(int))
Step = tuple[str, str, str | None, int]


def make_table() -> WorkerTable:
    table = WorkerTable()
    table.set_workers(WORKERS)
    return table


def reserved(table: WorkerTable) -> dict[str, int]:
    return {name: state.reserved_tokens for name, state in table.states.items()}


def test_charges_add_up_per_worker() -> None:
    table = make_table()
    table.charge("a", Reservation("r", 10, 1), 0.0)
    table.charge("a", Reservation("s", 5, 1), 0.0)
    table.charge("b", Reservation("t", 7, 3), 0.0)
    assert reserved(table) == {"a": 15, "b": 7, "c": 0}
    assert [table.states[name].reserved_blocks for name in WORKERS] == [2, 3, 0]


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_request_is_settled_once(times: int) -> None:
    table = make_table()
    table.charge("a", Reservation("r", 10, 1), 0.0)
    table.charge("a", Reservation("s", 5, 1), 0.0)
    for _ in range(times):
        table.settle("r", 1.0)
    assert reserved(table) == {"a": 5, "b": 0, "c": 0}


def test_a_worker_that_is_gone_takes_its_charges_along_and_a_report_of_it_is_ignored() -> None:
    table = make_table()
    table.charge("a", Reservation("r", 10, 1), 0.0)
    table.set_workers(["b"])
    assert (table.num_open, table.worker_of("r")) == (0, None)
    table.settle("r", 1.0, "a")
    table.take_report("a", WorkerReport(queued_tokens=9), 1.0)
    assert reserved(table) == {"b": 0}


def test_a_worker_that_has_measured_nothing_is_taken_to_be_as_fast_as_the_others() -> None:
    table = make_table()
    table.take_report("a", WorkerReport(tokens_per_s=100.0), 0.0)
    table.take_report("b", WorkerReport(tokens_per_s=300.0), 0.0)
    table.take_report("c", WorkerReport(), 0.0)
    assert [table.states[name].tokens_per_s for name in WORKERS] == [100, 300, 200]
    table.set_workers([*WORKERS, "new"])
    assert table.states["new"].tokens_per_s == 200
    table.take_report("c", WorkerReport(tokens_per_s=50.0), 1.0)
    assert (table.states["c"].tokens_per_s, table.states["new"].tokens_per_s) == (50, 150)


@given(history=st.lists(charges | endings | pools, max_size=40))
@settings(deadline=None)
def test_any_history_leaves_the_sum_of_what_is_open(history: list[Step]) -> None:
    table, pool, expected = make_table(), list(WORKERS), dict[str, tuple[str, int]]()
    for kind, request, worker, value in history:
        if kind == "pool":
            pool = [name for name in WORKERS if name != worker or value]
            table.set_workers(pool)
            expected = {name: charge for name, charge in expected.items() if charge[0] in pool}
        elif kind == "charge" and worker in pool:
            table.charge(worker, Reservation(request, value, 1), 0.0)
            expected[request] = (worker, value)
        elif kind == "settle":
            table.settle(request, 0.0, worker)
            if worker in (None, expected.get(request, (None, 0))[0]):
                expected.pop(request, None)
        assert reserved(table) == {name: sum(n for at, n in expected.values() if at == name) for name in pool}
        assert table.num_open == len(expected) == sum(len(state.charges) for state in table.states.values())
