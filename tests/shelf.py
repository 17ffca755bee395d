"""What the tests of the hand-off shelf share: a clock that stands still, blocks to put, and looks from outside."""

import numpy as np
import pytest

from workers.pools.handoff_shelf import HandoffShelf, NoSuchHandoffError
from workers.pools.kv_handoff import KVBytes

EPOCH, OTHER_EPOCH = "this life", "another life"
DIGEST = b"tokens"
ENDPOINT = "host:1"
LEASE_S = 10.0
BLOCK_BYTES = 8


class Clock:
    """Stands still until it is told to go on."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def blocks_of(num_blocks: int, value: int = 0) -> KVBytes:
    """Blocks that differ from those of another value, and from each other."""
    return (np.arange(num_blocks * BLOCK_BYTES).reshape(num_blocks, BLOCK_BYTES) + value).astype(np.uint8)


def assert_gone(shelf: HandoffShelf, name: str) -> None:
    """It is refused before a frame is asked for."""
    with pytest.raises(NoSuchHandoffError, match=f"no KV waits here for {name}"):
        shelf.frames(EPOCH, name, DIGEST, 0)


def assert_empty(shelf: HandoffShelf) -> None:
    assert (len(shelf), shelf.num_bytes) == (0, 0)
