"""The engine: requests in, tokens out, one step at a time. Runs in one thread, without Ray."""

from collections import deque
from itertools import count
from typing import NamedTuple

from radix.block_hash import BlockHasher
from radix.events import CacheEvent
from workers.config import SchedulerConfig
from workers.engine.integrity import check_integrity
from workers.engine.kv_manager import KVManager
from workers.engine.runner import LaunchedBatch, Runner
from workers.engine.scheduler import ScheduledBatch, Scheduler
from workers.engine.sequence import BlockSource, KnownFrom, Sequence, SequenceStatus
from workers.engine.stats import EngineCounts, EngineStats
from workers.load import WorkerLoad
from workers.request import FinishReason, GenerationRequest, RequestError, RequestOutput, SampledToken


class BatchInFlight(NamedTuple):
    """A batch, and what its tokens are collected from."""

    batch: ScheduledBatch
    launched: LaunchedBatch


class Engine:
    """Continuous batching over paged KV with a prefix cache.

    With a runner that runs ahead a step launches a batch before it collects the one before. The token that this one
    draws stays with the runner, which feeds it to the next. Where it turns out to end its sequence, what the next batch
    computes for that is dropped. The end at `max_tokens` is known beforehand, and nothing is computed beyond it.

    Args:
        runner: computes the steps; decides which requests run ahead.
        kv: owns the blocks.
        config: limits of a step.
        hasher: of the KV's namespace and block size.
        vocab_size: token ids are checked against it.
        max_model_len: prompt and completion together may have this many tokens.
        eos_token_ids: tokens that end a sequence.
    """

    def __init__(
        self,
        runner: Runner,
        kv: KVManager,
        config: SchedulerConfig,
        *,
        hasher: BlockHasher,
        vocab_size: int,
        max_model_len: int,
        eos_token_ids: frozenset[int],
    ) -> None:
        self._runner = runner
        self.kv = kv
        self._stats = EngineStats()
        self._scheduler = Scheduler(config, kv, self._stats)
        self._hasher = hasher
        self._vocab_size = vocab_size
        self.max_model_len = max_model_len
        self._eos_token_ids = eos_token_ids
        self._sequences: dict[str, list[Sequence]] = {}  # by request, those that are not over
        self._in_flight: deque[BatchInFlight] = deque()  # between steps at most one
        self.num_computed_tokens = 0  # since it began

    @property
    def has_work(self) -> bool:
        """Whether anybody waits for tokens. A batch may be in flight all the same, for requests that are over."""
        return self._scheduler.has_work

    def add_request(self, request: GenerationRequest, *, hold: bool = False) -> Sequence:
        """Queue a request's completions. With `hold` its blocks outlive its last token, until `release`.

        Returns the first completion; the others are its forks.

        Raises:
            RequestError: the prompt is empty or cannot fit, an unknown token is named, the id is in use, nothing is
                left to generate, or blocks are to be held, or output continued, for more than one completion.
        """
        self._check(request)
        if (hold or request.output_token_ids) and request.sampling.n > 1:
            raise only_one(request)
        first = Sequence(request, self._hasher)
        first.held = hold
        first.runs_ahead = self._runner.runs_ahead(request.sampling)
        self._scheduler.add(first)
        forks = [first.fork(index) for index in range(1, request.sampling.n)]
        for fork in forks:
            self._scheduler.add(fork)
        self._sequences[request.request_id] = [first, *forks]
        return first

    def add_prefilled(self, request: GenerationRequest, first_token: int, blocks: BlockSource) -> None:
        """Queue a request whose prompt was computed and first token drawn elsewhere; that token is not given again.

        Blocks that do not arrive whole are computed here. Raises RequestError as `add_request` does, and for more than
        one completion: only one first token was drawn.
        """
        if request.sampling.n > 1:
            raise only_one(request)
        sequence = self.add_request(request)
        sequence.num_known_tokens, sequence.known_from = len(sequence.token_ids), KnownFrom.HANDOFF
        sequence.append_token(first_token, self._eos_token_ids)
        sequence.imported = blocks

    def abort(self, request_id: str) -> None:
        """Drop a request at any point of its life, blocks and all. Unknown ids are ignored: it may just have ended."""
        for sequence in self._sequences.pop(request_id, []):
            sequence.held = False
            if sequence.status is not SequenceStatus.FINISHED:
                self._stats.ended(sequence)
            sequence.finish(FinishReason.ABORT)
            self._scheduler.finish(sequence)

    def step(self) -> list[RequestOutput]:
        """Schedule, launch, collect: every sequence gains at most one token.

        A batch stays in flight until the next step where one of its sequences runs ahead.
        """
        batch = self._scheduler.schedule()
        if batch.items:
            self._launch(batch)
        num_left = 1 if any(item.sequence.runs_ahead for item in batch.items) else 0
        outputs: list[RequestOutput] = []
        while len(self._in_flight) > num_left:
            outputs += self._collect(self._in_flight.popleft())
        return outputs

    def release(self, request_id: str) -> None:
        """Take the blocks from a finished sequence that was held."""
        for sequence in self._sequences.pop(request_id):
            sequence.held = False
            self._scheduler.finish(sequence)

    def sequence(self, request_id: str) -> Sequence:
        """A request's first sequence that is running, waiting or held. Raises KeyError where there is none."""
        return self._sequences[request_id][0]

    def num_held_blocks(self, request: GenerationRequest) -> int:
        """Leading full blocks of its tokens that the prefix cache holds. Raises RequestError as `add_request` does."""
        self._check(request)
        sequence = Sequence(request, self._hasher)
        hashes = sequence.block_hashes
        return len(self.kv.cache.match(hashes, sequence.tokens_of_blocks(0, len(hashes))).block_ids)

    def take_events(self) -> list[CacheEvent]:
        """Changes of the prefix cache since the last call, which are kept until then: call it even to drop them."""
        return self.kv.cache.take_events()

    def reset_prefix_cache(self) -> None:
        """Forget all cached blocks but those that requests use."""
        self.kv.pool.free(self.kv.cache.clear())

    def load(self) -> WorkerLoad:
        """What it has to do and room for; the cache is asked for each waiting prompt, so not for every step."""
        waiting = sum(self.kv.num_tokens_to_compute(sequence) for sequence in self._scheduler.waiting)
        running = self._scheduler.running
        return WorkerLoad(
            queued_tokens=waiting + sum(sequence.num_uncomputed_tokens for sequence in running),
            free_blocks=self.kv.pool.num_free + self.kv.cache.num_idle_blocks,
            num_running=len(running),
            num_blocks=self.kv.pool.num_blocks,
            num_waiting=len(self._scheduler.waiting),
        )

    def take_counts(self) -> EngineCounts:
        """What happened since the last call."""
        counts = self._stats.take()
        counts.num_evicted_blocks, self.kv.num_evicted_blocks = self.kv.num_evicted_blocks, 0
        return counts

    def check_integrity(self) -> None:
        """Raise AssertionError where blocks, tables, queues and cache disagree; see `workers.engine.integrity`."""
        sequences = [sequence for completions in self._sequences.values() for sequence in completions]
        check_integrity(self.kv, self._scheduler, sequences, [flight.batch for flight in self._in_flight])

    def _launch(self, batch: ScheduledBatch) -> None:
        self._in_flight.append(BatchInFlight(batch, self._runner.launch(batch)))
        rows = count()
        for item in batch.items:
            sequence = item.sequence
            sequence.num_computed_tokens += item.num_tokens
            self.num_computed_tokens += item.num_tokens
            if item.samples:
                sequence.rows_in_flight.append(next(rows))
            self.kv.commit(sequence)

    def _collect(self, flight: BatchInFlight) -> list[RequestOutput]:
        sequences = [item.sequence for item in flight.batch.items if item.samples]
        outputs = []
        for sequence, token in zip(sequences, flight.launched.collect(), strict=True):
            del sequence.rows_in_flight[:1]
            if sequence.status is not SequenceStatus.FINISHED:  # else it ended while this was computed
                outputs.append(self._append(sequence, token))
        self._stats.counts.generation_tokens += len(outputs)
        return outputs

    def _append(self, sequence: Sequence, token: SampledToken) -> RequestOutput:
        sequence.append_token(token.token_id, self._eos_token_ids)
        if sequence.rows_in_flight:  # the batch in flight may have filled a block with this token
            self.kv.commit(sequence)
        if sequence.first_token_s is None or sequence.finish_reason is not None:
            self._stats.gained_token(sequence)
        if sequence.finish_reason is not None:
            self._scheduler.finish(sequence)
            if not sequence.held:
                self._forget(sequence)
        return RequestOutput(
            request_id=sequence.request.request_id,
            token_ids=(token.token_id,),
            num_cached_tokens=sequence.num_cached_tokens,
            finish_reason=sequence.finish_reason,
            index=sequence.index,
            logprobs=(token.logprobs,) if token.logprobs else None,
            times=self._stats.times_to_tell(sequence),
        )

    def _forget(self, sequence: Sequence) -> None:
        completions = self._sequences[sequence.request.request_id]
        completions.remove(sequence)
        if not completions:
            del self._sequences[sequence.request.request_id]

    def _check(self, request: GenerationRequest) -> None:
        prompt, longest = request.prompt_token_ids, self.max_model_len
        if request.request_id in self._sequences:
            raise RequestError(f"a request with the id {request.request_id} is already running")
        if not prompt:
            raise RequestError("the prompt is empty; it needs at least one token")
        if min(request.token_ids) < 0 or max(request.token_ids) >= self._vocab_size:
            raise RequestError(f"the prompt holds token ids outside 0 to {self._vocab_size - 1}")
        if len(request.output_token_ids) >= request.sampling.max_tokens:
            raise RequestError("max_tokens have been generated already; there is nothing to go on with")
        request.sampling.check_vocabulary(self._vocab_size, self._eos_token_ids)
        if len(prompt) + request.sampling.max_tokens > longest:
            raise RequestError(
                f"this model's context is {longest} tokens; the prompt has {len(prompt)} and max_tokens asks for "
                f"{request.sampling.max_tokens} more. Shorten the prompt or lower max_tokens"
            )


def only_one(request: GenerationRequest) -> RequestError:
    """Why a request for several completions is refused where KV is handed from one worker to another."""
    return RequestError(
        f"n is {request.sampling.n}; a prompt whose KV is handed on gives one completion. Send n requests instead"
    )
