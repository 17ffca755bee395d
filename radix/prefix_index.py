"""The routers' index: which workers hold which prefixes, kept from the workers' events.

The index is a hint. A wrong entry costs a worse choice of worker, never a wrong token: the worker that gets the request
looks into its own cache.
"""

from array import array
from collections.abc import Sequence

from radix.events import BlocksRemoved, BlocksStored, CacheEvent, NamespaceCleared
from radix.holder_tree import Holders, HolderTree, Node, anchors_in
from radix.tree import common_length
from radix.worker_bits import WorkerBits

DEFAULT_MAX_BYTES = 2**30


class UnknownBlockError(Exception):
    """An event names a block the index has never heard of: something was missed, ask for a snapshot."""


class PrefixIndex:
    """Radix tree whose value is the set of workers that hold a run. Runs split where sets differ and merge where not.

    Workers evict leaves first, so what one holds is closed under prefixes, and a match is one walk for all of them.
    Namespaces share the tree, as chained hashes of two namespaces never meet; `_namespace_of` remembers whose the runs
    under the root are.

    Args:
        root: the namespace (root hash) that `insert` stores under.
        max_bytes: what the index may take; least recently used runs go first. An index that has dropped a run cannot
            tell a block it missed from one it dropped, so from then on it ignores events that it cannot place.
    """

    def __init__(self, root: int, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._root_hash = root
        self._max_bytes = max_bytes
        self._tree = HolderTree()
        self._namespace_of: dict[int, int] = {}
        self._workers = WorkerBits()
        self.num_dropped_blocks = 0  # for want of room, so far

    @property
    def num_blocks(self) -> int:
        """Distinct blocks that at least one worker holds."""
        return self._tree.num_blocks

    @property
    def num_bytes(self) -> int:
        """Memory it takes: counted, not measured."""
        return self._tree.num_bytes

    def bit_of(self, worker: str) -> Holders:
        """The worker's bit in a set of holders. It is the worker's own until `drop`."""
        return self._workers.assign(worker)

    def workers_of(self, holders: Holders) -> list[str]:
        """The names of a set's workers."""
        return list(self._workers.names(holders))

    def holders(self, hashes: Sequence[int]) -> list[tuple[int, Holders]]:
        """Who holds how much of a prompt: (depth in blocks, the workers that hold at least that many), deepest first.

        One entry for each depth at which the set changes; none where nobody holds the first block. Counts as a use.
        """
        found: list[tuple[int, Holders]] = []
        node, at, held, length = self._tree.root, 0, 0, len(hashes)
        while at < length and (child := node.children.get(hashes[at])) is not None:
            node = child
            if node.value != held:
                if held:
                    found.append((at, held))
                held = node.value
            run = node.hashes
            end = at + len(run)
            if end > length or run[-1] != hashes[end - 1]:
                at += common_length(run, hashes, at)
                break
            at = end
        if held:
            found.append((at, held))
            self._tree.touch(node)
        found.reverse()
        return found

    def match(self, hashes: Sequence[int]) -> dict[str, int]:
        """How many leading blocks of `hashes` each worker holds; workers that hold none are left out."""
        depth_of: dict[str, int] = {}
        deeper = 0
        for depth, held in self.holders(hashes):
            for worker in self._workers.names(held & ~deeper):
                depth_of[worker] = depth
            deeper = held
        return depth_of

    def insert(self, worker: str, hashes: Sequence[int]) -> None:
        """Take in that a worker holds a whole chain, from the root of the index's namespace on."""
        self._store(self._workers.assign(worker), self._tree.root, hashes, self._root_hash)

    def apply(self, worker: str, event: CacheEvent) -> None:
        """Take in one event; the same one twice is as good as once.

        Raises UnknownBlockError where the worker is not known to hold the event's anchor, and changes nothing.
        """
        bit = self._workers.assign(worker)
        if isinstance(event, NamespaceCleared):
            for top in self._tops(event.root):
                self._clear(bit, top)
            return
        start, above = self._tree.root, None
        if event.depth:
            node = self._anchored(bit, event)
            if node is None or node.parent is None:
                return
            start = node
            if event.depth < node.end:
                start, above = node.parent, node.hashes[: event.depth - node.depth]
        hashes = event.hashes if above is None else above + array("Q", event.hashes)
        if isinstance(event, BlocksRemoved):
            self._remove(bit, start, hashes[: len(hashes) - len(event.hashes) + event.num_kept + 1])
        else:
            self._store(bit, start, hashes, event.anchor)

    def drop(self, worker: str) -> None:
        """Forget everything about a worker, in time that grows with what it holds."""
        bit = self._workers.get(worker)
        if bit:
            for node in list(self._tree.root.children.values()):
                self._clear(bit, node)
            self._workers.release(worker)

    def drop_namespace(self, root: int) -> None:
        """Forget a namespace: a model, an adapter, a tenant."""
        for top in self._tops(root):
            for node in reversed([top, *self._tree.nodes(top)]):
                self._forget(node)

    def replace(self, worker: str, by: str) -> None:
        """From now on `worker` holds what `by` held, and nothing else; `by` is forgotten."""
        self.drop(worker)
        self._workers.rename(by, worker)

    def blocks_of(self, worker: str) -> set[int]:
        """Every block hash the worker is believed to hold; a full scan, for tests and for explaining."""
        bit = self._workers.get(worker)
        return {block for node in self._tree.nodes() if node.value & bit for block in node.hashes}

    def check_integrity(self) -> None:
        """Raise AssertionError where the tree (`HolderTree`), the namespaces or the cap are not what they should be."""
        self._tree.check_integrity()
        if self._namespace_of.keys() != self._tree.root.children.keys():
            raise AssertionError("the namespaces do not match the tree")
        if self.num_bytes > self._max_bytes:
            raise AssertionError(f"the index takes {self.num_bytes} bytes of {self._max_bytes}")

    def _tops(self, root: int) -> list[Node]:
        """The first runs of a namespace."""
        return [self._tree.root.children[first] for first, namespace in self._namespace_of.items() if namespace == root]

    def _anchored(self, bit: Holders, event: BlocksStored | BlocksRemoved) -> Node | None:
        """The node that holds the event's anchor; None where the event is to be ignored."""
        node = self._tree.anchors.get(event.anchor)
        if node is not None and node.value & bit and node.depth < event.depth <= node.end:
            return node
        if self.num_dropped_blocks:
            return None
        raise UnknownBlockError(f"the worker is not known to hold block {event.anchor:#018x} at depth {event.depth}")

    def _store(self, bit: Holders, start: Node, hashes: Sequence[int], namespace: int) -> None:
        """Add a worker to the holders of the path `hashes` below `start`, making what is new."""
        steps = list(self._tree.walk(hashes, start))
        fresh = hashes[sum(matched for _, matched in steps) :]
        anchors = self._fresh_anchors(fresh, start.end + len(hashes) - len(fresh))
        path, widened = [start], False
        for node, matched in steps:
            is_new = not node.value & bit
            if matched < len(node.hashes) and (fresh or is_new):
                node = self._tree.split(node, matched)
            node.value |= bit
            widened |= is_new
            path.append(node)
        if fresh:
            if path[-1].parent is None:
                self._namespace_of[fresh[0]] = namespace
            path.append(self._tree.hang(path[-1], fresh, bit, anchors))
        self._tree.touch(path[-1])
        if widened:
            for node in reversed(path):
                self._tree.merge(node)
        self._make_room()

    def _fresh_anchors(self, hashes: Sequence[int], depth: int) -> Sequence[int]:
        """The anchors in blocks that are new. A hash names its whole prefix: it cannot stand in two places."""
        anchors = anchors_in(hashes, depth)
        if len(set(anchors)) < len(anchors) or not self._tree.anchors.keys().isdisjoint(anchors):
            raise UnknownBlockError("a block is stored behind two different parents")
        return anchors

    def _remove(self, bit: Holders, start: Node, hashes: Sequence[int]) -> None:
        """Take a worker out of the last block of `hashes` and of all below it."""
        steps = list(self._tree.walk(hashes, start))
        if sum(matched for _, matched in steps) < len(hashes):
            return
        node, matched = steps[-1]
        if matched > 1 and node.value & bit:
            self._tree.touch(self._tree.split(node, matched - 1))
        self._clear(bit, node)
        self._make_room()

    def _clear(self, bit: Holders, top: Node) -> None:
        """Take a worker out of a run and of all below it that it holds, which hangs together."""
        held, parent = [top] if top.value & bit else [], top.parent
        for node in held:  # grows on the way
            held += [child for child in node.children.values() if child.value & bit]
        for node in reversed(held):
            node.value &= ~bit
            if node.value:
                self._tree.merge(node)
            else:
                self._forget(node)
        if parent is not None:
            self._tree.merge(parent)

    def _forget(self, leaf: Node) -> None:
        if leaf.depth == 0:
            del self._namespace_of[leaf.hashes[0]]
        self._tree.remove(leaf)

    def _make_room(self) -> None:
        while self.num_bytes > self._max_bytes and (leaf := self._tree.oldest_leaf()) is not None:
            parent = leaf.parent
            self.num_dropped_blocks += len(leaf.hashes)
            self._forget(leaf)
            if parent is not None:
                self._tree.merge(parent)
