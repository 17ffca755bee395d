"""A prefill and a decode service in one process, each with a worker's thread, and a network between them to disturb."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.helpers import num_leaked_blocks, small_engine
from workers.async_worker import AsyncWorker
from workers.pools.decode_worker import DecodeWorker
from workers.pools.handoff_shelf import HandoffShelf
from workers.pools.kv_frames import ReceivedBlocks
from workers.pools.kv_handoff import KVHandoff, KVTicket, Prefilled
from workers.pools.prefill_worker import PrefillWorker
from workers.pools.services import DecodeService, PrefillService
from workers.request import Beat, GenerationRequest, RequestOutput


class Address:
    endpoint = "here:1"
    name = "a"


class Services:
    """Both services.

    Attributes:
        may_fetch: frames wait for it.
        fetches: how many have begun.
        now_s: the shelf's clock.
    """

    def __init__(self, model_dir: Path) -> None:
        prefill, decode = small_engine(model_dir), small_engine(model_dir)
        self.engines = prefill.engine, decode.engine
        workers = PrefillWorker(prefill), DecodeWorker(decode)
        self.prefill_driver: AsyncWorker[KVHandoff] = AsyncWorker(workers[0])
        self.decode_driver: AsyncWorker[RequestOutput] = AsyncWorker(workers[1])
        self.now_s = 0.0
        self.shelf = HandoffShelf("life", clock=lambda: self.now_s)
        self.prefill = PrefillService(workers[0], self.prefill_driver, self.shelf, Address())
        self.decode = DecodeService(workers[1], self.decode_driver, self._fetch, Address())
        self.may_fetch = asyncio.Event()
        self.may_fetch.set()
        self.fetches = 0

    async def prefilled(self, request: GenerationRequest) -> Prefilled:
        """The outcome of a prefill."""
        last = [item async for item in self.prefill.prefill(request)][-1]
        assert isinstance(last, Prefilled)
        return last

    async def tokens(self, request: GenerationRequest, prefilled: Prefilled | None) -> list[int]:
        """All of a completion."""
        tokens = [prefilled.first_token] if prefilled else []
        async for item in self.decode.decode(request, prefilled):
            tokens += () if isinstance(item, Beat) else item.token_ids
        return tokens

    async def until(self, holds: Callable[[], bool]) -> None:
        """Within a second."""
        for _ in range(200):
            if holds():
                return
            await asyncio.sleep(0.005)
        raise AssertionError("not within a second")

    async def until_nothing_is_held(self) -> None:
        """No block, no stream, nothing on the shelf."""
        streams = self.prefill_driver._streams, self.decode_driver._streams
        await self.until(lambda: not any(map(num_leaked_blocks, self.engines)) and not any(streams))
        assert (len(self.shelf), self.shelf.num_bytes) == (0, 0)

    async def _fetch(self, ticket: KVTicket, blocks: ReceivedBlocks) -> None:
        self.fetches += 1
        await self.may_fetch.wait()
        first = blocks.first_block if blocks.num_missing else 2**31
        for frame in self.shelf.frames(ticket.epoch, ticket.request_id, ticket.token_digest, first):
            blocks.add(frame)


@asynccontextmanager
async def services(model_dir: Path) -> AsyncIterator[Services]:
    both = Services(model_dir)
    try:
        yield both
    finally:
        both.prefill_driver.stop()
        both.decode_driver.stop()
