"""The decode worker: adopts the KV of prompts and generates the rest of their completions."""

from dataclasses import replace

from radix.events import BlocksStored, CacheEvent
from workers.engine.build import BuiltEngine
from workers.load import WorkerLoad
from workers.pools.kv_handoff import HandoffBlocks, KVHandoff
from workers.request import GenerationRequest, RequestOutput


class DecodeWorker:
    """Continuous batching of requests that were prefilled elsewhere."""

    def __init__(self, built: BuiltEngine) -> None:
        self._engine = built.engine
        self._kv_cache = built.kv_cache
        self._layout_id = built.layout_id
        self._first_outputs: list[RequestOutput] = []
        self._num_cached_tokens: dict[str, int] = {}

    @property
    def has_work(self) -> bool:
        """Whether a step would give or compute anything."""
        return bool(self._first_outputs) or self._engine.has_work

    def add_request(self, request: GenerationRequest, handoff: KVHandoff) -> None:
        """Queue a request with its prefill. Raises RequestError where it cannot be served."""
        first = RequestOutput(
            request.request_id,
            (handoff.first_token,),
            handoff.num_cached_tokens,
            handoff.finish_reason,
            logprobs=(handoff.first_logprobs,) if handoff.first_logprobs else None,
        )
        if handoff.finish_reason is None:
            block_shape, dtype = self._kv_cache.block_shape, self._kv_cache.tensor.dtype
            blocks = HandoffBlocks(handoff, request.prompt_token_ids, self._layout_id, block_shape, dtype)
            self._engine.add_prefilled(request, handoff.first_token, blocks)
            self._num_cached_tokens[request.request_id] = handoff.num_cached_tokens
        self._first_outputs.append(first)

    def abort(self, request_id: str) -> None:
        """Drop a request; unknown ids are ignored."""
        self._num_cached_tokens.pop(request_id, None)
        self._first_outputs = [output for output in self._first_outputs if output.request_id != request_id]
        self._engine.abort(request_id)

    def step(self) -> list[tuple[str, RequestOutput]]:
        """First tokens of new requests at once, without waiting for the engine; else one engine step."""
        outputs, self._first_outputs = self._first_outputs, []
        if not outputs:
            outputs = [self._with_prefill_usage(output) for output in self._engine.step()]
        return [(output.request_id, output) for output in outputs]

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

    def _with_prefill_usage(self, output: RequestOutput) -> RequestOutput:
        """Report the prefill's cached tokens, not those that the decode pool happened to hold."""
        ended = output.finish_reason is not None
        cached = self._num_cached_tokens
        num = cached.pop(output.request_id) if ended else cached[output.request_id]
        return replace(output, num_cached_tokens=num)
