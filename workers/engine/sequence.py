"""A request inside the engine: its tokens so far, its blocks, and how far its KV is computed."""

from enum import Enum, StrEnum, auto
from typing import Protocol

import torch

from radix.block_hash import BlockHasher, token_bytes
from radix.prefix_cache import Lease
from workers.request import FinishReason, GenerationRequest


class SequenceStatus(Enum):
    """WAITING has no blocks; RUNNING has; FINISHED gives no more tokens."""

    WAITING = auto()
    RUNNING = auto()
    FINISHED = auto()


class KnownFrom(StrEnum):
    """Where the KV of tokens was computed before, so that to compute it again is a loss.

    PREEMPTION: here, before it was preempted. HANDOFF: by a prefill worker. RESUME: by an earlier attempt.
    """

    PREEMPTION = "preemption"
    HANDOFF = "handoff"
    RESUME = "resume"


class BlockSource(Protocol):
    """KV of a prompt that was computed elsewhere."""

    @property
    def num_tokens(self) -> int:
        """Leading tokens of the sequence whose KV is in the blocks."""

    def read_blocks(self, first_block: int) -> torch.Tensor:
        """The blocks from `first_block` on, up to the first that cannot be trusted; see `kernels.kv_store`."""


class Sequence:
    """Tokens and blocks of one request.

    Attributes:
        index: which of the request's completions it is.
        token_ids: prompt and output so far, as far as the host knows them.
        rows_in_flight: for each token that a batch in flight draws for it, its place among the tokens of that batch.
        runs_ahead: whether a token may be computed before the host knows it (`workers.engine.runner`).
        block_table: blocks that hold its KV; the first `num_committed_blocks` belong to the prefix cache.
        num_computed_tokens: leading tokens whose KV is in the blocks once all that was launched is computed.
        num_cached_tokens: of the prompt, how many were found in a cache rather than computed for this request.
        imported: KV to take over at admission in place of a prefill.
        was_admitted: has had blocks before, and lost them if it has none.
        held: keep its blocks after it has finished, until the engine is told to release them.
        index: which of the request's completions it is.
        parent: the completion whose prompt it waits for and shares; None once it has been admitted.
        num_known_tokens: leading tokens whose KV was computed before it gets its blocks, by `known_from`.
        arrived_s, admitted_s, first_token_s: moments of its life, kept by `workers.engine.stats`.
        has_told_times: whether an output has said how long they were apart.
    """

    def __init__(self, request: GenerationRequest, hasher: BlockHasher, index: int = 0) -> None:
        self.request = request
        self.index = index
        self.parent: Sequence | None = None
        self.token_ids = list(request.token_ids)
        self.rows_in_flight: list[int] = []
        self.runs_ahead = False
        self.status = SequenceStatus.WAITING
        self.finish_reason: FinishReason | None = None
        self.block_table: list[int] = []
        self.lease: Lease | None = None
        self.num_committed_blocks = 0
        self.num_computed_tokens = 0
        self.num_cached_tokens = 0
        self.imported: BlockSource | None = None
        self.was_admitted = False
        self.held = False
        self.known_from = KnownFrom.RESUME if request.output_token_ids else None
        self.num_known_tokens = len(self.token_ids) - 1 if self.known_from else 0
        self.arrived_s = 0.0
        self.admitted_s: float | None = None
        self.first_token_s: float | None = None
        self.has_told_times = False
        self._hasher = hasher
        self._hash_state = hasher.start(request.cache_salt)
        self._block_hashes: list[int] = []

    def fork(self, index: int) -> "Sequence":
        """Another completion of the same request, which shares the prompt's KV once it is computed."""
        child = Sequence(self.request, self._hasher, index)
        child.parent = self
        child.runs_ahead = self.runs_ahead
        child._block_hashes, child._hash_state = list(self.block_hashes), self._hash_state
        return child

    @property
    def waits_for_parent(self) -> bool:
        """Whether the KV that it is to share is still being computed."""
        parent = self.parent
        return (
            parent is not None
            and parent.status is not SequenceStatus.FINISHED
            and parent.num_computed_tokens < len(self.token_ids)
        )

    @property
    def num_uncomputed_tokens(self) -> int:
        """Tokens whose KV is still to be computed; one, while decoding."""
        return len(self.token_ids) + len(self.rows_in_flight) - self.num_computed_tokens

    @property
    def num_ready_tokens(self) -> int:
        """Uncomputed tokens that a batch may compute now.

        None where the host must know the one in flight first, or where that is the last one the request may have.
        """
        if self.rows_in_flight and not (self.runs_ahead and self.num_output_tokens < self.request.sampling.max_tokens):
            return 0
        return self.num_uncomputed_tokens

    @property
    def num_tokens(self) -> int:
        """Tokens so far, those in flight included."""
        return len(self.token_ids) + len(self.rows_in_flight)

    @property
    def num_output_tokens(self) -> int:
        """Tokens generated so far, those in flight included."""
        return self.num_tokens - len(self.request.prompt_token_ids)

    @property
    def block_hashes(self) -> list[int]:
        """Chained hashes of all full blocks of its tokens; each block is hashed once."""
        hashes, size = self._block_hashes, self._hasher.block_size
        fresh = self.token_ids[len(hashes) * size : len(self.token_ids) // size * size]
        if fresh:
            more, self._hash_state = self._hasher.hash_blocks(token_bytes(fresh), self._hash_state)
            hashes += more
        return hashes

    def tokens_of_blocks(self, first: int, last: int) -> bytes:
        """The tokens of blocks `first` to `last` (exclusive) as int32 bytes."""
        size = self._hasher.block_size
        return token_bytes(self.token_ids[first * size : last * size])

    def append_token(self, token_id: int, eos_token_ids: frozenset[int]) -> None:
        """Take a generated token in, and finish where the model says so or the request has had its fill."""
        self.token_ids.append(token_id)
        sampling, num_known = self.request.sampling, len(self.token_ids) - len(self.request.prompt_token_ids)
        ends = token_id in sampling.stop_token_ids or (token_id in eos_token_ids and not sampling.ignore_eos)
        if ends and num_known >= sampling.min_tokens:
            self.finish(FinishReason.STOP)
        elif num_known >= sampling.max_tokens:
            self.finish(FinishReason.LENGTH)

    def finish(self, reason: FinishReason) -> None:
        """No more tokens; the blocks stay until they are released."""
        self.status = SequenceStatus.FINISHED
        self.finish_reason = reason
