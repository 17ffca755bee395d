"""KV from a prefill worker to the decode worker that asks for it: one gRPC stream, never through the ingress."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Any

import grpc
import msgpack

from cluster.worker_server import CHANNEL_OPTIONS, Context, WorkerServer, metadata_for
from workers.pools.handoff_shelf import HandoffShelf, NoSuchHandoffError
from workers.pools.kv_frames import ReceivedBlocks
from workers.pools.kv_handoff import KVTicket

FETCH, ABORT, RESET = (f"/raydix.Worker/{name}" for name in ("FetchKV", "Abort", "ResetPrefixCache"))
FRAME_TIMEOUT_S = 2.0  # a prefill worker that is silent for so long is given up; the prompt is computed again
ABORT_TIMEOUT_S = 5.0
RESET_TIMEOUT_S = 30.0  # it waits for the step that the worker is in
MAX_CHANNELS = 64
NOTHING = 2**31  # a first block that no prompt has


def serve_kv(server: WorkerServer, shelf: HandoffShelf) -> None:
    """Let decode workers fetch what waits on a shelf."""

    async def fetch(request: bytes, context: Context) -> AsyncIterator[bytes]:
        epoch, request_id, token_digest, first_block = msgpack.unpackb(request)
        try:
            frames = shelf.frames(epoch, request_id, token_digest, first_block)
        except NoSuchHandoffError as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        for frame in frames:
            yield frame
            await asyncio.sleep(0)  # checksums of the next frame take a millisecond: let others in between

    server.add_stream(FETCH, fetch)


class WorkerClient:
    """Calls to workers' own ports, over connections that are kept. Runs on one event loop."""

    def __init__(self, token: str) -> None:
        self._metadata = metadata_for(token)
        self._channels: OrderedDict[str, grpc.aio.Channel] = OrderedDict()

    async def fetch(self, ticket: KVTicket, blocks: ReceivedBlocks) -> None:
        """Fetch the blocks that are missing, or where none is say so: then the worker need not keep them.

        Raises:
            grpc.RpcError: the worker cannot be reached, or has not got them.
            TimeoutError: it has fallen silent.
            BadFrameError: what it sent is not trusted.
        """
        first_block = blocks.first_block if blocks.num_missing else NOTHING
        request = msgpack.packb([ticket.epoch, ticket.request_id, ticket.token_digest, first_block])
        call = self._channel(ticket.endpoint).unary_stream(FETCH)(request, metadata=self._metadata)
        try:
            while (frame := await self._next(call)) is not grpc.aio.EOF:
                blocks.add(frame)
            if blocks.num_missing:
                raise NoSuchHandoffError(f"{blocks.num_missing} blocks were not sent")
        finally:
            call.cancel()

    async def abort(self, endpoint: str, request_id: str) -> None:
        """Have a worker end a request. Raises grpc.RpcError where it cannot be told."""
        call = self._channel(endpoint).unary_unary(ABORT)
        await call(request_id.encode(), metadata=self._metadata, timeout=ABORT_TIMEOUT_S)

    async def reset_prefix_cache(self, endpoint: str) -> None:
        """Have a worker forget what it has cached. Raises grpc.RpcError where it cannot be told."""
        await self._channel(endpoint).unary_unary(RESET)(b"", metadata=self._metadata, timeout=RESET_TIMEOUT_S)

    async def close(self) -> None:
        """End all connections."""
        while self._channels:
            await self._channels.popitem()[1].close()

    async def _next(self, call: Any) -> Any:
        async with asyncio.timeout(FRAME_TIMEOUT_S):
            return await call.read()

    def _channel(self, endpoint: str) -> grpc.aio.Channel:
        channel = self._channels.pop(endpoint, None)
        if channel is None:
            channel = grpc.aio.insecure_channel(endpoint, options=CHANNEL_OPTIONS)
        self._channels[endpoint] = channel
        if len(self._channels) > MAX_CHANNELS:
            self._channels.popitem(last=False)  # closes when its last call has ended
        return channel
