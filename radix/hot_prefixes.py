"""Which prefixes are asked for most: a coarse trie, a step for every sixteenth block.

The index (`radix/prefix_index.py`) knows who holds what; this knows what was hit, of a bounded number of prefixes.
Steps this wide make a pygtrie of Python objects cheap, and its first step is the namespace, so that a tenant or a model
is listed or dropped in one call.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import nlargest

import pygtrie

STEP = 16  # blocks
MAX_STEPS = 64  # hits of longer prefixes count for the one of this length
Key = tuple[int, ...]


@dataclass(frozen=True)
class HotPrefix:
    """A prefix and how often it was hit.

    Attributes:
        num_blocks: its depth, a multiple of `STEP`.
        last_hash: names it.
        num_hits: of this prefix and of all longer ones.
        last_used: when the last of them was, on the caller's clock.
    """

    num_blocks: int
    last_hash: int
    num_hits: int
    last_used: float


class HotPrefixes:
    """Counts hits. `max_prefixes` are kept, those that were hit last."""

    def __init__(self, max_prefixes: int = 10_000) -> None:
        self._max_prefixes = max_prefixes
        self._hits = pygtrie.Trie()  # key -> (hits that ended there, last use)
        self._recent: OrderedDict[Key, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._recent)

    def hit(self, root: int, hashes: Sequence[int], num_blocks: int, now: float) -> None:
        """A prompt of a namespace found its first `num_blocks` blocks held; fewer than `STEP` are not counted."""
        key = key_of(root, hashes[:num_blocks])
        if len(key) == 1:
            return
        num_hits, _ = self._hits.get(key, (0, now))
        self._hits[key] = num_hits + 1, now
        self._recent[key] = None
        self._recent.move_to_end(key)
        if len(self._recent) > self._max_prefixes:
            oldest, _ = self._recent.popitem(last=False)
            del self._hits[oldest]

    def hottest(self, root: int, limit: int) -> list[HotPrefix]:
        """A namespace's prefixes, most hits first: those where hits ended and those that several such share."""
        if not self._hits.has_node((root,)):
            return []
        listed: list[HotPrefix] = []

        def visit(
            _: object, key: Key, children: Iterator[tuple[int, float]], own: tuple[int, float] = (0, 0.0)
        ) -> object:
            below = list(children)
            num_hits = own[0] + sum(hits for hits, _ in below)
            last_used = max([own[1], *(used for _, used in below)])
            if len(key) > 1 and (own[0] or len(below) > 1):
                listed.append(HotPrefix((len(key) - 1) * STEP, key[-1], num_hits, last_used))
            return num_hits, last_used

        self._hits.traverse(visit, (root,))
        return nlargest(limit, listed, key=lambda prefix: prefix.num_hits)

    def explain(self, root: int, hashes: Sequence[int]) -> list[HotPrefix]:
        """Where on the way of a prompt hits ended before, shortest first; hits of longer prefixes are not in these."""
        steps = self._hits.prefixes(key_of(root, hashes))
        return [HotPrefix((len(step.key) - 1) * STEP, step.key[-1], *step.value) for step in steps]

    def drop_namespace(self, root: int) -> None:
        """Forget a namespace."""
        if self._hits.has_node((root,)):
            for key in self._hits.keys((root,)):
                del self._recent[key]
            del self._hits[(root,) :]


def key_of(root: int, hashes: Sequence[int]) -> Key:
    """The namespace, then every sixteenth block."""
    return (root, *hashes[STEP - 1 : MAX_STEPS * STEP : STEP])
