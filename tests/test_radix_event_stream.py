"""The sender's end: what a subscriber at a given place is told, and when only a snapshot can help."""

import pytest

from radix.event_batch import EventBatch, Subscription, read_batches
from radix.event_stream import MESSAGE_BYTES, EventStream, snapshot_parts, still_here
from tests.cache_events import stored


def stream_of(num_batches: int, ring_bytes: int = 10**6) -> EventStream:
    stream = EventStream("life", ring_bytes)
    for sequence in range(1, num_batches + 1):
        stream.append(batch_of(sequence))
    return stream


def batch_of(sequence: int) -> EventBatch:
    return EventBatch("life", sequence, 1.5, [stored(sequence)])


def told(stream: EventStream, place: Subscription) -> list[int] | None:
    """The numbers of all batches that a subscriber at `place` is told; None where it needs a snapshot."""
    numbers: list[int] = []
    while (after := stream.after(place)) is not None:
        message, place = after
        if not message:
            return numbers
        numbers += [batch.sequence for batch in read_batches(message)]
        assert place == Subscription("life", numbers[-1])
    return None


@pytest.mark.parametrize("sequence", range(8))
def test_a_subscriber_is_told_what_came_after_its_place(sequence: int) -> None:
    assert told(stream_of(5), Subscription("life", sequence)) == list(range(sequence + 1, 6))


def test_another_life_needs_a_snapshot() -> None:
    assert told(stream_of(5), Subscription("another life", 5)) is None
    assert told(stream_of(0), Subscription()) is None


def test_the_ring_is_bounded_in_bytes_and_keeps_the_newest() -> None:
    size = len(batch_of(1).to_bytes())
    stream = stream_of(100, ring_bytes=3 * size)
    assert [told(stream, Subscription("life", place)) for place in (96, 97, 98)] == [None, [98, 99, 100], [99, 100]]
    assert told(stream_of(100, ring_bytes=1), Subscription("life", 99)) == [100]


def test_a_number_left_out_is_not_glossed_over() -> None:
    stream = stream_of(3)
    stream.append(batch_of(5))
    assert told(stream, Subscription("life", 3)) is None
    assert told(stream, Subscription("life", 4)) == [5]


def test_a_long_replay_comes_in_several_messages() -> None:
    stream = EventStream("life")
    for sequence in range(1, 7):
        stream.append(EventBatch("life", sequence, 1.5, [stored(*range(2**63, 2**63 + MESSAGE_BYTES // 16))]))
    after = stream.after(Subscription("life", 0))
    assert after is not None
    assert len(read_batches(after[0])) == 2
    assert told(stream, Subscription("life", 0)) == list(range(1, 7))


def test_a_heartbeat_says_how_far_the_worker_is() -> None:
    assert read_batches(stream_of(7).heartbeat(2.5)) == [EventBatch("life", 7, 2.5, [])]
    assert read_batches(still_here(2.5)) == [EventBatch("", 0, 2.5, [])]


def test_a_snapshot_comes_in_parts_that_say_how_many_they_are() -> None:
    held = [stored(*range(first, first + count)) for first, count in ((1, 3), (5, 1), (9, 9), (20, 1))]
    parts = snapshot_parts("life", 7, 2.5, held, part_blocks=4)
    assert parts == [EventBatch("life", 7, 2.5, held[:2], 0, 3), EventBatch("life", 7, 2.5, held[2:3], 1, 3), parts[2]]
    assert parts[2] == EventBatch("life", 7, 2.5, held[3:], 2, 3)
    assert all(part.is_snapshot for part in parts)


def test_the_snapshot_of_an_empty_cache_is_one_empty_part() -> None:
    assert snapshot_parts("life", 0, 2.5, []) == [EventBatch("life", 0, 2.5, [], 0, 1)]
