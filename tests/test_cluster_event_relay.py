"""cluster/event_relay.py over real gRPC: the index follows the workers, and comes back after anything is missed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import pytest

from cluster.event_relay import METHOD, RETRY_S, SERVICE, TOKEN_KEY, EventFollower, EventPublisher
from radix.events import BlocksRemoved, BlocksStored, EventBatch
from radix.prefix_index import PrefixIndex

ROOT, TOKEN, HOST = 1, "secret", "127.0.0.1"


class FakeWorker:
    """A cache whose events are published as they are made."""

    def __init__(self, *, stores_while_asked: bool = False) -> None:
        self.publisher = EventPublisher(TOKEN, HOST)
        self.blocks: list[int] = []
        self.sequence = 0
        self.num_snapshots = 0
        self._stores_while_asked = stores_while_asked

    async def snapshot(self) -> EventBatch:
        self.num_snapshots += 1
        if self._stores_while_asked:
            self.store(10)  # in the snapshot, and queued for the subscriber as well
        held = [BlocksStored(ROOT, 0, tuple(self.blocks))] if self.blocks else []
        batch = EventBatch("life", self.sequence, True, held)
        if self._stores_while_asked:
            self.store(11)  # queued only
        return batch

    def store(self, block: int) -> None:
        self.blocks.append(block)
        self.publish(BlocksStored(ROOT, 0, tuple(self.blocks)))

    def remove_last(self) -> None:
        self.publish(BlocksRemoved(ROOT, 0, tuple(self.blocks), len(self.blocks) - 1))
        self.blocks.pop()

    def publish(self, event: BlocksStored | BlocksRemoved) -> None:
        self.sequence += 1
        self.publisher.publish(EventBatch("life", self.sequence, False, [event]))


@asynccontextmanager
async def following(index: PrefixIndex, *workers: FakeWorker) -> AsyncIterator[tuple[EventFollower, list[str]]]:
    """A follower of the first of these workers, and the endpoints of all; everything is ended afterwards."""
    follower = EventFollower(index, TOKEN)
    endpoints = [await worker.publisher.start(worker.snapshot) for worker in workers]
    follower.set_workers({"w": endpoints[0]})
    try:
        yield follower, endpoints
    finally:
        follower.set_workers({})
        await asyncio.sleep(0.05)
        for worker in workers:
            await worker.publisher.stop()


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something is true, at most ten seconds."""
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.01)


def test_a_follower_sees_what_was_there_and_what_comes() -> None:
    async def scenario() -> None:
        worker, index = FakeWorker(), PrefixIndex(ROOT)
        worker.store(10)
        async with following(index, worker) as (follower, _):
            await until(lambda: index.match([10]) == {"w": 1})
            worker.store(11)
            worker.store(12)
            await until(lambda: index.match([10, 11, 12]) == {"w": 3})
            worker.remove_last()
            await until(lambda: index.blocks_of("w") == {10, 11})
            follower.set_workers({})
            await until(lambda: index.num_blocks == 0)

    asyncio.run(scenario())


def test_a_gap_is_healed_by_a_new_snapshot() -> None:
    async def scenario() -> None:
        worker, index = FakeWorker(), PrefixIndex(ROOT)
        async with following(index, worker):
            await until(lambda: worker.num_snapshots == 1)
            worker.store(10)
            await until(lambda: index.match([10]) == {"w": 1})
            worker.sequence += 1  # a batch that nobody ever saw
            worker.blocks.append(11)
            worker.store(12)
            await until(lambda: index.match([10, 11, 12]) == {"w": 3})

    asyncio.run(scenario())


def test_events_during_the_snapshot_are_neither_lost_nor_doubled() -> None:
    async def scenario() -> None:
        worker, index = FakeWorker(stores_while_asked=True), PrefixIndex(ROOT)
        async with following(index, worker):
            await until(lambda: index.match([10, 11]) == {"w": 2})
            await asyncio.sleep(RETRY_S * 1.5)
            assert worker.num_snapshots == 1, "the follower had to subscribe again"

    asyncio.run(scenario())


def test_a_worker_that_goes_away_is_forgotten_and_its_successor_found() -> None:
    async def scenario() -> None:
        index, first, second = PrefixIndex(ROOT), FakeWorker(), FakeWorker()
        first.store(10)
        second.store(20)
        async with following(index, first, second) as (follower, endpoints):
            await until(lambda: index.match([10]) == {"w": 1})
            follower.set_workers({"w": endpoints[1]})
            await until(lambda: index.blocks_of("w") == {20})

    asyncio.run(scenario())


def test_a_wrong_token_gets_nothing() -> None:
    async def scenario() -> None:
        worker = FakeWorker()
        async with following(PrefixIndex(ROOT), worker) as (_, endpoints):
            async with grpc.aio.insecure_channel(endpoints[0]) as channel:
                call = channel.unary_stream(f"/{SERVICE}/{METHOD}")(b"", metadata=((TOKEN_KEY, "guess"),))
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call.read()
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED

    asyncio.run(scenario())
