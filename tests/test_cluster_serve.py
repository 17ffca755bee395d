"""The real application on real Ray, separate pools, spoken to by the official client as a user would."""

import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest

from bench.first_token import first_token_s
from bench.processes import living_in
from tests.server import START_TIMEOUT_S, Server, assert_none_left, listening, name_of, served
from workers.weights.model_dir import TINY_MODEL

pytestmark = pytest.mark.ray
# Few places in the decode worker, so that requests which are not aborted hold up every other.
CONFIG = """
pools: {{prefill: {{replicas: 2}}, decode: {{replicas: 1}}}}
engine: {{max_num_seqs: 4}}
http: {{port: {port}}}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("r"), CONFIG) as server:
        yield server


def library_text(name: str, num_characters: int) -> str:
    """The beginning of a standard library module: Python text that a test need not ship."""
    return (Path(os.__file__).parent / name).read_text("utf-8")[:num_characters]


def test_models_and_a_whole_answer(server: Server) -> None:
    assert [model.id for model in server.client.models.list()] == ["tiny"]
    answer = server.client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "import os\n"}], max_tokens=5, seed=1
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 5
    assert answer.choices[0].finish_reason in ("length", "stop")


def test_log_probabilities_of_a_text_streamed_or_whole(server: Server) -> None:
    ask: Any = partial(
        server.client.completions.create, model="tiny", prompt="def area(", max_tokens=8, temperature=0, logprobs=3
    )
    whole = ask().choices[0]
    assert whole.logprobs is not None
    assert whole.logprobs.tokens is not None
    assert whole.logprobs.token_logprobs is not None
    assert "".join(whole.logprobs.tokens) == whole.text
    for token, logprob, top in zip(
        whole.logprobs.tokens, whole.logprobs.token_logprobs, whole.logprobs.top_logprobs or [], strict=True
    ):
        assert logprob == top[token] == max(top.values()), "the likeliest is drawn"
    pieces = [chunk.choices[0].logprobs for chunk in ask(stream=True)]
    assert [token for piece in pieces if piece for token in piece.tokens or []] == whole.logprobs.tokens
    offsets = [offset for piece in pieces if piece for offset in piece.text_offset or []]
    assert offsets == whole.logprobs.text_offset == sorted(offsets)


def test_log_probabilities_of_a_chat_say_nothing_of_what_was_done_to_the_draw(server: Server) -> None:
    """They are the model's own: a bias that forces a token does not make it likely."""
    ask = partial(
        server.client.chat.completions.create,
        model="tiny",
        messages=[{"role": "user", "content": "x"}],
        max_tokens=3,
        logprobs=True,
        top_logprobs=2,
        temperature=0,
    )
    free, forced = (ask(**extra).choices[0] for extra in ({}, {"logit_bias": {"300": 100}}))
    assert free.logprobs is not None
    assert free.logprobs.content is not None
    assert "".join(one.token for one in free.logprobs.content) == free.message.content
    assert forced.logprobs is not None
    assert forced.logprobs.content is not None
    assert len({one.token for one in forced.logprobs.content}) == 1
    assert forced.logprobs.content[0].logprob < forced.logprobs.content[0].top_logprobs[0].logprob


def test_several_choices_differ_and_come_again_with_the_seed(server: Server) -> None:
    ask: Any = partial(
        server.client.completions.create, model="tiny", prompt="def main", max_tokens=12, seed=5, n=3, temperature=1
    )
    whole = ask()
    texts = [choice.text for choice in whole.choices]
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert len(set(texts)) > 1
    assert whole.usage.completion_tokens <= 36
    streamed = ["", "", ""]
    for chunk in ask(stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == texts


def test_the_best_of_several_is_the_likeliest_of_them(server: Server) -> None:
    ask: Any = partial(server.client.completions.create, model="tiny", prompt="def main", max_tokens=12, seed=5)
    drawn = ask(n=3, logprobs=0).choices
    means = [sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs) for choice in drawn]
    best = ask(best_of=3)
    assert [choice.text for choice in best.choices] == [drawn[means.index(max(means))].text]
    assert best.choices[0].logprobs is None
    assert best.usage.completion_tokens > max(len(choice.logprobs.tokens) for choice in drawn), "of all that were drawn"


def test_several_prompts_are_answered_as_each_alone(server: Server) -> None:
    prompts = ["def main", "import os\n", "class Tree:\n"]
    ask: Any = partial(server.client.completions.create, model="tiny", max_tokens=8, temperature=0)
    together = ask(prompt=prompts, echo=True)
    assert [choice.text for choice in together.choices] == [
        prompt + ask(prompt=prompt).choices[0].text for prompt in prompts
    ]
    assert together.usage.prompt_tokens == sum(ask(prompt=prompt).usage.prompt_tokens for prompt in prompts)


def test_a_prompt_sent_twice_is_cached_the_second_time_and_answered_the_same(server: Server) -> None:
    first_token_s(server.client, "warm up the whole path\n")
    ratios = []
    for name in ("heapq.py", "queue.py", "sched.py"):
        prompt = library_text(name, 5000)
        first_s, text, cached = first_token_s(server.client, prompt)
        first_again_s, text_again, cached_again = first_token_s(server.client, prompt)
        assert cached < 100, "another file's prefix cannot help much"
        assert cached_again >= 400
        assert text_again == text
        ratios.append(first_again_s / first_s)
    assert sorted(ratios)[1] < 0.5, f"cached over cold time to first token, three prompts: {ratios}"


def test_the_router_sends_a_known_prefix_to_the_worker_that_holds_it(server: Server) -> None:
    """Two prefill workers: without the index, half of these would go to the other one and find nothing.

    A few may: a worker that has no core to run on answers Serve's probe too late (0.1 s), and the next one is taken. By
    chance alone 13 of 16 would be found once in a hundred runs.
    """
    prompt = library_text("bisect.py", 2500)
    first_token_s(server.client, prompt)
    time.sleep(1.0)  # events are asynchronous
    cached = [first_token_s(server.client, f"{prompt}# variant {count}\n", 2)[2] for count in range(16)]
    assert sum(tokens >= 400 for tokens in cached) >= 13, cached


def test_the_same_tokens_as_the_engine_alone(server: Server) -> None:
    from workers.llm import LLM
    from workers.request import SamplingParams

    prompt = library_text("abc.py", 700)
    alone = "".join(LLM(TINY_MODEL).stream(prompt, SamplingParams(max_tokens=40, temperature=0.7, seed=5)))
    answer = server.client.completions.create(model="tiny", prompt=prompt, max_tokens=40, temperature=0.7, seed=5)
    assert answer.choices[0].text == alone


def test_a_client_that_leaves_frees_the_worker(server: Server) -> None:
    """Were their requests to go on, 12 clients that left would keep the worker's 4 places for a minute or more."""
    for count in range(12):
        stream = server.client.completions.create(
            model="tiny", prompt=f"# {count}\n", max_tokens=2000, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        stream.close()
    _, text, _ = first_token_s(server.client.with_options(timeout=20), "import sys\n", 4)
    assert text


def test_errors_reach_the_client_as_its_own_exceptions(server: Server) -> None:
    with pytest.raises(openai.NotFoundError, match="serves 'tiny'"):
        server.client.completions.create(model="other", prompt="x")
    with pytest.raises(openai.BadRequestError, match="context is 2048 tokens"):
        server.client.completions.create(model="tiny", prompt="x", max_tokens=5000)


def test_haproxy_and_the_ingress_listen_on_loopback_only(server: Server) -> None:
    """The API, statistics and metrics; and the ingress replica, which HAProxy speaks to over a port of its own."""
    named = {pid: name_of(pid) for pid in living_in(server.directory)}
    haproxy = [listening(pid) for pid, name in named.items() if name == "haproxy"]
    assert haproxy
    for addresses in haproxy:
        assert len(addresses) == 3
        assert {host for host, _ in addresses} == {"127.0.0.1"}
    replicas = [listening(pid) for pid, name in named.items() if name.startswith("ray::ServeRepli")]
    direct = {host for addresses in replicas for host, port in addresses if 30000 <= port <= 31000}
    assert direct == {"127.0.0.1"}


def test_ctrl_c_leaves_no_process_behind(server: Server) -> None:
    """The last test of this file's server: it ends it."""
    assert len(living_in(server.directory)) > 5
    server.interrupt()
    assert_none_left(server.directory)


def test_ctrl_c_while_ray_starts_leaves_no_process_behind(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The moment when Ray's agents run and Ray does not yet know that it is up."""
    server = Server(tmp_path_factory.mktemp("r"), CONFIG)
    server.wait_for("starting Ray")
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while len(living_in(server.directory)) < 6 and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert "starting Serve" not in server.log.read_text(), "too late to show anything"
    server.interrupt()
    assert "stopped" in server.log.read_text()
    assert_none_left(server.directory)
