"""The decode worker: adopts the KV of prompts and generates the rest of their completions."""

from radix.events import BlocksStored, CacheEvent
from workers.engine.build import BuiltEngine
from workers.load import WorkerLoad
from workers.pools.kv_frames import ReceivedBlocks
from workers.pools.kv_handoff import Prefilled
from workers.request import GenerationRequest, RequestOutput


class DecodeWorker:
    """Continuous batching of requests, most of which were prefilled elsewhere."""

    def __init__(self, built: BuiltEngine) -> None:
        self._engine = built.engine
        self._kv_cache = built.kv_cache
        self._layout_id = built.layout_id

    @property
    def has_work(self) -> bool:
        """Whether a step would give or compute anything."""
        return self._engine.has_work

    def expect(self, request: GenerationRequest, prefilled: Prefilled) -> ReceivedBlocks:
        """Room for the KV of a prefill, but for the leading blocks that are held here already.

        Raises RequestError where the request cannot be served.
        """
        held = self._engine.num_held_blocks(request)
        shape, dtype = self._kv_cache.block_shape, self._kv_cache.tensor.dtype
        return ReceivedBlocks(prefilled, request.token_ids, self._layout_id, shape, dtype, held)

    def add_prefilled(self, request: GenerationRequest, prefilled: Prefilled, blocks: ReceivedBlocks) -> None:
        """Queue a request whose next token was drawn by its prefill; that token is not given again.

        What has not arrived is computed here. Raises RequestError where the request cannot be served.
        """
        self._engine.add_prefilled(request, prefilled.first_token, blocks)

    def add_request(self, request: GenerationRequest) -> None:
        """Queue a request that is to be prefilled here. Raises RequestError where it cannot be served."""
        self._engine.add_request(request)

    def abort(self, request_id: str) -> None:
        """Drop a request; unknown ids are ignored."""
        self._engine.abort(request_id)

    def step(self) -> list[tuple[str, RequestOutput]]:
        """One engine step."""
        return [(output.request_id, output) for output in self._engine.step()]

    def load(self) -> WorkerLoad:
        """For the routers of its pool."""
        return self._engine.load()

    def take_events(self) -> list[CacheEvent]:
        """Changes of the prefix cache since the last call."""
        return self._engine.take_events()

    def snapshot(self) -> list[BlocksStored]:
        """All that the prefix cache holds."""
        return list(self._engine.kv.cache.snapshot())

    def check_integrity(self) -> None:
        """Raise AssertionError where blocks are lost or held twice."""
        self._engine.check_integrity()
