"""KV of finished prompts, waiting to be fetched by decode workers.

What waits here is a copy in host memory: no block of the engine's pool is pinned, freed or written under a reader, and
whoever comes too late finds nothing rather than somebody else's KV.
"""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from workers.pools.kv_frames import frames_of
from workers.pools.kv_handoff import KVBytes, KVTicket

LEASE_S = 10.0
CAPACITY_BYTES = 2**30


class NoSuchHandoffError(LookupError):
    """The KV is not here: fetched before, expired, or of another life of this worker."""


class Waiting(NamedTuple):
    """One hand-off, and until when it waits."""

    blocks: KVBytes
    token_digest: bytes
    deadline_s: float


class HandoffShelf:
    """Keeps each hand-off until it is fetched, released, or its lease ends. Runs on one event loop.

    Args:
        epoch: names this life of the worker.
        lease_s: how long one waits.
        capacity_bytes: beyond it the oldest are dropped; their receivers compute them again.
        clock: seconds, of a clock that does not jump.
    """

    def __init__(
        self,
        epoch: str,
        lease_s: float = LEASE_S,
        capacity_bytes: int = CAPACITY_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.epoch = epoch
        self._lease_s = lease_s
        self._capacity_bytes = capacity_bytes
        self._clock = clock
        self._waiting: dict[str, Waiting] = {}  # the oldest first
        self.num_bytes = 0

    def __len__(self) -> int:
        """Hand-offs that wait, leases that are over not counted."""
        self.expire()
        return len(self._waiting)

    def put(self, request_id: str, blocks: KVBytes, endpoint: str, token_digest: bytes) -> KVTicket:
        """Let a hand-off wait; returns what it is fetched with."""
        self.release(request_id)
        self.expire()
        self._waiting[request_id] = Waiting(blocks, token_digest, self._clock() + self._lease_s)
        self.num_bytes += blocks.nbytes
        while self.num_bytes > self._capacity_bytes and len(self._waiting) > 1:
            self.release(next(iter(self._waiting)))
        return KVTicket(endpoint, self.epoch, request_id, token_digest, self._lease_s)

    def frames(self, epoch: str, request_id: str, token_digest: bytes, first_block: int) -> Iterator[bytes]:
        """The hand-off from a block on. It has been fetched once all frames have been taken. A fetch that has begun
        goes on when the lease ends.

        Raises:
            NoSuchHandoffError: it is not here, or it is the KV of other tokens. Nothing has been sent then.
        """
        self.expire()
        waiting = self._waiting.get(request_id)
        if epoch != self.epoch or waiting is None or waiting.token_digest != token_digest:
            raise NoSuchHandoffError(f"no KV waits here for {request_id}")
        return self._fetch(request_id, waiting, first_block)

    def release(self, request_id: str) -> None:
        """Drop a hand-off; unknown ids are ignored."""
        gone = self._waiting.pop(request_id, None)
        if gone is not None:
            self.num_bytes -= gone.blocks.nbytes

    def expire(self) -> None:
        """Drop those whose lease is over."""
        now_s = self._clock()
        while self._waiting and (oldest := next(iter(self._waiting.items())))[1].deadline_s <= now_s:
            self.release(oldest[0])

    def _fetch(self, request_id: str, waiting: Waiting, first_block: int) -> Iterator[bytes]:
        yield from frames_of(waiting.blocks, max(0, first_block))
        if self._waiting.get(request_id) is waiting:
            self.release(request_id)
