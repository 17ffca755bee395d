"""In no order of events is a block read that is another's, or does anything wait for ever."""

from collections.abc import Iterator

import pytest

from tests.handoff_model import Limits, explore
from workers.pools.handoff_shelf import HandoffShelf, NoSuchHandoffError, Waiting
from workers.pools.kv_frames import frames_of

SMALL = [
    Limits(attempts=1),
    Limits(attempts=1, capacity=1),
    Limits(requests=1, attempts=2),
    Limits(requests=1, attempts=2, ids_are_reused=True),
]
NO_FAULTS = Limits(prefill_crashes=0, decode_crashes=0, lease_ends=0)
LARGE = [
    NO_FAULTS._replace(prefill_crashes=1),
    NO_FAULTS._replace(decode_crashes=1, capacity=1),
    NO_FAULTS._replace(lease_ends=1, ids_are_reused=True),
]


@pytest.mark.parametrize("limits", SMALL)
def test_nothing_goes_wrong_in_any_order(limits: Limits) -> None:
    num_states = explore(limits)
    print(f"{num_states} states")
    assert num_states > 500


@pytest.mark.long
@pytest.mark.parametrize("limits", LARGE)
def test_nothing_goes_wrong_in_any_order_of_more(limits: Limits) -> None:
    num_states = explore(limits)
    print(f"{num_states} states")
    assert num_states > 5000


def test_a_shelf_that_asks_for_no_tokens_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ids come again, the tokens are all that tells the KV of one attempt from that of the next."""

    def frames(
        self: HandoffShelf, epoch: str, request_id: str, token_digest: bytes, first_block: int
    ) -> Iterator[bytes]:
        self.expire()
        if request_id not in self._waiting:
            raise NoSuchHandoffError
        return self._fetch(request_id, self._waiting[request_id], first_block)

    monkeypatch.setattr(HandoffShelf, "frames", frames)
    with pytest.raises(AssertionError, match="a block is read that is another's"):
        explore(Limits(requests=1, ids_are_reused=True))


def test_a_hand_off_that_is_released_twice_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once where the client goes away, and once where the fetch ends."""

    def fetch(self: HandoffShelf, request_id: str, waiting: Waiting, first_block: int) -> Iterator[bytes]:
        yield from frames_of(waiting.blocks, first_block)
        self._waiting.pop(request_id, None)
        self.num_bytes -= waiting.blocks.nbytes

    monkeypatch.setattr(HandoffShelf, "_fetch", fetch)
    with pytest.raises(AssertionError, match="released twice"):
        explore(Limits(requests=1))


def test_a_lease_that_never_ends_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HandoffShelf, "expire", lambda self: None)
    with pytest.raises(AssertionError, match="something waits for ever"):
        explore(Limits(requests=1))
