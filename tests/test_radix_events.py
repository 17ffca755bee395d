"""Event batches over the wire: what is sent comes back, and nothing else gets in."""

import struct
from array import array

import msgpack
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from radix.events import ANCHOR_STEP, BlocksRemoved, BlocksStored, CacheEvent, EventBatch

RUN = bytes(16)  # two hashes

block_hashes = st.integers(0, 2**64 - 1)
depths = st.integers(0, 2**20).map(lambda anchor: anchor * ANCHOR_STEP)
runs = st.lists(block_hashes, min_size=1, max_size=5).map(lambda run: array("Q", run))
events = st.builds(BlocksStored, block_hashes, depths, runs) | st.builds(
    lambda anchor, depth, run, kept: BlocksRemoved(anchor, depth, run, kept % len(run)),
    block_hashes,
    depths,
    runs,
    st.integers(0, 9),
)
batches = st.builds(EventBatch, st.text(max_size=8), st.integers(0, 2**63), st.booleans(), st.lists(events, max_size=4))

leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=3) | st.binary()
junk = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner))
packed = st.integers(0, 3).map(lambda count: bytes(8 * count))
operations = st.lists(junk, min_size=1, max_size=6) | st.tuples(
    st.integers(0, 2), st.integers(-1, 9) | junk, st.sampled_from([0, 16, 17]) | junk, packed | junk, st.integers(-1, 3)
).map(list)
almost_batches = st.tuples(junk, st.floats() | st.integers(-2, 9), st.booleans(), st.lists(operations, max_size=3))


def assert_well_typed(batch: EventBatch) -> None:
    """All that `PrefixIndex.apply` relies on."""
    assert isinstance(batch.epoch, str)
    assert isinstance(batch.sequence, int)
    assert isinstance(batch.is_snapshot, bool)
    for event in batch.events:
        blocks = [*event.hashes, event.anchor]
        assert all(isinstance(block, int) and 0 <= block < 2**64 for block in blocks)
        assert isinstance(event.depth, int)
        assert (event.depth >= 0, event.depth % ANCHOR_STEP) == (True, 0)
        assert len(event.hashes) > 0
        assert 0 <= event.num_kept <= len(event.hashes) - isinstance(event, BlocksRemoved)


def assert_refused_or_well_typed(data: bytes) -> None:
    try:
        batch = EventBatch.from_bytes(data)
    except ValueError:
        return
    assert_well_typed(batch)


@given(batch=batches)
@settings(deadline=None)
def test_a_batch_comes_back_as_it_was_sent(batch: EventBatch) -> None:
    assert EventBatch.from_bytes(batch.to_bytes()) == batch


def test_hashes_may_be_any_sequence_and_arrive_as_an_array() -> None:
    sent: list[CacheEvent] = [BlocksStored(1, 0, (2, 3)), BlocksRemoved(1, 16, [3, 4], 1)]
    batch = EventBatch.from_bytes(EventBatch("life", 7, True, sent).to_bytes())
    arrived: list[CacheEvent] = [BlocksStored(1, 0, array("Q", [2, 3])), BlocksRemoved(1, 16, array("Q", [3, 4]), 1)]
    assert batch == EventBatch("life", 7, True, arrived)


def test_what_is_stored_is_kept() -> None:
    assert BlocksStored(1, 0, (2, 3)).num_kept == 2


def test_the_format_is_pinned() -> None:
    batch = EventBatch("life", 7, False, [BlocksStored(1, 0, [2, 3]), BlocksRemoved(1, 16, [2**64 - 2], 0)])
    hashes = bytes.fromhex("0200000000000000 0300000000000000"), bytes.fromhex("feffffffffffffff")
    assert msgpack.unpackb(batch.to_bytes()) == ["life", 7, False, [[0, 1, 0, hashes[0], 2], [1, 1, 16, hashes[1], 0]]]


@given(data=st.binary(max_size=64))
@example(b"")
@example(b"\x94")
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\x91" * 5000)
@settings(deadline=None, max_examples=400)
def test_random_bytes_are_refused_with_a_value_error(data: bytes) -> None:
    assert_refused_or_well_typed(data)


@given(batch=batches, at=st.integers(0, 200), flip=st.integers(1, 255))
@settings(deadline=None, max_examples=300)
def test_a_damaged_batch_is_refused_or_well_typed(batch: EventBatch, at: int, flip: int) -> None:
    data = bytearray(batch.to_bytes())
    data[at % len(data)] ^= flip
    assert_refused_or_well_typed(bytes(data))


@given(batch=batches, cut=st.integers(1, 20))
@settings(deadline=None)
def test_a_batch_cut_short_or_followed_by_more_is_refused(batch: EventBatch, cut: int) -> None:
    data = batch.to_bytes()
    for wrong in (data[:-cut], data + b"\x00"):
        with pytest.raises(ValueError, match="not an event batch"):
            EventBatch.from_bytes(wrong)


@pytest.mark.parametrize(
    "content",
    [
        [],
        ["life", 0, False],
        ["life", 0, False, [], 1],
        {"life": 0},
        ["life", "zero", False, []],
        ["life", 0, False, [[]]],
        ["life", 0, False, [[1]]],
        ["life", 0, False, [[1, 1, 0, RUN]]],
        ["life", 0, False, [[1, 1, 0, RUN, 0, 0]]],
        ["life", 0, False, [7]],
        ["life", 0, False, 7],
    ],
)
def test_a_message_of_another_shape_is_refused(content: object) -> None:
    with pytest.raises(ValueError, match="not an event batch"):
        EventBatch.from_bytes(msgpack.packb(content))


def test_a_negative_sequence_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not an event batch"):
        EventBatch.from_bytes(EventBatch("e", -1, False, []).to_bytes())


def test_an_infinite_sequence_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not an event batch"):
        EventBatch.from_bytes(b"\x94\xa1e\xcb" + struct.pack(">d", float("inf")) + b"\xc2\x90")


@pytest.mark.parametrize(
    "operation",
    [
        [0, None, 0, RUN, 2],
        [0, "1", 0, RUN, 2],
        [0, -1, 0, RUN, 2],
        [0, True, 0, RUN, 2],
        [0, 1, -16, RUN, 2],
        [0, 1, 8, RUN, 2],
        [0, 1, 16.0, RUN, 2],
        [0, 1, 0, b"", 0],
        [0, 1, 0, RUN[:-1], 1],
        [0, 1, 0, [7, 7], 2],
        [0, 1, 0, RUN, 1],
        [1, 1, 0, RUN, 2],
        [1, 1, 0, RUN, -1],
        [1, 1, 0, RUN, None],
        [1, 1, 0, RUN, False],
        [2, 1, 0, RUN, 0],
    ],
)
def test_an_operation_that_the_index_could_not_apply_is_refused(operation: object) -> None:
    with pytest.raises(ValueError, match="not an event batch"):
        EventBatch.from_bytes(msgpack.packb(["life", 0, False, [operation]]))


@given(content=almost_batches)
@settings(deadline=None, max_examples=150, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_a_message_of_almost_the_right_shape_is_refused_or_well_typed(content: object) -> None:
    assert_refused_or_well_typed(msgpack.packb(content))
