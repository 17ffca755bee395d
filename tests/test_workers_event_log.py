"""Batches count one up, and a snapshot has the number of the last batch that it includes."""

from radix.events import BlocksRemoved, BlocksStored, CacheEvent
from workers.event_log import EventLog


class FakeSource:
    """A cache whose changes and contents are given."""

    def __init__(self) -> None:
        self.changes: list[CacheEvent] = []
        self.contents: list[BlocksStored] = []

    def take_events(self) -> list[CacheEvent]:
        changes, self.changes = self.changes, []
        return changes

    def snapshot(self) -> list[BlocksStored]:
        return self.contents


def test_batches_count_one_up_and_quiet_steps_have_none() -> None:
    source = FakeSource()
    log = EventLog(source)
    assert log.next_batch() is None
    numbers = []
    for change in (BlocksStored(1, 0, (2,)), BlocksRemoved(1, 0, (2,), 0), BlocksStored(1, 0, (3,))):
        source.changes.append(change)
        batch = log.next_batch()
        assert batch is not None
        assert (list(batch.events), batch.is_snapshot) == ([change], False)
        numbers.append(batch.sequence)
        assert log.next_batch() is None
    assert numbers == [1, 2, 3]


def test_a_snapshot_goes_between_the_batches_around_it() -> None:
    source = FakeSource()
    log = EventLog(source)
    assert [part.sequence for part in log.snapshot()] == [0]
    source.changes.append(BlocksStored(1, 0, (2,)))
    log.next_batch()
    source.contents = [BlocksStored(1, 0, (2,))]
    (snapshot,) = log.snapshot()
    assert (snapshot.sequence, snapshot.is_snapshot, list(snapshot.events)) == (1, True, source.contents)


def test_every_life_of_a_worker_has_a_name_of_its_own() -> None:
    assert EventLog(FakeSource()).epoch != EventLog(FakeSource()).epoch
