"""Split over two workers a request draws as in one: what is counted over a completion goes on with its first token."""

from pathlib import Path

import pytest

from tests.helpers import drain, request_of, small_engine
from tests.pair import PROMPTS, Pair
from workers.engine.build import BuiltEngine
from workers.request import GenerationRequest, RequestOutput, TokenLogprobs

pytestmark = pytest.mark.usefixtures("one_thread")
CASES: dict[str, dict[str, object]] = {
    "penalties, greedy": {"presence_penalty": 1.5, "frequency_penalty": 1.0, "repetition_penalty": 1.2},
    "penalties, drawn": {"temperature": 0.9, "seed": 3, "frequency_penalty": 2.0, "top_k": 30, "min_p": 0.01},
    "bias": {"logit_bias": {17: 100.0, 18: 99.5}, "frequency_penalty": 2.0},
    "min_tokens": {"temperature": 1.0, "seed": 4, "min_tokens": 5, "stop_token_ids": [*range(1, 256, 4)]},
    "min_tokens of one": {"temperature": 1.0, "seed": 4, "min_tokens": 1},
    "log-probabilities": {"temperature": 1.0, "seed": 5, "logprobs": 4, "repetition_penalty": 1.3},
}
Outcome = dict[str, tuple[list[int], list[TokenLogprobs] | None, str | None]]


def batch_of(case: str) -> list[GenerationRequest]:
    return [request_of(name, prompt, 14, **CASES[case]) for name, prompt in PROMPTS.items()]


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
    pair.run_prefill(batch)
    for request in batch:
        pair.decode.add_request(request, pair.handoffs[request.request_id])
    assert outcome(pair.run_decode()) == expected
    least = int(str(CASES[case].get("min_tokens", 1)))
    assert all(len(tokens) >= least for tokens, _, _ in expected.values())
    for tokens, logprobs, _ in expected.values():
        assert (logprobs is not None) == ("logprobs" in CASES[case])
        assert logprobs is None or len(logprobs) == len(tokens)


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
