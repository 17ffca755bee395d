"""The routers' index: each operation alone. `test_radix_prefix_index_oracle.py` holds it against a model."""

from array import array

import pytest

from radix.events import BlocksRemoved, BlocksStored, CacheEvent, NamespaceCleared
from radix.holder_tree import NODE_BYTES
from radix.prefix_index import PrefixIndex, UnknownBlockError

Path = tuple[int, ...]
ROOT = 2**64 - 1


def chain(path: Path) -> list[int]:
    """A number for every prefix of `path`, different for different prefixes, in place of its hash."""
    hashes, value = [], 1
    for name in path:
        value = value * 4 + name
        hashes.append(value)
    return hashes


def stored(path: Path) -> BlocksStored:
    return BlocksStored(ROOT, 0, chain(path))


def removed(path: Path, num_kept: int) -> BlocksRemoved:
    return BlocksRemoved(ROOT, 0, chain(path), num_kept)


def index_of(**holdings: list[Path]) -> PrefixIndex:
    index = PrefixIndex(ROOT)
    for worker, paths in holdings.items():
        for path in paths:
            index.apply(worker, stored(path))
    index.check_integrity()
    return index


def runs(index: PrefixIndex) -> list[list[int]]:
    return sorted(node.hashes.tolist() for node in index._tree.nodes())


def test_match_gives_each_worker_its_own_depth() -> None:
    index = index_of(a=[(1, 2, 3, 1)], b=[(1, 2)], c=[(1, 3), (2,)])
    assert index.match(chain((1, 2, 3, 3))) == {"a": 3, "b": 2, "c": 1}
    assert index.match(chain((2, 1))) == {"c": 1}
    assert index.match(chain((3,))) == index.match([]) == {}
    assert index.num_blocks == 6


def test_runs_split_where_holders_differ_and_merge_where_not() -> None:
    index = index_of(a=[(1, 2, 3, 1)], b=[(1, 2)])
    path = chain((1, 2, 3, 1))
    assert runs(index) == [path[:2], path[2:]]
    index.apply("b", stored((1, 2, 3, 1)))
    assert runs(index) == [path]
    index.apply("a", removed((1, 2, 3, 1), 3))
    assert runs(index) == [path[:3], path[3:]]
    index.apply("b", removed((1, 2, 3, 1), 3))
    assert runs(index) == [path[:3]]
    index.check_integrity()


def test_a_store_over_two_runs_merges_all_three() -> None:
    path = chain((1, 2, 3, 1))
    index = index_of(a=[(1, 2, 3, 1)], c=[(1, 2, 3)], b=[(1,)])
    index.apply("b", stored((1, 2, 3, 1)))
    assert runs(index) == [path[:3], path[3:]]
    index.check_integrity()


def test_many_small_stores_stay_one_run() -> None:
    index, path = PrefixIndex(ROOT), chain((1, 2, 3) * 10)
    for at in range(30):
        depth = at - at % 16
        index.apply("a", BlocksStored(path[depth - 1] if depth else ROOT, depth, path[depth : at + 1]))
        index.check_integrity()
    assert runs(index) == [path]


def test_drop_forgets_one_worker_and_its_name_can_come_back() -> None:
    index = index_of(a=[(1, 2, 3), (1, 1)], b=[(1, 2)])
    index.drop("a")
    index.drop("never seen")
    index.check_integrity()
    assert index.blocks_of("a") == set()
    assert index.match(chain((1, 2, 3))) == {"b": 2}
    assert runs(index) == [chain((1, 2))]
    assert index.bit_of("c") == 1, "the bit of a worker that is gone is free"
    index.drop("c")
    index.apply("a", stored((2,)))
    assert (index.match(chain((2,))), index.match(chain((1,)))) == ({"a": 1}, {"b": 1})


LONG = chain((1, 2, 3, 1) * 5)  # 20 blocks, one of them an anchor
UNKNOWN = [BlocksStored(77, 16, [78]), BlocksRemoved(77, 16, [78], 0), BlocksStored(LONG[16], 32, [78])]


@pytest.mark.parametrize("event", UNKNOWN)
def test_an_event_on_an_unknown_anchor_is_refused_and_changes_nothing(event: BlocksStored | BlocksRemoved) -> None:
    index = index_of(a=[(1, 2)])
    index.insert("a", LONG)
    before = runs(index)
    with pytest.raises(UnknownBlockError, match=f"{event.anchor:#018x} at depth {event.depth}"):
        index.apply("a", event)
    index.check_integrity()
    assert runs(index) == before


@pytest.mark.parametrize("event", [BlocksStored(LONG[15], 16, [999]), BlocksRemoved(LONG[15], 16, LONG[16:], 1)])
def test_an_event_on_an_anchor_that_only_others_hold_is_refused(event: CacheEvent) -> None:
    index = index_of(b=[(1,)])
    index.insert("a", LONG)
    with pytest.raises(UnknownBlockError):
        index.apply("b", event)
    index.check_integrity()
    assert (index.blocks_of("a"), index.blocks_of("b")) == (set(LONG), set(chain((1,))))


def test_an_anchor_in_the_middle_of_a_run_is_found() -> None:
    index = PrefixIndex(ROOT)
    for worker in "ab":
        index.insert(worker, LONG)
    index.apply("a", BlocksStored(LONG[15], 16, [*LONG[16:18], 900]))
    index.check_integrity()
    assert runs(index) == sorted([LONG[:18], LONG[18:], [900]])
    index.apply("b", BlocksRemoved(LONG[15], 16, LONG[16:], 1))
    index.check_integrity()
    assert index.match(LONG) == {"a": 20, "b": 17}


@pytest.mark.parametrize("hashes", [[7] * 40, chain((1, 2, 3, 1) * 5)])
def test_one_anchor_behind_two_parents_is_refused(hashes: list[int]) -> None:
    """Chained hashes name their whole prefix: such an event is a collision or a lie."""
    index = PrefixIndex(ROOT)
    index.insert("a", LONG)
    with pytest.raises(UnknownBlockError, match="two different parents"):
        index.apply("a", BlocksStored(LONG[15], 16, hashes))
    index.check_integrity()
    assert index.blocks_of("a") == set(LONG)


def test_events_may_come_twice() -> None:
    once, twice = PrefixIndex(ROOT), PrefixIndex(ROOT)
    for event in (stored((1, 2, 3)), stored((1, 2, 1)), removed((1, 2, 3), 1), stored((1, 1)), removed((1, 2), 1)):
        once.apply("a", event)
        for _ in range(2):
            twice.apply("a", event)
        twice.check_integrity()
        assert runs(twice) == runs(once)


def test_a_removal_takes_all_that_follows_and_nothing_of_others() -> None:
    index = index_of(a=[(1, 2, 3, 1), (1, 2, 2), (1, 3)], b=[(1, 2, 3, 1)])
    index.apply("a", removed((1, 2), 1))
    index.check_integrity()
    assert index.blocks_of("a") == set(chain((1, 3)))
    assert index.blocks_of("b") == set(chain((1, 2, 3, 1)))


def test_a_removal_of_what_is_not_held_changes_nothing() -> None:
    index = index_of(a=[(1, 2)], b=[(1, 2, 3)])
    for event in (removed((1, 2, 3), 2), removed((2, 2), 1), removed((1, 2, 3, 3), 3)):
        index.apply("a", event)
        index.check_integrity()
    assert (index.match(chain((1, 2, 3))), runs(index)) == ({"a": 2, "b": 3}, [chain((1, 2)), chain((1, 2, 3))[2:]])


def test_holders_are_sets_that_grow_upwards() -> None:
    index = index_of(a=[(1, 2, 3, 1)], b=[(1, 2)], c=[(1, 2)])
    (deep, few), (shallow, all_three) = index.holders(chain((1, 2, 3, 3)))
    assert (deep, index.workers_of(few), shallow, index.workers_of(all_three)) == (3, ["a"], 2, ["a", "b", "c"])
    assert few == index.bit_of("a")
    assert index.holders(chain((3,))) == index.holders([]) == []


def test_insert_is_an_event_from_the_root() -> None:
    index = PrefixIndex(ROOT)
    index.insert("a", tuple(chain((1, 2, 3))))
    index.insert("b", array("Q", chain((1, 2))))
    index.insert("a", [])
    index.check_integrity()
    assert index.match(chain((1, 2, 3))) == {"a": 3, "b": 2}


def test_a_namespace_is_dropped_alone() -> None:
    index = index_of(a=[(1, 2), (3,)])
    index.apply("a", BlocksStored(5, 0, [50, 51]))
    index.apply("b", BlocksStored(5, 0, [50, 52]))
    index.drop_namespace(5)
    index.drop_namespace(6)
    index.check_integrity()
    assert (index.match([50, 51]), index.match(chain((1, 2))), index.match(chain((3,)))) == ({}, {"a": 2}, {"a": 1})
    index.drop_namespace(ROOT)
    assert (index.num_blocks, index.num_bytes) == (0, 0)


def test_the_least_recently_used_leaf_goes_first_where_room_is_short() -> None:
    index = PrefixIndex(ROOT, max_bytes=4 * (NODE_BYTES + 16))
    for path in ((1, 1), (2, 1), (3, 1), (1, 1, 2)):
        index.apply("a", stored(path))
    index.insert("b", chain((1, 1)))  # cuts the run of (1, 1, 2) in two
    index.match(chain((2,)))
    index.apply("b", stored((2, 2)))  # cuts (2, 1): six runs, of which (3, 1) and (1, 1, 2) were used least recently
    index.check_integrity()
    assert index.num_dropped_blocks == 3
    assert runs(index) == sorted([chain((1, 1)), chain((2,)), chain((2, 1))[1:], chain((2, 2))[1:]])
    index.apply("a", BlocksStored(77, 16, [78]))  # may have been dropped: no error any more
    assert index.match(chain((1, 1, 2))) == {"a": 2, "b": 2}


def test_an_index_without_any_room_stays_empty() -> None:
    index = PrefixIndex(ROOT, max_bytes=0)
    index.insert("a", LONG)
    index.check_integrity()
    assert (index.match(LONG), index.num_blocks, index.num_dropped_blocks) == ({}, 0, 20)


def test_a_worker_that_has_cleared_a_namespace_holds_only_the_others() -> None:
    index = index_of(a=[(1, 2), (3,)], b=[(1,)])
    index.apply("a", BlocksStored(999, 0, [700, 701]))
    index.apply("a", NamespaceCleared(ROOT))
    index.apply("a", NamespaceCleared(ROOT))
    index.apply("c", NamespaceCleared(12345))
    index.check_integrity()
    assert (index.blocks_of("a"), index.blocks_of("b")) == ({700, 701}, set(chain((1,))))
