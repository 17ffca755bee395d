"""Event batches and subscriptions over the wire: what is sent comes back, and nothing else gets in."""

import math
from array import array

import msgpack
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from radix.event_batch import EventBatch, Subscription, read_batches
from radix.events import ANCHOR_STEP, BlocksRemoved, BlocksStored, CacheEvent, NamespaceCleared

RUN = bytes(16)  # two hashes

block_hashes = st.integers(0, 2**64 - 1)
depths = st.integers(0, 2**20).map(lambda anchor: anchor * ANCHOR_STEP)
runs = st.lists(block_hashes, min_size=1, max_size=5).map(lambda run: array("Q", run))
events = (
    st.builds(BlocksStored, block_hashes, depths, runs)
    | st.builds(NamespaceCleared, block_hashes)
    | st.builds(
        lambda anchor, depth, run, kept: BlocksRemoved(anchor, depth, run, kept % len(run)),
        block_hashes,
        depths,
        runs,
        st.integers(0, 9),
    )
)
sequences = st.integers(0, 2**63)
times = st.floats(allow_nan=False, allow_infinity=False)
batches = st.builds(
    lambda epoch, sequence, sent_s, held, part: EventBatch(epoch, sequence, sent_s, held, *part),
    *(st.text(max_size=8), sequences, times, st.lists(events, max_size=4), st.sampled_from([(0, 0), (0, 1), (3, 7)])),
)

leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=3) | st.binary()
junk = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner))
packed = st.integers(0, 3).map(lambda count: bytes(8 * count))
operations = st.lists(junk, min_size=1, max_size=6) | st.tuples(
    st.integers(0, 2), st.integers(-1, 9) | junk, st.sampled_from([0, 16, 17]) | junk, packed | junk, st.integers(-1, 3)
).map(list)
numbers = st.floats() | st.integers(-2, 9)
almost_batches = st.tuples(junk, numbers, numbers, st.lists(operations, max_size=3), numbers, numbers).flatmap(
    lambda fields: st.sampled_from([fields, fields[:4], fields[:5]])
)


def assert_well_typed(batch: EventBatch) -> None:
    """All that `PrefixIndex.apply` relies on."""
    assert isinstance(batch.epoch, str)
    assert isinstance(batch.sequence, int)
    assert math.isfinite(batch.sent_s)
    assert 0 <= batch.part < max(1, batch.num_parts)
    for event in batch.events:
        if isinstance(event, NamespaceCleared):
            assert isinstance(event.root, int)
            assert 0 <= event.root < 2**64
            continue
        blocks = [*event.hashes, event.anchor]
        assert all(isinstance(block, int) and 0 <= block < 2**64 for block in blocks)
        assert isinstance(event.depth, int)
        assert (event.depth >= 0, event.depth % ANCHOR_STEP) == (True, 0)
        assert len(event.hashes) > 0
        assert 0 <= event.num_kept <= len(event.hashes) - isinstance(event, BlocksRemoved)


def assert_refused_or_well_typed(data: bytes) -> None:
    try:
        received = read_batches(data)
    except ValueError:
        return
    assert received
    for batch in received:
        assert_well_typed(batch)


@given(sent=st.lists(batches, min_size=1, max_size=3))
@settings(deadline=None)
def test_batches_come_back_as_they_were_sent_in_one_message(sent: list[EventBatch]) -> None:
    assert read_batches(b"".join(batch.to_bytes() for batch in sent)) == sent


def test_hashes_may_be_any_sequence_and_arrive_as_an_array() -> None:
    sent: list[CacheEvent] = [BlocksStored(1, 0, (2, 3)), BlocksRemoved(1, 16, [3, 4], 1)]
    arrived: list[CacheEvent] = [BlocksStored(1, 0, array("Q", [2, 3])), BlocksRemoved(1, 16, array("Q", [3, 4]), 1)]
    received = read_batches(EventBatch("life", 7, 1.5, sent).to_bytes())
    assert received == [EventBatch("life", 7, 1.5, arrived)]


def test_what_is_stored_is_kept() -> None:
    assert BlocksStored(1, 0, (2, 3)).num_kept == 2


def test_the_format_is_pinned() -> None:
    events: list[CacheEvent] = [BlocksStored(1, 0, [2, 3]), BlocksRemoved(1, 16, [2**64 - 2], 0), NamespaceCleared(5)]
    hashes = bytes.fromhex("0200000000000000 0300000000000000"), bytes.fromhex("feffffffffffffff")
    fields = ["life", 7, 1.5, [[0, 1, 0, hashes[0], 2], [1, 1, 16, hashes[1], 0], [2, 5]]]
    assert msgpack.unpackb(EventBatch("life", 7, 1.5, events).to_bytes()) == fields
    assert msgpack.unpackb(EventBatch("life", 7, 1.5, events, 2, 5).to_bytes()) == [*fields, 2, 5]
    assert msgpack.unpackb(Subscription("life", 7).to_bytes()) == ["life", 7]


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
    begun = data[: max(1, len(data) - cut)]
    for wrong in (begun, data + b"\x00", data + begun):
        with pytest.raises(ValueError, match="not an event batch"):
            read_batches(wrong)


@pytest.mark.parametrize(
    "content",
    [
        [],
        ["life", 0, 1.5],
        ["life", 0, 1.5, [], 1, 2, 3],
        {"life": 0},
        ["life", "zero", 1.5, []],
        [b"life", 0, 1.5, []],
        ["life", -1, 1.5, []],
        ["life", True, 1.5, []],
        ["life", math.inf, 1.5, []],
        ["life", 0, 1, []],
        ["life", 0, math.nan, []],
        ["life", 0, math.inf, []],
        ["life", 0, 1.5, [], 1, 1],
        ["life", 0, 1.5, [], -1, 1],
        ["life", 0, 1.5, [], 0, -1],
        ["life", 0, 1.5, [], 0, 1.0],
        ["life", 0, 1.5, [[]]],
        ["life", 0, 1.5, [[1]]],
        ["life", 0, 1.5, [[1, 1, 0, RUN]]],
        ["life", 0, 1.5, [[1, 1, 0, RUN, 0, 0]]],
        ["life", 0, 1.5, [7]],
        ["life", 0, 1.5, 7],
        ["life", 0, 1.5, ""],
    ],
)
def test_a_message_of_another_shape_is_refused(content: object) -> None:
    with pytest.raises(ValueError, match="not an event batch"):
        read_batches(msgpack.packb(content))


@pytest.mark.parametrize("content", [[], ["life"], ["life", -1], ["life", 1.0], [b"life", 1], ["life", 1, 2], 7, "ab"])
def test_what_is_no_subscription_is_refused(content: object) -> None:
    with pytest.raises(ValueError, match="not a subscription"):
        Subscription.from_bytes(msgpack.packb(content))


@given(data=st.binary(max_size=16))
@example(b"")
@example(b"\xdd\xff\xff\xff\xff")
def test_random_bytes_are_a_subscription_or_refused_with_a_value_error(data: bytes) -> None:
    try:
        place = Subscription.from_bytes(data)
    except ValueError:
        return
    assert Subscription.from_bytes(place.to_bytes()) == place


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
        [2, -1],
        [2, 2**64 - 1, 0],
        [2, True],
        [1, 1],
    ],
)
def test_an_operation_that_the_index_could_not_apply_is_refused(operation: object) -> None:
    with pytest.raises(ValueError, match="not an event batch"):
        read_batches(msgpack.packb(["life", 0, 1.5, [operation]]))


@given(content=almost_batches)
@settings(deadline=None, max_examples=150, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_a_message_of_almost_the_right_shape_is_refused_or_well_typed(content: object) -> None:
    assert_refused_or_well_typed(msgpack.packb(content))
