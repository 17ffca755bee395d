"""What a tenant may take of a front door, on a clock of the test's own."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.access.account import MAX_RETRY_AFTER_S, Account
from cluster.access.allowance import Meter
from cluster.access.tenants import Limits
from cluster.api.errors import ApiError


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def refused(account: Account, limits: Limits) -> ApiError:
    with pytest.raises(ApiError) as told:
        account.enter(limits)
    assert (told.value.status, told.value.code) == (429, "rate_limit_exceeded")
    return told.value


def test_without_limits_everything_is_let_in_and_counted() -> None:
    account = Account(Clock())
    for tokens in range(100):
        visit = account.enter(Limits())
        visit.charge(10**9, lambda tokens=tokens: tokens)  # type: ignore[misc]
        visit.end()
    assert (account.num_tokens, account.num_in_flight, account.num_refused) == (sum(range(100)), 0, 0)


def test_so_many_requests_at_a_time() -> None:
    account, limits = Account(Clock()), Limits(concurrent_requests=2)
    first, _ = account.enter(limits), account.enter(limits)
    told = refused(account, limits)
    assert told.retry_after_s == 1
    assert "2 requests at a time" in told.message
    first.end()
    account.enter(limits)
    assert account.num_refused == 1


def test_so_many_requests_a_minute_and_as_many_at_once() -> None:
    clock = Clock()
    account, limits = Account(clock), Limits(requests_per_minute=6)
    for _ in range(6):
        account.enter(limits).end()
    assert refused(account, limits).retry_after_s == 10
    clock.now_s += 9.5
    assert refused(account, limits).retry_after_s == 1
    clock.now_s += 0.5
    account.enter(limits).end()
    refused(account, limits)


def test_a_refused_request_uses_nothing_up() -> None:
    clock = Clock()
    account, limits = Account(clock), Limits(requests_per_minute=1)
    account.enter(limits)
    for _ in range(100):
        refused(account, limits)
    clock.now_s += 60
    account.enter(limits)


def test_a_limit_that_has_changed_counts_at_once() -> None:
    account = Account(Clock())
    for _ in range(5):
        account.enter(Limits(requests_per_minute=5))
    refused(account, Limits(requests_per_minute=5))
    account.enter(Limits(requests_per_minute=10))
    refused(account, Limits(requests_per_minute=1))


def test_what_a_request_may_come_to_is_charged_and_what_it_did_not_is_given_back() -> None:
    clock = Clock()
    account, limits = Account(clock), Limits(tokens_per_minute=600)
    big = account.enter(limits)
    big.charge(600, lambda: 100)
    small = account.enter(limits)
    with pytest.raises(
        ApiError, match="600 tokens a minute, and this request may come to 50; try again in 5 s"
    ) as told:
        small.charge(50, lambda: 0)
    assert (told.value.status, told.value.code, told.value.retry_after_s) == (429, "rate_limit_exceeded", 5)
    small.end()
    big.end()
    assert account.num_tokens == 100
    account.enter(limits).charge(500, lambda: 0)
    with pytest.raises(ApiError):
        account.enter(limits).charge(1, lambda: 0)


def test_a_request_that_never_fits_is_not_told_to_come_again() -> None:
    visit = Account(Clock()).enter(Limits(tokens_per_minute=100))
    with pytest.raises(ApiError, match="lower max_tokens or n") as told:
        visit.charge(101, lambda: 0)
    assert (told.value.retry_after_s, told.value.param) == (None, "max_tokens")


def test_nobody_is_told_to_wait_longer_than_clients_do() -> None:
    account, limits = Account(Clock()), Limits(requests_per_minute=1)
    account.enter(limits)
    assert refused(account, limits).retry_after_s == MAX_RETRY_AFTER_S


TAKES = st.lists(st.tuples(st.floats(0, 40), st.integers(1, 60)), max_size=60)


@given(takes=TAKES, per_minute=st.integers(1, 120))
def test_no_minute_has_more_than_two_allowances_and_who_waits_as_told_gets_his(
    takes: list[tuple[float, int]], per_minute: int
) -> None:
    """One that had been saved, and one that comes meanwhile."""
    meter, now_s, taken = Meter(0.0), 0.0, [(0.0, 0)]
    for pause_s, amount in takes:
        now_s += pause_s
        wait_s = meter.wait_s(amount, per_minute, now_s)
        assert math.isinf(wait_s) == (amount > per_minute)
        if wait_s == 0:
            meter.take(amount)
            taken.append((now_s, amount))
        elif not math.isinf(wait_s):
            now_s += wait_s + 1e-6
            assert meter.wait_s(amount, per_minute, now_s) < 1e-6
        recent = sum(amount for at_s, amount in taken if at_s > now_s - 60)
        assert recent <= 2 * per_minute
