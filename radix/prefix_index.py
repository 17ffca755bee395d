"""The routers' index: which workers hold which prefixes, kept from the workers' events.

The index is a hint. A wrong entry costs a worse choice of worker, never a wrong token: the worker that gets the request
looks into its own cache.
"""

from collections.abc import Sequence

from radix.events import BlocksStored, CacheEvent
from radix.tree import RadixNode, RadixTree

Holders = int  # a bit per worker


class UnknownBlockError(Exception):
    """An event names a block the index has never heard of: something was missed, ask for a snapshot."""


class PrefixIndex:
    """Radix tree whose value is the set of workers that hold a run. Runs split where sets differ and merge where not.

    Workers evict leaves first, so what one holds is closed under prefixes, and a match is one walk for all of them.
    """

    def __init__(self, root: int) -> None:
        self._root_hash = root
        self._tree: RadixTree[Holders] = RadixTree(0, lambda holders, at: (holders, holders))
        self._node_of: dict[int, RadixNode[Holders]] = {}
        self._bit_of: dict[str, int] = {}

    @property
    def num_blocks(self) -> int:
        """Distinct blocks that at least one worker holds."""
        return len(self._node_of)

    def match(self, hashes: Sequence[int]) -> dict[str, int]:
        """How many leading blocks of `hashes` each worker holds; workers that hold none are left out."""
        depth_of: dict[int, int] = {}
        depth, alive = 0, -1
        for step in self._tree.walk(hashes):
            alive &= step.node.value
            if not alive:
                break
            depth += step.matched
            depth_of.update(dict.fromkeys(set_bits(alive), depth))
        return {worker: depth_of[bit] for worker, bit in self._bit_of.items() if bit in depth_of}

    def bit_of(self, worker: str) -> Holders:
        """The worker's bit in a set of holders. It is its own until `drop`."""
        return self._bit(worker)

    def workers_of(self, holders: Holders) -> list[str]:
        """The names of a set's workers."""
        return [worker for worker, bit in self._bit_of.items() if bit & holders]

    def holders(self, hashes: Sequence[int]) -> list[tuple[int, Holders]]:
        """Who holds how much of a prompt: (depth in blocks, the workers that hold at least that many), deepest first.

        One entry for each depth at which the set changes; none where nobody holds the first block.
        """
        found: list[tuple[int, Holders]] = []
        depth = 0
        for step in self._tree.walk(hashes):
            depth += step.matched
            if found and found[-1][1] == step.node.value:
                found.pop()
            found.append((depth, step.node.value))
        return found[::-1]

    def insert(self, worker: str, hashes: Sequence[int]) -> None:
        """Take in that a worker holds a whole chain from the root on."""
        self._store(self._bit(worker), self._root_hash, hashes)

    def apply(self, worker: str, event: CacheEvent) -> None:
        """Take in one event. Raises UnknownBlockError where it does not fit what is known of that worker."""
        if isinstance(event, BlocksStored):
            self._store(self._bit(worker), event.parent, event.hashes)
        else:
            self._remove(self._bit(worker), event.hashes)

    def drop(self, worker: str) -> None:
        """Forget everything about a worker."""
        bit = self._bit_of.pop(worker, None)
        if bit is None:
            return
        for node in reversed(list(self._tree.nodes())):
            node.value &= ~bit
            self._tidy(node)

    def blocks_of(self, worker: str) -> set[int]:
        """Every block hash the worker is believed to hold; a full scan, for tests and for explaining."""
        bit = self._bit_of.get(worker, 0)
        return {block for node in self._tree.nodes() if node.value & bit for block in node.hashes}

    def check_integrity(self) -> None:
        """Raise AssertionError where tree and lookup table disagree, or a run is held by nobody."""
        self._tree.check_integrity()
        where = {block: node for node in self._tree.nodes() for block in node.hashes}
        if where != self._node_of:
            raise AssertionError("the lookup table does not match the tree")
        for node in self._tree.nodes():
            if not node.value and not node.children:
                raise AssertionError("a leaf is held by nobody")

    def _store(self, bit: int, parent: int, hashes: Sequence[int]) -> None:
        touched = [self._node_ending_with(parent, bit)]
        at = 0
        for step in list(self._tree.walk(hashes, touched[0])):
            node = self._split(step.node, step.matched)
            node.value |= bit
            touched.append(node)
            at += step.matched
        if at < len(hashes):
            touched.append(self._hang(touched[-1], list(hashes[at:]), bit))
        for node in reversed(touched):
            self._tidy(node)

    def _hang(self, node: RadixNode[Holders], hashes: list[int], bit: int) -> RadixNode[Holders]:
        """Add a run that is new to the index, in place where the run above has the same only holder."""
        if len(set(hashes)) < len(hashes) or not self._node_of.keys().isdisjoint(hashes):
            raise UnknownBlockError("a block is stored behind two different parents")
        if node.parent is not None and node.value == bit and not node.children:
            node.hashes += hashes
        else:
            node = self._tree.insert(node, hashes, bit)
        self._node_of.update(dict.fromkeys(hashes, node))
        return node

    def _remove(self, bit: int, hashes: Sequence[int]) -> None:
        at = 0
        while at < len(hashes):
            at += self._remove_run(bit, hashes, at)

    def _remove_run(self, bit: int, hashes: Sequence[int], at: int) -> int:
        """Remove the run of `hashes` that begins at `at`, and return how long it is."""
        first = self._node_held_by(bit, hashes[at])
        above = self._split_before(first, first.hashes.index(hashes[at]))
        touched = [above]
        steps = list(self._tree.walk(hashes, above, at))
        for step in steps:
            node = self._split(step.node, step.matched)
            node.value &= ~bit
            touched.append(node)
        for node in reversed(touched):
            self._tidy(node)
        return sum(step.matched for step in steps)

    def _tidy(self, node: RadixNode[Holders]) -> None:
        """Remove a run that nobody holds, upwards; merge one with its only child where the same workers hold both."""
        while node.parent is not None and not node.value and not node.children:
            parent = node.parent
            self._tree.remove(node)
            for block in node.hashes:
                del self._node_of[block]
            node = parent
        while node.parent is not None and len(node.children) == 1:
            (child,) = node.children.values()
            if child.value != node.value:
                return
            self._tree.absorb_child(node)
            self._node_of.update(dict.fromkeys(child.hashes, node))

    def _split(self, node: RadixNode[Holders], at: int) -> RadixNode[Holders]:
        """The node that ends after the first `at` hashes of `node`, made by a split where there is none."""
        if at == len(node.hashes):
            return node
        upper = self._tree.split(node, at)
        self._node_of.update(dict.fromkeys(upper.hashes, upper))
        return upper

    def _split_before(self, node: RadixNode[Holders], at: int) -> RadixNode[Holders]:
        """The node that ends just before the hash at `at` of `node`."""
        if at:
            return self._split(node, at)
        return node.parent or self._tree.root

    def _node_held_by(self, bit: int, block: int) -> RadixNode[Holders]:
        node = self._node_of.get(block)
        if node is None or not node.value & bit:
            raise UnknownBlockError(f"the worker is not known to hold block {block:#018x}")
        return node

    def _node_ending_with(self, block: int, bit: int) -> RadixNode[Holders]:
        if block == self._root_hash:
            return self._tree.root
        node = self._node_held_by(bit, block)
        return self._split(node, node.hashes.index(block) + 1)

    def _bit(self, worker: str) -> int:
        if worker not in self._bit_of:
            used = sum(self._bit_of.values())
            self._bit_of[worker] = ~used & (used + 1)
        return self._bit_of[worker]


def set_bits(bits: int) -> list[int]:
    """The single-bit values that add up to `bits`."""
    found = []
    while bits:
        lowest = bits & -bits
        found.append(lowest)
        bits ^= lowest
    return found
