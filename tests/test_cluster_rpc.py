"""The gRPC API over the real tokenizer and a fake pair of pools: what is asked and what comes, without Ray."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2

from cluster.rpc import raydix_v1_pb2 as pb
from tests.fake_pools import SETTINGS, FakePools
from tests.rpc_client import Client, Run, all_of, asked, fails
from workers.tokenizer import Tokenizer

pytest_plugins = ["tests.frontend_fixtures", "tests.rpc_fixtures"]
SAID = "def naïve(): 🙂 STOP return 1"


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


def test_health_says_whether_there_are_workers(run: Run, pools: FakePools, monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_replica(_: Any) -> Any:
        raise TimeoutError

    async def use(client: Client) -> None:
        assert (await client.health(pb.HealthRequest())).ready
        monkeypatch.setattr(pools, "ask_all", no_replica)
        assert not (await client.health(pb.HealthRequest())).ready

    run(use)


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
