"""A prompt's completions are kept apart by index, whichever order their tokens come in."""

import pytest

from workers.generation_job import GenerationJob
from workers.request import FinishReason, GenerationRequest, RequestOutput, SamplingParams
from workers.tokenizer import Tokenizer
from workers.weights.model_dir import TINY_MODEL


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(TINY_MODEL)


def job_of(tokenizer: Tokenizer, **sampling: object) -> GenerationJob:
    params = SamplingParams(**sampling)  # type: ignore[arg-type]
    return GenerationJob(GenerationRequest("a", (0, 5), params), tokenizer, "prompt")


def output_of(index: int, *tokens: int, ends: FinishReason | None = None, cached: int = 0) -> RequestOutput:
    return RequestOutput("a", tokens, cached, ends, index)


def test_completions_are_grouped_by_index_and_end_one_by_one(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("import os, sys")[1:]
    job = job_of(tokenizer, n=3, max_tokens=4)
    for place, token in enumerate(tokens):
        for index in (2, 0, 1):
            last = FinishReason.LENGTH if place == index else None
            job.take(output_of(index, token, ends=last, cached=16 if index == 0 else 1))
        assert job.finished == (place >= 2)
    result = job.result()
    assert (result.prompt, result.prompt_token_ids, result.num_cached_tokens) == ("prompt", (0, 5), 16)
    assert [output.index for output in result.outputs] == [0, 1, 2]
    for index, output in enumerate(result.outputs):
        assert list(output.token_ids) == tokens[: index + 1]
        assert output.text == tokenizer.decode(tokens[: index + 1])
        assert output.finish_reason is FinishReason.LENGTH
    assert job.num_tokens == 6


def test_what_comes_after_a_stop_string_is_left_out(tokenizer: Tokenizer) -> None:
    """The engine knows nothing of stop strings and goes on with a completion while another one lives."""
    tokens = tokenizer.encode("import os, sys")[1:]
    job = job_of(tokenizer, n=2, stop=" os")
    texts = [job.take(output_of(0, token)) for token in tokens]
    assert "".join(texts) == "import"
    assert not job.finished
    job.take(output_of(1, tokens[0], ends=FinishReason.STOP))
    assert job.finished
    stopped, ended = job.result().outputs
    assert stopped.finish_reason is FinishReason.STOP
    assert list(stopped.token_ids) == tokens[:2]
    assert (ended.text, list(ended.token_ids)) == ("", tokens[:1])


def test_the_text_of_the_first_min_tokens_is_not_searched(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("import os, sys, os, re")[1:]
    job = job_of(tokenizer, stop=" os", min_tokens=3, max_tokens=16)
    text = "".join(job.take(output_of(0, token)) for token in tokens)
    assert text == "import os, sys,"
    assert job.finished
