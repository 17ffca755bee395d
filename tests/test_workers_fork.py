"""Several completions of one prompt: computed once, shared by blocks, copied where they part."""

from pathlib import Path

import pytest

from tests.engine_driver import assert_nothing_left
from tests.helpers import drain, generate, num_leaked_blocks, request_of, small_engine
from tests.witness import WitnessBlocks, WitnessEngine, expected_tokens
from workers.engine.sequence import SequenceStatus
from workers.request import FinishReason, GenerationRequest, RequestError, RequestOutput

PROMPT = list(range(1, 19))  # four blocks of four and a half
ENDLESS = {"ignore_eos": True}


def completions(outputs: list[RequestOutput], name: str) -> list[list[int]]:
    """The tokens of each completion of a request, in order of index."""
    tokens: dict[int, list[int]] = {}
    for output in outputs:
        if output.request_id == name:
            tokens.setdefault(output.index, []).extend(output.token_ids)
    return [tokens[index] for index in sorted(tokens)]


def expected_completions(request: GenerationRequest) -> list[list[int]]:
    return [expected_tokens(request, index) for index in range(request.sampling.n)]


def run(engine: WitnessEngine, *requests: GenerationRequest) -> list[RequestOutput]:
    """All requests together; each completion as expected and nothing left behind."""
    for request in requests:
        engine.add_request(request)
    outputs = drain(engine.step, engine)
    for request in requests:
        assert completions(outputs, request.request_id) == expected_completions(request)
    return outputs


@pytest.mark.parametrize("length", range(1, 19))
def test_the_prompt_is_computed_once_and_its_last_token_by_each(length: int) -> None:
    engine = WitnessEngine(num_blocks=40, max_num_batched_tokens=64)
    run(engine, request_of("r", PROMPT[:length], 9, n=3, **ENDLESS))
    assert engine.runner.batches[:2] == [[("r", length)], [("r", 1)] * 3]
    assert engine.seen["copies"] == 2
    assert_nothing_left(engine)


@pytest.mark.parametrize("num_blocks", [40, 11])
def test_without_prefix_caching_each_computes_the_prompt(num_blocks: int) -> None:
    """With eleven blocks they preempt each other as well."""
    engine = WitnessEngine(num_blocks=num_blocks, max_num_batched_tokens=64, shares_prefixes=False)
    run(engine, request_of("r", PROMPT, 9, n=3, **ENDLESS))
    assert engine.seen["copies"] == 0
    assert bool(engine.seen["preemptions"]) == (num_blocks == 11)
    assert engine.kv.pool.num_free == num_blocks


def test_forks_cost_one_block_each() -> None:
    engine = WitnessEngine(num_blocks=40, max_num_batched_tokens=64)
    engine.add_request(request_of("r", PROMPT, 9, n=3, **ENDLESS))
    engine.step()
    alone = num_leaked_blocks(engine)
    engine.step()
    assert (alone, num_leaked_blocks(engine)) == (5, 7)


def test_each_ends_on_its_own() -> None:
    """With an end-of-sequence token the completions have different lengths and reasons."""
    engine = WitnessEngine(num_blocks=80, max_num_seqs=8, max_num_batched_tokens=64)
    request = request_of("r", PROMPT, 24, n=8)
    outputs = run(engine, request)
    reasons = {output.index: output.finish_reason for output in outputs if output.finish_reason}
    lengths = [len(tokens) for tokens in expected_completions(request)]
    assert len(set(lengths)) > 2, "the test is about completions that end at different times"
    for index, tokens in enumerate(expected_completions(request)):
        assert reasons[index] is (FinishReason.STOP if tokens[-1] == 0 else FinishReason.LENGTH)


def test_nobody_overtakes_a_fork_that_waits_for_its_prompt() -> None:
    engine = WitnessEngine(num_blocks=40, max_num_batched_tokens=8)
    run(engine, request_of("many", PROMPT, 3, n=2, **ENDLESS), request_of("next", [30] * 3, 3, **ENDLESS))
    assert engine.runner.batches[:4] == [
        [("many", 8)],
        [("many", 8)],
        [("many", 2)],
        [("many", 1), ("many", 1), ("next", 3)],
    ]


def test_forks_whose_parent_has_ended_find_the_prompt_in_the_cache() -> None:
    engine = WitnessEngine(num_blocks=40, max_num_batched_tokens=64)
    outputs = run(engine, request_of("r", PROMPT, 1, n=3))
    assert engine.runner.batches == [[("r", 18)], [("r", 2), ("r", 2)]]
    assert [output.num_cached_tokens for output in outputs] == [0, 0, 0]
    assert engine.seen["copies"] == 0


def test_forks_that_find_no_room_wait_or_are_preempted() -> None:
    """Each needs the whole pool in the end."""
    engine = WitnessEngine(num_blocks=8, max_num_batched_tokens=64)
    run(engine, request_of("r", PROMPT, 14, n=3, **ENDLESS))
    assert engine.seen["preemptions"] > 0
    assert_nothing_left(engine)


def test_forks_of_a_preempted_parent_wait_until_it_is_back() -> None:
    engine = WitnessEngine(num_blocks=40, max_num_batched_tokens=8)
    engine.add_request(request_of("r", PROMPT, 5, n=2, **ENDLESS))
    engine.step()
    engine._scheduler._preempt(engine.sequence("r"))
    engine.check_integrity()
    outputs = drain(engine.step, engine)
    assert completions(outputs, "r") == expected_completions(request_of("r", PROMPT, 5, n=2, **ENDLESS))
    assert engine.runner.batches[1:3] == [[("r", 8)], [("r", 2)]], "its first chunk was still cached"


def test_a_cached_prompt_is_a_hit_for_all_but_forking_is_none() -> None:
    engine = WitnessEngine(num_blocks=40, max_num_batched_tokens=64)
    run(engine, request_of("before", PROMPT[:9], 1))
    outputs = run(engine, request_of("r", PROMPT, 3, n=3, **ENDLESS))
    assert {output.num_cached_tokens for output in outputs} == {8}


@pytest.mark.parametrize("steps", range(14))
def test_an_abort_drops_all_completions_in_any_state(steps: int) -> None:
    engine = WitnessEngine(num_blocks=10, max_num_seqs=3)
    others = [request_of("before", [30] * 9, 9, **ENDLESS), request_of("after", [29] * 9, 9, **ENDLESS)]
    engine.add_request(others[0])
    engine.add_request(request_of("gone", PROMPT, 8, n=3))
    engine.add_request(others[1])
    outputs = [output for _ in range(steps) for output in engine.step()]
    engine.abort("gone")
    engine.check_integrity()
    outputs += drain(engine.step, engine)
    for other in others:
        assert completions(outputs, other.request_id) == [expected_tokens(other)]
    assert_nothing_left(engine)


def test_an_id_is_in_use_until_the_last_completion_has_ended() -> None:
    engine = WitnessEngine(num_blocks=40, max_num_batched_tokens=64)
    engine.add_request(request_of("r", PROMPT, 24, n=4))
    while engine.has_work:
        with pytest.raises(RequestError, match="already running"):
            engine.add_request(request_of("r", [1], 1))
        engine.step()
    run(engine, request_of("r", [1], 1))


def test_what_is_handed_on_gives_one_completion() -> None:
    engine = WitnessEngine()
    with pytest.raises(RequestError, match=r"n is 2; .*Send n requests instead"):
        engine.add_request(request_of("r", PROMPT, 4, n=2), hold=True)
    with pytest.raises(RequestError, match=r"n is 3; .*Send n requests instead"):
        engine.add_prefilled(request_of("r", PROMPT, 4, n=3), 1, WitnessBlocks(PROMPT, 4, 5))
    assert_nothing_left(engine)


def test_what_could_not_fit_alone_is_refused_with_all_its_completions() -> None:
    engine = WitnessEngine(num_blocks=6)
    with pytest.raises(RequestError, match=r"grow to 25 tokens, which take 7 KV blocks; this worker has 6"):
        engine.add_request(request_of("r", PROMPT, 7, n=2))
    assert_nothing_left(engine)
    run(engine, request_of("r", PROMPT, 6, n=2, **ENDLESS))


def test_a_fork_runs_as_soon_as_its_parent_has_the_prompt() -> None:
    engine = WitnessEngine(num_blocks=40, max_num_batched_tokens=64)
    engine.add_request(request_of("r", PROMPT, 4, n=2, **ENDLESS))
    fork = engine._sequences["r"][1]
    engine.step()
    assert fork.status is SequenceStatus.WAITING
    engine.step()
    assert (fork.status, fork.num_output_tokens, fork.parent) == (SequenceStatus.RUNNING, 1, None)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("length", [15, 16, 17])
def test_greedy_forks_of_a_real_model_say_what_one_alone_says(untied_dir: Path, length: int) -> None:
    engine = small_engine(untied_dir, num_blocks=64).engine
    prompt = [(i * i * 31 + 5) % 256 for i in range(length)]
    (alone,) = generate(small_engine(untied_dir).engine, [request_of("r", prompt, 20)]).values()
    engine.add_request(request_of("r", prompt, 20, n=3))
    assert completions(drain(engine.step, engine), "r") == [alone] * 3
