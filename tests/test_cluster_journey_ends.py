"""cluster/door/journey.py: when a request is given up, and that nobody works on for nobody."""

import asyncio
import time
from contextlib import aclosing
from dataclasses import replace

import pytest

from cluster.door import failures, journey
from cluster.door.failures import Loss, NoWorkerError, QuarantinedError, RequestFailures, TimeIsOverError
from cluster.door.journey import Journey
from tests.scripted_workers import (
    DECODE,
    PREFILL,
    TOKENS,
    Fate,
    ScriptedWorkers,
    a_request,
    collected,
    outputs_of,
    run,
    tokens_of,
)

STALL_S = 0.5  # a busy machine may hold the loop up for some tenths of a second


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journey, "STALL_S", STALL_S)
    monkeypatch.setattr(journey, "RETRY_S", 0.0001)
    monkeypatch.setattr(journey, "MAX_RETRY_S", 0.001)


@pytest.mark.parametrize(("prefills", "decodes"), [(2, 0), (0, 2), (1, 1)])
def test_after_two_deaths_a_request_and_all_like_it_are_refused(prefills: int, decodes: int) -> None:
    shared = RequestFailures()
    died = Fate(1, Loss.DIED)
    with pytest.raises(QuarantinedError):
        outputs_of(ScriptedWorkers([died] * prefills, [died] * decodes), shared=shared)
    untouched = ScriptedWorkers()
    with pytest.raises(QuarantinedError):
        outputs_of(untouched, a_request(seed=8), shared)
    assert untouched.prefilled == []
    assert tokens_of(outputs_of(untouched, a_request(prompt=(1, 2, 4)), shared)) == TOKENS


@pytest.mark.parametrize("loss", [Loss.LEFT, Loss.SILENT, Loss.UNREACHED, None, "ends"])
def test_nothing_but_deaths_brings_a_request_into_quarantine(loss: Loss | str | None) -> None:
    workers = ScriptedWorkers([Fate(1, Loss.DIED)], [Fate(1, loss)] * 3)
    assert tokens_of(outputs_of(workers)) == TOKENS


def test_workers_that_were_gone_before_they_had_a_request_did_not_die_of_it() -> None:
    """A node takes a prefill and a decode worker with it, and both are asked before anybody knows."""
    shared = RequestFailures()
    workers = ScriptedWorkers([Fate(0, Loss.DIED)] * 2, [Fate(1, Loss.DIED)])
    assert tokens_of(outputs_of(workers, shared=shared)) == TOKENS
    with pytest.raises(QuarantinedError):  # what kills at once gives no sign of life either
        outputs_of(ScriptedWorkers([Fate(0, Loss.DIED)] * 4), shared=shared)


def test_a_request_looks_for_a_worker_for_so_long_and_takes_no_retry_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "RETRY_BURST", 0.0)
    workers = ScriptedWorkers([Fate(0, Loss.UNREACHED)] * 100_000)
    began_s = time.monotonic()
    with pytest.raises(NoWorkerError):
        outputs_of(workers, shared=RequestFailures(no_worker_timeout_s=0.2))
    assert 0.2 <= time.monotonic() - began_s < 10
    assert len(workers.prefilled) > 5


def test_a_worker_that_comes_in_time_is_found() -> None:
    workers = ScriptedWorkers([Fate(0, Loss.UNREACHED)] * 5, [Fate(0, Loss.UNREACHED)] * 3)
    assert tokens_of(outputs_of(workers, shared=RequestFailures(no_worker_timeout_s=5))) == TOKENS


def test_nobody_to_ask_where_to_start_is_nobody_there() -> None:
    workers = ScriptedWorkers()
    workers.num_unasked = 3
    assert tokens_of(outputs_of(workers)) == TOKENS
    workers.num_unasked = 100_000
    with pytest.raises(NoWorkerError):
        outputs_of(workers, shared=RequestFailures(no_worker_timeout_s=0.05))


def test_a_decode_pool_that_is_gone_is_not_made_up_for_by_a_prefill_pool_that_is_there() -> None:
    """Each prefill brings a token: without a limit a completion would trickle, one attempt for each."""
    workers = ScriptedWorkers(decodes=[Fate(0, None)] * 100)
    with pytest.raises(NoWorkerError):
        outputs_of(workers, shared=RequestFailures(no_worker_timeout_s=1.5 * STALL_S))
    assert len(workers.decoded) == 3


def test_who_has_been_served_for_a_while_looks_for_as_long_as_anybody() -> None:
    """The time counts from when nobody was there, not from the first time that nobody was."""
    nobody = Fate(0, None)  # noticed after STALL_S
    workers = ScriptedWorkers(decodes=[nobody, Fate(2, Loss.LEFT), nobody, Fate(2, Loss.LEFT)])
    assert tokens_of(outputs_of(workers, shared=RequestFailures(no_worker_timeout_s=0.5 * STALL_S))) == TOKENS


def test_when_the_budget_for_retries_is_spent_a_request_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "RETRY_BURST", 2.0)
    workers = ScriptedWorkers([Fate(1, Loss.LEFT)] * 9)
    with pytest.raises(NoWorkerError):
        outputs_of(workers)
    assert len(workers.prefilled) == 3


def test_the_first_retry_is_at_once_and_the_next_wait_longer_and_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def remembered(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", remembered)
    monkeypatch.setattr(journey, "RETRY_S", 1.0)
    monkeypatch.setattr(journey, "MAX_RETRY_S", 5.0)
    outputs_of(ScriptedWorkers([Fate(1, Loss.LEFT)] * 6))
    assert [seconds for seconds in slept if seconds] == [2.0, 4.0, 5.0, 5.0, 5.0]


@pytest.mark.parametrize(
    "workers",
    [
        ScriptedWorkers(prefills=[Fate(1, None)] * 9),
        ScriptedWorkers(decodes=[Fate(2, None)] * 9),
        ScriptedWorkers(prefills=[Fate(0, Loss.UNREACHED)] * 100_000),
        ScriptedWorkers(prefills=[Fate(0, None)] * 9),
    ],
    ids=["prefill silent", "decode silent", "nobody there", "nothing heard"],
)
@pytest.mark.parametrize("timeout_s", [0.0, STALL_S / 2, 1.5 * STALL_S])
def test_a_deadline_ends_a_request_wherever_it_is(workers: ScriptedWorkers, timeout_s: float) -> None:
    began_s = time.monotonic()
    with pytest.raises(TimeIsOverError):
        outputs_of(workers, a_request(timeout_s))
    assert timeout_s <= time.monotonic() - began_s < timeout_s + 5


def test_a_deadline_ends_a_request_for_which_there_is_nobody_to_ask() -> None:
    workers = ScriptedWorkers()
    workers.num_unasked = 100_000
    with pytest.raises(TimeIsOverError):
        outputs_of(workers, a_request(timeout_s=0.1), RequestFailures(no_worker_timeout_s=2))


def test_a_deadline_does_not_wait_for_a_worker_to_fall_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journey, "STALL_S", 30.0)
    began_s = time.monotonic()
    with pytest.raises(TimeIsOverError):
        outputs_of(ScriptedWorkers(decodes=[Fate(1, None)]), a_request(timeout_s=0.1))
    assert time.monotonic() - began_s < 10


def test_a_deadline_ends_a_request_that_waits_to_be_tried_alone() -> None:
    async def waits() -> None:
        shared = RequestFailures()
        await shared.isolation.acquire()
        died = [Fate(1, Loss.DIED)] * 2
        requests = (replace(a_request(timeout_s=1.0), request_id=name) for name in "rs")
        doing = [collected(ScriptedWorkers(died), request, shared) for request in requests]
        ends = await asyncio.wait_for(asyncio.gather(*doing, return_exceptions=True), 10)
        assert [type(end) for end in ends] == [TimeIsOverError] * 2

    asyncio.run(waits())


def test_each_attempt_is_told_what_time_is_left() -> None:
    workers = ScriptedWorkers(decodes=[Fate(2, None)])
    outputs_of(workers, a_request(timeout_s=60))
    first_s, second_s = (request.timeout_s for request in workers.decoded)
    assert first_s is not None
    assert second_s is not None
    assert 59 < second_s <= first_s - STALL_S


@pytest.mark.parametrize(
    ("num_taken", "fates", "aborted"),
    [
        (1, {}, [(PREFILL, "r")]),
        (2, {}, [(DECODE, "r")]),
        (4, {}, [(DECODE, "r")]),
        (5, {}, []),
        (3, {"decodes": [Fate(2, Loss.LEFT)]}, [(PREFILL, "r#1")]),
        (4, {"decodes": [Fate(2, Loss.LEFT)]}, [(DECODE, "r#1")]),
    ],
)
def test_a_client_that_goes_between_two_tokens_ends_the_stream_there_is(
    num_taken: int, fates: dict[str, list[Fate]], aborted: list[tuple[str, str]]
) -> None:
    workers = ScriptedWorkers(**fates)  # type: ignore[arg-type]

    async def take() -> None:
        async with aclosing(Journey(a_request(), workers, RequestFailures()).outputs()) as outputs:
            for _ in range(num_taken):
                await anext(outputs)

    run(workers, take())
    of_losses = [(DECODE, "r")] if fates else []
    assert workers.aborted == of_losses + aborted


@pytest.mark.parametrize(
    ("fates", "aborted"),
    [
        ({"prefills": [Fate(0, None)]}, []),
        ({"prefills": [Fate(1, None)]}, [(PREFILL, "r")]),
        ({"decodes": [Fate(0, None)]}, [(PREFILL, "r")]),
        ({"decodes": [Fate(1, None)]}, [(DECODE, "r"), (PREFILL, "r")]),
        ({"decodes": [Fate(4, None)]}, [(DECODE, "r")]),
    ],
)
def test_a_client_that_goes_while_a_worker_computes_ends_it_there(
    fates: dict[str, list[Fate]], aborted: list[tuple[str, str]]
) -> None:
    workers = ScriptedWorkers(**fates)  # type: ignore[arg-type]

    async def gone() -> None:
        task = asyncio.create_task(collected(workers, a_request()))
        for _ in range(100):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    run(workers, gone())
    assert workers.aborted == aborted
