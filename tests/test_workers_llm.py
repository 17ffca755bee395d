"""Offline generation: results in the order of the prompts, equal to the engine's, and nothing left behind."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.ahead import run_ahead
from tests.helpers import generate, num_leaked_blocks, request_of, small_engine
from workers.config import WeightConfig
from workers.engine.runner import LaunchedBatch
from workers.engine.scheduler import ScheduledBatch
from workers.llm import LLM
from workers.prompts import TokensPrompt
from workers.request import FinishReason, RequestError, SamplingParams
from workers.tokenizer import Tokenizer
from workers.weights.model_dir import TINY_MODEL

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPTS = ["import os\n", "def walk(top", "class Queue:\n    def __init__(self", "# "]
GREEDY = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
DRAWN = SamplingParams(max_tokens=12, temperature=1.0, seed=9, ignore_eos=True)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(TINY_MODEL)


@pytest.fixture(scope="module", params=["plain", "ahead"])
def shared(request: pytest.FixtureRequest) -> LLM:
    llm = LLM(TINY_MODEL, memory_bytes=16 * 2**20, max_num_seqs=3)
    if request.param == "ahead":
        run_ahead(llm.engine)
    return llm


@pytest.fixture
def llm(shared: LLM) -> Iterator[LLM]:
    yield shared
    shared.engine.check_integrity()
    assert not shared.engine.has_work
    assert num_leaked_blocks(shared.engine) == 0
    assert shared.engine.take_events() == []


def test_results_are_the_engines_in_the_order_of_the_prompts(llm: LLM, tokenizer: Tokenizer) -> None:
    """With parameters of their own they end in another order; three of the four run at once."""
    params = [SamplingParams(n, 1.0, seed=n, ignore_eos=True) for n in (20, 3, 9, 5)]
    results = llm.generate(PROMPTS, params, use_tqdm=False)
    prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
    group_size = WeightConfig().group_size
    engine = small_engine(
        TINY_MODEL, block_size=16, quantization="int4", group_size=group_size, dtype="bfloat16"
    ).engine
    wanted = generate(
        engine,
        [
            request_of(str(n), prompt, own.max_tokens, temperature=1.0, seed=own.seed, ignore_eos=True)
            for n, (prompt, own) in enumerate(zip(prompts, params, strict=True))
        ],
    )
    assert [result.prompt for result in results] == PROMPTS
    assert [list(result.prompt_token_ids) for result in results] == prompts
    for result, tokens in zip(results, wanted.values(), strict=True):
        (output,) = result.outputs
        assert (output.index, output.finish_reason, output.logprobs) == (0, FinishReason.LENGTH, None)
        assert list(output.token_ids) == tokens
        assert output.text == tokenizer.decode(tokens)


def test_a_prompt_is_text_or_tokens(llm: LLM, tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(PROMPTS[0])
    forms: list[Any] = [PROMPTS[0], {"prompt": PROMPTS[0]}, {"prompt_token_ids": tokens}, [PROMPTS[0]]]
    results = [llm.generate(form, GREEDY, use_tqdm=False) for form in forms]
    assert {result.outputs for (result,) in results} == {results[0][0].outputs}
    assert [result.prompt for (result,) in results] == [PROMPTS[0], PROMPTS[0], None, PROMPTS[0]]
    assert llm.generate([], GREEDY, use_tqdm=False) == []


def test_a_seed_decides_and_without_one_equal_prompts_differ(llm: LLM) -> None:
    fixed = llm.generate([PROMPTS[0]] * 2, DRAWN, use_tqdm=False)
    assert fixed[0].outputs == fixed[1].outputs
    params = SamplingParams(max_tokens=12, temperature=2.0, ignore_eos=True)
    free = llm.generate([PROMPTS[0]] * 3, params, use_tqdm=False)
    assert len({result.outputs for result in free}) == 3


def test_a_prefix_seen_before_is_reported_as_cached(llm: LLM) -> None:
    prompt = TokensPrompt(prompt_token_ids=list(range(100, 150)))
    cached = [llm.generate(prompt, GREEDY, use_tqdm=False)[0].num_cached_tokens for _ in range(2)]
    assert cached == [0, 48]


def test_text_ends_before_a_stop_string(llm: LLM) -> None:
    (free,) = llm.generate(PROMPTS[1], GREEDY, use_tqdm=False)
    text = free.outputs[0].text
    stop = text[len(text) // 2 :][:3]
    (stopped,) = llm.generate(PROMPTS[1], SamplingParams(12, 0.0, ignore_eos=True, stop=[stop]), use_tqdm=False)
    output = stopped.outputs[0]
    assert output.text == text[: text.index(stop)]
    assert output.finish_reason == "stop"
    assert output.token_ids == free.outputs[0].token_ids[: len(output.token_ids)]
    assert len(output.token_ids) < 12


def test_text_ends_before_a_stop_token(llm: LLM, tokenizer: Tokenizer) -> None:
    (free,) = llm.generate(PROMPTS[1], GREEDY, use_tqdm=False)
    tokens = free.outputs[0].token_ids
    (stopped,) = llm.generate(PROMPTS[1], SamplingParams(12, 0.0, stop_token_ids=[tokens[3]]), use_tqdm=False)
    output, end = stopped.outputs[0], tokens.index(tokens[3])
    assert output.token_ids == tokens[: end + 1]
    assert output.text == tokenizer.decode(tokens[:end])
    assert output.finish_reason is FinishReason.STOP


def test_nothing_ends_before_min_tokens(llm: LLM, tokenizer: Tokenizer) -> None:
    (free,) = llm.generate(PROMPTS[1], GREEDY, use_tqdm=False)
    first = free.outputs[0].token_ids[0]
    for stop in ({"stop_token_ids": [first]}, {"stop": tokenizer.decode([first])}):
        ends, held = (SamplingParams(12, 0.0, min_tokens=count, **stop) for count in (0, 5))
        outputs = [llm.generate(PROMPTS[1], params, use_tqdm=False)[0].outputs[0] for params in (ends, held)]
        assert [outputs[0].text, len(outputs[0].token_ids)] == ["", 1]
        assert len(outputs[1].token_ids) >= 5
        assert outputs[1].text


def test_logprobs_name_the_token_and_the_likeliest(llm: LLM, tokenizer: Tokenizer) -> None:
    params = SamplingParams(max_tokens=6, temperature=2.0, seed=3, logprobs=3)
    (result,) = llm.generate(PROMPTS[0], params, use_tqdm=False)
    output = result.outputs[0]
    assert output.logprobs is not None
    assert len(output.logprobs) == len(output.token_ids)
    for token, ranked in zip(output.token_ids, output.logprobs, strict=True):
        assert next(iter(ranked)) == token
        assert len(ranked) in (3, 4)
        assert ranked[token].decoded_token == tokenizer.decode([token])
        by_rank = sorted(ranked.values(), key=lambda logprob: logprob.rank)
        assert [logprob.rank for logprob in by_rank[:3]] == [1, 2, 3]
        assert by_rank == sorted(by_rank, key=lambda logprob: -logprob.logprob)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("x" * 20_000, "prompt 2: this model's context is 2048 tokens"),
        ("\ud800", "prompt 2: the text holds a lone surrogate"),
        (5, "prompt 2: a prompt is a string"),
        ({"text": "x"}, "prompt 2: a prompt is a string"),
        ({"prompt": "x", "prompt_token_ids": [1]}, "prompt 2: a prompt is a string"),
        ({"prompt_token_ids": []}, "prompt 2: the prompt is empty"),
        ({"prompt_token_ids": [1, 4096]}, "prompt 2: the prompt holds token ids outside 0 to 4095"),
        ({"prompt_token_ids": [1.5]}, "prompt 2: a token of prompt_token_ids is 1.5"),
        ({"prompt_token_ids": "12"}, "prompt 2: a prompt is a string"),
    ],
)
def test_one_bad_prompt_is_named_and_nothing_runs(llm: LLM, bad: Any, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        llm.generate([*PROMPTS[:2], bad], GREEDY, use_tqdm=False)


def test_bad_parameters_are_named_and_nothing_runs(llm: LLM) -> None:
    with pytest.raises(RequestError, match=r"prompt 1: logit_bias names tokens \[4096\]"):
        llm.generate(PROMPTS[:2], [GREEDY, SamplingParams(logit_bias={4096: 1.0})], use_tqdm=False)
    with pytest.raises(RequestError, match="there are 4 prompts and 1 sampling_params; give one for all, or as many"):
        llm.generate(PROMPTS, [GREEDY], use_tqdm=False)
    for wrong in ({"temperature": 0}, [{"temperature": 0}], [None], 5):
        with pytest.raises(RequestError, match="sampling_params must be SamplingParams"):
            llm.generate(PROMPTS[:1], wrong, use_tqdm=False)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="prompts are int; give one prompt or a list of them"):
        llm.generate(5, GREEDY, use_tqdm=False)  # type: ignore[arg-type]


class InterruptedRunner:
    """Counts the steps and is interrupted at one of them."""

    def __init__(self, llm: LLM, interrupted_at: int | None = None) -> None:
        self._runner = llm.engine._runner
        self._interrupted_at = interrupted_at
        self.num_steps = 0

    def runs_ahead(self, params: SamplingParams) -> bool:
        return self._runner.runs_ahead(params)

    def launch(self, batch: ScheduledBatch) -> LaunchedBatch:
        self.num_steps += 1
        if self.num_steps == self._interrupted_at:
            raise KeyboardInterrupt
        return self._runner.launch(batch)


def test_a_stop_string_ends_the_work_too(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    counting = InterruptedRunner(llm)
    monkeypatch.setattr(llm.engine, "_runner", counting)
    params = SamplingParams(500, 0.0, ignore_eos=True, stop="\n")
    (result,) = llm.generate(PROMPTS[1], params, use_tqdm=False)
    num_dropped = int(counting.runs_ahead(params))  # the step that was launched before the stop string was seen
    assert counting.num_steps - num_dropped == len(result.outputs[0].token_ids) < 100


def test_an_interrupt_of_a_step_leaves_nothing_behind(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(llm.engine, "_runner", InterruptedRunner(llm, interrupted_at=4))
        with pytest.raises(KeyboardInterrupt) as interrupt:
            llm.generate(PROMPTS, GREEDY, use_tqdm=False)
        assert not llm.engine.has_work, "even while the traceback is kept"
        assert interrupt.traceback
    assert len(llm.generate(PROMPTS, GREEDY, use_tqdm=False)) == 4


def test_an_interrupt_between_steps_leaves_nothing_behind(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(bar: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("workers.llm.tqdm.update", interrupt)
    params = [SamplingParams(count, 0.0, ignore_eos=True) for count in (3, 9)]
    with pytest.raises(KeyboardInterrupt) as interrupted:
        llm.generate(PROMPTS[:2], params)
    assert not llm.engine.has_work, "even while the traceback is kept"
    assert interrupted.traceback


def test_a_stream_gives_the_same_text_piece_by_piece(llm: LLM) -> None:
    pieces = list(llm.stream(PROMPTS[2], DRAWN))
    assert len(pieces) > 5
    assert "".join(pieces) == llm.generate(PROMPTS[2], DRAWN, use_tqdm=False)[0].outputs[0].text


def test_a_stream_that_is_left_or_refused_leaves_nothing(llm: LLM) -> None:
    stream = llm.stream(PROMPTS[2], DRAWN)
    next(stream)
    with pytest.raises(RuntimeError, match="a stream of this LLM is still open"):
        llm.generate(PROMPTS, GREEDY, use_tqdm=False)
    stream.close()
    with pytest.raises(RequestError, match="n is 2; a stream has one completion"):
        next(llm.stream(PROMPTS[0], SamplingParams(n=2)))


def test_chat_continues_the_rendered_conversation(llm: LLM, tokenizer: Tokenizer) -> None:
    messages = [{"role": "system", "content": "# code"}, {"role": "user", "content": "import os"}]
    prompt = TokensPrompt(prompt_token_ids=tokenizer.encode_chat(messages))
    (wanted,) = llm.generate(prompt, GREEDY, use_tqdm=False)
    assert [result.outputs for result in llm.chat(messages, GREEDY, use_tqdm=False)] == [wanted.outputs]
    both = llm.chat([messages, messages[1:]], [GREEDY, GREEDY], use_tqdm=False)
    assert [both[0].outputs, both[0].prompt_token_ids] == [wanted.outputs, wanted.prompt_token_ids]
    assert both[1].prompt_token_ids == tuple(tokenizer.encode_chat(messages[1:]))


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([[]], "prompt 0: a conversation is a list of at least one message"),
        ([[{"role": "user", "content": "x"}], "hello"], "prompt 1: a conversation is a list of at least one message"),
        ([{"role": "user"}], "prompt 0: {'role': 'user'} is no message"),
        ([{"role": "user", "content": 5}], "prompt 0: .* is no message"),
        ([["hello"]], "prompt 0: 'hello' is no message"),
    ],
)
def test_what_is_no_conversation_is_refused(llm: LLM, messages: Any, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        llm.chat(messages, GREEDY, use_tqdm=False)


def test_the_progress_bar_counts_prompts_and_tokens_a_second(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    llm.generate(PROMPTS, GREEDY, use_tqdm=False)
    assert capsys.readouterr().err == ""
    llm.generate(PROMPTS, GREEDY)
    shown = capsys.readouterr().err
    assert "Processed prompts: 100%" in shown
    assert "4/4" in shown
    assert "tokens/s" in shown


def test_options_reach_the_engine() -> None:
    llm = LLM(TINY_MODEL, block_size=32, memory_bytes=2**20, dtype="float32", quantization="none")
    assert llm.engine.kv.pool.num_blocks == 2**20 // (32 * 2 * 6 * 2 * 64 * 4)


def test_a_cleared_prefix_cache_has_nothing_of_earlier_prompts(llm: LLM) -> None:
    once = SamplingParams(max_tokens=1, temperature=0)
    prompt = "def cleared(prefix, cache):\n    return prefix\n" * 4
    llm.generate(prompt, once, use_tqdm=False)
    (again,) = llm.generate(prompt, once, use_tqdm=False)
    llm.reset_prefix_cache()
    (cleared,) = llm.generate(prompt, once, use_tqdm=False)
    assert (again.num_cached_tokens > 0, cleared.num_cached_tokens) == (True, 0)
    assert cleared.outputs[0].token_ids == again.outputs[0].token_ids
