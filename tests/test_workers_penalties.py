"""What a request does to its logits, against Transformers' own processors and by itself."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import MinPLogitsWarper, RepetitionPenaltyLogitsProcessor, TopKLogitsWarper, TopPLogitsWarper

from tests.drawing import EOS, draw_one, sequence_of
from workers.engine.penalties import adjust_logits
from workers.engine.sampler import kept_tokens
from workers.request import SamplingParams

VOCAB = 400
ROWS = torch.randn(6, VOCAB, generator=torch.Generator().manual_seed(11)) * 4
PROMPT, OUTPUT = [5, 6, 7, 5], [9, 9, 5, 11]


@pytest.mark.parametrize("penalty", [0.5, 1.3, 3.0])
def test_repetition_is_that_of_transformers_over_prompt_and_completion(penalty: float) -> None:
    tokens = torch.tensor([PROMPT + OUTPUT]).expand(len(ROWS), -1)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(tokens, ROWS)
    for row, wanted in zip(ROWS, expected, strict=True):
        ours = adjust_logits(row, sequence_of(SamplingParams(repetition_penalty=penalty), OUTPUT, PROMPT), EOS)
        torch.testing.assert_close(ours.float(), wanted)


@pytest.mark.parametrize(
    ("params", "warper"),
    [
        (SamplingParams(top_k=1), TopKLogitsWarper(1)),
        (SamplingParams(top_k=40), TopKLogitsWarper(40)),
        (SamplingParams(top_k=4000), TopKLogitsWarper(4000)),
        (SamplingParams(top_p=0.1), TopPLogitsWarper(0.1)),
        (SamplingParams(top_p=0.9), TopPLogitsWarper(0.9)),
        (SamplingParams(top_p=0.9999), TopPLogitsWarper(0.9999)),
        (SamplingParams(min_p=0.03), MinPLogitsWarper(0.03)),
        (SamplingParams(min_p=1.0), MinPLogitsWarper(1.0)),
    ],
)
def test_the_tokens_kept_are_those_that_transformers_keeps(params: SamplingParams, warper: object) -> None:
    assert callable(warper)
    for row in ROWS:
        kept = warper(torch.tensor([PROMPT]), row[None])[0] > -torch.inf
        assert sorted(kept_tokens(row, params)[0].tolist()) == kept.nonzero().flatten().tolist()


def test_presence_and_frequency_count_the_completion_only() -> None:
    sequence = sequence_of(SamplingParams(presence_penalty=0.5, frequency_penalty=0.25), OUTPUT, PROMPT)
    lowered = ROWS[0] - adjust_logits(ROWS[0], sequence, EOS)
    wanted = torch.zeros(VOCAB, dtype=torch.float64)
    wanted[[5, 9, 11]] = torch.tensor([0.75, 1.0, 0.75], dtype=torch.float64)
    torch.testing.assert_close(lowered, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_bias_is_added_before_the_penalties(dtype: torch.dtype) -> None:
    params = SamplingParams(logit_bias={5: 100, 8: -2.5}, repetition_penalty=2.0)
    row = torch.zeros(VOCAB, dtype=dtype)
    adjusted = adjust_logits(row, sequence_of(params, OUTPUT, PROMPT), EOS)
    assert [adjusted[5], adjusted[8], adjusted[9]] == [50, -2.5, 0]
    assert not row.any(), "the model's own logits stay as they are"


def test_a_bias_bans_and_forces_tokens_of_a_greedy_request() -> None:
    best, second = ROWS[0].topk(2).indices.tolist()
    assert draw_one(ROWS[0], sequence_of(SamplingParams(temperature=0))).token_id == best
    assert draw_one(ROWS[0], sequence_of(SamplingParams(temperature=0, logit_bias={best: -100}))).token_id == second
    assert draw_one(ROWS[0], sequence_of(SamplingParams(temperature=0, logit_bias={77: 100}))).token_id == 77


@pytest.mark.parametrize("ignore_eos", [False, True])
@pytest.mark.parametrize("num_output", range(4))
def test_tokens_that_stop_are_masked_until_min_tokens(num_output: int, ignore_eos: bool) -> None:
    params = SamplingParams(min_tokens=2, stop_token_ids=[8], ignore_eos=ignore_eos, temperature=0)
    row = torch.zeros(VOCAB)
    row[3], row[8], row[1] = 9, 8, 7
    assert draw_one(row, sequence_of(params, [1] * num_output)).token_id == (1 if num_output < 2 else 3)


@given(
    st.lists(st.floats(-50, 50, width=32), min_size=5, max_size=5),
    st.floats(0, exclude_min=True, allow_infinity=False),
    st.sampled_from([5e-324, 1e-9, 1.0, 1e300, 10**300]),
    st.integers(0, 4),
)
def test_no_penalty_or_temperature_is_too_wild_to_draw(
    row: list[float], penalty: float, temperature: float, min_tokens: int
) -> None:
    """One request must not end the engine: whatever is accepted leaves a distribution."""
    params = SamplingParams(repetition_penalty=penalty, temperature=temperature, min_tokens=min_tokens)
    for prompt in ([0], [0, 1, 2, 3, 4]):
        assert 0 <= draw_one(row, sequence_of(params, prompt=prompt)).token_id < 5
