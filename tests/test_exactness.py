"""Whatever happens around a request in strict numerics, its tokens and the logits behind them are the same to the bit.

The measure is each request alone, in one chunk, without a cache. Every test also makes sure that what it is about
happened. By default the C++ operators compute; where there are none, torch does.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from kernels.cpu_ops.build import is_supported
from kernels.cpu_ops.loader import load_library
from tests.exactness import (
    BLOCK_SIZE,
    LENGTHS,
    Outcome,
    RecordedEngine,
    Weights,
    again,
    assert_same,
    random_tokens,
    recorded_requests,
    request_for,
)
from workers.request import GenerationRequest

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).resolve().parents[1]
# The operators take bfloat16 only.
AHEAD = pytest.mark.parametrize("ahead", [False, True], ids=["plain", "ahead"])
WEIGHTS = [Weights("int4", "bfloat16"), Weights("none", "float32" if load_library() is None else "bfloat16")]


class Base(NamedTuple):
    """Requests, and what each comes to alone."""

    weights: Weights
    requests: list[GenerationRequest]
    outcomes: dict[str, Outcome]


@pytest.fixture(scope="module", params=WEIGHTS, ids="-".join)
def base(request: pytest.FixtureRequest, one_thread: None) -> Base:
    engine, requests = RecordedEngine(request.param, num_blocks=400), recorded_requests()
    outcomes = engine.alone(requests)
    assert set(engine.cached.values()) == {0}
    assert engine.num_evicted == engine.num_preemptions == 0
    assert len(engine.steps) == sum(LENGTHS.values())
    return Base(request.param, requests, outcomes)


def test_the_base_is_worth_comparing_with(base: Base) -> None:
    """Rows differ from each other, and drawn tokens from greedy ones; some completions cross a segment's border."""
    rows = torch.cat([outcome.logits for outcome in base.outcomes.values()])
    assert len({row.numpy().tobytes() for row in rows}) == len(rows)
    assert any(outcome.tokens != outcome.logits.argmax(-1).tolist() for outcome in base.outcomes.values())
    assert any(length // 256 < (length + num_tokens) // 256 for length, num_tokens in LENGTHS.items())


@AHEAD
def test_the_same_prompt_again_is_cached(base: Base, ahead: bool) -> None:
    engine = RecordedEngine(base.weights, num_blocks=400, runs_ahead=ahead)
    engine.run(base.requests)
    second = [again(request) for request in base.requests]
    assert_same(engine.run(second), base.outcomes)
    for request in second:
        assert engine.cached[request.request_id] == (len(request.prompt_token_ids) - 1) // BLOCK_SIZE * BLOCK_SIZE


def next_turn(request: GenerationRequest, outcome: Outcome) -> GenerationRequest:
    """A prompt that goes on where a completion ended."""
    seed = request.sampling.seed or 0
    said = random_tokens(1 + 9 * seed, 100 + seed)
    return request_for(f"next {seed}", [*request.prompt_token_ids, *outcome.tokens, *said], 12, seed)


@AHEAD
@pytest.mark.parametrize("block_size", [1, BLOCK_SIZE])
def test_a_next_turn_uses_what_decode_steps_have_written(base: Base, block_size: int, ahead: bool) -> None:
    turns = [next_turn(request, base.outcomes[request.request_id]) for request in base.requests]
    cold = RecordedEngine(base.weights, num_blocks=512)
    wanted = cold.alone(turns)
    assert set(cold.cached.values()) == {0}
    warm = RecordedEngine(
        base.weights, num_blocks=512 * BLOCK_SIZE // block_size, block_size=block_size, runs_ahead=ahead
    )
    warm.run(base.requests)
    assert_same(warm.run(turns), wanted)
    from_decode = [
        warm.cached[turn.request_id] - len(first.prompt_token_ids)
        for turn, first in zip(turns, base.requests, strict=True)
    ]
    assert sum(count > 0 for count in from_decode) >= 5


def test_an_evicted_prefix_is_computed_again(base: Base) -> None:
    """In part too: a prefix goes from its end."""
    engine = RecordedEngine(base.weights, num_blocks=60)
    assert_same(engine.alone(base.requests), base.outcomes)
    assert_same(engine.alone([again(request) for request in base.requests]), base.outcomes)
    shares = [engine.cached[f"{request.request_id} again"] / len(request.prompt_token_ids) for request in base.requests]
    assert engine.num_evicted > 100
    assert shares.count(0) >= 2
    assert engine.num_preemptions == 0


def test_a_prefix_of_which_the_end_was_evicted(base: Base) -> None:
    longest = max(base.requests, key=lambda request: len(request.prompt_token_ids))
    others = [request for request in base.requests if len(request.prompt_token_ids) < 100]
    engine = RecordedEngine(base.weights, num_blocks=42)
    assert_same(engine.alone([longest, *others, again(longest)]), base.outcomes)
    assert 0 < engine.cached[again(longest).request_id] < len(longest.prompt_token_ids) - BLOCK_SIZE


@AHEAD
def test_preempted_for_want_of_blocks(base: Base, ahead: bool) -> None:
    """The first four prompts fill the pool to its last block; as they grow, the youngest loses its blocks."""
    engine = RecordedEngine(base.weights, num_blocks=157, block_size=4, runs_ahead=ahead)
    assert_same(engine.run(base.requests), base.outcomes)
    assert engine.num_preemptions > 0
    assert engine.num_evicted > 0


@AHEAD
@pytest.mark.parametrize("max_num_batched_tokens", [61, 4096])
def test_preempted_at_any_moment(base: Base, max_num_batched_tokens: int, ahead: bool) -> None:
    """In the middle of a prompt or of a completion, with its blocks still cached or evicted."""
    engine = RecordedEngine(base.weights, max_num_batched_tokens=max_num_batched_tokens, runs_ahead=ahead)
    assert_same(engine.run(base.requests, preempt_every=3), base.outcomes)
    assert engine.num_preemptions >= 5
    assert engine.num_evicted > 0


@AHEAD
@pytest.mark.parametrize("size", [1, 5, 97])
def test_chunks_of_any_size(base: Base, size: int, ahead: bool) -> None:
    engine = RecordedEngine(base.weights, max_num_seqs=min(5, size), max_num_batched_tokens=size, runs_ahead=ahead)
    assert_same(engine.run(base.requests), base.outcomes)
    assert max(sum(map(len, step.values())) for step in engine.steps) == size
    for request in base.requests:
        parts = [step[request.request_id] for step in engine.steps if request.request_id in step]
        assert len(parts) >= len(request.prompt_token_ids) // size + request.sampling.max_tokens - 1


@pytest.mark.parametrize("size", [2, 8])
def test_batches_of_any_size(base: Base, size: int) -> None:
    engine = RecordedEngine(base.weights, max_num_seqs=size)
    assert_same(engine.run(base.requests), base.outcomes)
    assert max(map(len, engine.steps)) == size


@AHEAD
@pytest.mark.parametrize(("apart", "order"), [(1, 1), (3, -1), (7, 1)])
def test_any_order_of_arrival(base: Base, apart: int, order: int, ahead: bool) -> None:
    engine = RecordedEngine(base.weights, max_num_batched_tokens=150, runs_ahead=ahead)
    assert_same(engine.run(base.requests[::order], apart=apart), base.outcomes)
    mixed = [step for step in engine.steps if {1} < set(map(len, step.values()))]
    assert len(mixed) >= 4  # some decode while others' prompts are computed


@pytest.mark.parametrize("block_size", [1, 32])
def test_blocks_of_any_size(base: Base, block_size: int) -> None:
    engine = RecordedEngine(base.weights, num_blocks=4096 // block_size, block_size=block_size)
    assert_same(engine.run(base.requests), base.outcomes)
    second = engine.run([again(request) for request in base.requests])
    assert_same(second, base.outcomes)
    assert all(engine.cached[name] > 0 for name in second if len(base.requests[int(name[0])].prompt_token_ids) > 32)


@AHEAD
def test_one_prompt_twice_at_once(base: Base, ahead: bool) -> None:
    """The second one's blocks are given up for those of the first as they fill."""
    engine = RecordedEngine(base.weights, max_num_batched_tokens=97, runs_ahead=ahead)
    both = [request for first in base.requests for request in (first, again(first))]
    assert_same(engine.run(both), base.outcomes)
    assert any(first in step and f"{first} again" in step for step in engine.steps for first in base.outcomes)


@pytest.mark.parametrize("threads", [2, 3])
def test_any_number_of_threads(base: Base, threads: int) -> None:
    torch.set_num_threads(threads)
    try:
        engine = RecordedEngine(base.weights, max_num_batched_tokens=300)
        assert_same(engine.run(base.requests[:2]), base.outcomes)
    finally:
        torch.set_num_threads(1)


@pytest.mark.skipif(load_library() is None, reason="there are no operators that could be off")
@pytest.mark.parametrize("operators", ["off", "avx2"])
def test_with_other_operators(operators: str) -> None:
    """In a process of its own: one process has one library."""
    if operators != "off" and not is_supported(operators):
        pytest.skip(f"this CPU has no {operators}")
    chosen = "(is_cached or any_moment and 61) and plain"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__, "-k", chosen]
    environment = os.environ | {"RAYDIX_CPU_OPS": operators}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-4000:]
    assert "4 passed" in result.stdout
