"""The bundled model on a GPU: it says what it says on a CPU, and in strict numerics the same bits in any company."""

import random
from typing import Any

import pytest

from workers.generation import Generation
from workers.llm import LLM
from workers.prompts import TokensPrompt
from workers.request import SamplingParams
from workers.weights.model_dir import TINY_MODEL

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
POOL_BYTES = 32 * 2**20
LENGTHS = (1, 2, 15, 16, 17, 64, 65, 200)
FIRST = SamplingParams(max_tokens=1, temperature=0, logprobs=4)
GREEDY = SamplingParams(max_tokens=24, temperature=0, ignore_eos=True, logprobs=0)


def llm(device: str, **options: Any) -> LLM:
    return LLM(TINY_MODEL, device=device, memory_bytes=POOL_BYTES, **options)


def prompts() -> list[TokensPrompt]:
    """Of lengths around a block's, a tile's and more."""
    rng = random.Random(1)
    return [TokensPrompt(prompt_token_ids=[rng.randrange(16, 4096) for _ in range(length)]) for length in LENGTHS]


def said(result: Generation) -> tuple[tuple[int, ...], list[float]]:
    """Tokens and their log-probabilities."""
    (completion,) = result.outputs
    assert completion.logprobs is not None
    chosen = zip(completion.token_ids, completion.logprobs, strict=True)
    return completion.token_ids, [entries[token].logprob for token, entries in chosen]


@pytest.mark.parametrize("numerics", ["strict", "fast"])
@pytest.mark.parametrize("options", [{}, {"quantization": "none"}], ids=["int4", "bfloat16"])
def test_the_likeliest_tokens_are_as_likely_as_on_a_cpu(options: dict[str, str], numerics: str) -> None:
    """Within what bfloat16 rounds: 0.4 % of an activation, of logits that spread over tens."""
    on_cpu = llm("cpu", **options).generate(prompts(), FIRST, use_tqdm=False)
    on_gpu = llm(DEVICE, numerics=numerics, **options).generate(prompts(), FIRST, use_tqdm=False)
    for expected, found in zip(on_cpu, on_gpu, strict=True):
        token = expected.outputs[0].token_ids[0]
        assert expected.outputs[0].logprobs is not None
        assert found.outputs[0].logprobs is not None
        wanted, given = expected.outputs[0].logprobs[0], found.outputs[0].logprobs[0]
        assert token in given, "the likeliest token is not among the four likeliest"
        assert given[token].logprob == pytest.approx(wanted[token].logprob, abs=0.15)


@pytest.mark.parametrize("options", [{}, {"max_num_batched_tokens": 48, "max_num_seqs": 3}], ids=["batched", "chunked"])
def test_strict_gives_the_same_bits_alone_batched_and_in_chunks(options: dict[str, int]) -> None:
    engine = llm(DEVICE, numerics="strict")
    alone = [said(engine.generate(prompt, GREEDY, use_tqdm=False)[0]) for prompt in prompts()]
    together = llm(DEVICE, numerics="strict", **options).generate(prompts(), GREEDY, use_tqdm=False)
    assert [said(result) for result in together] == alone


def test_strict_gives_the_same_bits_from_the_prefix_cache() -> None:
    engine = llm(DEVICE, numerics="strict")
    cold = engine.generate(prompts(), GREEDY, use_tqdm=False)
    warm = engine.generate(prompts(), GREEDY, use_tqdm=False)
    assert [result.num_cached_tokens for result in warm][-1] >= 192
    assert [said(result) for result in warm] == [said(result) for result in cold]
