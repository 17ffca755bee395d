"""KV that waits to be fetched: for how long, how much of it, for whom."""

import pytest

from tests.shelf import (
    BLOCK_BYTES,
    DIGEST,
    ENDPOINT,
    EPOCH,
    LEASE_S,
    OTHER_EPOCH,
    Clock,
    assert_empty,
    assert_gone,
    blocks_of,
)
from workers.pools import kv_frames
from workers.pools.handoff_shelf import HandoffShelf, NoSuchHandoffError
from workers.pools.kv_frames import frames_of
from workers.pools.kv_handoff import KVTicket


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def shelf(clock: Clock) -> HandoffShelf:
    """Has room for ten blocks."""
    return HandoffShelf(EPOCH, LEASE_S, 10 * BLOCK_BYTES, clock)


@pytest.fixture(autouse=True)
def _a_frame_for_each_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_frames, "FRAME_BYTES", BLOCK_BYTES)


def put(shelf: HandoffShelf, name: str, num_blocks: int = 3, value: int = 0) -> list[bytes]:
    """Returns the frames that a fetch should give."""
    blocks = blocks_of(num_blocks, value)
    shelf.put(name, blocks, ENDPOINT, DIGEST)
    return list(frames_of(blocks, 0))


def fetch(shelf: HandoffShelf, name: str, first_block: int = 0) -> list[bytes]:
    return list(shelf.frames(EPOCH, name, DIGEST, first_block))


def test_a_ticket_says_all_that_a_fetch_needs(shelf: HandoffShelf) -> None:
    assert shelf.put("r", blocks_of(3), ENDPOINT, DIGEST) == KVTicket(ENDPOINT, EPOCH, "r", DIGEST, LEASE_S)


def test_what_waits_is_fetched_once(shelf: HandoffShelf) -> None:
    frames = put(shelf, "r")
    assert (len(shelf), shelf.num_bytes) == (1, 3 * BLOCK_BYTES)
    assert fetch(shelf, "r") == frames
    assert_gone(shelf, "r")
    assert_empty(shelf)


@pytest.mark.parametrize("first_block", [-2, 0, 1, 2, 3, 9])
def test_blocks_that_the_receiver_holds_are_not_sent(shelf: HandoffShelf, first_block: int) -> None:
    frames = put(shelf, "r")
    assert fetch(shelf, "r", first_block) == frames[max(0, first_block) :]
    assert_empty(shelf)


def test_a_lease_ends(shelf: HandoffShelf, clock: Clock) -> None:
    frames = put(shelf, "early")
    clock.now_s += LEASE_S / 2
    put(shelf, "late")
    clock.now_s += LEASE_S / 2 - 0.001
    assert len(shelf) == 2
    assert next(shelf.frames(EPOCH, "early", DIGEST, 0)) == frames[0]
    clock.now_s += 0.001
    assert_gone(shelf, "early")
    assert (len(shelf), shelf.num_bytes) == (1, 3 * BLOCK_BYTES)
    clock.now_s += LEASE_S / 2
    assert_gone(shelf, "late")
    assert_empty(shelf)


def test_a_fetch_that_has_begun_goes_on_when_the_lease_ends(shelf: HandoffShelf, clock: Clock) -> None:
    frames = put(shelf, "r")
    fetched = shelf.frames(EPOCH, "r", DIGEST, 0)
    got = [next(fetched)]
    clock.now_s += LEASE_S
    assert_gone(shelf, "r")
    assert_empty(shelf)
    assert [*got, *fetched] == frames
    assert_empty(shelf)


def test_a_fetch_that_ends_early_may_be_begun_again(shelf: HandoffShelf) -> None:
    frames = put(shelf, "r")
    fetched = shelf.frames(EPOCH, "r", DIGEST, 0)
    next(fetched)
    del fetched
    assert fetch(shelf, "r") == frames
    assert_empty(shelf)


def test_two_fetches_at_once_get_the_same(shelf: HandoffShelf) -> None:
    frames = put(shelf, "r")
    one, other = shelf.frames(EPOCH, "r", DIGEST, 0), shelf.frames(EPOCH, "r", DIGEST, 1)
    assert (next(one), next(other)) == (frames[0], frames[1])
    assert list(one) == frames[1:]
    assert_empty(shelf)
    assert list(other) == frames[2:]
    assert_empty(shelf)


def test_what_is_released_is_gone(shelf: HandoffShelf) -> None:
    put(shelf, "r")
    frames = put(shelf, "other")
    shelf.release("r")
    shelf.release("r")
    shelf.release("nobody")
    assert_gone(shelf, "r")
    assert shelf.num_bytes == 3 * BLOCK_BYTES
    assert fetch(shelf, "other") == frames
    assert_empty(shelf)


@pytest.mark.parametrize(("epoch", "name"), [(OTHER_EPOCH, "r"), ("", "r"), (EPOCH, "nobody"), (OTHER_EPOCH, "nobody")])
def test_another_life_and_an_unknown_request_get_nothing(shelf: HandoffShelf, epoch: str, name: str) -> None:
    frames = put(shelf, "r")
    with pytest.raises(NoSuchHandoffError):
        shelf.frames(epoch, name, DIGEST, 0)
    assert fetch(shelf, "r") == frames


def test_beyond_its_capacity_the_oldest_are_dropped(shelf: HandoffShelf) -> None:
    for name, num_blocks in (("a", 3), ("b", 3), ("c", 4)):
        put(shelf, name, num_blocks)
    assert (len(shelf), shelf.num_bytes) == (3, 10 * BLOCK_BYTES), "just full"
    put(shelf, "d", 4)
    assert_gone(shelf, "a")
    assert_gone(shelf, "b")
    assert (len(shelf), shelf.num_bytes) == (2, 8 * BLOCK_BYTES)


def test_one_that_is_larger_than_all_waits_alone(shelf: HandoffShelf) -> None:
    put(shelf, "a")
    frames = put(shelf, "large", 50)
    assert_gone(shelf, "a")
    assert len(shelf) == 1
    assert fetch(shelf, "large") == frames
    assert_empty(shelf)


def test_leases_that_are_over_take_no_room(shelf: HandoffShelf, clock: Clock) -> None:
    put(shelf, "old", 6)
    clock.now_s += LEASE_S
    put(shelf, "a", 2)
    assert shelf.num_bytes == 2 * BLOCK_BYTES
    put(shelf, "b", 8)
    assert (len(shelf), shelf.num_bytes) == (2, 10 * BLOCK_BYTES)


def test_what_is_put_again_replaces_the_first_and_begins_a_lease(shelf: HandoffShelf, clock: Clock) -> None:
    put(shelf, "r")
    put(shelf, "other", 1)
    clock.now_s += LEASE_S - 1
    frames = put(shelf, "r", 5, value=7)
    assert (len(shelf), shelf.num_bytes) == (2, 6 * BLOCK_BYTES)
    clock.now_s += LEASE_S - 1
    assert (len(shelf), shelf.num_bytes) == (1, 5 * BLOCK_BYTES)
    assert fetch(shelf, "r") == frames
    assert_empty(shelf)


def test_a_fetch_of_what_was_replaced_does_not_release_the_next(shelf: HandoffShelf) -> None:
    old = put(shelf, "r")
    fetched = shelf.frames(EPOCH, "r", DIGEST, 0)
    new = put(shelf, "r", value=7)
    assert list(fetched) == old != new
    assert fetch(shelf, "r") == new
    assert_empty(shelf)


def test_what_is_put_again_is_the_youngest(shelf: HandoffShelf) -> None:
    for name in ("a", "b", "a"):
        put(shelf, name, 4)
    put(shelf, "c", 4)
    assert_gone(shelf, "b")
    assert len(shelf) == 2


def test_the_kv_of_other_tokens_is_not_given_under_the_same_name() -> None:
    shelf = HandoffShelf(EPOCH, LEASE_S, clock=lambda: 0.0)
    shelf.put("r", blocks_of(3), ENDPOINT, DIGEST)
    with pytest.raises(NoSuchHandoffError):
        shelf.frames(EPOCH, "r", b"other tokens", 0)
    assert len(list(shelf.frames(EPOCH, "r", DIGEST, 0))) > 0
