"""Continuous batching: which sequences compute how many tokens in the next step (Orca, Yu et al. 2022)."""

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from workers.config import SchedulerConfig
from workers.engine.kv_manager import KVManager
from workers.engine.sequence import Sequence, SequenceStatus
from workers.engine.stats import EngineStats
from workers.request import RequestError


class ScheduledSequence(NamedTuple):
    """A sequence's part of a step.

    Attributes:
        num_tokens: how many of its uncomputed tokens the step computes.
        samples: whether the step reaches its last token, so that a next one is drawn.
        fed_from: None where the host knows the tokens. Else there is one token to compute, the last, and it is the one
            that the batch launched before this one draws at this place among its tokens.
    """

    sequence: Sequence
    num_tokens: int
    samples: bool
    fed_from: int | None = None


@dataclass(frozen=True)
class ScheduledBatch:
    """One step's work."""

    items: tuple[ScheduledSequence, ...]


class Scheduler:
    """First come, first served. Prompts and decodes share one token budget; a long prompt takes several steps.

    When blocks run out the youngest running sequence is preempted: its blocks go, it waits at the head of the queue and
    is recomputed later. Age is a total order and the oldest always fits, so somebody always makes progress. A fork
    stands behind its parent and is not overtaken while it waits for the parent's prompt.

    It may be asked for a batch while the one before is computed: what that one computes counts as done, and the token
    it draws for a sequence as there. One that was preempted meanwhile comes back when all its tokens are known.
    """

    def __init__(self, config: SchedulerConfig, kv: KVManager, stats: EngineStats) -> None:
        self._config = config
        self._kv = kv
        self._stats = stats
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    @property
    def has_work(self) -> bool:
        """Whether any sequence is not finished."""
        return bool(self.waiting or self.running)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. Raises RequestError where it could not fit even with the whole pool to itself.

        The completions of one request need not fit together: whichever is oldest has its way, the others wait.
        """
        longest = len(sequence.request.prompt_token_ids) + sequence.request.sampling.max_tokens
        needed = self._kv.num_blocks_for(longest)
        if needed > self._kv.pool.num_blocks:
            raise RequestError(
                f"the request may grow to {longest} tokens, which take {needed} KV blocks; this worker has "
                f"{self._kv.pool.num_blocks}. Shorten the prompt or lower max_tokens"
            )
        self._stats.arrived(sequence)
        self.waiting.append(sequence)

    def schedule(self) -> ScheduledBatch:
        """Choose the next step: running sequences oldest first, then as many waiting ones as fit."""
        items: list[ScheduledSequence] = []
        budget = self._config.max_num_batched_tokens
        preempted = False
        for sequence in list(self.running):
            count = min(sequence.num_ready_tokens, budget)
            if count and sequence.status is SequenceStatus.RUNNING:
                preempted |= self._make_room(sequence, count)
                if sequence.status is SequenceStatus.RUNNING:
                    items.append(scheduled(sequence, count))
                    budget -= count
        while budget and not preempted and self._admit_next():
            sequence = self.running[-1]
            count = min(sequence.num_uncomputed_tokens, budget)
            items.append(scheduled(sequence, count))
            budget -= count
        return ScheduledBatch(tuple(items))

    def finish(self, sequence: Sequence) -> None:
        """Take a finished sequence out of the queues, and its blocks from it unless it is held."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        if not sequence.held:
            self._kv.release(sequence)

    def _admit_next(self) -> bool:
        if not self.waiting or len(self.running) >= self._config.max_num_seqs:
            return False
        sequence = self.waiting[0]
        if sequence.waits_for_parent or sequence.rows_in_flight or not self._kv.admit(sequence):
            return False
        self.waiting.popleft()
        sequence.status = SequenceStatus.RUNNING
        self.running.append(sequence)
        self._stats.admitted(sequence)
        return True

    def _make_room(self, sequence: Sequence, num_tokens: int) -> bool:
        """Find blocks for a running sequence, preempting younger ones or at last itself; returns whether any was."""
        preempted = False
        while sequence.status is SequenceStatus.RUNNING and not self._kv.grow(sequence, num_tokens):
            self._preempt(self.running[-1])
            preempted = True
        return preempted

    def _preempt(self, sequence: Sequence) -> None:
        self._stats.preempted(sequence)
        self._kv.release(sequence)
        self.running.remove(sequence)
        sequence.status = SequenceStatus.WAITING
        self.waiting.appendleft(sequence)


def scheduled(sequence: Sequence, num_tokens: int) -> ScheduledSequence:
    """Schedule the next `num_tokens` of a sequence."""
    fed_from = sequence.rows_in_flight[-1] if sequence.rows_in_flight else None
    return ScheduledSequence(sequence, num_tokens, num_tokens == sequence.num_uncomputed_tokens, fed_from)
