"""The radix tree: its operations one by one, then random inserts and removals against a pygtrie of every prefix."""

import random
from array import array

import pygtrie
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radix.tree import NO_CHILDREN, RadixNode, RadixTree, common_length

Tree = RadixTree[list[int]]
Node = RadixNode[list[int]]
Path = tuple[int, ...]


def split_list(value: list[int], at: int) -> tuple[list[int], list[int]]:
    return value[:at], value[at:]


def make_tree(*runs: list[int]) -> tuple[Tree, list[Node]]:
    """A tree whose runs hang one under the other; the value of each is a copy of its hashes."""
    tree: Tree = RadixTree([], split_list)
    nodes = [tree.root]
    for run in runs:
        nodes.append(tree.insert(nodes[-1], list(run), list(run)))
    return tree, nodes


def steps(tree: Tree, hashes: list[int], start: Node | None = None) -> list[tuple[list[int], int]]:
    return [(node.hashes.tolist(), matched) for node, matched in tree.walk(hashes, start)]


def test_a_walk_follows_whole_runs_and_ends_inside_one() -> None:
    tree, (_, upper, _) = make_tree([1, 2, 3], [4, 5])
    assert steps(tree, [1, 2, 3, 4, 9]) == [([1, 2, 3], 3), ([4, 5], 1)]
    assert steps(tree, [1, 2, 3, 4, 5, 6]) == [([1, 2, 3], 3), ([4, 5], 2)]
    assert steps(tree, [1, 2]) == [([1, 2, 3], 2)]
    assert steps(tree, [4, 5], upper) == [([4, 5], 2)]
    assert steps(tree, [4, 5]) == steps(tree, []) == []
    assert steps(tree, [1, 2, 4]) == [([1, 2, 3], 2)], "a run left half-way has no way on"


def test_a_split_cuts_run_value_and_links() -> None:
    tree, (root, upper, lower) = make_tree([1, 2, 3], [4])
    first = tree.split(upper, 1)
    assert (first.hashes.tolist(), first.value, first.parent) == ([1], [1], root)
    assert (upper.hashes.tolist(), upper.value, upper.parent) == ([2, 3], [2, 3], first)
    assert list(lower.path()) == [lower, upper, first]
    assert [(node.depth, node.end) for node in (root, first, upper, lower)] == [(0, 0), (0, 1), (1, 3), (3, 4)]
    tree.check_integrity()


def test_hashes_from_a_depth_may_begin_in_a_run_above() -> None:
    _, (root, upper, lower) = make_tree([1, 2, 3], [4, 5])
    assert [lower.hashes_from(depth).tolist() for depth in range(6)] == [
        [1, 2, 3, 4, 5],
        [2, 3, 4, 5],
        [3, 4, 5],
        [4, 5],
        [5],
        [],
    ]
    assert upper.hashes_from(2).tolist() == [3]
    assert root.hashes_from(0).tolist() == []


@pytest.mark.parametrize("at", [-1, 0, 2, 3])
def test_a_split_that_leaves_an_empty_part_is_refused(at: int) -> None:
    tree, (root, node) = make_tree([1, 2])
    with pytest.raises(ValueError, match="cannot split a run of 2 hashes"):
        tree.split(node, at)
    with pytest.raises(ValueError, match="cannot split"):
        tree.split(root, 1)
    assert steps(tree, [1, 2]) == [([1, 2], 2)]


def test_insert_refuses_an_empty_run_and_a_taken_first_hash() -> None:
    tree, (root, _) = make_tree([1, 2])
    for run in ([], [1, 9]):
        with pytest.raises(ValueError, match="a new node needs a run"):
            tree.insert(root, run, run)
    assert len(list(tree.nodes())) == 1


def test_remove_takes_a_leaf_and_nothing_else() -> None:
    tree, (root, upper, leaf) = make_tree([1], [2])
    for node in (root, upper):
        with pytest.raises(ValueError, match="only a leaf"):
            tree.remove(node)
    tree.remove(leaf)
    assert leaf.parent is None
    with pytest.raises(ValueError, match="only a leaf"):
        tree.remove(leaf)
    assert list(tree.nodes()) == [upper]
    tree.check_integrity()


def test_absorb_child_undoes_a_split() -> None:
    tree, (_, node, below) = make_tree([1, 2, 3], [4])
    upper = tree.split(node, 2)
    assert tree.absorb_child(upper) is node
    assert (upper.hashes.tolist(), node.parent, below.parent) == ([1, 2, 3], None, upper)
    assert steps(tree, [1, 2, 3, 4]) == [([1, 2, 3], 3), ([4], 1)]
    tree.check_integrity()


def test_absorb_child_needs_exactly_one_child_and_a_parent() -> None:
    tree, (root, upper, leaf) = make_tree([1], [2])
    for node in (root, leaf):
        with pytest.raises(ValueError, match="exactly one child"):
            tree.absorb_child(node)
    tree.insert(upper, [3], [3])
    with pytest.raises(ValueError, match="exactly one child"):
        tree.absorb_child(upper)


def test_nodes_come_parents_first_and_without_the_root() -> None:
    tree, (root, upper, lower) = make_tree([1], [2])
    other = tree.insert(upper, [3], [3])
    order = list(tree.nodes())
    assert order[0] is upper
    assert set(order) == {upper, lower, other}
    assert list(root.path()) == []


def test_check_integrity_sees_damage() -> None:
    for damage, value in (("hashes", array("Q", [7])), ("hashes", array("Q")), ("parent", None), ("depth", 2)):
        tree, (_, upper, lower) = make_tree([1], [2])
        setattr(lower, damage, value)
        with pytest.raises(AssertionError, match="depth 2 follows" if damage == "depth" else "broken link"):
            tree.check_integrity()
        assert upper.parent is tree.root


def test_leaves_share_one_table_of_children_that_stays_empty() -> None:
    tree, (_, upper, lower) = make_tree([1], [2])
    assert lower.children is NO_CHILDREN
    tree.remove(lower)
    assert upper.children is NO_CHILDREN
    tree.insert(upper, [3], [3])
    tree.check_integrity()
    assert NO_CHILDREN == {}


@given(run=st.integers(1, 40), hashes=st.integers(1, 40), same=st.integers(1, 40), at=st.integers(0, 3))
def test_common_length_finds_the_border(run: int, hashes: int, same: int, at: int) -> None:
    held = [depth if depth < same else 100 + depth for depth in range(run)]
    assert common_length(held, [-1] * at + list(range(hashes)), at) == min(run, hashes, same)


def insert_path(tree: Tree, path: list[int]) -> None:
    last, at = tree.root, 0
    for node, matched in list(tree.walk(path)):
        at += matched
        if matched < len(node.hashes):
            node = tree.split(node, matched)
        last = node
    if at < len(path):
        tree.insert(last, path[at:], path[at:])


def remove_leaf(tree: Tree, prefixes: pygtrie.Trie, rng: random.Random) -> None:
    leaf = rng.choice([node for node in tree.nodes() if not node.children])
    run = next(path for path in prefixes if path and prefixes[path] == leaf.hashes[-1])
    for length in range(len(run) - len(leaf.hashes), len(run)):
        del prefixes[run[: length + 1]]
    tree.remove(leaf)


symbols = st.lists(st.integers(0, 2), min_size=1, max_size=7).map(tuple)


@given(paths=st.lists(symbols, min_size=1, max_size=25), rng=st.randoms(use_true_random=False))
@settings(deadline=None)
def test_random_trees_hold_exactly_the_prefixes_put_in(paths: list[Path], rng: random.Random) -> None:
    tree, prefixes, hash_of = make_tree()[0], pygtrie.Trie(), dict[Path, int]()
    for path in paths:
        chain = [hash_of.setdefault(path[: end + 1], len(hash_of)) for end in range(len(path))]
        insert_path(tree, chain)
        prefixes.update({path[: end + 1]: block for end, block in enumerate(chain)})
        if rng.random() < 0.3:
            remove_leaf(tree, prefixes, rng)
        tree.check_integrity()
        assert all(node.value == node.hashes.tolist() for node in tree.nodes())
        assert sorted(block for node in tree.nodes() for block in node.hashes) == sorted(prefixes.values())
    for path in paths:
        chain = [hash_of[path[: end + 1]] for end in range(len(path))]
        longest = prefixes.longest_prefix(path)
        assert sum(matched for _, matched in tree.walk(chain)) == (len(longest.key) if longest else 0)
