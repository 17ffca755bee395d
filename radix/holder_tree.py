"""The tree under the routers' index: runs of blocks, the workers that hold them, and who used them last."""

from collections import OrderedDict
from collections.abc import Sequence

from radix.events import ANCHOR_STEP
from radix.tree import RadixNode, RadixTree

Holders = int  # a bit per worker
Node = RadixNode[Holders]

# What things take in CPython 3.11 on 64 bits. Fitted to the growth of resident memory while 8,000 to 100,000 leaves of
# 1, 5, 29 and 200 blocks were hung under 1,000 runs of 96: the count is 0 to 8 % above what was measured.
BLOCK_BYTES, NODE_BYTES, ANCHOR_BYTES = 8, 370, 90


class HolderTree(RadixTree[Holders]):
    """A radix tree whose value is the set of workers that hold a run, with tables that are kept in step with it.

    Sets shrink on the way down. `_recent` has all nodes, least recently used first and each before its ancestors, so
    its first is a leaf, and a cap on memory is kept without a search.

    Attributes:
        anchors: the node of each block that events may begin at, one in `ANCHOR_STEP`.
        num_blocks: distinct blocks in the tree.
    """

    def __init__(self) -> None:
        super().__init__(-1, lambda holders, at: (holders, holders))
        self.anchors: dict[int, Node] = {}
        self.num_blocks = 0
        self._recent: OrderedDict[Node, None] = OrderedDict()

    @property
    def num_bytes(self) -> int:
        """What the tree takes, by count of its parts: the same for the same contents, on every machine."""
        return self.num_blocks * BLOCK_BYTES + len(self._recent) * NODE_BYTES + len(self.anchors) * ANCHOR_BYTES

    def hang(self, node: Node, hashes: Sequence[int], holder: Holders, anchors: Sequence[int]) -> Node:
        """Add a run that is new behind `node`, in place where `node` has the same only holder and no child; `anchors`
        are those in the run."""
        if node.value == holder and not node.children:
            node.hashes.extend(hashes)
        else:
            node = self.insert(node, hashes, holder)
            self._recent[node] = None
        self.anchors.update(dict.fromkeys(anchors, node))
        self.num_blocks += len(hashes)
        return node

    def split(self, node: Node, at: int) -> Node:
        """As `RadixTree.split`. The upper part must be touched before anything else is."""
        upper = super().split(node, at)
        self._recent[upper] = None
        self.anchors.update(dict.fromkeys(anchors_in(upper.hashes, upper.depth), upper))
        return upper

    def merge(self, node: Node) -> None:
        """Make a run and its only child one, where the same workers hold both."""
        if node.parent is None or len(node.children) != 1:
            return
        (child,) = node.children.values()
        if child.value == node.value:
            self.absorb_child(node)
            del self._recent[child]
            self.anchors.update(dict.fromkeys(anchors_in(child.hashes, child.depth), node))

    def remove(self, leaf: Node) -> None:
        """As `RadixTree.remove`."""
        super().remove(leaf)
        for block in anchors_in(leaf.hashes, leaf.depth):
            del self.anchors[block]
        del self._recent[leaf]
        self.num_blocks -= len(leaf.hashes)

    def touch(self, node: Node) -> None:
        """A node was used, and with it all above it."""
        while node.parent is not None:
            self._recent.move_to_end(node)
            node = node.parent

    def oldest_leaf(self) -> Node | None:
        """The least recently used node; None where there is none."""
        return next(iter(self._recent), None)

    def check_integrity(self) -> None:
        """Raise AssertionError where tree, tables and count disagree, a set of holders is empty or does not shrink on
        the way down, a run could be merged with its only child, or a node stands behind its ancestor."""
        super().check_integrity()
        nodes = list(self.nodes())
        if {block: node for node in nodes for block in anchors_in(node.hashes, node.depth)} != self.anchors:
            raise AssertionError("the table of anchors does not match the tree")
        if sum(len(node.hashes) for node in nodes) != self.num_blocks:
            raise AssertionError("the blocks are counted wrongly")
        place = {node: at for at, node in enumerate(self._recent)}
        if place.keys() != set(nodes):
            raise AssertionError("the order of use is not that of all nodes")
        for node in nodes:
            if not node.value or node.parent is None or node.value & ~node.parent.value:
                raise AssertionError("a run is held by nobody, or by workers that do not hold what stands above it")
            if [child.value for child in node.children.values()] == [node.value]:
                raise AssertionError("a run stands apart from its only child, which the same workers hold")
            if place[node] > place.get(node.parent, len(place)):
                raise AssertionError("a node stands behind its ancestor in the order of use")


def anchors_in(hashes: Sequence[int], depth: int) -> Sequence[int]:
    """Those of a run's blocks that events may begin at; `depth` blocks stand before the run."""
    return hashes[-(depth + 1) % ANCHOR_STEP :: ANCHOR_STEP]
