"""The load of one worker: what is charged, what has been computed of it since, what others have sent."""

import pytest

from router.reservation import Reservation
from router.worker_state import DEFAULT_TOKENS_PER_S, WorkerReport, WorkerState


def busy(*num_tokens: int, tokens_per_s: float = 100.0) -> WorkerState:
    """A worker of this speed with these prompts in its queue since second 0."""
    state = WorkerState()
    state.take_report(WorkerReport(tokens_per_s=tokens_per_s), 0.0)
    for place, count in enumerate(num_tokens):
        state.charge(Reservation(str(place), count, 1), 0.0)
    return state


def test_the_queue_is_what_is_charged_at_the_speed_that_is_reported() -> None:
    assert busy(100, 50).queue_s(0.0) == 1.5
    assert busy(100, tokens_per_s=0.0).queue_s(0.0) == 100 / DEFAULT_TOKENS_PER_S


def test_the_head_is_worked_on_and_no_more_than_the_head() -> None:
    state = busy(100, 50)
    assert [state.queue_s(now_s) for now_s in (0.4, 1.0, 9.0)] == pytest.approx([1.1, 0.5, 0.5])
    state.settle("0", 9.0)
    assert state.queue_s(9.2) == pytest.approx(0.3)
    state.settle("1", 9.5)
    assert state.queue_s(9.5) == 0


def test_work_begins_when_there_is_some() -> None:
    state = busy()
    state.charge(Reservation("late", 100, 1), 5.0)
    assert state.queue_s(5.5) == pytest.approx(0.5)


def test_a_report_adds_what_others_have_sent_and_time_works_it_off() -> None:
    state = busy(100)
    state.take_report(WorkerReport(queued_tokens=300, tokens_per_s=100.0), 0.0)
    assert state.queue_s(0.0) == 3.0
    state.settle("0", 1.0)
    assert state.queue_s(1.0) == pytest.approx(1.0)
    assert state.queue_s(5.0) == 0


def test_a_report_of_less_than_is_charged_takes_nothing_back() -> None:
    state = busy(100)
    state.take_report(WorkerReport(queued_tokens=0, tokens_per_s=100.0), 0.0)
    assert state.queue_s(0.0) == 1.0


def test_free_blocks_are_those_reported_less_what_was_charged_since() -> None:
    state = busy(10)
    assert WorkerState().free_blocks() is None
    state.take_report(WorkerReport(free_blocks=50, num_running=3), 0.0)
    assert (state.free_blocks(), state.foreign_requests) == (50, 2)
    state.charge(Reservation("s", 10, 7), 0.0)
    assert state.free_blocks() == 43
    state.settle("0", 0.0)
    assert state.free_blocks() == 44


def test_trust_follows_how_true_predictions_come() -> None:
    state = busy()
    state.learn(100, 150)
    state.learn(0, 0)
    assert state.trust == 1.0
    state.learn(100, 50)
    assert state.trust == pytest.approx(0.95)
    for _ in range(100):
        state.learn(100, 100)
    assert state.trust == pytest.approx(1.0, abs=1e-4)


def test_what_was_charged_lately_halves_in_five_minutes() -> None:
    state = busy(64)
    state.settle("0", 1.0)
    assert state.charged_lately(300.0) == pytest.approx(32)
    state.charge(Reservation("s", 8, 1), 600.0)
    assert state.charged_lately(600.0) == pytest.approx(24)
