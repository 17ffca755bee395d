"""The prefill worker: prompts in, KV and a first token out."""

import time
from dataclasses import replace

from radix.events import BlocksStored, CacheEvent
from workers.engine.build import BuiltEngine
from workers.load import PrefillMeter, WorkerLoad
from workers.pools.kv_handoff import KVHandoff, Prefilled, digest_tokens, pack_blocks
from workers.request import FinishReason, GenerationRequest, RequestOutput


class PrefillWorker:
    """Runs each request to its next token. The prompt's blocks stay in its prefix cache for the next request."""

    def __init__(self, built: BuiltEngine) -> None:
        self._engine = built.engine
        self._kv_cache = built.kv_cache
        self._layout_id = built.layout_id
        self._max_tokens: dict[str, int] = {}
        self._meter = PrefillMeter()

    @property
    def has_work(self) -> bool:
        """Whether a step would compute anything."""
        return self._engine.has_work

    def add_request(self, request: GenerationRequest) -> None:
        """Queue a prompt. Raises RequestError where it cannot be served."""
        sampling, num = request.sampling, len(request.output_token_ids) + 1
        first = replace(sampling, max_tokens=min(num, sampling.max_tokens), min_tokens=min(sampling.min_tokens, num))
        once = replace(request, sampling=first)
        self._engine.add_request(once, hold=True)
        self._max_tokens[request.request_id] = request.sampling.max_tokens

    def abort(self, request_id: str) -> None:
        """Drop a request; unknown ids are ignored."""
        self._max_tokens.pop(request_id, None)
        self._engine.abort(request_id)

    def step(self) -> list[tuple[str, KVHandoff]]:
        """One engine step: the hand-offs of the prompts that it completed, by request id."""
        begin_s, before = time.perf_counter(), self._engine.num_computed_tokens
        outputs = self._engine.step()
        self._meter.add_step(self._engine.num_computed_tokens - before, time.perf_counter() - begin_s)
        return [(output.request_id, self._hand_off(output)) for output in outputs]

    def load(self) -> WorkerLoad:
        """For the routers of its pool."""
        return replace(self._engine.load(), tokens_per_s=self._meter.tokens_per_s, prefills=self._meter.prefills)

    def take_events(self) -> list[CacheEvent]:
        """Changes of the prefix cache since the last call."""
        return self._engine.take_events()

    def snapshot(self) -> list[BlocksStored]:
        """All that the prefix cache holds."""
        return list(self._engine.kv.cache.snapshot())

    def check_integrity(self) -> None:
        """Raise AssertionError where blocks are lost or held twice."""
        self._engine.check_integrity()

    def _hand_off(self, output: RequestOutput) -> KVHandoff:
        """Pack a finished prompt's blocks and let the engine have them back."""
        sequence = self._engine.sequence(output.request_id)
        blocks = pack_blocks(self._kv_cache.read_blocks(sequence.block_table))
        num_tokens = sequence.num_computed_tokens
        self._engine.release(output.request_id)
        self._meter.add_prefill(output.request_id, output.num_cached_tokens)
        last = self._max_tokens.pop(output.request_id) == len(sequence.request.output_token_ids) + 1
        stopped = output.finish_reason is FinishReason.STOP
        prefilled = Prefilled(
            output.request_id,
            layout_id=self._layout_id,
            token_digest=digest_tokens(sequence.request.token_ids),
            num_tokens=num_tokens,
            num_cached_tokens=output.num_cached_tokens,
            first_token=output.token_ids[0],
            finish_reason=output.finish_reason if stopped or last else None,
            first_logprobs=output.logprobs[0] if output.logprobs else None,
            times=output.times,
        )
        return KVHandoff(prefilled, blocks)
