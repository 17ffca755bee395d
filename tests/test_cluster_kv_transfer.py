"""KV over real sockets: whole, in part, from a worker that is dead, silent, strange or young; and aborts by name."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

import grpc
import numpy as np
import pytest
import torch

from cluster import kv_transfer
from cluster.kv_transfer import ABORT, FETCH, WorkerClient, serve_kv
from cluster.worker_server import Context, WorkerServer
from workers.pools.handoff_shelf import HandoffShelf, NoSuchHandoffError
from workers.pools.kv_frames import BadFrameError, ReceivedBlocks, frames_of
from workers.pools.kv_handoff import KVBytes, KVTicket, Prefilled, digest_tokens

TOKEN, HOST = "secret", "127.0.0.1"
SHAPE = (3, 2, 4, 2, 5000)  # 480 KB a block: four in a frame
TOKENS = range(50)


def random_blocks() -> KVBytes:
    return np.random.default_rng(1).integers(0, 256, (13, 3 * 2 * 4 * 2 * 5000 * 2), np.uint8)


def room(ticket: KVTicket, first_block: int = 0) -> ReceivedBlocks:
    words = Prefilled("r", "layout", digest_tokens(TOKENS), len(TOKENS), 0, 1, None, ticket=ticket)
    return ReceivedBlocks(words, TOKENS, "layout", SHAPE, torch.bfloat16, first_block)


def raw(blocks: torch.Tensor) -> KVBytes:
    found: KVBytes = blocks.contiguous().view(torch.uint8).flatten(1).numpy()
    return found


class PrefillEnd:
    """A shelf with one hand-off behind a port."""

    def __init__(self, port: int = 0) -> None:
        self.server = WorkerServer(TOKEN, HOST, port)
        self.shelf = HandoffShelf("life")
        self.blocks = random_blocks()
        serve_kv(self.server, self.shelf)

    def put(self) -> KVTicket:
        return self.shelf.put("r", self.blocks, self.server.endpoint, digest_tokens(TOKENS))


@asynccontextmanager
async def both_ends() -> AsyncIterator[tuple[PrefillEnd, WorkerClient]]:
    end, client = PrefillEnd(), WorkerClient(TOKEN)
    await end.server.start()
    try:
        yield end, client
    finally:
        await client.close()
        await end.server.stop()


def run(scenario: Callable[[PrefillEnd, WorkerClient], Coroutine[None, None, None]]) -> None:
    async def main() -> None:
        async with both_ends() as (end, client):
            await asyncio.wait_for(scenario(end, client), 10)

    asyncio.run(main())


@pytest.mark.parametrize("first", [0, 5, 12])
def test_the_blocks_from_one_on_arrive_whole_and_are_gone_from_the_shelf(first: int) -> None:
    async def scenario(end: PrefillEnd, client: WorkerClient) -> None:
        received = room(end.put(), first)
        await client.fetch(KVTicket(end.server.endpoint, "life", "r", digest_tokens(TOKENS), 1.0), received)
        assert received.num_missing == 0
        assert np.array_equal(raw(received.read_blocks(first)), end.blocks[first:])
        assert (len(end.shelf), end.shelf.num_bytes) == (0, 0)

    run(scenario)


def test_another_life_of_the_worker_knows_nothing_of_it() -> None:
    async def scenario(end: PrefillEnd, client: WorkerClient) -> None:
        end.put()
        ticket = KVTicket(end.server.endpoint, "the life before", "r", digest_tokens(TOKENS), 1.0)
        with pytest.raises(grpc.aio.AioRpcError, match="no KV waits here"):
            await client.fetch(ticket, room(ticket))
        assert len(end.shelf) == 1

    run(scenario)


def test_only_who_knows_the_token_is_served() -> None:
    async def scenario(end: PrefillEnd, client: WorkerClient) -> None:
        ticket, stranger = end.put(), WorkerClient("guess")
        with pytest.raises(grpc.aio.AioRpcError, match="token is wrong"):
            await stranger.fetch(ticket, room(ticket))
        with pytest.raises(grpc.aio.AioRpcError, match="Method not found"):
            await client.abort(end.server.endpoint, "r")
        await stranger.close()
        assert len(end.shelf) == 1

    run(scenario)


def test_a_dead_worker_is_an_error_at_once() -> None:
    async def scenario(end: PrefillEnd, client: WorkerClient) -> None:
        ticket = end.put()
        await end.server.stop()
        with pytest.raises(grpc.aio.AioRpcError):
            await client.fetch(ticket, room(ticket))

    run(scenario)


@pytest.mark.parametrize("fault", ["silent", "short", "flipped"])
def test_what_does_not_arrive_whole_is_given_up(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_transfer, "FRAME_TIMEOUT_S", 0.2)
    blocks = random_blocks()

    async def fetch(request: bytes, context: Context) -> AsyncIterator[bytes]:
        frames = list(frames_of(blocks, 0))
        yield frames[0]
        if fault == "silent":
            await asyncio.sleep(5)
        if fault == "flipped":
            yield frames[1][:-1] + bytes([frames[1][-1] ^ 1])

    async def main() -> None:
        server, client = WorkerServer(TOKEN, HOST), WorkerClient(TOKEN)
        server.add_stream(FETCH, fetch)
        ticket = KVTicket(await server.start(), "life", "r", digest_tokens(TOKENS), 1.0)
        received = room(ticket)
        expected = {"silent": TimeoutError, "short": NoSuchHandoffError, "flipped": BadFrameError}[fault]
        with pytest.raises(expected):
            await client.fetch(ticket, received)
        arrived = received.read_blocks(0)
        assert 0 < len(arrived) < 13
        assert np.array_equal(raw(arrived), blocks[: len(arrived)])
        await client.close()
        await server.stop()

    asyncio.run(main())


def test_a_connection_that_broke_is_made_again() -> None:
    """R23: one that was idle for hours and was cut by whatever lies between."""

    async def scenario(end: PrefillEnd, client: WorkerClient) -> None:
        await client.fetch(end.put(), room(end.put()))
        port = end.server.endpoint.rpartition(":")[2]
        await end.server.stop()
        again = PrefillEnd(int(port))
        await again.server.start()
        for _ in range(50):  # gRPC waits a moment before it connects again
            received = room(again.put())
            try:
                await client.fetch(again.put(), received)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.1)
                continue
            break
        assert received.num_missing == 0
        await again.server.stop()

    run(scenario)


def test_an_abort_names_its_request() -> None:
    async def main() -> None:
        told: list[bytes] = []

        async def abort(request: bytes, _: Context) -> bytes:
            told.append(request)
            return b""

        server, client = WorkerServer(TOKEN, HOST), WorkerClient(TOKEN)
        server.add_unary(ABORT, abort)
        await client.abort(await server.start(), "r#1")
        await client.close()
        await server.stop()
        assert told == [b"r#1"]

    asyncio.run(main())
