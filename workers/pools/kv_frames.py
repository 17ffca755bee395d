"""KV blocks on the wire: frames of a few whole blocks, each block with a checksum. Nothing in them is trusted."""

import math
import zlib
from collections.abc import Iterator, Sequence

import msgpack
import numpy as np
import torch

from workers.pools.kv_handoff import KVBytes, Prefilled, digest_tokens, pack_blocks

FRAME_BYTES = 2 * 2**20  # at most, but for a block that is larger; larger frames were no faster (docs/pools.md)


class BadFrameError(ValueError):
    """A frame that is not what was asked for; nothing of it has been taken."""


def frames_of(blocks: KVBytes, first_block: int) -> Iterator[bytes]:
    """The blocks from `first_block` on as frames `[first block, CRC-32 of each, bytes]` in msgpack, in order."""
    size = max(1, FRAME_BYTES // max(1, blocks.shape[1]))
    for first in range(first_block, len(blocks), size):
        part = blocks[first : first + size]
        frame: bytes = msgpack.packb([first, [zlib.crc32(block) for block in part], part.data])
        yield frame


class ReceivedBlocks:
    """The blocks of a hand-off as they arrive (`workers.engine.sequence.BlockSource`).

    Args:
        prefilled: what the blocks are said to be.
        token_ids: whose KV the receiver wants.
        layout_id, block_shape, dtype: of the receiver's KV.
        first_block: those before it are held by the receiver and are not sent.

    Attributes:
        transfer_s: how long they took to come; set by whoever fetched them, None where nobody tried.
    """

    def __init__(
        self,
        prefilled: Prefilled,
        token_ids: Sequence[int],
        layout_id: str,
        block_shape: tuple[int, ...],
        dtype: torch.dtype,
        first_block: int = 0,
    ) -> None:
        same_tokens = prefilled.num_tokens == len(token_ids) and prefilled.token_digest == digest_tokens(token_ids)
        self._fits = prefilled.layout_id == layout_id and same_tokens
        block_size = block_shape[2]
        num_blocks = -(-prefilled.num_tokens // block_size) if self._fits else 0
        self.first_block = min(first_block, num_blocks)
        self._num_tokens = prefilled.num_tokens
        self._blocks = torch.empty(num_blocks - self.first_block, *block_shape, dtype=dtype)
        self._num_arrived = 0
        self.transfer_s: float | None = None

    @property
    def num_missing(self) -> int:
        """Blocks that have not arrived; none where layout or tokens are not the receiver's, for it wants none."""
        return len(self._blocks) - self._num_arrived

    @property
    def num_bytes(self) -> int:
        """Of KV that have arrived."""
        return self._blocks[: self._num_arrived].nbytes

    @property
    def num_tokens(self) -> int:
        """Tokens whose KV can be taken over: none where layout or tokens are not the receiver's."""
        return self._num_tokens if self._fits else 0

    def add(self, frame: bytes) -> None:
        """Take a frame in. Raises BadFrameError for one that is damaged, out of order, or of another size."""
        first, checksums, payload = unpack(frame)
        begin, count = first - self.first_block, len(checksums)
        size = math.prod(self._blocks.shape[1:]) * self._blocks.dtype.itemsize
        if begin != self._num_arrived or not 0 < count <= self.num_missing or len(payload) != count * size:
            raise BadFrameError(f"{count} blocks from {first} on in {len(payload)} bytes were not expected")
        raw: KVBytes = np.frombuffer(payload, np.uint8).reshape(count, size)
        if [zlib.crc32(block) for block in raw] != checksums:
            raise BadFrameError(f"a checksum of the blocks from {first} on is wrong")
        pack_blocks(self._blocks[begin : begin + count])[:] = raw
        self._num_arrived += count

    def read_blocks(self, first_block: int) -> torch.Tensor:
        """[blocks, *block_shape] from `first_block` on, as far as they have arrived."""
        if first_block < self.first_block:  # a block that was held when they were asked for is gone
            return self._blocks[:0]
        return self._blocks[first_block - self.first_block : self._num_arrived]


def unpack(frame: bytes) -> tuple[int, list[int], bytes]:
    """A frame's parts. Raises BadFrameError where it has not these parts."""
    try:
        first, checksums, payload = msgpack.unpackb(frame)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise BadFrameError(f"this is no frame of KV blocks: {error}") from error
    listed = isinstance(checksums, list) and all(type(crc) is int for crc in checksums)
    if type(first) is not int or not listed or not isinstance(payload, bytes):
        raise BadFrameError("this is no frame of KV blocks")
    return first, checksums, payload
