"""The gRPC API over the real tokenizer and a fake pair of pools: streams, errors, keys, cancellation; without Ray."""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2

from cluster.admission import Admission
from cluster.choices import ChoiceDelta
from cluster.failures import NoWorkerError, QuarantinedError, TimeIsOverError
from cluster.frontend import Frontend
from cluster.metering import Accounts
from cluster.rpc import raydix_v1_pb2 as pb
from cluster.rpc.gate import Gate
from cluster.rpc.server import RpcServer
from cluster.rpc.service import SERVICE
from cluster.tenants import Tenants, make_entry
from tests.fake_pools import LIMIT, SETTINGS, FakePools
from tests.fake_sink import FakeSink
from workers.request import RequestError
from workers.tokenizer import Tokenizer

pytest_plugins = ["tests.frontend_fixtures"]
SAID = "def naïve(): 🙂 STOP return 1"
KEY = "a-key"
ENTRY = make_entry("t", hashlib.sha256(KEY.encode()).hexdigest())
TENANTS = Tenants([ENTRY.model_copy(update={"requests_per_minute": 1})])
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
Proto = Callable[..., Any]


class Client:
    """Calls the methods of a server by their names."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        types = (pb.GenerateRequest, pb.GenerateResponse), (pb.TokenizeRequest, pb.TokenizeResponse)
        path = f"/{SERVICE}/"
        self.generate = channel.unary_stream(
            f"{path}Generate", pb.GenerateRequest.SerializeToString, pb.GenerateResponse.FromString
        )
        self.tokenize, self.health = (
            channel.unary_unary(f"{path}{name}", asked.SerializeToString, given.FromString)
            for name, asked, given in (("Tokenize", *types[1]), ("Health", pb.HealthRequest, pb.HealthResponse))
        )


Use = Callable[[Client], Awaitable[None]]
Run = Callable[[Use], None]


@pytest.fixture
def run(tokenizer: Tokenizer, pools: FakePools, admission: Admission, sink: FakeSink) -> Run:
    """Runs something with a client of a server without keys."""
    frontend = Frontend(SETTINGS, tokenizer, pools, sink)
    return lambda use: asyncio.run(served(frontend, Gate(admission, Accounts(), None), use))


async def served(frontend: Frontend, gate: Gate, use: Use) -> None:
    server = RpcServer(frontend, gate)
    port = await server.start("127.0.0.1", 0)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await use(Client(channel))
    finally:
        await server.stop()


@asynccontextmanager
async def fails(code: grpc.StatusCode) -> AsyncIterator[dict[str, str]]:
    """What is inside must end with that status; the context is the metadata of the error and its message."""
    told: dict[str, str] = {}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield told
    assert caught.value.code() is code
    told |= dict(caught.value.trailing_metadata()) | {"message": caught.value.details()}


def asked(**fields: Any) -> Any:
    given: dict[str, Any] = {"model": "tiny", "text": "import os", "max_tokens": 30} | fields
    return pb.GenerateRequest(**given)


async def all_of(call: Any) -> list[Any]:
    return [response async for response in call]


def test_a_stream_is_the_text_and_ends_with_the_usage(run: Run, pools: FakePools) -> None:
    async def use(client: Client) -> None:
        *pieces, last = await all_of(client.generate(asked()))
        assert "".join(piece.text for piece in pieces) == SAID
        assert len(pieces) > 5
        assert [piece.finish_reason for piece in pieces if piece.finish_reason] == [pb.FINISH_REASON_LENGTH]
        assert {piece.id for piece in pieces} == {last.id} == {pools.requests[0].request_id}
        assert (last.usage.prompt_tokens, last.usage.cached_tokens) == (len(pools.requests[0].prompt_token_ids), 3)
        assert last.usage.completion_tokens == len(pools._tokens)
        assert not any(piece.HasField("usage") for piece in pieces)

    run(use)


def test_every_parameter_reaches_the_engine(run: Run, pools: FakePools) -> None:
    sampling = {"temperature": 0.5, "top_p": 0.25, "top_k": 7, "min_p": 0.125, "seed": -3, "min_tokens": 2}
    penalties = {"presence_penalty": -2.0, "frequency_penalty": 1.5, "repetition_penalty": 1.25}
    lists = {"stop_token_ids": [4, 9], "ignore_eos": True}

    async def use(client: Client) -> None:
        fields = sampling | penalties | lists
        await all_of(client.generate(asked(**fields, logit_bias={12: -100, 3: 1.5}, prompt_cache_key="k")))
        drawn = pools.requests[0].sampling
        assert {name: getattr(drawn, name) for name in sampling | penalties} == sampling | penalties
        assert (set(drawn.stop_token_ids), drawn.ignore_eos, drawn.max_tokens) == ({4, 9}, True, 30)
        assert drawn.logit_bias == ((3, 1.5), (12, -100))
        assert pools.requests[0].session == "k"
        await all_of(client.generate(asked(), metadata=(("x-session-id", "h"),)))
        assert pools.requests[1].session == "h"

    run(use)


def test_prompts_of_three_kinds(run: Run, pools: FakePools, tokenizer: Tokenizer) -> None:
    talk = pb.Conversation(messages=[pb.Message(role="user", content="import os")])

    async def use(client: Client) -> None:
        for fields in ({"text": "x = 1"}, {"tokens": pb.Tokens(ids=[5, 6])}, {"text": None, "conversation": talk}):
            await all_of(client.generate(pb.GenerateRequest(model="tiny", max_tokens=2, **fields)))
        tokens = [request.prompt_token_ids for request in pools.requests]
        chat = tuple(tokenizer.encode_chat([{"role": "user", "content": "import os"}]))
        assert tokens == [tuple(tokenizer.encode("x = 1")), (5, 6), chat]
        assert tuple((await client.tokenize(pb.TokenizeRequest(model="tiny", conversation=talk))).tokens) == chat
        given = await client.tokenize(pb.TokenizeRequest(model="tiny", text="x = 1"))
        assert (tuple(given.tokens), given.max_model_len) == (tokens[0], SETTINGS.max_model_len)

    run(use)


def test_several_choices_and_a_stop_string(run: Run) -> None:
    async def use(client: Client) -> None:
        pieces = (await all_of(client.generate(asked(n=2, stop=["STOP"]))))[:-1]
        for choice in (0, 1):
            mine = [piece for piece in pieces if piece.choice == choice]
            assert "".join(piece.text for piece in mine) == "def naïve(): 🙂 "
            assert mine[-1].finish_reason == pb.FINISH_REASON_STOP

    run(use)


@pytest.mark.parametrize(
    ("fields", "code", "param", "word", "says"),
    [
        ({"model": "gpt"}, grpc.StatusCode.NOT_FOUND, "model", "model_not_found", "serves 'tiny'"),
        ({"model": ""}, grpc.StatusCode.INVALID_ARGUMENT, "model", "missing_required_parameter", "required"),
        ({"temperature": 3.0}, grpc.StatusCode.INVALID_ARGUMENT, "temperature", "decimal_above_max_value", "2"),
        ({"temperature": float("nan")}, grpc.StatusCode.INVALID_ARGUMENT, "temperature", "invalid_value", "finite"),
        ({"max_tokens": 0}, grpc.StatusCode.INVALID_ARGUMENT, "max_tokens", "integer_below_min_value", "1"),
        ({"max_tokens": 64}, grpc.StatusCode.INVALID_ARGUMENT, "max_tokens", "context_length_exceeded", "64 tokens"),
        ({"text": None}, grpc.StatusCode.INVALID_ARGUMENT, "prompt", "missing_required_parameter", "required"),
        (
            {"tokens": pb.Tokens(ids=[4096])},
            grpc.StatusCode.INVALID_ARGUMENT,
            "prompt[0]",
            "invalid_value",
            "below 4096",
        ),
        ({"logit_bias": {3: 101.0}}, grpc.StatusCode.INVALID_ARGUMENT, "logit_bias", "decimal_above_max_value", "100"),
        (
            {"conversation": pb.Conversation(messages=[pb.Message(role="root", content="x")])},
            grpc.StatusCode.INVALID_ARGUMENT,
            "messages[0].role",
            "invalid_value",
            "assistant",
        ),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(
    run: Run, pools: FakePools, fields: Any, code: grpc.StatusCode, param: str, word: str, says: str
) -> None:
    async def use(client: Client) -> None:
        async with fails(code) as told:
            await all_of(client.generate(asked(**fields)))
        assert (told["raydix-param"], told["raydix-code"]) == (param, word)
        assert says in told["message"]

    run(use)
    assert pools.requests == []


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (NoWorkerError(), grpc.StatusCode.UNAVAILABLE, "overloaded"),
        (TimeIsOverError(), grpc.StatusCode.DEADLINE_EXCEEDED, "deadline_exceeded"),
        (QuarantinedError(), grpc.StatusCode.INTERNAL, "request_quarantined"),
        (RequestError("no"), grpc.StatusCode.INVALID_ARGUMENT, "invalid_value"),
        (RuntimeError("a secret at /etc/passwd"), grpc.StatusCode.INTERNAL, "internal_error"),
    ],
)
@pytest.mark.parametrize("fails_after", [0, 2])
def test_what_befell_a_request_is_told_by_status(
    run: Run, pools: FakePools, admission: Admission, error: Exception, code: Any, word: str, fails_after: int
) -> None:
    async def use(client: Client) -> None:
        pools.fails_after, pools.fails_with = fails_after, error
        async with fails(code) as told:
            await all_of(client.generate(asked()))
        assert told["raydix-code"] == word
        assert "secret" not in str(told)
        assert ("retry-after" in told) == (code is grpc.StatusCode.UNAVAILABLE)

    run(use)
    assert admission.num_in_flight == 0


def test_a_full_door_refuses_at_once(run: Run, pools: FakePools, admission: Admission) -> None:
    while admission.enter():
        pass

    async def use(client: Client) -> None:
        async with fails(grpc.StatusCode.RESOURCE_EXHAUSTED) as told:
            await all_of(client.generate(asked()))
        assert int(told["retry-after"]) >= 1
        assert (await client.health(pb.HealthRequest())).model == "tiny"

    run(use)
    assert (pools.requests, admission.num_in_flight) == ([], LIMIT)


@pytest.mark.parametrize("waits_for", ["a cancel", "a deadline"])
def test_a_client_that_goes_leaves_nothing_behind(
    run: Run, pools: FakePools, admission: Admission, waits_for: str
) -> None:
    async def use(client: Client) -> None:
        call = client.generate(asked(), timeout=0.5 if waits_for == "a deadline" else None)
        await call.read()
        pools.gate.clear()
        if waits_for == "a cancel":
            call.cancel()
        while admission.num_in_flight:
            await asyncio.sleep(0.01)
        assert pools.num_opened == pools.num_closed == 2

    run(use)


def test_a_client_that_does_not_read_holds_up_its_own_stream_and_may_go(
    run: Run, pools: FakePools, admission: Admission, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call is answered with more than fits between the two, so that the server waits for it to be read."""
    calls: list[str] = []

    def large(call_id: str, piece: ChoiceDelta) -> Any:
        calls.append(call_id)
        return pb.GenerateResponse(id=call_id, text=piece.delta.text + "x" * (2**20 if call_id == calls[0] else 0))

    async def use(client: Client) -> None:
        monkeypatch.setattr("cluster.rpc.service.response_of", large)
        slow = client.generate(asked())
        await slow.read()
        assert len(await all_of(client.generate(asked()))) > 5
        assert admission.num_in_flight == 1
        slow.cancel()
        while admission.num_in_flight:
            await asyncio.sleep(0.01)
        assert pools.num_opened == pools.num_closed

    run(use)


def test_health_says_whether_there_are_workers(run: Run, pools: FakePools, monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_replica(_: Any) -> Any:
        raise TimeoutError

    async def use(client: Client) -> None:
        assert (await client.health(pb.HealthRequest())).ready
        monkeypatch.setattr(pools, "ask_all", no_replica)
        assert not (await client.health(pb.HealthRequest())).ready

    run(use)


@pytest.fixture
def run_with_keys(tokenizer: Tokenizer, pools: FakePools, admission: Admission, sink: FakeSink) -> Run:
    """The same with a server that asks for keys."""
    frontend = Frontend(SETTINGS, tokenizer, pools, sink)
    return lambda use: asyncio.run(served(frontend, Gate(admission, Accounts(), TENANTS.owner_of), use))


@pytest.mark.parametrize("header", [None, "Bearer wrong", KEY, "Bearer ", f"Basic {KEY}"])
def test_where_there_are_keys_nobody_gets_in_without(run_with_keys: Run, pools: FakePools, header: str | None) -> None:
    methods = [
        f"/{method.containing_service.full_name}/{method.name}"
        for method in pb.DESCRIPTOR.services_by_name["Generation"].methods
    ]
    closed = {*methods, REFLECTION, "/any.Service/Method"} - {f"/{SERVICE}/Health"}

    async def use(client: Client) -> None:
        assert (await client.health(pb.HealthRequest())).model == "tiny"
        for path in closed:
            call = client.channel.stream_stream(path)(metadata=(("authorization", header),) if header else ())
            async with fails(grpc.StatusCode.UNAUTHENTICATED) as told:
                await call.read()
            assert told["raydix-code"] == "invalid_api_key"

    run_with_keys(use)
    assert (len(closed), pools.requests) == (4, [])


def test_a_tenant_has_a_cache_of_its_own_and_its_limits(run_with_keys: Run, pools: FakePools) -> None:
    async def use(client: Client) -> None:
        metadata = (("authorization", f"Bearer {KEY}"),)
        await all_of(client.generate(asked(max_tokens=5), metadata=metadata))
        assert pools.requests[0].cache_salt == "t/"
        async with fails(grpc.StatusCode.RESOURCE_EXHAUSTED) as told:
            await all_of(client.generate(asked(max_tokens=5), metadata=metadata))
        assert (told["raydix-code"], int(told["retry-after"]) > 0) == ("rate_limit_exceeded", True)

    run_with_keys(use)
    assert len(pools.requests) == 1


@pytest.fixture
def lines() -> Iterator[list[logging.LogRecord]]:
    """Of the access log."""
    access, handler = logging.getLogger("ray.serve.access"), BufferingHandler(1000)
    level = access.level
    access.addHandler(handler)
    access.setLevel(logging.INFO)
    yield handler.buffer
    access.removeHandler(handler)
    access.setLevel(level)


def test_a_call_has_one_line_in_the_log_under_the_id_that_its_client_got(
    run: Run, pools: FakePools, lines: list[logging.LogRecord]
) -> None:
    async def use(client: Client) -> None:
        call = client.generate(asked(), metadata=(("x-request-id", "mine"),))
        assert dict(await call.initial_metadata())["x-request-id"] == "mine"
        await all_of(call)
        pools.fails_after = 1
        with pytest.raises(grpc.aio.AioRpcError):
            await all_of(client.generate(asked()))
        pools.fails_after = None
        call = client.generate(asked())
        await call.read()
        pools.gate.clear()
        call.cancel()
        while len(lines) < 3:
            await asyncio.sleep(0.01)

    run(use)
    told = [vars(line) for line in lines]
    assert [one["status"] for one in told] == [200, 500, 499]
    assert (told[0]["request_id"], told[0]["path"]) == ("mine", f"/{SERVICE}/Generate")
    assert (told[0]["finish_reasons"], told[0]["answer_id"]) == (["length"], pools.requests[0].request_id)
    assert told[1]["request_id"] != told[2]["request_id"]


def test_a_request_that_is_too_long_is_not_read(run: Run, pools: FakePools) -> None:
    async def use(client: Client) -> None:
        async with fails(grpc.StatusCode.RESOURCE_EXHAUSTED):
            await all_of(client.generate(asked(text="x" * 17 * 2**20)))

    run(use)
    assert pools.requests == []


def test_the_generated_code_is_that_of_the_proto(tmp_path: Path) -> None:
    protoc = pytest.importorskip("grpc_tools.protoc")
    folder = Path(pb.__file__).parent
    out = tmp_path / "set"
    assert protoc.main(["", f"-I{folder}", f"--descriptor_set_out={out}", "raydix_v1.proto"]) == 0
    (described,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    generated = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(generated)
    made, found = (
        [line for line in str(one).splitlines() if "json_name" not in line] for one in (described, generated)
    )
    assert made == found
