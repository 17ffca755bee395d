"""Split over a prefill and a decode worker, a request has the tokens it has in one engine, whatever is lost between."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from tests.helpers import generate, request_of, small_engine, tokens_by_request
from tests.pair import Damage, Frames, Pair, requests
from workers.engine.engine import Engine
from workers.pools import kv_frames
from workers.pools.kv_frames import frames_of, unpack
from workers.pools.kv_handoff import KVHandoff
from workers.request import FinishReason

Tokens = dict[str, dict[str, list[int]]]
pytestmark = pytest.mark.usefixtures("one_thread")
MODES: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16 int4": {"quantization": "int4", "dtype": "bfloat16"},
}
AHEAD = pytest.mark.parametrize("ahead", [False, True], ids=["plain", "ahead"])
SAMPLING: dict[str, dict[str, float]] = {"greedy": {}, "drawn": {"temperature": 0.8, "seed": 1234}}
NUM_DECODED = 4 * 19  # tokens that the decode worker computes for four requests of twenty
NUM_BLOCKS = {"shared": 5, "blocks": 4, "long": 14, "short": 1}
NUM_FULL_BLOCKS = {"shared": 4, "blocks": 4, "long": 14, "short": 0}


def read_only(handoff: KVHandoff) -> KVHandoff:
    blocks = handoff.blocks.copy()
    blocks.flags.writeable = False
    return handoff._replace(blocks=blocks)


def of_another_prompt(handoff: KVHandoff) -> KVHandoff:
    """Whole and of the right size, but the KV of other tokens."""
    return KVHandoff(replace(handoff.prefilled, token_digest=b"?" * 16), np.zeros_like(handoff.blocks))


def of_another_model(handoff: KVHandoff) -> KVHandoff:
    """Whole and of the right size, but another model's KV."""
    prefilled = replace(handoff.prefilled, layout_id="another model")
    return KVHandoff(prefilled, np.ascontiguousarray(handoff.blocks[:, ::-1]))


def of_another_shape(handoff: KVHandoff) -> KVHandoff:
    return KVHandoff(replace(handoff.prefilled, layout_id="another model"), np.ones((3, 7), np.uint8))


def of_another_size(handoff: KVHandoff) -> KVHandoff:
    return handoff._replace(blocks=np.ones((len(handoff.blocks), 12), np.uint8))


def flipped(frame: bytes) -> bytes:
    """One bit in the middle of the payload."""
    middle = len(frame) // 2
    return frame[:middle] + bytes([frame[middle] ^ 0x40]) + frame[middle + 1 :]


def with_checksums(edit: Callable[[list[int]], list[int]]) -> Callable[[bytes], bytes]:
    """The same frame with other checksums."""

    def edited(frame: bytes) -> bytes:
        first, checksums, payload = unpack(frame)
        return bytes(msgpack.packb([first, edit(checksums), payload]))

    return edited


def at(place: int, edit: Callable[[bytes], bytes]) -> Damage:
    """One frame changed, where there are so many; -1 is the last."""

    def changed(frames: Frames) -> Frames:
        places = range(len(frames))[place:][:1]
        return [edit(frame) if n in places else frame for n, frame in enumerate(frames)]

    return Damage(frames=changed)


HANDOFFS: Mapping[str, Damage] = {
    "another prompt": Damage(of_another_prompt),
    "another model": Damage(of_another_model),
    "another shape": Damage(of_another_shape),
    "another size": Damage(of_another_size),
}
FRAMES: Mapping[str, Damage] = {
    "none": Damage(),
    "read-only": Damage(read_only),
    "first frame corrupt": at(0, flipped),
    "third frame corrupt": at(2, flipped),
    "last frame corrupt": at(-1, flipped),
    "checksum wrong": at(0, with_checksums(lambda checksums: [crc ^ 1 for crc in checksums])),
    "checksum of few bits": at(1, with_checksums(lambda checksums: [crc & 0xFF for crc in checksums])),
    "checksums short": at(1, with_checksums(lambda checksums: checksums[:-1])),
    "checksums long": at(0, with_checksums(lambda checksums: [*checksums, 0])),
    "frame cut": at(-1, lambda frame: frame[:-1]),
    "frame empty": at(1, lambda frame: b""),
    "no frame": at(3, lambda frame: msgpack.packb("no frame")),
    "all gone": Damage(frames=lambda frames: []),
    "one frame came": Damage(frames=lambda frames: frames[:1]),
    "one frame lost": Damage(frames=lambda frames: frames[:2] + frames[3:]),
    "one frame twice": Damage(frames=lambda frames: [*frames[:1], *frames]),
    "backwards": Damage(frames=lambda frames: frames[::-1]),
}


@pytest.fixture(params=[1, 2**20], ids=["a frame for each block", "one frame"])
def frame_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_frames, "FRAME_BYTES", request.param)


@pytest.fixture(scope="module")
def drawn(untied_dir: Path) -> Tokens:
    """What one engine draws, by mode."""
    batch = requests(sampling=SAMPLING["drawn"])
    return {name: generate(small_engine(untied_dir, **mode).engine, batch) for name, mode in MODES.items()}


def pair_of(model_dir: Path, mode: str = "float32", num_blocks: int = 64) -> Pair:
    """The decode worker's pool has `num_blocks` blocks."""
    decode = small_engine(model_dir, num_blocks=num_blocks, **MODES[mode])
    return Pair(small_engine(model_dir, **MODES[mode]), decode)


def num_arrived(pair: Pair) -> dict[str, int]:
    """Blocks that reached the decode worker, by request."""
    return {name: len(received.read_blocks(received.first_block)) for name, received in pair.received.items()}


def first_blocks(pair: Pair) -> dict[str, int]:
    """The block that each transfer began with."""
    return {name: received.first_block for name, received in pair.received.items()}


def num_good_blocks(handoff: KVHandoff, damage: Damage) -> int:
    """Blocks of the frames before the first that is not as it was sent."""
    sent = list(frames_of(handoff.blocks, 0))
    good = takewhile(lambda both: both[0] == both[1], zip(sent, damage.frames(sent), strict=False))
    return sum(len(unpack(frame)[1]) for frame, _ in good)


def evict(engine: Engine, num_blocks: int) -> None:
    """As if others had needed them."""
    engine.kv.pool.free(engine.kv.cache.evict(num_blocks))
    engine.check_integrity()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sampling", SAMPLING)
def test_a_pair_gives_the_tokens_of_one_engine(untied_dir: Path, mode: str, sampling: str) -> None:
    batch = requests(sampling=SAMPLING[sampling])
    expected = generate(small_engine(untied_dir, **MODES[mode]).engine, batch)
    pair = pair_of(untied_dir, mode)
    for _ in ("cold", "cached in both"):
        assert pair.run(batch) == expected
    cached = {name: handoff.prefilled.first_output.num_cached_tokens for name, handoff in pair.handoffs.items()}
    assert cached == {"shared": 16, "blocks": 12, "long": 52, "short": 0}


def test_the_decode_worker_computes_nothing_of_a_prompt(untied_dir: Path) -> None:
    pair = pair_of(untied_dir)
    for times in (1, 2):
        pair.run(requests(20))
        assert pair.engines[1].num_computed_tokens == times * NUM_DECODED


@pytest.mark.usefixtures("frame_bytes")
def test_blocks_that_the_decode_worker_holds_are_not_sent(untied_dir: Path, drawn: Tokens) -> None:
    batch = requests(sampling=SAMPLING["drawn"])
    pair = pair_of(untied_dir)
    for held in (dict.fromkeys(NUM_BLOCKS, 0), NUM_FULL_BLOCKS):
        assert pair.run(batch) == drawn["float32"]
        assert first_blocks(pair) == held
        assert num_arrived(pair) == {name: count - held[name] for name, count in NUM_BLOCKS.items()}


def test_the_blocks_of_another_prompt_are_held_too(untied_dir: Path, drawn: Tokens) -> None:
    """One prompt is the beginning of two others."""
    shared, blocks, long, short = requests(sampling=SAMPLING["drawn"])
    pair = pair_of(untied_dir)
    assert pair.run([blocks]) | pair.run([shared, long, short]) == drawn["float32"]
    assert first_blocks(pair) == {"blocks": 0, "shared": 4, "long": 4, "short": 0}


@AHEAD
@pytest.mark.parametrize(("num_evicted", "num_left"), [(1, 14), (20, 7), (999, 0)])
def test_a_block_that_was_held_and_is_gone_is_computed(
    untied_dir: Path, drawn: Tokens, num_evicted: int, num_left: int, ahead: bool
) -> None:
    """It was not sent, since it was held when the others were asked for."""
    batch = requests(sampling=SAMPLING["drawn"])
    pair = pair_of(untied_dir)
    if ahead:
        pair.run_ahead()
    pair.run(batch)
    pair.run_prefill(batch)
    firsts = pair.hand_over(batch)
    assert first_blocks(pair) == NUM_FULL_BLOCKS
    evict(pair.engines[1], num_evicted)
    outputs = pair.run_decode()
    assert tokens_by_request([*firsts, *outputs]) == drawn["float32"]
    assert {output.num_cached_tokens for output in outputs if output.request_id == "long"} == {4 * num_left}
    assert (pair.engines[1].num_computed_tokens > 2 * NUM_DECODED) == (num_left < 14)


@pytest.mark.parametrize("damage", FRAMES)
def test_the_damages_below_do_harm(untied_dir: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_frames, "FRAME_BYTES", 1)
    pair = pair_of(untied_dir)
    pair.run_prefill(requests())
    harmless = num_good_blocks(pair.handoffs["shared"], FRAMES[damage]) == NUM_BLOCKS["shared"]
    assert harmless == (damage in ("none", "read-only"))


@pytest.mark.usefixtures("frame_bytes")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("damage", FRAMES)
def test_what_arrives_damaged_is_computed(untied_dir: Path, drawn: Tokens, mode: str, damage: str) -> None:
    """What came before the first bad frame is taken over, and nothing after it."""
    pair = pair_of(untied_dir, mode)
    assert pair.run(requests(sampling=SAMPLING["drawn"]), FRAMES[damage]) == drawn[mode]
    good = {name: num_good_blocks(handoff, FRAMES[damage]) for name, handoff in pair.handoffs.items()}
    assert num_arrived(pair) == good
    assert (pair.engines[1].num_computed_tokens > NUM_DECODED) == (good != NUM_BLOCKS)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("damage", HANDOFFS)
def test_what_is_not_the_requests_is_not_taken(untied_dir: Path, drawn: Tokens, mode: str, damage: str) -> None:
    pair = pair_of(untied_dir, mode)
    assert pair.run(requests(sampling=SAMPLING["drawn"]), HANDOFFS[damage]) == drawn[mode]
    assert num_arrived(pair) == dict.fromkeys(NUM_BLOCKS, 0)


@AHEAD
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sampling", SAMPLING)
def test_a_decode_pool_too_small_for_all_preempts(untied_dir: Path, mode: str, sampling: str, ahead: bool) -> None:
    """What was decoded is computed again as a prompt; a draw may turn on the last bit of a logit. The second time some
    of what is held goes before it is used."""
    batch = requests(24, SAMPLING[sampling])
    expected = generate(small_engine(untied_dir, **MODES[mode]).engine, batch)
    pair = pair_of(untied_dir, mode, num_blocks=20)
    runners = pair.run_ahead() if ahead else []
    for _ in range(2):
        assert pair.run(batch) == expected
    assert [runner.num_fed > 0 for runner in runners] == [False, True][: len(runners)], "a prefill has one token"


def test_prefill_in_chunks_and_other_batch_sizes(untied_dir: Path) -> None:
    batch = requests()
    expected = generate(small_engine(untied_dir).engine, batch)
    prefill = small_engine(untied_dir, num_blocks=24, max_num_batched_tokens=7)
    assert Pair(prefill, small_engine(untied_dir, max_num_seqs=2)).run(batch) == expected


def test_a_completion_of_one_token_needs_no_decode(untied_dir: Path) -> None:
    batch = requests(1)
    pair = pair_of(untied_dir)
    assert pair.run(batch) == generate(small_engine(untied_dir).engine, batch)
    assert {handoff.prefilled.finish_reason for handoff in pair.handoffs.values()} == {FinishReason.LENGTH}
    assert pair.received == {}


def test_end_of_sequence_at_the_first_token_and_later(eos_dir: Path) -> None:
    batch = [request_of(str(i), [i, i + 1], 9, temperature=1.0, seed=i) for i in range(12)]
    expected = generate(small_engine(eos_dir).engine, batch)
    pair = pair_of(eos_dir)
    assert pair.run(batch) == expected
    ended_at_once = [name for name, handoff in pair.handoffs.items() if handoff.prefilled.finish_reason]
    assert sorted(ended_at_once) == sorted(name for name, tokens in expected.items() if len(tokens) == 1)
    assert 0 < len(ended_at_once) < 12
