"""The load client against a server that delays, fails, breaks off and talks nonsense: each is heard as what it is."""

import asyncio
from typing import Any

import pytest

from cluster.loadtest.ask import Ask
from cluster.loadtest.client import Client, NoServer, only_model
from cluster.loadtest.heard import Heard
from cluster.loadtest.settings import Endpoint
from tests.sse_server import Conversation, Script, echo, sse_server

ASK = Ask(("say", "what", "now"), 3, shared_chars=6, group="g")


def heard_of(script: Script, ask: Ask = ASK, endpoint: Endpoint = "completions", timeout_s: float = 20) -> Heard:
    async def talk() -> Heard:
        async with sse_server(script) as url:
            return await Client(url, "stub", endpoint, timeout_s).ask(ask)

    return asyncio.run(talk())


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_an_answer_is_heard_whole(endpoint: Endpoint) -> None:
    heard = heard_of(echo, endpoint=endpoint)
    assert heard.outcome == "answered"
    assert heard.text == " word0 word1 word2"
    assert (heard.prompt_tokens, heard.output_tokens, heard.cached_tokens) == (10, 3, 0)
    assert len(heard.pieces_s) == 3
    assert (heard.group, heard.shared_share) == ("g", 0.6)


def test_the_request_asks_for_a_stream_with_usage_and_a_fixed_length() -> None:
    bodies: list[dict[str, Any]] = []

    async def note(conversation: Conversation) -> None:
        bodies.append({"path": conversation.path} | conversation.body)
        await echo(conversation)

    heard_of(note)
    heard_of(note, endpoint="chat")
    plain, chat = bodies
    for body in bodies:
        assert body["stream"] is True
        assert body["stream_options"] == {"include_usage": True}
        assert (body["model"], body["max_tokens"], body["ignore_eos"], body["temperature"]) == ("stub", 3, True, 0)
    assert (plain["path"], plain["prompt"]) == ("/v1/completions", "saywhatnow")
    assert chat["path"] == "/v1/chat/completions"
    assert [(one["role"], one["content"]) for one in chat["messages"]] == [
        ("user", "say"),
        ("assistant", "what"),
        ("user", "now"),
    ]


@pytest.mark.parametrize(("key", "header"), [("abc", "Bearer abc"), (None, None)])
def test_a_key_is_sent_where_there_is_one(key: str | None, header: str | None) -> None:
    headers = []

    async def note(conversation: Conversation) -> None:
        headers.append(conversation.headers.get("authorization"))
        await echo(conversation)

    async def talk() -> None:
        async with sse_server(note) as url:
            assert (await Client(url, "stub", "completions", 20, key).ask(ASK)).outcome == "answered"

    asyncio.run(talk())
    assert headers == [header]


def test_a_server_that_wants_a_key_is_told_apart() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 401 X\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async def ask() -> None:
        async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
            await only_model(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", 5)

    with pytest.raises(NoServer, match="set RAYDIX_API_KEY"):
        asyncio.run(ask())


def test_times_are_where_the_waits_were() -> None:
    async def slow(conversation: Conversation) -> None:
        await asyncio.sleep(0.1)
        await conversation.begin()
        await asyncio.sleep(0.1)  # the head is no token
        await conversation.text("a")
        await asyncio.sleep(0.3)
        await conversation.text("b")
        await asyncio.sleep(0.15)
        await conversation.usage(10, 4, 8)
        await conversation.end()

    heard = heard_of(slow)
    assert 200 <= heard.ttft_ms < 290
    assert heard.itl_ms is not None
    assert 100 <= heard.itl_ms < 130, "300 ms for three tokens after the first"
    assert 545 <= heard.e2e_ms < 700
    assert [round(gap, -2) for gap in heard.gaps_ms] == [300]
    assert heard.cached_tokens == 8


def test_events_may_come_in_any_pieces() -> None:
    async def crumbs(conversation: Conversation) -> None:
        await conversation.begin()
        stream = (
            ': a comment\n\ndata: {"choices": [{"text": "\u00fc"}]}\r\n\r\ndata:{"choices":[{"text":"b"}]}\n\n'
            'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}\n\ndata: [DONE]\n\n'
        ).encode()
        for place in range(0, len(stream), 7):
            part = stream[place : place + 7]
            await conversation.raw(f"{len(part):X};x=y\r\n".encode() + part + b"\r\n")
        await conversation.chunk("")

    heard = heard_of(crumbs)
    assert (heard.text, heard.prompt_tokens, heard.cached_tokens, heard.error) == ("\u00fcb", 5, 0, "")


def test_an_answer_without_length_ends_with_the_connection() -> None:
    async def plain(conversation: Conversation) -> None:
        await conversation.raw(b"HTTP/1.1 200 OK\r\n\r\n")
        await conversation.raw(b'data: {"choices": [{"text": "a"}], "usage": {"prompt_tokens": 1, ')
        await conversation.raw(b'"completion_tokens": 1}}\n\ndata: [DONE]\n\n')

    assert heard_of(plain).outcome == "answered"


async def refused(conversation: Conversation) -> None:
    await conversation.begin(429, "application/json")
    await conversation.chunk('{"error": {"message": "come again"}}')
    await conversation.chunk("")


async def broken_off(conversation: Conversation) -> None:
    await conversation.begin()
    await conversation.text("a")


async def ended_early(conversation: Conversation) -> None:
    await conversation.begin()
    await conversation.text("a")
    await conversation.chunk("")


async def closed(conversation: Conversation) -> None:
    """Before a word."""


async def failed_on_the_way(conversation: Conversation) -> None:
    await conversation.begin()
    await conversation.text("a")
    await conversation.event({"error": {"message": "worker lost", "code": None}})


async def nonsense(conversation: Conversation) -> None:
    await conversation.begin()
    await conversation.chunk("data: {not json}\n\n")
    await conversation.end()


async def a_list(conversation: Conversation) -> None:
    await conversation.begin()
    await conversation.chunk("data: [1, 2]\n\n")
    await conversation.end()


async def other_fields(conversation: Conversation) -> None:
    await conversation.begin()
    await conversation.event({"answer": "a"})
    await conversation.end()


async def no_http(conversation: Conversation) -> None:
    await conversation.raw(b"hello there\r\n\r\n")


async def a_bad_chunk(conversation: Conversation) -> None:
    await conversation.begin()
    await conversation.raw(b"xyz\r\n")


async def without_usage(conversation: Conversation) -> None:
    await conversation.begin()
    await conversation.text("a")
    await conversation.end()


async def silent(conversation: Conversation) -> None:
    await conversation.begin()
    await conversation.gone.wait()


@pytest.mark.parametrize(
    ("script", "error", "detail"),
    [
        (refused, "http_429", "come again"),
        (broken_off, "cut", "body"),
        (ended_early, "cut", "end mark"),
        (closed, "cut", "before the answer"),
        (failed_on_the_way, "error_event", "worker lost"),
        (nonsense, "malformed", "not json"),
        (a_list, "malformed", "not an object"),
        (other_fields, "malformed", "choices"),
        (no_http, "malformed", "head"),
        (a_bad_chunk, "malformed", "body"),
        (without_usage, "no_usage", "how many tokens"),
        (silent, "timeout", "0.3 s"),
    ],
)
def test_a_failure_is_heard_as_its_kind(script: Script, error: str, detail: str) -> None:
    heard = heard_of(script, timeout_s=0.3)
    assert (heard.outcome, heard.error) == ("failed", error), heard.detail
    assert detail in heard.detail
    assert heard.end_s >= heard.sent_s


def test_nobody_there() -> None:
    heard = asyncio.run(Client("http://127.0.0.1:9", "stub", "completions", 5).ask(ASK))
    assert heard.error == "connect"


@pytest.mark.parametrize("leave_after", [0, 2])
def test_a_client_that_leaves_closes_its_connection(leave_after: int) -> None:
    gone = []

    async def endless(conversation: Conversation) -> None:
        await conversation.begin()
        for number in range(leave_after):
            await conversation.text(str(number))
        await asyncio.wait_for(conversation.gone.wait(), 5)
        gone.append(True)

    heard = heard_of(endless, Ask(("x",), 9, leave_after=leave_after))
    assert (heard.outcome, len(heard.pieces_s)) == ("left", leave_after)
    assert gone == [True]


def test_the_model_is_asked_for() -> None:
    async def ask(path: str) -> str:
        async with sse_server(echo) as url:
            return await only_model(url + path, 5)

    assert asyncio.run(ask("")) == "stub"
    assert asyncio.run(ask("/v1")) == "stub"
    with pytest.raises(NoServer, match="does not answer"):
        asyncio.run(only_model("http://127.0.0.1:9", 5))
