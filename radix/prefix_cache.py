"""A worker's own prefix cache: which blocks of KV hold which prefixes, who uses them, and which go first.

Ownership: a block is in the tree or it belongs to a sequence, never both. `extend` takes a sequence's full blocks into
the tree; from then on the sequence only holds a lease, and `evict` gives the blocks of unleased leaves back.
"""

from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from radix.block_hash import TOKEN_BYTES
from radix.events import ANCHOR_STEP, BlocksRemoved, BlocksStored, CacheEvent, NamespaceCleared
from radix.tree import RadixNode, RadixTree


@dataclass(slots=True)
class BlockRun:
    """The value of a node: one block id and `block_size` tokens (int32 bytes) per hash, and the leases through it."""

    block_ids: list[int]
    tokens: bytes
    num_leases: int = 0


Lease = RadixNode[BlockRun]


@dataclass(frozen=True)
class PrefixMatch:
    """What the cache holds of a prompt: leading block hashes and the blocks that hold them."""

    hashes: Sequence[int]
    block_ids: Sequence[int]


class PrefixCache:
    """Radix tree of cached blocks with leases and exact leaf-first LRU eviction (after SGLang, arXiv 2312.07104).

    A lease is a node; it pins that node and all its ancestors. Unpinned nodes stand in `_idle`, least recently used
    first. A path is released from its leaf upwards, so a node always stands before its ancestors and the first idle
    node is a leaf: eviction takes from the front and never searches.
    """

    def __init__(self, block_size: int, root: int) -> None:
        self._block_bytes = block_size * TOKEN_BYTES
        self._root_hash = root
        self._tree: RadixTree[BlockRun] = RadixTree(BlockRun([], b""), self._split_run)
        self._idle: OrderedDict[Lease, None] = OrderedDict()
        self._events: list[CacheEvent] = []
        self.num_idle_blocks = 0

    @property
    def root(self) -> Lease:
        """The lease that pins nothing."""
        return self._tree.root

    def match(self, hashes: Sequence[int], tokens: bytes) -> PrefixMatch:
        """The longest cached prefix of `hashes` whose blocks hold exactly `tokens` (int32 bytes). Changes nothing."""
        block_ids: list[int] = []
        for node, count in self._tree.walk(hashes):
            run = node.value
            begin = len(block_ids) * self._block_bytes
            same = self._same_blocks(run.tokens, tokens[begin:], count)
            block_ids += run.block_ids[:same]
            if same < count:
                break
        return PrefixMatch(hashes[: len(block_ids)], block_ids)

    def acquire(self, match: PrefixMatch) -> Lease:
        """Pin a match made since the last eviction. The caller must `release` the lease once."""
        lease = self.root
        for node, matched in list(self._tree.walk(match.hashes)):
            lease = self._pin(node, matched)
        return lease

    def extend(
        self, lease: Lease, hashes: Sequence[int], block_ids: list[int], tokens: bytes
    ) -> tuple[Lease, list[int]]:
        """Give the cache the full blocks that follow `lease`, and move the lease behind them.

        Returns the new lease and the block ids that now stand for these blocks. Where another sequence was first, the
        ids are the ones it gave; the caller must use those and free its own. Fewer ids than hashes come back only where
        two different blocks share a 64-bit hash; those left over stay the caller's own.
        """
        kept: list[int] = []
        for node, matched in list(self._tree.walk(hashes, lease)):
            run = node.value
            if self._same_blocks(run.tokens, tokens[len(kept) * self._block_bytes :], matched) < matched:
                return lease, kept
            kept += run.block_ids[:matched]
            lease = self._pin(node, matched)
        if len(kept) < len(hashes):
            at = len(kept)
            lease = self._store(lease, hashes[at:], block_ids[at:], tokens[at * self._block_bytes :])
            kept += block_ids[at:]
        return lease, kept

    def release(self, lease: Lease) -> None:
        """Give a lease back; what nobody pins any more becomes evictable, most recently used last.

        Runs that come free together and nothing branches off between are one run again, so splits do not add up.
        """
        for node in lease.path():
            node.value.num_leases -= 1
            if node.value.num_leases == 0:
                self.num_idle_blocks += len(node.hashes)
                if node is not lease and len(node.children) == 1:
                    self._absorb_child(node)
                self._idle[node] = None

    def evict(self, num_blocks: int) -> list[int]:
        """Drop up to `num_blocks` unpinned blocks, least recently used leaf first, and return their ids."""
        freed: list[int] = []
        while self._idle and (missing := num_blocks - len(freed)) > 0:
            leaf, _ = self._idle.popitem(last=False)
            if missing < len(leaf.hashes):  # its head stays, and stays the next to go
                head = self._tree.split(leaf, len(leaf.hashes) - missing)
                self._idle[head] = None
                self._idle.move_to_end(head, last=False)
            anchor, depth, hashes = self._from_anchor(leaf, leaf.depth)
            self._events.append(BlocksRemoved(anchor, depth, hashes, leaf.depth - depth))
            self._tree.remove(leaf)
            freed += leaf.value.block_ids
        self.num_idle_blocks -= len(freed)
        return freed

    def clear(self) -> list[int]:
        """Drop all unpinned blocks and return their ids. Where that leaves nothing, one event says so."""
        num_before = len(self._events)
        freed = self.evict(self.num_idle_blocks)
        if freed and not self._tree.root.children:
            self._events[num_before:] = [NamespaceCleared(self._root_hash)]
        return freed

    def take_events(self) -> list[CacheEvent]:
        """What changed since the last call, in order. Until it is called, changes pile up."""
        events, self._events = self._events, []
        return events

    def snapshot(self) -> Iterator[BlocksStored]:
        """All that is held, as events that rebuild it from nothing, parents first."""
        for node in self._tree.nodes():
            yield BlocksStored(*self._from_anchor(node, node.depth))

    def held_block_ids(self) -> Iterator[int]:
        """Every block in the tree, once each."""
        for node in self._tree.nodes():
            yield from node.value.block_ids

    def leased(self, lease: Lease) -> BlockRun:
        """All that a lease pins, from the root on."""
        runs = [node.value for node in reversed(list(lease.path()))]
        return BlockRun([block for run in runs for block in run.block_ids], b"".join(run.tokens for run in runs))

    def check_integrity(self, leases: Iterable[Lease] = ()) -> None:
        """Raise AssertionError where the tree, the leases, the idle list or the counts disagree.

        Args:
            leases: all that were given out and not given back.
        """
        self._tree.check_integrity()
        ending = Counter(lease for lease in leases if lease is not self.root)
        nodes = list(self._tree.nodes())
        if not ending.keys() <= set(nodes) or not self._idle.keys() <= set(nodes):
            raise AssertionError("a lease or the idle list names a node that is not in the tree")
        for node in nodes:
            self._check_node(node, ending[node])
        if self.num_idle_blocks != sum(len(node.hashes) for node in self._idle):
            raise AssertionError("the count of idle blocks is wrong")
        seen: set[Lease] = set()
        for node in self._idle:
            seen.add(node)
            if node.parent in seen:
                raise AssertionError("the idle list has a node behind its ancestor")

    def _check_node(self, node: Lease, num_ending: int) -> None:
        run = node.value
        below = sum(child.value.num_leases for child in node.children.values())
        if len(run.block_ids) != len(node.hashes) or len(run.tokens) != len(node.hashes) * self._block_bytes:
            raise AssertionError("a run's hashes, blocks and tokens differ in number")
        if run.num_leases != below + num_ending:
            raise AssertionError(f"a node is pinned {run.num_leases} times by {below + num_ending} leases")
        if (run.num_leases == 0) != (node in self._idle):
            raise AssertionError("the idle list is not the unpinned nodes")

    def _pin(self, node: Lease, count: int) -> Lease:
        """Pin the first `count` blocks of a node whose ancestors are pinned, splitting it where the run is longer."""
        if count < len(node.hashes):
            was_idle = node.value.num_leases == 0
            node = self._tree.split(node, count)
            if was_idle:
                self.num_idle_blocks -= count
        elif node.value.num_leases == 0:
            del self._idle[node]
            self.num_idle_blocks -= len(node.hashes)
        node.value.num_leases += 1
        return node

    def _store(self, lease: Lease, hashes: Sequence[int], block_ids: list[int], tokens: bytes) -> Lease:
        """Hang new blocks behind `lease`: in its own run where nobody else would notice, else in a new leaf."""
        run, depth = lease.value, lease.end
        if lease.parent is not None and run.num_leases == 1 and not lease.children:
            lease.hashes.extend(hashes)
            run.block_ids += block_ids
            run.tokens += tokens
        else:
            lease = self._tree.insert(lease, hashes, BlockRun(block_ids, tokens, num_leases=1))
        self._events.append(BlocksStored(*self._from_anchor(lease, depth)))
        return lease

    def _absorb_child(self, node: Lease) -> None:
        """Undo a split of a run that is idle as a whole and was used at the same time."""
        child = self._tree.absorb_child(node)
        del self._idle[child]
        node.value.block_ids = node.value.block_ids + child.value.block_ids
        node.value.tokens += child.value.tokens

    def _same_blocks(self, held: bytes, wanted: bytes, count: int) -> int:
        """How many of the first `count` blocks hold the same tokens."""
        size = count * self._block_bytes
        if held[:size] == wanted[:size]:
            return count
        same = 0
        while held[: (same + 1) * self._block_bytes] == wanted[: (same + 1) * self._block_bytes]:
            same += 1
        return same

    def _from_anchor(self, node: Lease, depth: int) -> "tuple[int, int, array[int]]":
        """The last anchor of the first `depth` blocks, its own depth, and the hashes after it to the run's end."""
        depth -= depth % ANCHOR_STEP
        if depth == 0:
            return self._root_hash, 0, node.hashes_from(0)
        hashes = node.hashes_from(depth - 1)
        return hashes[0], depth, hashes[1:]

    def _split_run(self, run: BlockRun, at: int) -> tuple[BlockRun, BlockRun]:
        cut = at * self._block_bytes
        upper = BlockRun(run.block_ids[:at], run.tokens[:cut], run.num_leases)
        return upper, BlockRun(run.block_ids[at:], run.tokens[cut:], run.num_leases)
