"""Split over two workers a request draws as in one: what is counted over a completion goes on with its first token."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import drain, request_of, small_engine
from tests.pair import Pair, requests
from workers.engine.build import BuiltEngine
from workers.request import FinishReason, GenerationRequest, RequestOutput, TokenLogprobs

pytestmark = pytest.mark.usefixtures("one_thread")
CASES: dict[str, dict[str, object]] = {
    "penalties, greedy": {"presence_penalty": 1.5, "frequency_penalty": 1.0, "repetition_penalty": 1.2},
    "penalties, drawn": {"temperature": 0.9, "seed": 3, "frequency_penalty": 2.0, "top_k": 30, "min_p": 0.01},
    "bias": {"logit_bias": {17: 100.0, 18: 99.5}, "frequency_penalty": 2.0},
    "min_tokens": {"temperature": 1.0, "seed": 4, "min_tokens": 5, "stop_token_ids": [*range(1, 256, 4)]},
    "min_tokens of one": {"temperature": 1.0, "seed": 4, "min_tokens": 1},
    "log-probabilities": {"temperature": 1.0, "seed": 5, "logprobs": 4, "repetition_penalty": 1.3},
}
NUM_GIVEN = 20
EVERYTHING: dict[str, object] = {
    "repetition_penalty": 1.3,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.9,
    "logit_bias": {17: 9.0, 18: 8.5, 40: -50.0},
    "min_tokens": NUM_GIVEN - 1,  # the last token may stop, and is the last one anyhow
    "stop_token_ids": [*range(0, 256, 3)],
    "logprobs": 2,
}
CUT: dict[str, dict[str, object]] = {
    "greedy": {},
    "drawn": {"temperature": 0.9, "seed": 21},
    "everything, greedy": EVERYTHING,
    "everything, drawn": {**EVERYTHING, "temperature": 0.9, "seed": 3},
}
Resume = Callable[[Pair, list[GenerationRequest]], list[RequestOutput]]
Outcome = dict[str, tuple[list[int], list[TokenLogprobs] | None, str | None]]


def batch_of(case: str) -> list[GenerationRequest]:
    return requests(14, CASES[case])


def outcome(outputs: list[RequestOutput]) -> Outcome:
    """Tokens, their log-probabilities and the end, by request."""
    result: Outcome = {}
    for output in outputs:
        tokens, logprobs, _ = result.get(output.request_id, ([], None, None))
        if output.logprobs is not None:
            logprobs = [*(logprobs or []), *output.logprobs]
        result[output.request_id] = ([*tokens, *output.token_ids], logprobs, output.finish_reason)
    return result


def alone(built: BuiltEngine, batch: list[GenerationRequest]) -> Outcome:
    for request in batch:
        built.engine.add_request(request)
    return outcome(drain(built.engine.step, built.engine))


@pytest.mark.parametrize("ahead", [False, True], ids=["plain", "ahead"])
@pytest.mark.parametrize("case", CASES)
def test_a_pair_draws_what_one_engine_draws(eos_dir: Path, case: str, ahead: bool) -> None:
    """Half of this model's tokens end a sequence, so min_tokens has something to hold back."""
    batch = batch_of(case)
    expected = alone(small_engine(eos_dir), batch)
    pair = Pair(small_engine(eos_dir), small_engine(eos_dir, num_blocks=40))
    if ahead:
        pair.run_ahead()
    assert outcome(pair.run_outputs(batch)) == expected
    least = int(str(CASES[case].get("min_tokens", 1)))
    assert all(len(tokens) >= least for tokens, _, _ in expected.values())
    for tokens, logprobs, _ in expected.values():
        assert (logprobs is not None) == ("logprobs" in CASES[case])
        assert logprobs is None or len(logprobs) == len(tokens)


def prefill_and_decode(pair: Pair, batch: list[GenerationRequest]) -> list[RequestOutput]:
    """The decode worker computes nothing of the prompt, nor of what was given."""
    engine = pair.engines[1]
    before = engine.num_computed_tokens
    outputs = pair.run_outputs(batch)
    assert engine.num_computed_tokens - before == len(outputs) - len(batch)
    return outputs


def decode_only(pair: Pair, batch: list[GenerationRequest]) -> list[RequestOutput]:
    for request in batch:
        pair.decode.add_request(request)
    return pair.run_decode()


def rest_of(whole: Outcome, num_given: int) -> Outcome:
    """What is left of completions after so many tokens, as the outcome of the second attempts."""
    return {
        f"{name}#1": (tokens[num_given:], logprobs and logprobs[num_given:], end)
        for name, (tokens, logprobs, end) in whole.items()
    }


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm, ahead"])
@pytest.mark.parametrize("resume", [prefill_and_decode, decode_only])
@pytest.mark.parametrize("case", CUT)
def test_a_stream_cut_anywhere_goes_on_as_it_would_have(
    untied_dir: Path, case: str, resume: Resume, warm: bool
) -> None:
    """Whoever resumes it takes what was given for output: draws, counts and ends depend on it."""
    batch = requests(NUM_GIVEN, CUT[case])
    whole = alone(small_engine(untied_dir), batch)
    assert {len(tokens) for tokens, _, _ in whole.values()} == {NUM_GIVEN}
    assert any(end == FinishReason.STOP for _, _, end in whole.values()) == ("stop_token_ids" in CUT[case])
    pair = Pair(small_engine(untied_dir), small_engine(untied_dir))
    if warm:
        pair.run_ahead()
    for num_given in range(NUM_GIVEN):
        resumed = [request.resumed(whole[request.request_id][0][:num_given], 1, None) for request in batch]
        assert outcome(resume(pair, resumed)) == rest_of(whole, num_given)
        if not warm:
            for engine in pair.engines:
                engine.reset_prefix_cache()


@pytest.mark.parametrize("name", sorted(EVERYTHING))
def test_each_part_of_everything_changes_what_is_given(untied_dir: Path, name: str) -> None:
    sampling = CUT["everything, drawn"]
    less = {key: value for key, value in sampling.items() if key != name}
    both = [alone(small_engine(untied_dir), requests(NUM_GIVEN, each)) for each in (sampling, less)]
    assert both[0] != both[1]


@pytest.mark.parametrize("case", ["penalties, greedy", "bias"])
def test_the_cases_above_change_tokens(untied_dir: Path, case: str) -> None:
    plain = [request_of(request.request_id, request.prompt_token_ids, 14) for request in batch_of(case)]
    assert alone(small_engine(untied_dir), batch_of(case)) != alone(small_engine(untied_dir), plain)


def test_min_tokens_holds_the_first_token_back(eos_dir: Path) -> None:
    """A prefill worker draws one token, fewer than min_tokens asks for: it must not end there all the same."""
    prompts = {str(first): [first, 9] for first in range(24)}
    free = [request_of(name, prompt, 6) for name, prompt in prompts.items()]
    held = [request_of(name, prompt, 6, min_tokens=4) for name, prompt in prompts.items()]
    pair = Pair(small_engine(eos_dir), small_engine(eos_dir))
    assert any(len(tokens) == 1 for tokens in pair.run(free).values())
    for tokens in pair.run(held).values():
        assert len(tokens) >= 4
        assert all(token % 2 for token in tokens[:4])
