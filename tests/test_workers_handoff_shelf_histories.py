"""KV that waits to be fetched, in random histories against a naive model."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

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


@pytest.fixture(autouse=True)
def _a_frame_for_each_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_frames, "FRAME_BYTES", BLOCK_BYTES)


@dataclass(eq=False)
class Waits:
    """What the model knows of a hand-off."""

    order: int
    frames: list[bytes]
    num_bytes: int
    deadline_s: float


@dataclass
class Fetching:
    """A fetch that has begun, and what it should still give."""

    of: Waits
    frames: Iterator[bytes]
    rest: list[bytes]


class ShelfMachine(RuleBasedStateMachine):
    """Hand-offs come, are fetched frame by frame, given up, released and forgotten; the model looks at all of them."""

    CAPACITY = 8 * BLOCK_BYTES
    names = st.sampled_from(["a", "b", "c", "d"])
    picks = st.integers(0, 1000)

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.shelf = HandoffShelf(EPOCH, LEASE_S, self.CAPACITY, self.clock)
        self.waits: dict[str, Waits] = {}
        self.fetching: list[Fetching] = []
        self.num_put = 0

    def forget(self, over: Callable[[Waits], bool]) -> None:
        self.waits = {name: waits for name, waits in self.waits.items() if not over(waits)}

    @rule(name=names, num_blocks=st.integers(1, 9))
    def put(self, name: str, num_blocks: int) -> None:
        self.num_put += 1
        blocks = blocks_of(num_blocks, self.num_put)
        assert self.shelf.put(name, blocks, ENDPOINT, DIGEST) == KVTicket(ENDPOINT, EPOCH, name, DIGEST, LEASE_S)
        deadline_s = self.clock.now_s + LEASE_S
        self.waits[name] = Waits(self.num_put, list(frames_of(blocks, 0)), blocks.nbytes, deadline_s)
        while len(self.waits) > 1 and sum(waits.num_bytes for waits in self.waits.values()) > self.CAPACITY:
            del self.waits[min(self.waits, key=lambda name: self.waits[name].order)]

    @rule(name=names, first_block=st.integers(-1, 10))
    def begin(self, name: str, first_block: int) -> None:
        waits = self.waits.get(name)
        if waits is None:
            assert_gone(self.shelf, name)
            return
        frames = self.shelf.frames(EPOCH, name, DIGEST, first_block)
        self.fetching.append(Fetching(waits, frames, waits.frames[max(0, first_block) :]))

    @rule(name=names, first_block=st.integers(-1, 10))
    def ask_another_life(self, name: str, first_block: int) -> None:
        with pytest.raises(NoSuchHandoffError):
            self.shelf.frames(OTHER_EPOCH, name, DIGEST, first_block)

    @precondition(lambda self: self.fetching)
    @rule(pick=picks, times=st.integers(1, 10))
    def go_on(self, pick: int, times: int) -> None:
        """Take a few frames. Who asks for one more than there are has fetched them."""
        fetching = self.fetching.pop(pick % len(self.fetching))
        for _ in range(times):
            frame = next(fetching.frames, None)
            if frame is None:
                assert not fetching.rest
                self.forget(lambda waits: waits is fetching.of)
                return
            assert frame == fetching.rest.pop(0)
        self.fetching.append(fetching)

    @precondition(lambda self: self.fetching)
    @rule(pick=picks)
    def give_up(self, pick: int) -> None:
        self.fetching.pop(pick % len(self.fetching))

    @rule(name=names)
    def release(self, name: str) -> None:
        self.shelf.release(name)
        self.waits.pop(name, None)

    @rule(seconds=st.sampled_from([0.5, 3.0, LEASE_S / 2, LEASE_S]))
    def wait(self, seconds: float) -> None:
        self.clock.now_s += seconds
        self.forget(lambda waits: waits.deadline_s <= self.clock.now_s)

    @invariant()
    def it_holds_what_the_model_holds(self) -> None:
        assert len(self.shelf) == len(self.waits)
        assert self.shelf.num_bytes == sum(waits.num_bytes for waits in self.waits.values())
        assert self.shelf.num_bytes <= self.CAPACITY or len(self.shelf) == 1

    def teardown(self) -> None:
        """Fetches that have begun come to their ends, the rest when their leases do."""
        self.clock.now_s += LEASE_S
        for fetching in self.fetching:
            assert list(fetching.frames) == fetching.rest
        assert_empty(self.shelf)


def test_random_histories_agree_with_the_model() -> None:
    run_state_machine_as_test(ShelfMachine, settings=settings(deadline=None, max_examples=150, stateful_step_count=40))
