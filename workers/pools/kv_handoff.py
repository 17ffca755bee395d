"""What a prefill worker passes to a decode worker: the prompt's KV as raw blocks, and the first token.

Nothing in it is trusted: another layout or a block whose checksum is wrong is computed again by the receiver.
"""

import hashlib
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from radix.block_hash import token_bytes
from workers.request import FinishReason, TokenLogprobs

KVBytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class KVHandoff:
    """The outcome of a prefill.

    Attributes:
        layout_id: of the sender's KV; the receiver's must be equal (`workers.engine.build.kv_namespace`).
        prompt_digest: of the prompt's tokens (`digest_prompt`).
        num_tokens: prompt tokens whose KV is in the blocks; the last block may be partly filled.
        num_cached_tokens: of those, how many the sender found in its cache.
        first_token: the first token of the completion.
        finish_reason: set where the first token was also the last.
        blocks: uint8 [blocks, bytes per block]; Ray moves it between processes without copying it into a pickle.
        checksums: CRC-32 of each block.
        first_logprobs: of the first token, where they were asked for.
    """

    layout_id: str
    prompt_digest: bytes
    num_tokens: int
    num_cached_tokens: int
    first_token: int
    finish_reason: FinishReason | None
    blocks: KVBytes
    checksums: tuple[int, ...]
    first_logprobs: TokenLogprobs | None = None


def digest_prompt(prompt_token_ids: Sequence[int]) -> bytes:
    """BLAKE2b of a prompt's tokens: names the prompt that blocks belong to, its partly filled last one included."""
    return hashlib.blake2b(token_bytes(prompt_token_ids), digest_size=16).digest()


def pack_blocks(blocks: torch.Tensor) -> KVBytes:
    """The raw bytes of [blocks, ...] of any dtype as uint8 [blocks, bytes per block], sharing memory."""
    raw: KVBytes = blocks.contiguous().flatten(1).view(torch.uint8).numpy()
    return raw


def checksum_blocks(blocks: KVBytes) -> tuple[int, ...]:
    """CRC-32 of each block."""
    return tuple(zlib.crc32(block) for block in blocks)


class HandoffBlocks:
    """The blocks of a hand-off as a receiver reads them (`workers.engine.sequence.BlockSource`)."""

    def __init__(
        self,
        handoff: KVHandoff,
        prompt: Sequence[int],
        layout_id: str,
        block_shape: tuple[int, ...],
        dtype: torch.dtype,
    ) -> None:
        self._handoff = handoff
        self._shape = block_shape
        self._dtype = dtype
        same_prompt = handoff.num_tokens == len(prompt) and handoff.prompt_digest == digest_prompt(prompt)
        same_size = handoff.blocks.shape[1:] == (math.prod(block_shape) * dtype.itemsize,)
        self._fits = handoff.layout_id == layout_id and same_prompt and same_size

    @property
    def num_tokens(self) -> int:
        """Prompt tokens whose KV can be taken over: none where layout, size or prompt are not the receiver's."""
        return self._handoff.num_tokens if self._fits else 0

    def read_blocks(self, first_block: int) -> torch.Tensor:
        """[blocks, *block_shape] from `first_block` up to the first whose checksum is wrong."""
        raw = self._handoff.blocks[first_block:]
        wanted = self._handoff.checksums[first_block:]
        good = 0
        while good < min(len(raw), len(wanted)) and zlib.crc32(raw[good]) == wanted[good]:
            good += 1
        blocks = torch.empty(good, *self._shape, dtype=self._dtype)
        if good:  # a tensor without elements cannot be viewed as bytes
            pack_blocks(blocks)[:] = raw[:good]
        return blocks
