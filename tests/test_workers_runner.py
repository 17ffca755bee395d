"""A batch is launched while the one before is computed: what is in flight, what is dropped, and who has to wait."""

from pathlib import Path

import pytest

from tests.ahead import run_ahead
from tests.engine_driver import assert_nothing_left
from tests.helpers import drain, request_of, small_engine
from tests.witness import WitnessBlocks, WitnessEngine, expected_tokens, request_that_ends_after
from workers.engine.sequence import SequenceStatus
from workers.request import FinishReason, GenerationRequest, RequestOutput, TokenLogprobs

PROMPT = list(range(1, 19))  # four blocks of four and a half
ENDLESS = {"ignore_eos": True}
TAKES_TURNS = {"ignore_eos": True, "presence_penalty": 1.0}  # the witness draws what it likes all the same


def roomy() -> WitnessEngine:
    return WitnessEngine(num_blocks=40, max_num_batched_tokens=64, ahead=True)


def run(engine: WitnessEngine, *requests: GenerationRequest) -> list[RequestOutput]:
    """All requests together, each as expected."""
    for request in requests:
        engine.add_request(request)
    outputs = drain(engine.step, engine)
    for request in requests:
        for index in range(request.sampling.n):
            mine = [o for o in outputs if (o.request_id, o.index) == (request.request_id, index)]
            assert [token for output in mine for token in output.token_ids] == expected_tokens(request, index)
    return outputs


def test_a_batch_is_launched_before_the_one_before_is_collected() -> None:
    engine = roomy()
    request = request_of("r", PROMPT, 4, **ENDLESS)
    engine.add_request(request)
    given, launched = [], []
    while engine.has_work:
        given.append([token for output in engine.step() for token in output.token_ids])
        launched.append(len(engine.runner.batches))
    first, *rest = expected_tokens(request)
    assert given == [[], [first], *([token] for token in rest)]
    assert launched == [1, 2, 3, 4, 4], "the last is known to be the last"


def test_a_runner_that_does_not_run_ahead_is_collected_at_once() -> None:
    engine = WitnessEngine(num_blocks=40, max_num_batched_tokens=64)
    engine.add_request(request_of("r", PROMPT, 4, **ENDLESS))
    for step in range(1, 5):
        assert len(engine.step()) == 1
        assert (len(engine.runner.batches), len(engine.runner.uncollected)) == (step, 0)
    assert not engine.has_work


@pytest.mark.parametrize("length", range(1, 12))
def test_what_follows_an_end_of_sequence_is_dropped(length: int) -> None:
    engine, request = roomy(), request_that_ends_after(length)
    outputs = run(engine, request)
    assert [output.finish_reason for output in outputs] == [None] * (length - 1) + [FinishReason.STOP]
    assert len(engine.runner.batches) == length + 1, "one more was computed than given"
    assert len(engine.runner.uncollected) == 1, "nobody waits for it"
    run(engine, request)
    assert_nothing_left(engine)


def test_blocks_of_an_ended_sequence_are_written_to_before_they_are_used_again() -> None:
    """In a pool for one: the next request gets the block that the batch in flight still writes to."""
    for length in range(1, 12):
        engine = WitnessEngine(num_blocks=7, max_num_batched_tokens=64, ahead=True)
        run(engine, request_that_ends_after(length), request_of("next", [30] * 9, 19, **ENDLESS))
        assert_nothing_left(engine)


def test_who_needs_to_know_its_tokens_is_in_every_other_batch() -> None:
    engine = roomy()
    run(engine, request_of("free", [9] * 5, 12, **ENDLESS), request_of("waits", PROMPT, 5, **TAKES_TURNS))
    present = [[name for name, _ in batch] for batch in engine.runner.batches]
    assert present[:10] == [["free", "waits"], ["free"]] * 5
    assert present[10:] == [["free"]] * 2


def test_alone_it_goes_on_in_every_step() -> None:
    engine = roomy()
    engine.add_request(request_of("waits", PROMPT, 5, **TAKES_TURNS))
    assert [len(engine.step()) for _ in range(5)] == [1] * 5
    assert not engine.has_work


def test_a_token_in_flight_is_not_lost_to_a_preemption() -> None:
    """Nor drawn twice: the sequence comes back when the token is known, and computes on from there."""
    engine = roomy()
    request = request_of("r", PROMPT, 6, **ENDLESS)
    engine.add_request(request)
    engine.step()
    sequence = engine.sequence("r")
    engine._scheduler._preempt(sequence)
    engine.check_integrity()
    (output,) = engine.step()
    assert sequence.status is SequenceStatus.WAITING
    assert engine.runner.batches == [[("r", 18)]]
    rest = drain(engine.step, engine)
    assert [token for o in (output, *rest) for token in o.token_ids] == expected_tokens(request)
    assert engine.runner.batches[1] == [("r", 3)], "its four full blocks were cached"


def test_a_token_in_flight_may_end_a_sequence_that_was_preempted() -> None:
    for request in (request_that_ends_after(1), request_of("early", PROMPT, 1)):
        engine = roomy()
        engine.add_request(request)
        engine.step()
        engine._scheduler._preempt(engine.sequence("early"))
        (output,) = engine.step()
        assert output.finish_reason is not None
        assert_nothing_left(engine)


@pytest.mark.parametrize("steps", range(1, 9))
def test_an_aborted_request_gives_nothing_more_and_its_id_is_free(steps: int) -> None:
    engine = roomy()
    engine.add_request(request_of("r", PROMPT, 8, n=2, **ENDLESS))
    for _ in range(steps):
        engine.step()
    engine.abort("r")
    assert not engine.has_work
    assert_nothing_left(engine)
    run(engine, request_of("r", [30] * 9, 8, **ENDLESS))
    assert_nothing_left(engine)


def test_forks_copy_a_prompt_that_is_being_computed() -> None:
    engine = roomy()
    run(engine, request_of("r", PROMPT, 5, n=3, **ENDLESS))
    assert engine.runner.batches[:2] == [[("r", 18)], [("r", 1)] * 3]
    assert engine.seen["copies"] == 2
    assert len(engine.runner.batches) == 6, "they run ahead as their parent does"


def test_a_prefix_that_is_being_computed_is_a_hit() -> None:
    engine = roomy()
    engine.add_request(request_of("first", PROMPT, 5, **ENDLESS))
    engine.step()
    outputs = run(engine, request_of("second", PROMPT, 5, **ENDLESS))
    assert engine.runner.batches[1] == [("first", 1), ("second", 2)]
    assert {o.num_cached_tokens for o in outputs if o.request_id == "second"} == {16}


@pytest.mark.parametrize("length", range(1, 12))
def test_as_much_is_cached_as_in_the_plain_order(length: int) -> None:
    """At least: where a sequence ended early, the dropped step may have filled one more block."""
    for request, more in ((request_of("r", PROMPT, length, **ENDLESS), {0}), (request_that_ends_after(length), {0, 1})):
        held = []
        for engine in (WitnessEngine(num_blocks=40, max_num_batched_tokens=64), roomy()):
            run(engine, request)
            held.append(engine.kv.cache.num_idle_blocks)
        assert held[1] - held[0] in more


def test_a_prompt_from_elsewhere_is_decoded_ahead() -> None:
    engine = roomy()
    request = request_of("r", PROMPT, 9, **ENDLESS)
    first, *rest = expected_tokens(request)
    engine.add_prefilled(request, first, WitnessBlocks(PROMPT, 4, 5))
    outputs = drain(engine.step, engine)
    assert [token for output in outputs for token in output.token_ids] == rest
    assert engine.seen["fed"] == 7, "all but the first, which is known, and the last, which nothing follows"


def test_a_held_sequence_that_ended_early_keeps_its_blocks() -> None:
    engine, request = roomy(), request_that_ends_after(7)
    engine.add_request(request, hold=True)
    drain(engine.step, engine)
    tokens = [*request.prompt_token_ids, *expected_tokens(request)]
    sequence = engine.sequence("early")
    assert sequence.token_ids == tokens
    assert len(sequence.block_table) == 3
    engine.release("early")
    run(engine, request_of("next", [30] * 9, 3, **ENDLESS))
    assert_nothing_left(engine)


SAMPLING: dict[str, dict[str, object]] = {
    "drawn": {"temperature": 1.0, "seed": 5, "top_p": 0.9, "n": 2},
    "min_tokens": {"temperature": 1.0, "seed": 4, "min_tokens": 5},
    "bias": {"logit_bias": {17: 100.0, 18: 99.5}},
    "log-probabilities": {"temperature": 1.0, "seed": 5, "logprobs": 4, "n": 3},
    "penalties": {"frequency_penalty": 2.0, "repetition_penalty": 1.2},
}
Drawn = dict[tuple[str, int], list[tuple[int, TokenLogprobs | None]]]


def drawn(outputs: list[RequestOutput]) -> Drawn:
    """Tokens and their log-probabilities, by completion."""
    result: Drawn = {}
    for output in outputs:
        logprobs = output.logprobs or [None]
        result.setdefault((output.request_id, output.index), []).append((output.token_ids[0], logprobs[0]))
    return result


@pytest.mark.usefixtures("one_thread")
def test_a_real_model_draws_the_same_ahead(eos_dir: Path) -> None:
    """Half of this model's tokens end a sequence, so that many are dropped; all kinds of requests in one batch."""
    plain, running = small_engine(eos_dir).engine, small_engine(eos_dir).engine
    runner = run_ahead(running)
    outcomes = []
    for engine in (plain, running):
        for name, sampling in SAMPLING.items():
            for start in range(6):
                engine.add_request(request_of(f"{name} {start}", [start, 9, 4], 14, **sampling))
        outcomes.append(drawn(drain(engine.step, engine)))
    assert outcomes[0] == outcomes[1]
    assert runner.num_fed > 50
    assert {1, 14} < set(map(len, outcomes[0].values()))
