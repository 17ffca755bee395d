"""What an engine does, in plain numbers, for whoever exports them. Costs a clock reading or two per request, and one
addition per step."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from workers.engine.sequence import KnownFrom, Sequence, SequenceStatus
from workers.request import WorkerTimes

REMEMBERED_TIMES = 4096  # of each kind, where nobody takes them


def times() -> "deque[float]":
    """Seconds, of the last requests."""
    return deque(maxlen=REMEMBERED_TIMES)


@dataclass
class EngineCounts:
    """What happened since the counts were last taken.

    Attributes:
        prompt_tokens: of prompts whose first token was drawn here, cached tokens included. One that is handed on, or
            gone on with by another attempt, is counted once.
        generation_tokens: tokens that were drawn here.
        prefix_query_tokens: tokens of admitted requests, which were looked up in the prefix cache.
        prefix_hit_tokens: of those, how many it held.
        num_preemptions: times that a sequence lost its blocks.
        num_evicted_blocks: cached blocks that were dropped to make room.
        recomputed_tokens: tokens computed again, by how their KV was lost.
        queue_s: seconds from a sequence's arrival to its blocks.
        prefill_s: seconds from there to its first token, where it was drawn here.
        decode_s: seconds from the first token, or from the arrival of its KV, to the end.
    """

    prompt_tokens: int = 0
    generation_tokens: int = 0
    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0
    num_preemptions: int = 0
    num_evicted_blocks: int = 0
    recomputed_tokens: dict[KnownFrom, int] = field(default_factory=lambda: dict.fromkeys(KnownFrom, 0))
    queue_s: deque[float] = field(default_factory=times)
    prefill_s: deque[float] = field(default_factory=times)
    decode_s: deque[float] = field(default_factory=times)


class EngineStats:
    """Counts as sequences live. Runs in the engine's thread.

    Args:
        clock: seconds, of a clock that does not jump.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.counts = EngineCounts()

    def take(self) -> EngineCounts:
        """What was counted since the last call."""
        taken, self.counts = self.counts, EngineCounts()
        return taken

    def arrived(self, sequence: Sequence) -> None:
        """It begins to wait."""
        sequence.arrived_s = self._clock()

    def admitted(self, sequence: Sequence) -> None:
        """It has got blocks, perhaps for the second time."""
        lost = sequence.num_known_tokens - sequence.num_computed_tokens
        if sequence.known_from is not None and lost > 0:
            self.counts.recomputed_tokens[sequence.known_from] += lost
        if sequence.admitted_s is None:
            self._admitted_first(sequence)

    def preempted(self, sequence: Sequence) -> None:
        """It is about to lose its blocks."""
        self.counts.num_preemptions += 1
        computed = min(sequence.num_computed_tokens, len(sequence.token_ids))
        sequence.num_known_tokens, sequence.known_from = computed, KnownFrom.PREEMPTION

    def gained_token(self, sequence: Sequence) -> None:
        """It has its first token, or its last."""
        if sequence.first_token_s is None:
            self._gained_first(sequence)
        elif sequence.status is SequenceStatus.FINISHED:
            self.ended(sequence)

    def ended(self, sequence: Sequence) -> None:
        """It gives no more tokens, finished or dropped."""
        if sequence.first_token_s is not None:
            self.counts.decode_s.append(self._clock() - sequence.first_token_s)

    def times_to_tell(self, sequence: Sequence) -> WorkerTimes | None:
        """How it came to its first output, which goes with that one; None for the others."""
        if sequence.has_told_times or sequence.admitted_s is None or sequence.first_token_s is None:
            return None
        sequence.has_told_times = True
        return WorkerTimes(sequence.admitted_s - sequence.arrived_s, sequence.first_token_s - sequence.admitted_s)

    def _admitted_first(self, sequence: Sequence) -> None:
        counts, now_s = self.counts, self._clock()
        sequence.admitted_s = now_s
        counts.queue_s.append(now_s - sequence.arrived_s)
        if sequence.known_from is KnownFrom.HANDOFF:
            sequence.first_token_s = now_s  # drawn elsewhere: from here on it decodes
        if sequence.index == 0:  # the others share its prompt
            counts.prefix_query_tokens += len(sequence.token_ids)
            counts.prefix_hit_tokens += sequence.num_cached_tokens

    def _gained_first(self, sequence: Sequence) -> None:
        sequence.first_token_s = now_s = self._clock()
        if sequence.admitted_s is not None:
            self.counts.prefill_s.append(now_s - sequence.admitted_s)
        if sequence.index == 0 and not sequence.request.output_token_ids:
            self.counts.prompt_tokens += len(sequence.request.prompt_token_ids)
