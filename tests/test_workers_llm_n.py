"""Several completions of one prompt: kept apart, each with a stream of its own, the first one as it would be alone."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.helpers import num_leaked_blocks
from workers.llm import LLM
from workers.request import FinishReason, SamplingParams
from workers.weights.model_dir import TINY_MODEL

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPTS = ["import os\n", "class Queue:\n    def __init__(self, maxsize=0):\n        self.maxsize = maxsize\n"]
DRAWN = SamplingParams(max_tokens=14, temperature=1.2, seed=5, ignore_eos=True)


@pytest.fixture(scope="module")
def shared() -> LLM:
    return LLM(TINY_MODEL, memory_bytes=16 * 2**20, max_num_seqs=5)


@pytest.fixture
def llm(shared: LLM) -> Iterator[LLM]:
    yield shared
    shared.engine.check_integrity()
    assert not shared.engine.has_work
    assert num_leaked_blocks(shared.engine) == 0


def test_each_prompt_has_n_completions_that_differ_and_are_repeatable(llm: LLM) -> None:
    params = replace(DRAWN, n=4, logprobs=1)
    results = llm.generate(PROMPTS, params, use_tqdm=False)
    for result in results:
        assert [output.index for output in result.outputs] == [0, 1, 2, 3]
        assert len({output.token_ids for output in result.outputs}) == 4
        for output in result.outputs:
            assert (len(output.token_ids), output.finish_reason) == (14, FinishReason.LENGTH)
            assert output.logprobs is not None
            assert len(output.logprobs) == 14
    again = [llm.generate(prompt, params, use_tqdm=False)[0].outputs for prompt in PROMPTS]
    assert again == [result.outputs for result in results]


def test_the_first_completion_is_what_it_would_be_alone(llm: LLM) -> None:
    alone = llm.generate(PROMPTS, DRAWN, use_tqdm=False)
    several = llm.generate(PROMPTS, replace(DRAWN, n=3), use_tqdm=False)
    assert [result.outputs[0] for result in several] == [result.outputs[0] for result in alone]


def test_greedy_completions_are_equal(llm: LLM) -> None:
    (result,) = llm.generate(PROMPTS[0], SamplingParams(n=3, temperature=0, max_tokens=9), use_tqdm=False)
    assert len({(output.text, output.token_ids) for output in result.outputs}) == 1


def test_completions_stop_one_by_one(llm: LLM) -> None:
    """One that ends at a stop string does not end the others, and all have the text they have without it, up to it."""
    (free,) = llm.generate(PROMPTS[1], replace(DRAWN, n=4), use_tqdm=False)
    stop = free.outputs[2].text[4:7]
    (result,) = llm.generate(PROMPTS[1], replace(DRAWN, n=4, stop=[stop]), use_tqdm=False)
    for output, whole in zip(result.outputs, free.outputs, strict=True):
        assert output.text == whole.text.partition(stop)[0]
        assert output.finish_reason == (FinishReason.STOP if stop in whole.text else FinishReason.LENGTH)
    assert {output.finish_reason for output in result.outputs} == {FinishReason.STOP, FinishReason.LENGTH}
