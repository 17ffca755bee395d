"""The router of one pool: rank its workers for a prompt by what they hold and what they have to do."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from radix.prefix_index import PrefixIndex
from router.scoring import Scoring
from router.worker_table import WorkerTable


@dataclass(frozen=True)
class Candidate:
    """A worker as a choice for one request."""

    worker: str
    cost: float
    num_held_tokens: int


class Router:
    """Prefix overlap against load. Without an index, or with a wrong one, it still balances load.

    Args:
        index: kept up to date by the caller from the workers' events.
        scoring: the weights of this pool.
        block_size: tokens per block of the index.
        rng: breaks ties, so that a cold cluster does not send everything to its first worker.
    """

    def __init__(self, index: PrefixIndex, scoring: Scoring, block_size: int, rng: random.Random) -> None:
        self._index = index
        self._scoring = scoring
        self._block_size = block_size
        self._rng = rng
        self.workers = WorkerTable()

    def rank(self, block_hashes: Sequence[int], num_tokens: int, candidates: Sequence[str]) -> list[Candidate]:
        """All candidates, best first, for a prompt of `num_tokens` with these block hashes. Charges nothing."""
        held_blocks = self._index.match(block_hashes)
        ranked = [self._score(worker, held_blocks.get(worker, 0), num_tokens) for worker in candidates]
        self._rng.shuffle(ranked)
        return sorted(ranked, key=lambda candidate: candidate.cost)

    def _score(self, worker: str, num_held_blocks: int, num_tokens: int) -> Candidate:
        num_held_tokens = num_held_blocks * self._block_size
        outstanding = self.workers.outstanding_tokens(worker)
        return Candidate(worker, self._scoring.cost(num_tokens, num_held_tokens, outstanding), num_held_tokens)
