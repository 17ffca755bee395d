"""Event batches over the wire: what is sent comes back, and nothing else gets in."""

import struct

import msgpack
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from radix.events import BlocksRemoved, BlocksStored, CacheEvent, EventBatch

block_hashes = st.integers(0, 2**64 - 1)
runs = st.lists(block_hashes, min_size=1, max_size=5)
events = st.builds(BlocksStored, block_hashes, runs) | st.builds(BlocksRemoved, runs)
batches = st.builds(EventBatch, st.text(max_size=8), st.integers(0, 2**63), st.booleans(), st.lists(events, max_size=4))

leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=3) | st.binary()
junk = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner))
operations = st.lists(junk, min_size=1, max_size=3) | st.tuples(st.integers(0, 2), junk, junk).map(list)
almost_batches = st.tuples(junk, st.floats() | st.integers(-2, 9), st.booleans(), st.lists(operations, max_size=3))


def assert_well_typed(batch: EventBatch) -> None:
    """All that `PrefixIndex.apply` relies on."""
    assert isinstance(batch.epoch, str)
    assert isinstance(batch.sequence, int)
    assert isinstance(batch.is_snapshot, bool)
    for event in batch.events:
        blocks = [*event.hashes, event.parent] if isinstance(event, BlocksStored) else list(event.hashes)
        assert len(event.hashes) > 0
        assert all(isinstance(block, int) and 0 <= block < 2**64 for block in blocks)


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


def test_tuples_are_sent_as_lists() -> None:
    sent: list[CacheEvent] = [BlocksStored(1, (2, 3)), BlocksRemoved((3,))]
    batch = EventBatch.from_bytes(EventBatch("life", 7, True, sent).to_bytes())
    assert batch == EventBatch("life", 7, True, [BlocksStored(1, [2, 3]), BlocksRemoved([3])])


def test_the_format_is_pinned() -> None:
    batch = EventBatch("life", 7, False, [BlocksStored(1, [2, 3]), BlocksRemoved([3])])
    assert msgpack.unpackb(batch.to_bytes()) == ["life", 7, False, [[0, 1, [2, 3]], [1, [3]]]]


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
        ["life", 0, False, [[2, [1]]]],
        ["life", 0, False, [[1]]],
        ["life", 0, False, [[1, [1], [1]]]],
        ["life", 0, False, [[0, [1]]]],
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
    [[0, None, [1]], [0, "1", [1]], [0, 1, None], [0, 1, "ab"], [0, 1, [1.5]], [0, 1, []], [1, []], [1, [-1]], [1, 3]],
)
def test_an_operation_that_the_index_could_not_apply_is_refused(operation: object) -> None:
    with pytest.raises(ValueError, match="not an event batch"):
        EventBatch.from_bytes(msgpack.packb(["life", 0, False, [operation]]))


@given(content=almost_batches)
@settings(deadline=None, max_examples=150, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_a_message_of_almost_the_right_shape_is_refused_or_well_typed(content: object) -> None:
    assert_refused_or_well_typed(msgpack.packb(content))
