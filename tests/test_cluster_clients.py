"""Clients that people use, over a real socket, on a front door whose pools are fakes that answer with a call of a tool:
openai as the docs have it, and where they are installed langchain-openai and litellm."""

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from cluster.api.routes import build_api
from cluster.door.admission import Admission
from cluster.door.frontend import Frontend
from cluster.haproxy import free_ports
from tests.fake_pools import SETTINGS, FakePools
from tests.fake_sink import FakeSink
from tests.tool_model import HERMES, tokenizer_with
from workers.request import FinishReason

# Their own warnings are not ours to mend.
pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]
SAID = 'I look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "?", "parameters": SCHEMA}}
DOCS = Path(__file__).resolve().parents[1] / "docs" / "tools.md"
QUESTION = [{"role": "user", "content": "How is the weather?"}]


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    tokenizer = tokenizer_with(tmp_path_factory.mktemp("models") / "hermes", HERMES)
    pools = FakePools(tokenizer, SAID)
    pools.ends_with = FinishReason.STOP
    frontend = Frontend(replace(SETTINGS, max_model_len=2048), tokenizer, pools, FakeSink())
    (port,) = free_ports(1)
    server = uvicorn.Server(uvicorn.Config(build_api(frontend, Admission(8)), port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}/v1"
    server.should_exit = True
    thread.join()


@pytest.fixture(autouse=True)
def nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


def test_the_example_of_the_docs_runs(base_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    example = DOCS.read_text("utf-8").split("```python\n")[1].split("```")[0]
    ours = example.replace("http://127.0.0.1:8000/v1", base_url).replace('"qwen"', '"tiny"')
    exec(compile(ours, str(DOCS), "exec"), {})
    assert capsys.readouterr().out == 'weather {"city": "Zürich"}\n'


def test_langchain_reads_text_usage_and_calls(base_url: str) -> None:
    chat = chat_of(base_url)
    whole = chat.invoke("Hello")
    assert whole.content == SAID
    assert whole.usage_metadata["output_tokens"] > 5
    pieces = list(chat.stream("Hello"))
    assert "".join(piece.content for piece in pieces) == SAID
    assert len(pieces) > 5

    bound = chat.bind_tools([WEATHER])
    streamed = None
    for piece in bound.stream("How is the weather?"):
        streamed = piece if streamed is None else streamed + piece
    for message in (bound.invoke("How is the weather?"), streamed):
        assert message is not None
        assert message.content == "I look."
        assert [(call["name"], call["args"]) for call in message.tool_calls] == [("weather", {"city": "Zürich"})]


def test_langchain_sends_calls_and_what_they_gave_back(base_url: str) -> None:
    messages = pytest.importorskip("langchain_core.messages")
    bound = chat_of(base_url).bind_tools([WEATHER])
    called = bound.invoke("How is the weather?")
    given = messages.ToolMessage("12°", tool_call_id=called.tool_calls[0]["id"])
    assert bound.invoke([messages.HumanMessage("How is the weather?"), called, given]).tool_calls


def test_langchain_is_told_of_errors(base_url: str) -> None:
    import openai

    with pytest.raises(openai.BadRequestError, match="cannot be guaranteed"):
        chat_of(base_url).bind_tools([WEATHER], tool_choice="weather").invoke("How is the weather?")


def test_litellm_reads_text_usage_and_calls(base_url: str) -> None:
    litellm = pytest.importorskip("litellm")

    def ask(**fields: Any) -> Any:
        return litellm.completion(
            model="openai/tiny", api_base=base_url, api_key="none", messages=QUESTION, max_tokens=200, **fields
        )

    whole = ask()
    assert whole.choices[0].message.content == SAID
    assert whole.usage.completion_tokens > 5
    assert "".join(chunk.choices[0].delta.content or "" for chunk in ask(stream=True)) == SAID

    chunks = list(ask(tools=[WEATHER], stream=True))
    for answer in (ask(tools=[WEATHER]), litellm.stream_chunk_builder(chunks, messages=QUESTION)):
        (call,) = answer.choices[0].message.tool_calls
        assert (call.function.name, answer.choices[0].finish_reason) == ("weather", "tool_calls")
        assert '"Zürich"' in call.function.arguments


def test_litellm_is_told_of_errors(base_url: str) -> None:
    litellm = pytest.importorskip("litellm")
    with pytest.raises(litellm.NotFoundError, match="serves 'tiny'"):
        litellm.completion(model="openai/other", api_base=base_url, api_key="none", messages=QUESTION)


def chat_of(base_url: str) -> Any:
    """A langchain model."""
    langchain_openai = pytest.importorskip("langchain_openai")
    return langchain_openai.ChatOpenAI(
        model="tiny", base_url=base_url, api_key="none", max_completion_tokens=200, max_retries=0
    )
