"""Who holds which block, step by step, on the witness model."""

import pytest

from tests.helpers import drain, generate, num_leaked_blocks, request_of, tokens_by_request
from tests.witness import WitnessBlocks, WitnessEngine, expected_tokens, hasher_of
from tests.witness_memory import kv_of
from tests.witness_runner import next_token
from workers.engine.sequence import Sequence
from workers.request import GenerationRequest, RequestOutput

PROMPT = list(range(1, 17))  # exactly four blocks of four


def run(engine: WitnessEngine, request: GenerationRequest) -> list[RequestOutput]:
    engine.add_request(request)
    outputs = drain(engine.step, engine)
    assert tokens_by_request(outputs)[request.request_id] == expected_tokens(request)
    return outputs


@pytest.mark.parametrize("length", range(1, 17))
def test_a_hit_of_any_length_leaves_a_token_to_compute(length: int) -> None:
    """A prompt that is cached to its last block must still give logits (vLLM issues 7753, 9532)."""
    engine = WitnessEngine(max_num_batched_tokens=64)
    run(engine, request_of("first", PROMPT, 3))
    engine.runner.batches.clear()
    outputs = run(engine, request_of("again", PROMPT[:length], 3))
    cached = (length - 1) // 4 * 4
    assert engine.runner.batches[0] == [("again", length - cached)]
    assert outputs[0].num_cached_tokens == cached


def test_without_prefix_caching_nothing_is_found_published_or_kept() -> None:
    engine = WitnessEngine(max_num_batched_tokens=64, shares_prefixes=False)
    for name in ("first", "again"):
        outputs = run(engine, request_of(name, PROMPT, 3))
        assert engine.runner.batches[-3] == [(name, 16)]
        assert outputs[0].num_cached_tokens == 0
    assert engine.take_events() == []
    assert engine.kv.pool.num_free == 12


def test_identical_prompts_at_once_share_their_blocks_afterwards() -> None:
    engine = WitnessEngine(num_blocks=20, max_num_batched_tokens=64)
    for name in ("a", "b"):
        engine.add_request(request_of(name, PROMPT, 5, ignore_eos=True))
    engine.step()
    engine.check_integrity()
    tables = [engine.sequence(name).block_table for name in ("a", "b")]
    assert tables[0][:4] == tables[1][:4]
    assert num_leaked_blocks(engine) == 4
    tokens = tokens_by_request(drain(engine.step, engine))
    assert tokens["a"] == tokens["b"]


def test_decoding_goes_on_in_shared_blocks_under_pressure() -> None:
    """mini-sglang issue 142: duplicate blocks were freed while a table still pointed at them."""
    engine = WitnessEngine(num_blocks=12, max_num_batched_tokens=64)
    requests = [request_of(name, PROMPT, 12, ignore_eos=True) for name in ("a", "b")]
    requests += [request_of(str(i), [20 + i] * 9, 8, ignore_eos=True) for i in range(6)]
    assert generate(engine, requests) == {request.request_id: expected_tokens(request) for request in requests}


def test_an_evicted_prefix_is_not_found_again() -> None:
    engine = WitnessEngine(num_blocks=5)
    run(engine, request_of("old", PROMPT, 1))
    run(engine, request_of("flood", [30] * 19, 1))
    again = run(engine, request_of("old", PROMPT, 1))
    assert again[0].num_cached_tokens == 0


def test_an_aborted_prompt_leaves_right_blocks_behind() -> None:
    """sglang issue 38319: the first chunk was in the tree, the abort freed it."""
    engine = WitnessEngine(max_num_batched_tokens=8)
    engine.add_request(request_of("gone", PROMPT, 4))
    engine.step()
    engine.abort("gone")
    engine.check_integrity()
    outputs = run(engine, request_of("again", PROMPT, 4))
    assert outputs[0].num_cached_tokens == 8


def test_cached_tokens_do_not_count_those_a_preempted_request_computed_itself() -> None:
    engine = WitnessEngine(num_blocks=9, max_num_seqs=2, max_num_batched_tokens=6)
    engine.add_request(request_of("old", [30] * 7, 24, ignore_eos=True))
    engine.step()
    engine.step()
    engine.add_request(request_of("young", [*PROMPT, *PROMPT[:10]], 2))
    cached = [output.num_cached_tokens for output in drain(engine.step, engine) if output.request_id == "young"]
    assert not runs_through(engine, "young"), "the test is about a preempted request"
    assert set(cached) == {0}


def runs_through(engine: WitnessEngine, name: str) -> bool:
    present = [any(item[0] == name for item in batch) for batch in engine.runner.batches]
    first, last = present.index(True), len(present) - 1 - present[::-1].index(True)
    return all(present[first : last + 1])


@pytest.mark.parametrize("length", [1, 3, 4, 5, 8, 15, 16])
@pytest.mark.parametrize("num_good", range(5))
@pytest.mark.parametrize("num_held", [0, 4, 8])
def test_blocks_from_elsewhere_are_taken_as_far_as_they_are_good(length: int, num_good: int, num_held: int) -> None:
    engine = WitnessEngine(max_num_batched_tokens=64)
    if num_held:
        run(engine, request_of("before", PROMPT[:num_held], 1))
        engine.runner.batches.clear()
    request = request_of("r", PROMPT[:length], 9, ignore_eos=True)
    blocks = WitnessBlocks(PROMPT[:length], 4, num_good)
    engine.add_prefilled(request, next_token(kv_of(PROMPT[:length])), blocks)
    tokens = tokens_by_request(drain(engine.step, engine))["r"]
    assert tokens == expected_tokens(request)[1:]
    held = min(num_held, length // 4 * 4)
    arrived = min(max(num_good * 4, held), length)
    assert engine.runner.batches[0] == [("r", length + 1 - arrived)]


def test_only_blocks_of_known_tokens_are_published() -> None:
    """The last of three is computed, but nobody knows yet from what."""
    engine = WitnessEngine(block_size=1)
    sequence = Sequence(request_of("x", PROMPT[:2], 3), hasher_of(1))
    assert engine.kv.admit(sequence)
    sequence.rows_in_flight = [0]
    assert engine.kv.grow(sequence, 3)
    sequence.num_computed_tokens = 3
    engine.kv.commit(sequence)
    assert (len(sequence.block_table), sequence.num_committed_blocks) == (3, 2)
    assert sequence.lease is not None
    engine.kv.cache.check_integrity([sequence.lease])


def test_an_admission_that_fails_changes_nothing() -> None:
    engine = WitnessEngine(num_blocks=6)
    run(engine, request_of("cached", PROMPT[:8], 1))
    taken = engine.kv.pool.allocate(4)
    sequence = Sequence(request_of("x", PROMPT, 1), hasher_of(4))
    assert not engine.kv.admit(sequence)
    assert (sequence.block_table, sequence.lease, engine.kv.cache.num_idle_blocks) == ([], None, 2)
    engine.kv.pool.free(taken)
    engine.check_integrity()
