"""What a prefill leaves behind: a few words that cross the ingress, and the prompt's KV, which does not."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from radix.block_hash import token_bytes
from workers.request import FinishReason, RequestOutput, TokenLogprobs, WorkerTimes

KVBytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class KVTicket:
    """Where the KV of one attempt waits, and for how long.

    Attributes:
        endpoint: `host:port` of the prefill worker.
        epoch: names that worker's life. Another life at the same address knows nothing of the ticket.
        request_id: of the attempt.
        token_digest: of the tokens whose KV it is.
        lease_s: seconds that it waits.
    """

    endpoint: str
    epoch: str
    request_id: str
    token_digest: bytes
    lease_s: float


@dataclass(frozen=True)
class Prefilled:
    """The outcome of a prefill without its KV.

    Attributes:
        layout_id: of the sender's KV; the receiver's must be equal (`workers.engine.build.kv_namespace`).
        token_digest: of the tokens whose KV it is (`digest_tokens`).
        num_tokens: how many they are; their last block may be partly filled.
        num_cached_tokens: of those, how many the sender found in its cache.
        first_token: the token after them.
        finish_reason: set where that token was the last.
        first_logprobs: of that token, where they were asked for.
        ticket: where the KV is; None where there is nothing to go on with.
        times: how the sender came to the first token.
    """

    request_id: str
    layout_id: str
    token_digest: bytes
    num_tokens: int
    num_cached_tokens: int
    first_token: int
    finish_reason: FinishReason | None
    first_logprobs: TokenLogprobs | None = None
    ticket: KVTicket | None = None
    times: WorkerTimes | None = field(default=None, compare=False)

    def with_ticket(self, ticket: KVTicket) -> "Prefilled":
        """The same, and where its KV is."""
        return replace(self, ticket=ticket)

    @property
    def first_output(self) -> RequestOutput:
        """The token as an output of the request."""
        logprobs = (self.first_logprobs,) if self.first_logprobs else None
        return RequestOutput(
            self.request_id,
            (self.first_token,),
            self.num_cached_tokens,
            self.finish_reason,
            logprobs=logprobs,
            times=self.times,
        )


class KVHandoff(NamedTuple):
    """The same with its KV: uint8 [blocks, bytes per block], a copy that no engine writes to."""

    prefilled: Prefilled
    blocks: KVBytes


def digest_tokens(token_ids: Sequence[int]) -> bytes:
    """BLAKE2b of tokens: names what blocks are the KV of, a partly filled last one included."""
    return hashlib.blake2b(token_bytes(token_ids), digest_size=16).digest()


def pack_blocks(blocks: torch.Tensor) -> KVBytes:
    """The raw bytes of [blocks, ...] of any dtype as uint8 [blocks, bytes per block], sharing memory."""
    raw: KVBytes = blocks.contiguous().flatten(1).view(torch.uint8).numpy()
    return raw
