"""Log-probabilities are those of the model's own distribution, whatever the request does to it."""

import pytest
import torch

from tests.drawing import draw_one, sequence_of
from workers.request import SamplingParams

ROW = torch.randn(300, generator=torch.Generator().manual_seed(5)) * 3
LOGPROBS = ROW.double().log_softmax(-1)


def test_none_are_given_where_none_are_asked_for() -> None:
    for temperature in (0.0, 1.0):
        assert draw_one(ROW, sequence_of(SamplingParams(temperature=temperature))).logprobs is None


@pytest.mark.parametrize("num_top", [0, 1, 20])
@pytest.mark.parametrize("temperature", [0.0, 0.5, 2.0])
def test_they_are_the_log_softmax_of_untouched_logits(temperature: float, num_top: int) -> None:
    likeliest = int(ROW.argmax())
    params = SamplingParams(
        temperature=temperature, logprobs=num_top, top_k=9, repetition_penalty=1.7, logit_bias={likeliest: -100}
    )
    drawn = draw_one(ROW, sequence_of(params, [4, 5, 6]))
    assert drawn.token_id != likeliest
    assert drawn.logprobs is not None
    assert drawn.logprobs.logprob == pytest.approx(float(LOGPROBS[drawn.token_id]))
    assert drawn.logprobs.rank == LOGPROBS.sort(descending=True).indices.tolist().index(drawn.token_id) + 1
    best = LOGPROBS.topk(num_top)
    assert [token for token, _ in drawn.logprobs.top] == best.indices.tolist()
    assert [logprob for _, logprob in drawn.logprobs.top] == pytest.approx(best.values.tolist())


def test_a_vocabulary_smaller_than_what_is_asked_for_is_given_whole() -> None:
    drawn = draw_one(ROW[:3], sequence_of(SamplingParams(temperature=0, logprobs=20)), frozenset())
    assert drawn.logprobs is not None
    assert len(drawn.logprobs.top) == 3
    assert drawn.logprobs.rank == 1
