"""Who holds which block: sequences' tables, the prefix cache and the free pool, moved together.

block         held by                          gets there by            leaves by
free          BlockPool                        pool.free                pool.allocate
private       one sequence's table, its tail   admit, grow              commit, release
committed     the prefix cache; tables of      commit (full, computed)  cache.evict, once no
              any number of sequences                                   lease pins it
"""

from typing import Protocol

import torch

from radix.prefix_cache import PrefixCache, PrefixMatch
from workers.engine.block_pool import BlockPool
from workers.engine.sequence import Sequence


class BlockMemory(Protocol):
    """Where block contents live (`KVCache`)."""

    def write_blocks(self, block_ids: list[int], blocks: torch.Tensor) -> None:
        """Copy blocks in."""

    def copy_block(self, source: int, target: int) -> None:
        """Copy the contents of one block to another."""


class KVManager:
    """Admits, grows, commits and releases sequences' blocks.

    Args:
        pool: all blocks of the cache.
        cache: the prefix cache whose blocks come out of that pool.
        memory: the contents of the blocks.
        block_size: tokens per block.
        shares_prefixes: publish blocks in the cache; without, every sequence computes all its tokens.

    Attributes:
        num_evicted_blocks: cached blocks dropped for others, since whoever counts them has set it to 0.
    """

    def __init__(
        self,
        pool: BlockPool,
        cache: PrefixCache,
        memory: BlockMemory,
        block_size: int,
        *,
        shares_prefixes: bool = True,
    ) -> None:
        self.pool = pool
        self.cache = cache
        self._memory = memory
        self.block_size = block_size
        self._shares_prefixes = shares_prefixes
        self.num_evicted_blocks = 0

    def num_blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold the KV of this many tokens."""
        return -(-num_tokens // self.block_size)

    def admit(self, sequence: Sequence) -> bool:
        """Give a waiting sequence blocks for all its tokens, cached ones first, or return False and change nothing.

        At least one token is always left to compute, or there would be no logits to sample from.
        """
        num_tokens = len(sequence.token_ids)
        match = self._match(sequence)
        lease = self.cache.acquire(match)
        fresh = self._take(self.num_blocks_for(num_tokens) - len(match.block_ids))
        if fresh is None:
            self.cache.release(lease)
            return False
        sequence.lease = lease
        sequence.block_table = [*match.block_ids, *fresh]
        sequence.num_committed_blocks = len(match.block_ids)
        sequence.num_computed_tokens = len(match.block_ids) * self.block_size
        if not sequence.was_admitted:  # after a preemption it finds blocks that it computed itself
            parent = sequence.parent  # what the first completion computed is no hit of the others
            sequence.num_cached_tokens = parent.num_cached_tokens if parent else sequence.num_computed_tokens
            sequence.was_admitted = True
        self._copy_from_parent(sequence)
        self._import(sequence)
        return True

    def num_tokens_to_compute(self, sequence: Sequence) -> int:
        """Tokens of a waiting sequence that the cache does not hold now."""
        return len(sequence.token_ids) - len(self._match(sequence).block_ids) * self.block_size

    def grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Make the table cover `num_tokens` tokens more than are computed, or return False and change nothing."""
        wanted = self.num_blocks_for(sequence.num_computed_tokens + num_tokens)
        fresh = self._take(wanted - len(sequence.block_table))
        if fresh is None:
            return False
        sequence.block_table += fresh
        return True

    def commit(self, sequence: Sequence) -> None:
        """Offer the sequence's full, computed blocks to the prefix cache, and use its copy where it had them.

        Only known tokens count, though the batch in flight may compute one more: a block is found by its tokens.
        """
        num_known = min(sequence.num_computed_tokens, len(sequence.token_ids))
        first, last = sequence.num_committed_blocks, num_known // self.block_size
        if first == last or sequence.lease is None or not self._shares_prefixes:
            return
        own = sequence.block_table[first:last]
        tokens = sequence.tokens_of_blocks(first, last)
        sequence.lease, kept = self.cache.extend(sequence.lease, sequence.block_hashes[first:last], own, tokens)
        sequence.block_table[first : first + len(kept)] = kept
        sequence.num_committed_blocks += len(kept)
        self.pool.free([block for block, held in zip(own, kept, strict=False) if block != held])

    def release(self, sequence: Sequence) -> None:
        """Take all blocks from a sequence: private ones are free, committed ones stay cached until evicted."""
        if sequence.lease is None:
            return
        self.pool.free(sequence.block_table[sequence.num_committed_blocks :])
        self.cache.release(sequence.lease)
        sequence.lease = None
        sequence.block_table = []
        sequence.num_committed_blocks = 0
        sequence.num_computed_tokens = 0

    def _match(self, sequence: Sequence) -> PrefixMatch:
        """What the cache holds of it, at least one token left over."""
        last = (len(sequence.token_ids) - 1) // self.block_size
        return self.cache.match(sequence.block_hashes[:last], sequence.tokens_of_blocks(0, last))

    def _take(self, count: int) -> list[int] | None:
        """Allocate blocks, evicting cached ones where too few are free; None where even that is not enough."""
        if count <= 0:
            return []
        missing = count - self.pool.num_free
        if missing > self.cache.num_idle_blocks:
            return None
        if missing > 0:
            evicted = self.cache.evict(missing)
            self.num_evicted_blocks += len(evicted)
            self.pool.free(evicted)
        return self.pool.allocate(count)

    def _copy_from_parent(self, sequence: Sequence) -> None:
        """Copy on write: what a fork shares of its last prompt block goes into a block of its own.

        The last prompt token is left to compute, so that the fork draws a first token of its own. A parent that has
        ended, or whose blocks the fork does not share, costs no more than computing that block again.
        """
        parent, sequence.parent = sequence.parent, None
        num_shared = len(sequence.token_ids) - 1
        last = num_shared // self.block_size
        if parent is None or parent.num_computed_tokens <= num_shared or sequence.num_committed_blocks < last:
            return
        self._memory.copy_block(parent.block_table[last], sequence.block_table[last])
        sequence.num_computed_tokens = num_shared

    def _import(self, sequence: Sequence) -> None:
        """Fill the blocks of a prompt that was computed elsewhere; what does not arrive whole is left to compute."""
        source, sequence.imported = sequence.imported, None
        first = sequence.num_committed_blocks
        if source is None or source.num_tokens <= sequence.num_computed_tokens:
            return
        blocks = source.read_blocks(first)
        self._memory.write_blocks(sequence.block_table[first : first + len(blocks)], blocks)
        arrived = (first + len(blocks)) * self.block_size
        sequence.num_computed_tokens = min(source.num_tokens, arrived)
        self.commit(sequence)
