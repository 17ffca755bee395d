"""A path-compressed radix tree over chained block hashes.

One node holds a run of hashes and one value; its children are found by their first hash. Because a chained hash commits
to all before it, a hash names its whole prefix. What a value is belongs to the owner of the tree: the worker's cache
keeps block ids (`radix/prefix_cache.py`), the router's index keeps a set of workers (`radix/prefix_index.py`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Value = TypeVar("Value")


class RadixNode(Generic[Value]):
    """A run of block hashes. Only the root has an empty run and no parent."""

    __slots__ = ("children", "hashes", "parent", "value")

    def __init__(self, hashes: list[int], value: Value, parent: "RadixNode[Value] | None") -> None:
        self.hashes = hashes
        self.value = value
        self.parent = parent
        self.children: dict[int, RadixNode[Value]] = {}

    def path(self) -> "Iterator[RadixNode[Value]]":
        """This node and its ancestors, deepest first, without the root."""
        node = self
        while node.parent is not None:
            yield node
            node = node.parent


@dataclass(frozen=True)
class Step(Generic[Value]):
    """One node on the way of a walk and how many of its hashes the walk matched (at least one)."""

    node: RadixNode[Value]
    matched: int


class RadixTree(Generic[Value]):
    """Walk, split, insert, remove. Not thread-safe: one owner, one thread.

    Args:
        root_value: the value of the root, which holds no hashes.
        split_value: called as split_value(value, at) when a run is cut after `at` hashes; returns the values of the
            upper and of the lower part.
    """

    def __init__(self, root_value: Value, split_value: Callable[[Value, int], tuple[Value, Value]]) -> None:
        self.root: RadixNode[Value] = RadixNode([], root_value, None)
        self._split_value = split_value

    def walk(self, hashes: Sequence[int], start: RadixNode[Value] | None = None, at: int = 0) -> Iterator[Step[Value]]:
        """Follow `hashes` from place `at` on down from `start` (the root) as far as they match. Changes nothing.

        Only the last step may match part of its run.
        """
        node = start or self.root
        while at < len(hashes):
            child = node.children.get(hashes[at])
            if child is None:
                return
            matched = common_length(child.hashes, hashes, at)
            yield Step(child, matched)
            if matched < len(child.hashes):
                return
            node, at = child, at + matched

    def split(self, node: RadixNode[Value], at: int) -> RadixNode[Value]:
        """Cut `node` after its first `at` hashes and return the new upper part; `node` itself becomes the lower."""
        if not 0 < at < len(node.hashes) or node.parent is None:
            raise ValueError(f"cannot split a run of {len(node.hashes)} hashes after {at}")
        upper_value, node.value = self._split_value(node.value, at)
        upper = RadixNode(node.hashes[:at], upper_value, node.parent)
        node.parent.children[upper.hashes[0]] = upper
        node.hashes = node.hashes[at:]
        upper.children[node.hashes[0]] = node
        node.parent = upper
        return upper

    def insert(self, parent: RadixNode[Value], hashes: list[int], value: Value) -> RadixNode[Value]:
        """Hang a new leaf under `parent`. Raises ValueError where a child already begins with the same hash."""
        if not hashes or hashes[0] in parent.children:
            raise ValueError("a new node needs a run that no child of its parent begins with")
        node = RadixNode(hashes, value, parent)
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
        leaf.parent = None

    def nodes(self) -> Iterator[RadixNode[Value]]:
        """All nodes but the root, parents before children."""
        stack = list(self.root.children.values())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    def check_integrity(self) -> None:
        """Raise AssertionError where a run is empty, a link is one-sided, or a child hangs under the wrong hash."""
        for node in self.nodes():
            if node.parent is None or not node.hashes or node.parent.children.get(node.hashes[0]) is not node:
                raise AssertionError(f"broken link above the run that begins with {node.hashes[:1]}")


def common_length(run: list[int], hashes: Sequence[int], at: int) -> int:
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
