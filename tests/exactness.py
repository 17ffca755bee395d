"""Requests run one way and another on the bundled model, with every row of logits that their tokens were drawn from."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch

from radix.events import BlocksRemoved
from tests.ahead import run_ahead
from tests.helpers import num_leaked_blocks, request_of, small_engine
from tests.parity import LogitsRecorder
from workers.request import GenerationRequest
from workers.weights.model_dir import TINY_MODEL

BLOCK_SIZE = 16
# Prompts around the border of attention's segments, 256 keys, and of a second one; completions that cross it.
LENGTHS = {250: 12, 256: 8, 97: 16, 17: 17, 40: 24, 600: 12, 130: 8, 61: 20}  # prompt tokens: completion tokens


class Weights(NamedTuple):
    """How the model is held."""

    quantization: Literal["int4", "none"]
    dtype: Literal["bfloat16", "float32"]


class Outcome(NamedTuple):
    """What a request came to: its tokens, and float32 [tokens, vocab] that they were drawn from."""

    tokens: list[int]
    logits: torch.Tensor


class RecordedEngine:
    """An engine of the bundled model in strict numerics.

    Attributes:
        cached: of each request, how many prompt tokens came from the prefix cache.
        num_evicted: blocks that have left the prefix cache.
    """

    def __init__(
        self,
        weights: Weights,
        *,
        num_blocks: int = 256,
        block_size: int = BLOCK_SIZE,
        max_num_seqs: int = 8,
        max_num_batched_tokens: int = 4096,
        runs_ahead: bool = False,
    ) -> None:
        built = small_engine(
            TINY_MODEL,
            num_blocks=num_blocks,
            block_size=block_size,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            quantization=weights.quantization,
            dtype=weights.dtype,
        )
        self._engine = built.engine
        self._ahead = run_ahead(self._engine) if runs_ahead else None
        self._recorder = LogitsRecorder(built)
        self._tokens: dict[str, list[int]] = {}
        self.cached: dict[str, int] = {}
        self.num_evicted = 0

    def run(
        self, requests: Sequence[GenerationRequest], *, apart: int = 0, preempt_every: int = 0
    ) -> dict[str, Outcome]:
        """Run requests to their ends.

        Args:
            apart: steps between one arrival and the next; 0 for all at once.
            preempt_every: steps after which the youngest loses its blocks, and everything cached is evicted every
                other time; 0 for never.
        """
        waiting, num_steps = list(requests), 0
        while waiting or self._engine.has_work:
            while waiting and num_steps >= apart * (len(requests) - len(waiting)):
                self._engine.add_request(waiting.pop(0))
            self._step()
            num_steps += 1
            if preempt_every and num_steps % preempt_every == 0:
                self._preempt(evict=num_steps // preempt_every % 2 == 0)
        assert num_leaked_blocks(self._engine) == 0
        assert self._ahead is None or self._ahead.num_fed > 0
        return {request.request_id: self.outcome(request.request_id) for request in requests}

    def alone(self, requests: Sequence[GenerationRequest]) -> dict[str, Outcome]:
        """Run requests one after another."""
        return {name: outcome for request in requests for name, outcome in self.run([request]).items()}

    def outcome(self, name: str) -> Outcome:
        return Outcome(self._tokens[name], torch.stack(self._recorder.rows[name]))

    @property
    def steps(self) -> list[dict[str, range]]:
        """For each step, the positions that it computed of each request."""
        return self._recorder.steps

    @property
    def num_preemptions(self) -> int:
        """How often a request went on at a position that it had been beyond."""
        names = self._recorder.rows
        computed = [[step[name] for step in self.steps if name in step] for name in names]
        return sum(after.start < before.stop for parts in computed for before, after in pairwise(parts))

    def _preempt(self, evict: bool) -> None:
        scheduler, kv = self._engine._scheduler, self._engine.kv
        if len(scheduler.running) > 1:  # the oldest must get on
            scheduler._preempt(scheduler.running[-1])
        if evict:
            kv.pool.free(kv.cache.evict(kv.cache.num_idle_blocks))

    def _step(self) -> None:
        for output in self._engine.step():
            self._tokens.setdefault(output.request_id, []).extend(output.token_ids)
            self.cached[output.request_id] = output.num_cached_tokens
        for event in self._engine.take_events():
            self.num_evicted += len(event.hashes) - event.num_kept if isinstance(event, BlocksRemoved) else 0
        self._engine.check_integrity()


def random_tokens(count: int, seed: int) -> list[int]:
    """Tokens of the model's vocabulary."""
    return torch.randint(4096, [count], generator=torch.Generator().manual_seed(seed)).tolist()


def recorded_requests() -> list[GenerationRequest]:
    """One request for each of `LENGTHS`, greedy and drawn at temperature 1 by turns."""
    return [
        request_for(str(index), random_tokens(length, index), num_tokens, seed=index)
        for index, (length, num_tokens) in enumerate(LENGTHS.items())
    ]


def request_for(name: str, prompt: Sequence[int], num_tokens: int, seed: int) -> GenerationRequest:
    """A request for exactly `num_tokens`, greedy where the seed is even."""
    return request_of(name, prompt, num_tokens, temperature=float(seed % 2), seed=seed, ignore_eos=True)


def again(request: GenerationRequest) -> GenerationRequest:
    """The same request by another name."""
    return GenerationRequest(f"{request.request_id} again", request.prompt_token_ids, request.sampling)


def assert_same(outcomes: dict[str, Outcome], wanted: dict[str, Outcome]) -> None:
    """Every token and every bit of the logits is that of the same request, whose name may end in "again"."""
    for name, outcome in outcomes.items():
        expected = wanted[name.removesuffix(" again")]
        equal = [torch.equal(row, other) for row, other in zip(outcome.logits, expected.logits, strict=True)]
        assert all(equal), f"request {name}: logits differ from token {equal.index(False)} on"
        assert outcome.tokens == expected.tokens, name
