"""A path-compressed radix tree over chained block hashes.

One node holds a run of hashes and one value; its children are found by their first hash. Because a chained hash commits
to all before it, a hash names its whole prefix. What a value is belongs to the owner of the tree: the worker's cache
keeps block ids (`radix/prefix_cache.py`), the router's index keeps a set of workers (`radix/prefix_index.py`).
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Generic, TypeVar

Value = TypeVar("Value")

NO_CHILDREN: Final[dict[int, Any]] = {}  # of every leaf: an empty dict each would be an eighth of an index


class RadixNode(Generic[Value]):
    """A run of block hashes (uint64). Only the root has an empty run and no parent.

    Attributes:
        hashes: the run, 8 bytes a block.
        depth: blocks before the run, from the root on.
    """

    __slots__ = ("children", "depth", "hashes", "parent", "value")

    def __init__(self, hashes: "array[int]", value: Value, parent: "RadixNode[Value] | None", depth: int) -> None:
        self.hashes = hashes
        self.value = value
        self.parent = parent
        self.depth = depth
        self.children: dict[int, RadixNode[Value]] = NO_CHILDREN

    @property
    def end(self) -> int:
        """Blocks from the root to the end of the run."""
        return self.depth + len(self.hashes)

    def path(self) -> "Iterator[RadixNode[Value]]":
        """This node and its ancestors, deepest first, without the root."""
        node = self
        while node.parent is not None:
            yield node
            node = node.parent

    def hashes_from(self, depth: int) -> "array[int]":
        """The hashes on the way from the root to the end of this run, those of the first `depth` blocks left out."""
        node, hashes = self, self.hashes[max(depth - self.depth, 0) :]
        while node.depth > depth and node.parent is not None:
            node = node.parent
            hashes = node.hashes[max(depth - node.depth, 0) :] + hashes
        return hashes


class RadixTree(Generic[Value]):
    """Walk, split, insert, remove. Not thread-safe: one owner, one thread.

    Args:
        root_value: the value of the root, which holds no hashes.
        split_value: called as split_value(value, at) when a run is cut after `at` hashes; returns the values of the
            upper and of the lower part.
    """

    def __init__(self, root_value: Value, split_value: Callable[[Value, int], tuple[Value, Value]]) -> None:
        self.root: RadixNode[Value] = RadixNode(array("Q"), root_value, None, 0)
        self._split_value = split_value

    def walk(
        self, hashes: Sequence[int], start: RadixNode[Value] | None = None
    ) -> Iterator[tuple[RadixNode[Value], int]]:
        """Follow `hashes` down from `start` (the root) as far as they match. Changes nothing.

        Yields each node on the way with how many of its hashes matched, at least one. Only the last may match in part.
        """
        node, at = start or self.root, 0
        while at < len(hashes):
            child = node.children.get(hashes[at])
            if child is None:
                return
            matched = common_length(child.hashes, hashes, at)
            yield child, matched
            if matched < len(child.hashes):
                return
            node, at = child, at + matched

    def split(self, node: RadixNode[Value], at: int) -> RadixNode[Value]:
        """Cut `node` after its first `at` hashes and return the new upper part; `node` itself becomes the lower."""
        if not 0 < at < len(node.hashes) or node.parent is None:
            raise ValueError(f"cannot split a run of {len(node.hashes)} hashes after {at}")
        upper_value, node.value = self._split_value(node.value, at)
        upper = RadixNode(node.hashes[:at], upper_value, node.parent, node.depth)
        node.parent.children[upper.hashes[0]] = upper
        node.hashes = node.hashes[at:]
        node.depth += at
        upper.children = {node.hashes[0]: node}
        node.parent = upper
        return upper

    def insert(self, parent: RadixNode[Value], hashes: Sequence[int], value: Value) -> RadixNode[Value]:
        """Hang a new leaf under `parent`. Raises ValueError where a child already begins with the same hash."""
        if not hashes or hashes[0] in parent.children:
            raise ValueError("a new node needs a run that no child of its parent begins with")
        node = RadixNode(array("Q", hashes), value, parent, parent.end)
        if parent.children is NO_CHILDREN:
            parent.children = {}
        parent.children[hashes[0]] = node
        return node

    def absorb_child(self, node: RadixNode[Value]) -> RadixNode[Value]:
        """Undo a split: append the run of the only child to `node`, whose value stays, and return that child."""
        if node.parent is None or len(node.children) != 1:
            raise ValueError("only a run with exactly one child can absorb it")
        (child,) = node.children.values()
        node.hashes = node.hashes + child.hashes
        node.children = child.children
        for grandchild in node.children.values():
            grandchild.parent = node
        child.parent = None
        return child

    def remove(self, leaf: RadixNode[Value]) -> None:
        """Take a leaf out. Raises ValueError for the root and for a node that has children."""
        if leaf.children or leaf.parent is None:
            raise ValueError("only a leaf can be removed")
        del leaf.parent.children[leaf.hashes[0]]
        if not leaf.parent.children:
            leaf.parent.children = NO_CHILDREN
        leaf.parent = None

    def nodes(self, start: RadixNode[Value] | None = None) -> Iterator[RadixNode[Value]]:
        """All nodes below `start` (the root), parents before children."""
        stack = list((start or self.root).children.values())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    def check_integrity(self) -> None:
        """Raise AssertionError where a run is empty, a link is one-sided, a depth is wrong, or a child hangs under the
        wrong hash."""
        for node in self.nodes():
            if node.parent is None or not node.hashes or node.parent.children.get(node.hashes[0]) is not node:
                raise AssertionError(f"broken link above the run that begins with {node.hashes[:1].tolist()}")
            if node.depth != node.parent.end:
                raise AssertionError(f"a run at depth {node.depth} follows one that ends at {node.parent.end}")


def common_length(run: Sequence[int], hashes: Sequence[int], at: int) -> int:
    """How many hashes of `run` equal those of `hashes` from `at` on.

    Chained hashes that differ once never meet again, so the border is found by bisection.
    """
    high = min(len(run), len(hashes) - at)
    if run[high - 1] == hashes[at + high - 1]:
        return high
    low = 0
    while low < high:
        middle = (low + high) // 2
        if run[middle] == hashes[at + middle]:
            low = middle + 1
        else:
            high = middle
    return low
