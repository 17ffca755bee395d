"""cluster/door/failures.py: who may try again, and who may not come back for a while."""

from dataclasses import replace

import pytest

from cluster.door import failures
from cluster.door.failures import (
    QUARANTINE_S,
    RETRY_BURST,
    RETRY_RATIO,
    Loss,
    QuarantinedError,
    RequestFailures,
    digest,
)
from tests.scripted_workers import a_request
from workers.request import GenerationRequest


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def is_refused(shared: RequestFailures, request: GenerationRequest) -> bool:
    try:
        shared.admit(request)
    except QuarantinedError:
        return True
    return False


def num_retries(shared: RequestFailures) -> int:
    count = 0
    while shared.may_retry():
        count += 1
    return count


def test_only_a_death_may_be_the_requests_own_doing() -> None:
    assert [loss for loss in Loss if loss.is_death] == [Loss.DIED]


def test_a_burst_of_retries_and_then_a_tenth_of_the_requests() -> None:
    shared = RequestFailures()
    assert num_retries(shared) == RETRY_BURST == shared.num_resumed, "one that may not is none"
    for count in range(1, 101):
        shared.admit(a_request(prompt=[count]))
    assert num_retries(shared) == pytest.approx(100 * RETRY_RATIO, abs=1)


def test_retries_that_nobody_needed_do_not_pile_up() -> None:
    shared = RequestFailures()
    for _ in range(1000):
        shared.admit(a_request())
    assert num_retries(shared) == RETRY_BURST


def test_a_quarantine_ends() -> None:
    clock = Clock()
    shared = RequestFailures(clock=clock)
    assert not is_refused(shared, a_request())
    shared.quarantine(a_request())
    for seconds, refused in ((0, True), (QUARANTINE_S - 1, True), (1, False)):
        clock.now_s += seconds
        assert is_refused(shared, a_request()) is refused


def test_a_refused_request_earns_no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "RETRY_BURST", 0.0)
    shared = RequestFailures()
    monkeypatch.setattr(failures, "RETRY_BURST", 256.0)
    shared.quarantine(a_request())
    for _ in range(100):
        assert is_refused(shared, a_request())
    assert not shared.may_retry()


def test_a_request_is_known_by_what_it_asks_and_not_by_who_asks() -> None:
    request = a_request()
    likes = [
        replace(request, request_id="other", session="s", timeout_s=3.0),
        request.resumed([11, 12], 3, 5.0),
        a_request(seed=99),
    ]
    assert {digest(like) for like in likes} == {digest(request)}
    others = [
        a_request(prompt=(1, 2)),
        a_request(prompt=(1, 2, 3, 0)),
        replace(request, sampling=replace(request.sampling, max_tokens=4)),
        replace(request, sampling=replace(request.sampling, temperature=0.5)),
    ]
    assert len({digest(other) for other in [request, *others]}) == 5


def test_the_oldest_quarantine_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "MAX_QUARANTINED", 2)
    shared = RequestFailures()
    first, second, third = (a_request(prompt=[number]) for number in range(3))
    for request in (first, second, first, third):  # `first` again is the younger of the two
        shared.quarantine(request)
    assert [is_refused(shared, request) for request in (first, second, third)] == [True, False, True]
