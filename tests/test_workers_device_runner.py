"""The runner that leaves steps to a device: on the CPU, with a model of integers, against the runner that waits."""

import random
from dataclasses import replace

import pytest

from kernels.sampling import sample_tokens
from tests.tensor_witness import (
    BLOCK_SIZE,
    EOS,
    MAX_LEN,
    MAX_NUM_BATCHED_TOKENS,
    MAX_NUM_SEQS,
    VOCAB_SIZE,
    TensorWitness,
    witness_cache,
    witness_engine,
)
from workers.engine.decode_graphs import Forward, graph_sizes
from workers.engine.device_runner import DeviceRunner
from workers.engine.engine import Engine
from workers.engine.model_runner import ModelRunner
from workers.request import GenerationRequest, RequestOutput, SamplingParams, TokenLogprobs

GREEDY = SamplingParams(max_tokens=12)
PARAMS = [
    GREEDY,
    SamplingParams(max_tokens=12, temperature=0.8, seed=5),
    SamplingParams(max_tokens=9, temperature=1.2, seed=2**70 + 3, min_p=0.1),
    SamplingParams(max_tokens=12, temperature=0.7, top_k=1),
    SamplingParams(max_tokens=10, presence_penalty=1.5, frequency_penalty=0.5, repetition_penalty=1.3),
    SamplingParams(max_tokens=10, logit_bias=((5, 4.0), (9, -100.0))),
    SamplingParams(max_tokens=12, min_tokens=9),
    SamplingParams(max_tokens=6, logprobs=3),
    SamplingParams(max_tokens=8, temperature=0.9, seed=1, logprobs=0, min_tokens=4, presence_penalty=-1.0),
    SamplingParams(max_tokens=12, ignore_eos=True),
    SamplingParams(max_tokens=8, temperature=1.0, n=3, seed=11),
]
Given = dict[tuple[str, int], tuple[list[int], list[TokenLogprobs | None], str | None]]


def device_engine(model: TensorWitness, num_blocks: int = 60) -> Engine:
    memory = witness_cache(num_blocks)
    runner = DeviceRunner(
        model,
        model,
        memory,
        BLOCK_SIZE,
        EOS,
        max_num_seqs=MAX_NUM_SEQS,
        max_num_batched_tokens=MAX_NUM_BATCHED_TOKENS,
        max_len=MAX_LEN,
        draw=sample_tokens,
        record=run_once,
    )
    return witness_engine(runner, num_blocks, memory)


def run_once(forward: Forward) -> Forward:
    """What recording does to a computation, without a GPU."""
    forward()
    return forward


def plain_engine(num_blocks: int = 60) -> Engine:
    memory = witness_cache(num_blocks)
    return witness_engine(ModelRunner(TensorWitness(), memory, BLOCK_SIZE, EOS), num_blocks, memory)  # type: ignore[arg-type]


def run(engine: Engine, requests: list[GenerationRequest], arrivals: random.Random) -> Given:
    """What each completion was given, whatever the requests arrive beside."""
    waiting, given = list(requests), Given()
    while waiting or engine.has_work:
        while waiting and (arrivals.random() < 0.4 or not engine.has_work):
            engine.add_request(waiting.pop())
        for output in engine.step():
            take(given, output)
        engine.check_integrity()
    return given


def take(given: Given, output: RequestOutput) -> None:
    tokens, logprobs, _ = given.setdefault((output.request_id, output.index), ([], [], None))
    tokens += output.token_ids
    logprobs += output.logprobs or [None]
    given[output.request_id, output.index] = tokens, logprobs, output.finish_reason


def some_requests(seed: int) -> list[GenerationRequest]:
    """Prompts that share beginnings, with all sorts of parameters."""
    rng = random.Random(seed)
    bases = [[rng.randrange(VOCAB_SIZE) for _ in range(20)] for _ in range(2)]
    return [
        GenerationRequest(str(number), (*rng.choice(bases)[: rng.randrange(1, 20)], number), params)
        for number, params in enumerate(rng.choices(PARAMS, k=14))
    ]


@pytest.mark.parametrize("num_blocks", [17, 60])
@pytest.mark.parametrize("seed", range(6))
def test_gives_what_the_runner_that_waits_gives(seed: int, num_blocks: int) -> None:
    """Ahead of the host, in recorded steps and others, with sequences that come, go and are preempted."""
    requests, model = some_requests(seed), TensorWitness()
    found = run(device_engine(model, num_blocks), requests, random.Random(seed))
    assert found == run(plain_engine(num_blocks), requests, random.Random(seed + 1))
    assert len(found) >= len(requests)


def test_steps_of_single_tokens_are_replayed_in_the_sizes_recorded() -> None:
    model = TensorWitness()
    engine = device_engine(model)
    assert model.rows == [MAX_NUM_BATCHED_TOKENS, 6, 4, 2, 1], "the longest prompt, then every size, the largest first"
    assert graph_sizes(MAX_NUM_SEQS) == [1, 2, 4, 6]
    model.rows.clear()
    model.planned.clear()
    requests = [GenerationRequest(str(n), (n, n + 1), replace(GREEDY, ignore_eos=True)) for n in range(5)]
    for request in requests:
        engine.add_request(request)
    while engine.has_work:
        engine.step()
    assert model.rows == [10] + [6] * (GREEDY.max_tokens - 1)
    assert model.planned == [[2] * 5], "the prompts; the rest has its room"


def test_what_does_not_fit_the_room_is_launched_by_itself() -> None:
    model = TensorWitness(room_for=9)
    request = GenerationRequest("long", tuple(range(6)), replace(GREEDY, ignore_eos=True))
    engine = device_engine(model)
    model.planned.clear()
    found = run(engine, [request], random.Random(0))
    assert found == run(plain_engine(), [request], random.Random(0))
    assert model.planned == [[6], *([length] for length in range(10, 18))]


def test_a_step_with_a_prompt_that_draws_nothing_is_no_recorded_one() -> None:
    """The last token but one of a prompt, alone in a chunk, looks like a decode."""
    model = TensorWitness()
    prompt = tuple(range(26))  # chunks of 24 and 2
    requests = [GenerationRequest("a", prompt[:25], GREEDY), GenerationRequest("b", prompt[1:], GREEDY)]
    assert run(device_engine(model), requests, random.Random(1)) == run(plain_engine(), requests, random.Random(1))


def test_wild_penalties_leave_a_token_to_draw() -> None:
    """What they make of a logit may be more than float32 holds."""
    wild = SamplingParams(max_tokens=6, repetition_penalty=1e-300, temperature=1.0)
    requests = [GenerationRequest("wild", (1, 2, 3), wild)]
    assert run(device_engine(TensorWitness()), requests, random.Random(0)) == run(
        plain_engine(), requests, random.Random(0)
    )


def test_logits_are_drawn_from_as_they_are_where_nothing_changes_them() -> None:
    """Rows whose log-probabilities are wanted keep the model's own, also where penalties change what is drawn from."""
    params = SamplingParams(max_tokens=5, logprobs=2, repetition_penalty=2.0)
    requests = [GenerationRequest("r", (1, 2, 3), params)]
    found = run(device_engine(TensorWitness()), requests, random.Random(0))
    assert found == run(plain_engine(), requests, random.Random(0))
    ((_, logprobs, _),) = found.values()
    assert all(entry is not None and len(entry.top) == 2 for entry in logprobs)


def test_graph_sizes_rise_to_the_largest_batch() -> None:
    assert graph_sizes(1) == [1]
    assert graph_sizes(3) == [1, 2, 3]
    assert graph_sizes(64) == [1, 2, 4, 8, 16, 32, 48, 64]
    assert graph_sizes(100) == [1, 2, 4, 8, 16, 32, 48, 64, 96, 100]
