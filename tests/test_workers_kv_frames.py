"""KV blocks on the wire: what was sent arrives bit for bit, and what was not asked for is refused whole."""

import math
from dataclasses import dataclass, replace

import msgpack
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workers.pools import kv_frames
from workers.pools.kv_frames import BadFrameError, ReceivedBlocks, frames_of, unpack
from workers.pools.kv_handoff import KVBytes, Prefilled, digest_tokens, pack_blocks

LAYOUT = "layout"
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.float8_e4m3fn]


@dataclass(frozen=True)
class Sent:
    """Blocks of random bits, the tokens that they are the KV of, and how they are cut into frames."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    num_tokens: int
    frame_bytes: int = 1

    @property
    def tokens(self) -> list[int]:
        return [7 * n % 251 for n in range(self.num_tokens)]

    @property
    def blocks(self) -> KVBytes:
        num_blocks = -(-self.num_tokens // self.shape[2])
        bits = np.random.default_rng(self.num_tokens)
        return bits.integers(0, 256, (num_blocks, math.prod(self.shape) * self.dtype.itemsize), np.uint8)

    @property
    def prefilled(self) -> Prefilled:
        return Prefilled("r", LAYOUT, digest_tokens(self.tokens), self.num_tokens, 0, 5, None)

    def frames(self, first_block: int = 0) -> list[bytes]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kv_frames, "FRAME_BYTES", self.frame_bytes)
            return list(frames_of(self.blocks, first_block))

    def receiver(self, first_block: int = 0) -> ReceivedBlocks:
        return ReceivedBlocks(self.prefilled, self.tokens, LAYOUT, self.shape, self.dtype, first_block)


SMALL = Sent((1, 2, 2, 1, 3), torch.int8, num_tokens=7)  # four blocks of twelve bytes, each in a frame of its own
PAIRS = replace(SMALL, frame_bytes=24)  # two blocks a frame
SENT = st.builds(
    Sent,
    st.tuples(st.integers(1, 3), st.just(2), st.integers(1, 5), st.integers(1, 3), st.integers(1, 7)),
    st.sampled_from(DTYPES),
    st.integers(1, 40),
    st.integers(1, 2000),
)
FOREIGN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.binary(), inner, max_size=3),
)


def bytes_from(received: ReceivedBlocks, first_block: int) -> list[bytes]:
    """What is read, block by block."""
    blocks = received.read_blocks(first_block)
    return [block.tobytes() for block in pack_blocks(blocks)] if len(blocks) else []


def assert_refused(received: ReceivedBlocks, frame: bytes) -> None:
    """And nothing of it taken."""
    before = received.num_missing, bytes_from(received, received.first_block)
    with pytest.raises(BadFrameError):
        received.add(frame)
    assert (received.num_missing, bytes_from(received, received.first_block)) == before


@given(SENT, st.integers(0, 50))
def test_what_was_sent_arrives_bit_for_bit(sent: Sent, first_block: int) -> None:
    """NaNs too. At any time all that has arrived can be read, from any block on."""
    blocks, received = [block.tobytes() for block in sent.blocks], sent.receiver(first_block)
    first = min(first_block, len(blocks))
    assert (received.first_block, received.num_missing) == (first, len(blocks) - first)
    assert received.num_tokens == sent.num_tokens
    for frame in sent.frames(first):
        received.add(frame)
        arrived = len(blocks) - received.num_missing
        assert [bytes_from(received, n) for n in range(first, 12)] == [blocks[n:arrived] for n in range(first, 12)]
    assert received.num_missing == 0
    got = received.read_blocks(first)
    assert (got.shape, got.dtype) == ((len(blocks) - first, *sent.shape), sent.dtype)


@given(SENT, st.integers(0, 50))
def test_frames_are_as_large_as_they_may_be(sent: Sent, first_block: int) -> None:
    blocks, frames = sent.blocks, [unpack(frame) for frame in sent.frames(first_block)]
    assert b"".join(payload for _, _, payload in frames) == blocks[first_block:].tobytes()
    counts = [len(checksums) for _, checksums, _ in frames]
    most = max(1, sent.frame_bytes // blocks.shape[1])
    assert all(count == most for count in counts[:-1])
    assert all(1 <= count <= most for count in counts)


def test_a_block_before_the_first_that_was_asked_for_is_not_there() -> None:
    received = SMALL.receiver(2)
    for frame in SMALL.frames(2):
        received.add(frame)
    for first_block in (0, 1):
        assert received.read_blocks(first_block).shape == (0, *SMALL.shape)
    assert len(received.read_blocks(2)) == 2


def test_every_bit_counts() -> None:
    """Of a frame of two blocks: header, numbers, checksums and payload."""
    frame = PAIRS.frames()[0]
    for place in range(8 * len(frame)):
        flipped = (int.from_bytes(frame) ^ 1 << place).to_bytes(len(frame))
        received = PAIRS.receiver()
        assert_refused(received, flipped)
        received.add(frame)
        assert received.num_missing == 2


def test_every_byte_counts() -> None:
    frame = SMALL.frames()[0]
    received = SMALL.receiver()
    for place, old in enumerate(frame):
        for new in set(range(256)) - {old}:
            assert_refused(received, frame[:place] + bytes([new]) + frame[place + 1 :])


def test_a_frame_cut_short_or_with_more_behind_it_is_refused() -> None:
    frame, *more = PAIRS.frames()
    received = PAIRS.receiver()
    for length in range(len(frame)):
        assert_refused(received, frame[:length])
    for rest in (b"\0", b"\xc0", frame, more[0]):
        assert_refused(received, frame + rest)


@pytest.mark.parametrize("sent", [SMALL, PAIRS], ids=["one block each", "two blocks each"])
def test_frames_come_once_each_and_in_order(sent: Sent) -> None:
    frames, received = sent.frames(), sent.receiver()
    for place, frame in enumerate(frames):
        for other in frames[:place] + frames[place + 1 :]:
            assert_refused(received, other)
        received.add(frame)
    for frame in frames:
        assert_refused(received, frame)
    assert bytes_from(received, 0) == [block.tobytes() for block in sent.blocks]


@pytest.mark.parametrize("first_block", [1, 2, 3, 4])
def test_blocks_that_were_not_asked_for_are_refused(first_block: int) -> None:
    received = SMALL.receiver(first_block)
    for frame in SMALL.frames()[:first_block]:
        assert_refused(received, frame)
    whole = replace(SMALL, frame_bytes=1000).frames()
    assert_refused(received, whole[0])


def test_more_blocks_than_are_missing_are_refused() -> None:
    longer = replace(SMALL, num_tokens=9)
    for frame_bytes in (24, 36, 1000):
        received = SMALL.receiver()
        frames = replace(longer, frame_bytes=frame_bytes).frames()
        while len(unpack(frames[0])[1]) <= received.num_missing:
            received.add(frames.pop(0))
        assert_refused(received, frames[0])


@given(st.lists(FOREIGN, min_size=2, max_size=4) | FOREIGN)
def test_other_messages_are_refused(message: object) -> None:
    assert_refused(SMALL.receiver(), msgpack.packb(message))


@given(st.binary())
def test_other_bytes_are_refused(frame: bytes) -> None:
    assert_refused(SMALL.receiver(), frame)


@pytest.mark.parametrize(
    "frame",
    [
        b"\x91" * 100_000,  # deeper than anybody nests
        b"\x93\x00\xdd\xff\xff\xff\xff",  # four billion checksums
        b"\x93\x00\x90\xc6\xff\xff\xff\xff",  # four billion bytes
        b"\x93\x00\xd6\xff\xff\xff\xff\xff\xc4\x00",  # a time
        b"\x93\xd7\xff\xff\xff\xff\xff\xff\xff\xff\xff\x90\xc4\x00",  # an impossible time
        b"\x93\xc1\x90\xc4\x00",  # a byte without a meaning
        b"\x83\x00\x00\x90\x00\xc4\x00\x00",  # a map
        b"\x93\x00\x91\xa1\xff\xc4\x00",  # text that is none
    ],
)
def test_odd_msgpack_is_refused(frame: bytes) -> None:
    assert_refused(SMALL.receiver(), frame)


def parts(sent: Sent) -> tuple[int, list[int], bytes]:
    """Of its first frame."""
    return unpack(sent.frames()[0])


def test_other_types_in_a_frame_are_refused() -> None:
    first, checksums, payload = parts(SMALL)
    for other_first in (False, 0.0, "0", b"\0", None, [0], -1, 2**63):
        assert_refused(SMALL.receiver(), msgpack.packb([other_first, checksums, payload]))
    for other in (checksums[0], {0: checksums[0]}, float(checksums[0]), [str(checksums[0])], [float(checksums[0])], []):
        assert_refused(SMALL.receiver(), msgpack.packb([first, other, payload]))
    for other_payload in (list(payload), payload.hex(), None, b"", payload[:-1], payload + b"\0", payload * 2):
        assert_refused(SMALL.receiver(), msgpack.packb([first, checksums, other_payload]))
    assert_refused(SMALL.receiver(), msgpack.packb([first, [], b""]))  # or they might come for ever
    assert_refused(SMALL.receiver(), msgpack.packb([first, checksums, payload, 0]))
    assert_refused(SMALL.receiver(), msgpack.packb({"first": first, "checksums": checksums, "payload": payload}))


def test_a_checksum_is_a_number_and_all_of_it() -> None:
    """A block whose checksum is 1 is not one whose checksum is true."""
    first, checksums, payload = parts(SMALL)
    for crc in (checksums[0] + 2**32, checksums[0] - 2**32, -checksums[0], ~checksums[0] & 0xFFFFFFFF, 0, True):
        assert_refused(SMALL.receiver(), msgpack.packb([first, [crc], payload]))


@pytest.mark.parametrize("swap", ["checksums", "blocks"])
def test_each_block_has_a_checksum_of_its_own(swap: str) -> None:
    first, checksums, payload = parts(PAIRS)
    swapped = (checksums[::-1], payload) if swap == "checksums" else (checksums, payload[12:] + payload[:12])
    assert_refused(PAIRS.receiver(), msgpack.packb([first, *swapped]))
    both = msgpack.packb([first, checksums[::-1], payload[12:] + payload[:12]])
    PAIRS.receiver().add(both)  # who can make checksums can make blocks: they are for damage, not against malice


NOT_WANTED = {
    "another layout": (replace(SMALL.prefilled, layout_id="another"), SMALL.tokens),
    "other tokens": (SMALL.prefilled, [*SMALL.tokens[:-1], 250]),
    "one token more": (SMALL.prefilled, [*SMALL.tokens, 1]),
    "one token less": (SMALL.prefilled, SMALL.tokens[:-1]),
    "another digest": (replace(SMALL.prefilled, token_digest=b""), SMALL.tokens),
    "more tokens than they say": (replace(SMALL.prefilled, num_tokens=8), SMALL.tokens),
    "fewer tokens than they say": (replace(SMALL.prefilled, num_tokens=-1), SMALL.tokens),
}


@pytest.mark.parametrize("first_block", [0, 2, 9])
@pytest.mark.parametrize("case", NOT_WANTED)
def test_of_what_does_not_fit_nothing_is_wanted(case: str, first_block: int) -> None:
    prefilled, tokens = NOT_WANTED[case]
    received = ReceivedBlocks(prefilled, tokens, LAYOUT, SMALL.shape, SMALL.dtype, first_block)
    assert (received.num_missing, received.num_tokens, received.first_block) == (0, 0, 0)
    for frame in SMALL.frames():
        assert_refused(received, frame)
    assert received.read_blocks(0).shape == (0, *SMALL.shape)


def test_blocks_that_are_read_are_not_written_to_again() -> None:
    """What the engine took over stays, whatever comes late."""
    received, frames = SMALL.receiver(), SMALL.frames()
    received.add(frames[0])
    before = received.read_blocks(0).clone()
    for frame in frames[1:]:
        received.add(frame)
    assert torch.equal(received.read_blocks(0)[:1], before)
