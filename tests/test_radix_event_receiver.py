"""The receiver's end, message by message. `tests/test_event_simulation.py` has what no list of cases can have."""

import math

import pytest

from radix.event_batch import EventBatch, Subscription
from radix.event_receiver import CALM_PER_REPAIR, PATIENCE_S, SILENCE_S, EventReceiver
from radix.events import CacheEvent
from radix.prefix_index import PrefixIndex
from tests.cache_events import ROOT, orphan, removed, stored


class Fed:
    """A receiver, its index and a clock. The worker's clock is an hour ahead of ours."""

    def __init__(self, *, max_parked: int = 100) -> None:
        self.index = PrefixIndex(ROOT)
        self.receiver = EventReceiver("w", self.index, max_parked)
        self.now_s = 100.0
        self.receiver.subscribe(self.now_s)

    def feed(self, sequence: int, *events: CacheEvent, epoch: str = "life", part: int = 0, num_parts: int = 0) -> None:
        self.receiver.receive(EventBatch(epoch, sequence, self.now_s + 3600, events, part, num_parts), self.now_s)

    def snapshot(self, sequence: int, *blocks: int, epoch: str = "life") -> None:
        self.feed(sequence, *([stored(*blocks)] if blocks else []), epoch=epoch, num_parts=1)

    @property
    def held(self) -> set[int]:
        return self.index.blocks_of("w")

    @property
    def patience_s(self) -> float:
        return self.receiver.deadline_s() - self.now_s


def test_the_first_stream_asks_for_a_snapshot_and_the_next_for_what_follows() -> None:
    fed = Fed()
    assert fed.receiver.subscribe(100.0) == Subscription()
    fed.snapshot(3, 10)
    fed.feed(4, stored(10, 11))
    assert fed.held == {10, 11}
    assert fed.receiver.subscribe(100.0) == Subscription("life", 4)
    fed.feed(5, removed(1, 10, 11))
    assert fed.held == {10}, "what follows is enough"


def test_duplicates_change_nothing() -> None:
    fed = Fed()
    fed.snapshot(3, 10)
    for _ in range(2):
        fed.feed(4, stored(10, 11))
    for _ in range(2):
        fed.feed(5, removed(1, 10, 11))
    fed.feed(4, stored(10, 11))
    fed.snapshot(3, 10)
    assert (fed.held, fed.receiver.num_orphans, fed.receiver.place.sequence) == ({10}, 0, 5)


def test_what_overtakes_waits_for_what_is_missing() -> None:
    fed = Fed()
    fed.feed(5, removed(1, 10, 11))
    fed.feed(4, stored(10, 11))
    fed.snapshot(3, 10)
    assert (fed.held, fed.receiver.place.sequence, fed.receiver.num_parked) == ({10}, 5, 0)
    fed.feed(7, stored(10, 12, 13))
    assert (fed.held, fed.receiver.num_parked) == ({10}, 1)
    fed.feed(6, stored(10, 12))
    assert fed.held == {10, 12, 13}


@pytest.mark.parametrize("announced", [True, False])
def test_what_does_not_come_is_asked_for_again(announced: bool) -> None:
    fed = Fed()
    fed.snapshot(3, 10)
    assert fed.patience_s == SILENCE_S
    fed.feed(5, *([] if announced else [stored(10, 11, 12)]))
    assert fed.patience_s == pytest.approx(PATIENCE_S)
    fed.now_s += PATIENCE_S / 2
    fed.feed(5)
    assert fed.patience_s == pytest.approx(PATIENCE_S / 2), "only what is missing can extend it"
    assert fed.receiver.subscribe(fed.now_s) == Subscription("life", 3)
    assert (fed.patience_s, fed.receiver.num_parked) == (SILENCE_S, 0)


def test_a_snapshot_takes_the_place_of_what_was_known_when_it_is_whole() -> None:
    fed = Fed()
    fed.snapshot(3, 10, 11)
    fed.receiver.subscribe(fed.now_s)
    for part, event in ((2, stored(20, 23)), (0, stored(20)), (0, stored(20))):
        fed.feed(9, event, part=part, num_parts=3, epoch="next life")
    assert fed.held == {10, 11}
    fed.feed(9, stored(20, 21), part=1, num_parts=3, epoch="next life")
    assert (fed.held, fed.receiver.place) == ({20, 21, 23}, Subscription("next life", 9))
    assert fed.index.num_blocks == 3


def test_half_a_snapshot_leaves_nothing_behind() -> None:
    fed = Fed()
    fed.feed(9, stored(20), part=0, num_parts=2)
    assert fed.held == set()
    fed.receiver.subscribe(fed.now_s)
    assert fed.index.num_blocks == 0


def test_another_life_is_not_taken_for_this_one() -> None:
    fed = Fed()
    fed.snapshot(3, 10)
    fed.receiver.subscribe(fed.now_s)
    fed.feed(4, stored(20, 21), epoch="next life")
    assert fed.held == {10}
    fed.snapshot(3, 20, epoch="next life")
    assert fed.held == {20, 21}


def test_an_orphan_leads_to_a_snapshot_but_not_at_once_again() -> None:
    fed = Fed()
    fed.now_s += 1.0
    fed.snapshot(3, 10)
    fed.feed(4, orphan(12))
    assert fed.patience_s == CALM_PER_REPAIR * 1.0, "in proportion to what the last snapshot took"
    fed.feed(5, stored(10, 13))
    assert fed.held == {10}, "nothing is applied on top of what is wrong"
    assert (fed.receiver.num_orphans, fed.receiver.subscribe(fed.now_s)) == (1, Subscription())
    fed.snapshot(5, 10, 13)
    assert fed.held == {10, 13}


def test_while_a_worker_prepares_a_snapshot_it_need_only_be_there() -> None:
    fed = Fed()
    for _ in range(10):
        fed.now_s += SILENCE_S / 2
        fed.feed(0, epoch="")
        assert fed.patience_s == SILENCE_S
    fed.feed(0)
    assert fed.patience_s == pytest.approx(PATIENCE_S), "a batch of the worker comes after its snapshot"


def test_what_waits_is_bounded_and_what_is_refused_is_asked_for() -> None:
    fed = Fed(max_parked=3)
    fed.snapshot(0)
    for sequence in range(2, 10):
        fed.feed(sequence, stored(10 + sequence))
    assert fed.receiver.num_parked == 3
    fed.feed(1, stored(11))
    assert fed.held == {11, 12, 13, 14}
    assert fed.patience_s == pytest.approx(PATIENCE_S)
    assert fed.receiver.subscribe(fed.now_s) == Subscription("life", 4)


def test_parts_that_wait_are_bounded_too() -> None:
    fed = Fed(max_parked=2)
    for part in (3, 2, 1):
        fed.feed(5, stored(10 + part), part=part, num_parts=4)
    assert fed.receiver.num_parked == 2


def test_age_is_that_of_the_last_moment_without_a_gap_whatever_the_worker_s_clock() -> None:
    fed = Fed()
    assert fed.receiver.age_s(fed.now_s) == math.inf
    fed.feed(3, stored(10), part=0, num_parts=2)
    assert fed.receiver.age_s(fed.now_s) == math.inf, "half a snapshot is none"
    fed.feed(3, part=1, num_parts=2)
    assert fed.receiver.age_s(fed.now_s) == 0
    fed.now_s += 2
    fed.feed(5, stored(12))
    assert fed.receiver.age_s(fed.now_s) == 2
    fed.feed(4, stored(11))
    assert fed.receiver.age_s(fed.now_s) == 0
    fed.receiver.receive(EventBatch("life", 5, fed.now_s + 3600, []), fed.now_s + 7)
    assert fed.receiver.age_s(fed.now_s + 7) == 7, "a message that took seven seconds is seven seconds old"


def test_a_worker_that_is_forgotten_is_begun_anew() -> None:
    fed = Fed()
    fed.snapshot(3, 10)
    fed.receiver.forget()
    assert fed.index.num_blocks == 0
    assert fed.receiver.subscribe(fed.now_s) == Subscription()
