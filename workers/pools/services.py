"""The workers as their callers see them: a request in, a stream of signs of life and outputs back.

Free of Ray and of sockets: how a decode worker reaches a prefill worker is given (`Fetch`), and time is the event
loop's, so a simulation runs this code as it stands.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol, TypeVar

from workers.async_worker import BEAT_S, AsyncWorker, RequestAbortedError
from workers.pools.decode_worker import DecodeWorker
from workers.pools.handoff_counts import HandoffCounts
from workers.pools.handoff_shelf import HandoffShelf
from workers.pools.kv_frames import ReceivedBlocks
from workers.pools.kv_handoff import KVHandoff, KVTicket, Prefilled
from workers.pools.prefill_worker import PrefillWorker
from workers.request import Beat, GenerationRequest, RequestOutput

logger = logging.getLogger(__name__)

Fetch = Callable[[KVTicket, ReceivedBlocks], Awaitable[None]]
Output = TypeVar("Output")


class Address(Protocol):
    """Where a worker listens.

    Attributes:
        endpoint: `host:port`, known before the first request comes.
        name: what the worker is called in metrics and logs.
    """

    endpoint: str
    name: str


class PrefillService:
    """A prefill worker. What it has computed waits on its shelf until a decode worker fetches it."""

    def __init__(
        self, worker: PrefillWorker, driver: AsyncWorker[KVHandoff], shelf: HandoffShelf, address: Address
    ) -> None:
        self._worker = worker
        self._driver = driver
        self._shelf = shelf
        self._address = address

    async def prefill(self, request: GenerationRequest) -> AsyncGenerator[Beat | Prefilled]:
        """Compute a prompt and draw the next token. The last item is the outcome."""
        add = lambda: self._worker.add_request(request)  # noqa: E731
        outputs = self._driver.outputs(request.request_id, add)
        async with aclosing(timed(outputs, request, self._driver.abort)) as outputs:
            async for handoff in outputs:
                if handoff is None:
                    yield Beat(self._address.endpoint, self._address.name)
                    continue
                yield self._shelved(handoff)
                return

    def abort(self, request_id: str) -> None:
        """The client has gone: nobody will fetch this."""
        self._driver.abort(request_id)
        self._shelf.release(request_id)

    async def drained(self) -> None:
        """Return when nothing waits to be fetched any more, at the latest when all leases are over."""
        while len(self._shelf):  # noqa: ASYNC110  # leases end by themselves: there is no event to await
            await asyncio.sleep(BEAT_S / 10)

    def _shelved(self, handoff: KVHandoff) -> Prefilled:
        prefilled, blocks = handoff
        if prefilled.finish_reason is not None:
            return prefilled
        endpoint, digest = self._address.endpoint, prefilled.token_digest
        return prefilled.with_ticket(self._shelf.put(prefilled.request_id, blocks, endpoint, digest))


class DecodeService:
    """A decode worker. It fetches the KV of prompts that were computed elsewhere; others it computes itself."""

    def __init__(
        self, worker: DecodeWorker, driver: AsyncWorker[RequestOutput], fetch: Fetch, address: Address
    ) -> None:
        self._worker = worker
        self._driver = driver
        self._fetch = fetch
        self._address = address
        self._fetching: dict[str, asyncio.Future[ReceivedBlocks]] = {}
        self._handoffs = HandoffCounts()

    async def decode(
        self, request: GenerationRequest, prefilled: Prefilled | None
    ) -> AsyncGenerator[Beat | RequestOutput]:
        """Stream what follows the prompt, or the first token that the prefill drew."""
        beat, transfer_s = Beat(self._address.endpoint, self._address.name), None
        add = lambda: self._worker.add_request(request)  # noqa: E731
        if prefilled is not None:
            fetching = asyncio.ensure_future(self._fetched(request, prefilled))
            self._fetching[request.request_id] = fetching
            try:
                async with aclosing(none_until(fetching)) as waits:
                    async for _ in waits:
                        yield beat
            finally:
                self._fetching.pop(request.request_id, None)
            if fetching.cancelled():
                raise RequestAbortedError
            blocks, done = await fetching, prefilled
            transfer_s = blocks.transfer_s
            add = lambda: self._worker.add_prefilled(request, done, blocks)  # noqa: E731
        outputs = self._driver.outputs(request.request_id, add)
        async with aclosing(timed(outputs, request, self._driver.abort)) as outputs:
            async for output in outputs:
                yield beat if output is None else with_transfer(output, transfer_s)
                if output is not None and output.finish_reason is not None:
                    return

    def abort(self, request_id: str) -> None:
        """The client has gone, perhaps before the KV has come."""
        if request_id in self._fetching:
            self._fetching[request_id].cancel()
        self._driver.abort(request_id)

    def take_handoffs(self) -> HandoffCounts:
        """What was fetched since the last call."""
        taken, self._handoffs = self._handoffs, HandoffCounts()
        return taken

    async def _fetched(self, request: GenerationRequest, prefilled: Prefilled) -> ReceivedBlocks:
        """The KV as far as it could be had; without it the prompt is computed here."""
        blocks = await self._driver.call(lambda: self._worker.expect(request, prefilled))
        if prefilled.ticket is not None:
            began_s = asyncio.get_running_loop().time()
            try:
                await self._fetch(prefilled.ticket, blocks)
            except Exception as error:  # whatever befell the other worker or the network: there is another way
                logger.info("the KV of %s did not arrive whole: %s", request.request_id, error)
            blocks.transfer_s = asyncio.get_running_loop().time() - began_s
            self._count(blocks, blocks.transfer_s)
        return blocks

    def _count(self, blocks: ReceivedBlocks, seconds: float) -> None:
        self._handoffs.num_bytes += blocks.num_bytes
        if blocks.num_bytes and not blocks.num_missing:
            self._handoffs.seconds.append(seconds)


def with_transfer(output: RequestOutput, transfer_s: float | None) -> RequestOutput:
    """A first output that says how long the KV took to come as well."""
    if output.times is None or transfer_s is None:
        return output
    return replace(output, times=replace(output.times, transfer_s=transfer_s))


async def timed(
    outputs: AsyncGenerator[Output], request: GenerationRequest, abort: Callable[[str], None]
) -> AsyncGenerator[Output]:
    """A worker's outputs for a request, which is dropped when its time is over, whatever became of its client."""
    timer = None
    if request.timeout_s is not None:
        timer = asyncio.get_running_loop().call_later(request.timeout_s, abort, request.request_id)
    try:
        async with aclosing(outputs):
            async for output in outputs:
                yield output
    finally:
        if timer is not None:
            timer.cancel()


async def none_until(future: asyncio.Future[ReceivedBlocks]) -> AsyncGenerator[None]:
    """None at once and every `BEAT_S`, until the future is done. Closing it early cancels the future."""
    try:
        yield None
        while not (await asyncio.wait([future], timeout=BEAT_S))[0]:
            yield None
    finally:
        future.cancel()
