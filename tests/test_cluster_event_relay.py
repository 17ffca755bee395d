"""cluster/event_relay.py over real gRPC: the index follows the workers, and comes back after anything is missed."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import pytest

from cluster.event_relay import RETRY_S, SUBSCRIBE, EventFollower, EventPublisher
from cluster.worker_server import WorkerServer, metadata_for
from radix.event_batch import EventBatch, Subscription, read_batches
from radix.event_receiver import SILENCE_S
from radix.event_stream import HEARTBEAT_S, RING_BYTES, snapshot_parts
from radix.events import CacheEvent
from radix.prefix_index import PrefixIndex
from tests.cache_events import ROOT, removed, stored
from tests.tcp_proxy import TcpProxy

TOKEN, HOST = "secret", "127.0.0.1"


class FakeWorker:
    """A cache whose events are published as they are made."""

    def __init__(self, *, epoch: str = "life", stores_while_asked: bool = False, ring_bytes: int = RING_BYTES) -> None:
        self.server = WorkerServer(TOKEN, HOST)
        self.publisher = EventPublisher(self.server, epoch, self.snapshot, ring_bytes)
        self.epoch = epoch
        self.blocks: list[int] = []
        self.sequence = 0
        self.num_snapshots = 0
        self.snapshot_s = 0.0
        self.endpoint = ""
        self._stores_while_asked = stores_while_asked

    async def start(self) -> str:
        self.endpoint = await self.server.start()
        return self.endpoint

    async def snapshot(self) -> list[EventBatch]:
        self.num_snapshots += 1
        await asyncio.sleep(self.snapshot_s)
        if self._stores_while_asked:
            self.store(10)  # in the snapshot, and published as well
        held = [stored(*self.blocks[: count + 1]) for count in range(len(self.blocks))]
        parts = snapshot_parts(self.epoch, self.sequence, time.time(), held, part_blocks=2)
        if self._stores_while_asked:
            self.store(11)  # published only
        return parts

    def store(self, block: int) -> None:
        self.blocks.append(block)
        self.publish(stored(*self.blocks))

    def remove_last(self) -> None:
        self.publish(removed(len(self.blocks) - 1, *self.blocks))
        self.blocks.pop()

    def publish(self, event: CacheEvent) -> None:
        self.sequence += 1
        if self.endpoint:
            self.publisher.publish(EventBatch(self.epoch, self.sequence, time.time(), [event]))


@asynccontextmanager
async def following(index: PrefixIndex, *workers: FakeWorker) -> AsyncIterator[tuple[EventFollower, list[str]]]:
    """A follower of the first of these workers, and the endpoints of all; everything is ended afterwards."""
    follower = EventFollower(index, TOKEN)
    endpoints = [await worker.start() for worker in workers]
    follower.set_workers({"w": endpoints[0]})
    assert follower.endpoints == {"w": endpoints[0]}
    try:
        yield follower, endpoints
    finally:
        follower.set_workers({})
        await asyncio.sleep(0.05)
        for worker in workers:
            await worker.server.stop()


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
        index, first, second = PrefixIndex(ROOT), FakeWorker(), FakeWorker(epoch="another life")
        first.store(10)
        second.store(20)
        async with following(index, first, second) as (follower, endpoints):
            await until(lambda: index.match([10]) == {"w": 1})
            follower.set_workers({"w": endpoints[1]})
            await until(lambda: index.blocks_of("w") == {20})

    asyncio.run(scenario())


@asynccontextmanager
async def behind_a_network(index: PrefixIndex, *workers: FakeWorker) -> AsyncIterator[tuple[EventFollower, TcpProxy]]:
    """A follower of the first worker through a proxy; the others listen as well."""
    endpoints = [await worker.start() for worker in workers]
    proxy = TcpProxy(endpoints[0])
    follower = EventFollower(index, TOKEN)
    follower.set_workers({"w": await proxy.start()})
    try:
        yield follower, proxy
    finally:
        follower.set_workers({})
        await asyncio.sleep(0.05)
        await proxy.stop()
        for worker in workers:
            await worker.server.stop()


async def never_until(wrong: Callable[[], bool], holds: Callable[[], bool]) -> None:
    """Wait until something is true, and see that something else is not meanwhile."""
    async with asyncio.timeout(10):
        while not holds():
            assert not wrong()
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("fault", [TcpProxy.cut, TcpProxy.freeze])
def test_after_a_cut_only_what_was_missed_is_sent(fault: Callable[[TcpProxy], None]) -> None:
    async def scenario() -> None:
        worker, index = FakeWorker(), PrefixIndex(ROOT)
        async with behind_a_network(index, worker) as (_, proxy):
            worker.store(10)
            await until(lambda: index.blocks_of("w") == {10})
            fault(proxy)
            worker.store(11)
            await never_until(lambda: 10 not in index.blocks_of("w"), lambda: index.blocks_of("w") == {10, 11})
            assert worker.num_snapshots == 1

    asyncio.run(scenario())


def test_a_worker_that_starts_again_is_never_empty_in_between() -> None:
    async def scenario() -> None:
        first, second, index = FakeWorker(epoch="first"), FakeWorker(epoch="second"), PrefixIndex(ROOT)
        for block in range(10, 20):
            first.store(block)
            second.store(block + 10)
        async with behind_a_network(index, first, second) as (_, proxy):
            await until(lambda: len(index.blocks_of("w")) == 10)
            proxy.target = second.endpoint
            proxy.cut()
            whole = [set(first.blocks), set(second.blocks)]
            await never_until(lambda: index.blocks_of("w") not in whole, lambda: index.blocks_of("w") == whole[1])
            assert index.num_blocks == 10, "what the first life held is forgotten"

    asyncio.run(scenario())


def test_a_router_that_starts_again_finds_everything() -> None:
    async def scenario() -> None:
        worker, index, again = FakeWorker(), PrefixIndex(ROOT), PrefixIndex(ROOT)
        async with following(index, worker) as (_, endpoints):
            worker.store(10)
            await until(lambda: index.blocks_of("w") == {10})
            successor = EventFollower(again, TOKEN)
            successor.set_workers({"w": endpoints[0]})
            await until(lambda: again.blocks_of("w") == {10})
            successor.set_workers({})
            assert again.num_blocks == 0

    asyncio.run(scenario())


def test_a_slow_snapshot_is_waited_for() -> None:
    async def scenario() -> None:
        worker, index = FakeWorker(), PrefixIndex(ROOT)
        worker.store(10)
        worker.snapshot_s = SILENCE_S * 1.25
        async with following(index, worker):
            await until(lambda: index.blocks_of("w") == {10})
            assert worker.num_snapshots == 1, "the follower gave up a worker that was there"

    asyncio.run(scenario())


def test_age_tells_how_long_ago_the_index_was_up_to_date() -> None:
    async def scenario() -> None:
        worker, index = FakeWorker(), PrefixIndex(ROOT)
        async with behind_a_network(index, worker) as (follower, proxy):
            assert follower.age_s("w") == float("inf") == follower.age_s("nobody")
            await until(lambda: follower.age_s("w") < HEARTBEAT_S)
            ages = []
            for _ in range(30):
                await asyncio.sleep(HEARTBEAT_S / 10)
                ages.append(follower.age_s("w"))
            assert max(ages) < 2 * HEARTBEAT_S, "heartbeats keep an idle worker young"
            proxy.freeze()
            await until(lambda: follower.age_s("w") > 3 * HEARTBEAT_S)
            await until(lambda: follower.age_s("w") < HEARTBEAT_S)

    asyncio.run(scenario())


def test_a_subscriber_that_does_not_read_is_cut_off() -> None:
    """What it has not read is bounded: by the ring, and by what gRPC and the kernel buffer."""

    async def scenario() -> None:
        worker = FakeWorker(ring_bytes=2**20)
        endpoint = await worker.start()
        async with grpc.aio.insecure_channel(endpoint) as channel:
            place = Subscription("life", 0).to_bytes()
            call = channel.unary_stream(SUBSCRIBE)(place, metadata=metadata_for(TOKEN))
            await call.read()
            for _ in range(400):
                worker.publish(stored(*range(2**63, 2**63 + 20_000)))
                await asyncio.sleep(0.002)
            last = 0
            while (message := await call.read()) is not grpc.aio.EOF:
                last = max(last, *(batch.sequence for batch in read_batches(message)))
        await worker.server.stop()
        assert 0 < last < 390

    asyncio.run(scenario())


def test_a_wrong_token_gets_nothing() -> None:
    async def scenario() -> None:
        worker = FakeWorker()
        async with following(PrefixIndex(ROOT), worker) as (_, endpoints):
            async with grpc.aio.insecure_channel(endpoints[0]) as channel:
                call = channel.unary_stream(SUBSCRIBE)(b"", metadata=metadata_for("guess"))
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call.read()
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED

    asyncio.run(scenario())


def test_a_request_that_is_no_subscription_is_refused() -> None:
    async def scenario() -> None:
        worker = FakeWorker()
        endpoint = await worker.start()
        async with grpc.aio.insecure_channel(endpoint) as channel:
            call = channel.unary_stream(SUBSCRIBE)(b"?", metadata=metadata_for(TOKEN))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
        await worker.server.stop()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    asyncio.run(scenario())
