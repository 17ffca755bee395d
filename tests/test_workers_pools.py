"""Split over a prefill and a decode worker, a request has the tokens it has in one engine, whatever is lost between."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import generate, request_of, small_engine
from tests.pair import PROMPTS, Mangle, Pair, requests
from workers.pools.kv_handoff import KVHandoff, checksum_blocks
from workers.request import FinishReason

pytestmark = pytest.mark.usefixtures("one_thread")
MODES: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16 int4": {"quantization": "int4", "dtype": "bfloat16"},
}
AHEAD = pytest.mark.parametrize("ahead", [False, True], ids=["plain", "ahead"])
SAMPLING: dict[str, dict[str, float]] = {"greedy": {}, "drawn": {"temperature": 0.8, "seed": 1234}}


def flip_byte(handoff: KVHandoff, block: int) -> KVHandoff:
    blocks = handoff.blocks.copy()
    blocks[min(block, len(blocks) - 1), 5] ^= 0x40
    return replace(handoff, blocks=blocks)


def read_only(handoff: KVHandoff) -> KVHandoff:
    """As Ray hands it over."""
    blocks = handoff.blocks.copy()
    blocks.flags.writeable = False
    return replace(handoff, blocks=blocks)


def of_another_prompt(handoff: KVHandoff) -> KVHandoff:
    """Whole and of the right size, but the KV of other tokens."""
    blocks = np.zeros_like(handoff.blocks)
    return replace(handoff, prompt_digest=b"?" * 16, blocks=blocks, checksums=checksum_blocks(blocks))


def of_another_model(handoff: KVHandoff) -> KVHandoff:
    """Whole and of the right size, but another model's KV."""
    blocks = np.ascontiguousarray(handoff.blocks[:, ::-1])
    return replace(handoff, layout_id="another model", blocks=blocks, checksums=checksum_blocks(blocks))


def other_size(handoff: KVHandoff) -> KVHandoff:
    blocks = np.ones((len(handoff.blocks), 12), np.uint8)
    return replace(handoff, blocks=blocks, checksums=checksum_blocks(blocks))


MANGLES: Mapping[str, Mangle] = {
    "read-only": read_only,
    "first block corrupt": lambda handoff: flip_byte(handoff, 0),
    "third block corrupt": lambda handoff: flip_byte(handoff, 2),
    "last block corrupt": lambda handoff: flip_byte(handoff, 99),
    "checksum wrong": lambda handoff: replace(handoff, checksums=tuple(~crc & 0xFF for crc in handoff.checksums)),
    "checksums short": lambda handoff: replace(handoff, checksums=handoff.checksums[:1]),
    "blocks short": lambda handoff: replace(handoff, blocks=handoff.blocks[:1]),
    "blocks gone": lambda handoff: replace(handoff, blocks=np.zeros((0, 0), np.uint8)),
    "other prompt": of_another_prompt,
    "other layout": of_another_model,
    "other size": other_size,
    "other layout and shape": lambda handoff: replace(handoff, layout_id="x", blocks=np.ones((3, 7), np.uint8)),
}


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> dict[str, Any]:
    return MODES[request.param]


@pytest.mark.parametrize("sampling", SAMPLING)
def test_a_pair_gives_the_tokens_of_one_engine(untied_dir: Path, mode: dict[str, Any], sampling: str) -> None:
    batch = requests(sampling=SAMPLING[sampling])
    expected = generate(small_engine(untied_dir, **mode).engine, batch)
    pair = Pair(small_engine(untied_dir, **mode), small_engine(untied_dir, **mode))
    for _ in ("cold", "cached in both"):
        assert pair.run(batch) == expected
    cached = {name: handoff.num_cached_tokens for name, handoff in pair.handoffs.items()}
    assert cached == {"shared": 16, "blocks": 12, "long": 52, "short": 0}


@pytest.mark.parametrize("damage", MANGLES)
def test_what_arrives_damaged_is_computed_again(untied_dir: Path, mode: dict[str, Any], damage: str) -> None:
    batch = requests(sampling=SAMPLING["drawn"])
    expected = generate(small_engine(untied_dir, **mode).engine, batch)
    pair = Pair(small_engine(untied_dir, **mode), small_engine(untied_dir, **mode))
    assert pair.run(batch, MANGLES[damage]) == expected


@AHEAD
@pytest.mark.parametrize("sampling", SAMPLING)
def test_a_decode_pool_too_small_for_all_preempts(
    untied_dir: Path, mode: dict[str, Any], sampling: str, ahead: bool
) -> None:
    """What was decoded is computed again as a prompt; a draw may turn on the last bit of a logit."""
    batch = requests(24, SAMPLING[sampling])
    expected = generate(small_engine(untied_dir, **mode).engine, batch)
    pair = Pair(small_engine(untied_dir, **mode), small_engine(untied_dir, num_blocks=20, **mode))
    runners = pair.run_ahead() if ahead else []
    assert pair.run(batch) == expected
    assert [runner.num_fed > 0 for runner in runners] == [False, True][: len(runners)], "a prefill has one token"


@pytest.mark.parametrize("sampling", SAMPLING)
def test_a_stream_resumed_elsewhere_goes_on_as_it_would_have(untied_dir: Path, sampling: str) -> None:
    """The tokens already given become part of the prompt: draws are keyed by the position in the whole."""
    expected = generate(small_engine(untied_dir).engine, requests(sampling=SAMPLING[sampling]))
    for given in (1, 7, 19):
        batch = [
            request_of(name, [*PROMPTS[name], *tokens[:given]], 20 - given, **SAMPLING[sampling])
            for name, tokens in expected.items()
        ]
        resumed = Pair(small_engine(untied_dir), small_engine(untied_dir)).run(batch)
        assert resumed == {name: tokens[given:] for name, tokens in expected.items()}


def test_prefill_in_chunks_and_other_batch_sizes(untied_dir: Path) -> None:
    batch = requests()
    expected = generate(small_engine(untied_dir).engine, batch)
    prefill = small_engine(untied_dir, num_blocks=24, max_num_batched_tokens=7)
    assert Pair(prefill, small_engine(untied_dir, max_num_seqs=2)).run(batch) == expected


def test_a_completion_of_one_token_needs_no_decode(untied_dir: Path) -> None:
    batch = requests(1)
    pair = Pair(small_engine(untied_dir), small_engine(untied_dir))
    assert pair.run(batch) == generate(small_engine(untied_dir).engine, batch)
    assert {handoff.finish_reason for handoff in pair.handoffs.values()} == {FinishReason.LENGTH}


def test_end_of_sequence_at_the_first_token_and_later(eos_dir: Path) -> None:
    batch = [request_of(str(i), [i, i + 1], 9, temperature=1.0, seed=i) for i in range(12)]
    expected = generate(small_engine(eos_dir).engine, batch)
    pair = Pair(small_engine(eos_dir), small_engine(eos_dir))
    assert pair.run(batch) == expected
    ended_at_once = [name for name, handoff in pair.handoffs.items() if handoff.finish_reason]
    assert sorted(ended_at_once) == sorted(name for name, tokens in expected.items() if len(tokens) == 1)
    assert 0 < len(ended_at_once) < 12
