"""A worker in its thread, driven from an event loop: streams, aborts, refusals and the worker's death."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import pytest

from radix.events import BlocksStored, CacheEvent, NamespaceCleared
from tests.driven import Driven, requests, run
from tests.helpers import num_leaked_blocks, request_of
from tests.witness import expected_tokens
from workers.request import RequestError

AHEAD = pytest.mark.parametrize("ahead", [False, True], ids=["plain", "ahead"])


@AHEAD
def test_concurrent_streams_give_the_right_tokens(ahead: bool) -> None:
    async def scenario(driven: Driven) -> None:
        batch = requests(20)
        results = await asyncio.gather(*(driven.tokens(request) for request in batch))
        assert results == [expected_tokens(request) for request in batch]
        await driven.until(lambda: num_leaked_blocks(driven.worker.engine) == 0)

    run(scenario, ahead=ahead)


@AHEAD
def test_closing_a_stream_early_aborts_its_request(ahead: bool) -> None:
    async def scenario(driven: Driven) -> None:
        driven.worker.may_step.clear()
        stream, other = driven.stream(requests(2, 60)[0]), asyncio.ensure_future(driven.tokens(requests(2)[1]))
        first = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.01)
        driven.worker.may_step.set()
        await first
        await stream.aclose()
        with pytest.raises(KeyError):
            await driven.driver.call(lambda: driven.worker.engine.sequence("0"))
        assert await other == expected_tokens(requests(2)[1])
        await driven.until(lambda: num_leaked_blocks(driven.worker.engine) == 0)

    run(scenario, ahead=ahead)


@AHEAD
def test_cancelling_a_client_aborts_its_request(ahead: bool) -> None:
    async def scenario(driven: Driven) -> None:
        for delay in (0, 0, 0.001, 0.003):
            task = asyncio.ensure_future(driven.tokens(requests(1, 60)[0]))
            await asyncio.sleep(delay)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await driven.until(lambda: not driven.worker.engine.has_work)
            await driven.until(lambda: num_leaked_blocks(driven.worker.engine) == 0)

    run(scenario, ahead=ahead)


def test_a_refusal_reaches_its_caller_only() -> None:
    async def scenario(driven: Driven) -> None:
        good = asyncio.ensure_future(driven.tokens(requests(1)[0]))
        with pytest.raises(RequestError, match="the prompt is empty"):
            await driven.tokens(request_of("bad", []))
        assert await good == expected_tokens(requests(1)[0])
        driven.driver.check_health()

    run(scenario)


def test_an_id_in_use_does_not_disturb_the_request_that_has_it() -> None:
    async def scenario(driven: Driven) -> None:
        driven.worker.may_step.clear()
        first = asyncio.ensure_future(driven.tokens(requests(1)[0]))
        await asyncio.sleep(0.01)
        second = asyncio.ensure_future(driven.tokens(requests(1)[0]))
        await asyncio.sleep(0.01)
        driven.worker.may_step.set()
        with pytest.raises(RequestError, match="already running"):
            await asyncio.wait_for(second, 3)
        assert await asyncio.wait_for(first, 3) == expected_tokens(requests(1)[0])

    run(scenario)


def test_events_arrive_in_order_and_a_snapshot_continues_them() -> None:
    async def scenario(driven: Driven) -> None:
        await asyncio.gather(*(driven.tokens(request) for request in requests(30)))
        (snapshot,) = await driven.driver.snapshot()
        await asyncio.sleep(0.02)
        assert [batch.sequence for batch in driven.batches] == list(range(1, len(driven.batches) + 1))
        assert (snapshot.is_snapshot, snapshot.sequence) == (True, len(driven.batches))
        assert {batch.epoch for batch in driven.batches} == {snapshot.epoch} == {driven.driver.epoch}
        held = replay([event for batch in driven.batches for event in batch.events])
        assert held == replay(snapshot.events)
        assert held

    run(scenario)


def replay(events: Sequence[CacheEvent]) -> set[int]:
    """The hashes that a follower of these events believes in; it sees none stored twice or removed before."""
    held: set[int] = set()
    for event in events:
        if isinstance(event, BlocksStored):
            assert event.hashes[-1] not in held
            held.update(event.hashes)
        elif isinstance(event, NamespaceCleared):
            held.clear()
        else:
            assert held.issuperset(event.hashes)
            held.difference_update(event.hashes[event.num_kept :])
    return held
