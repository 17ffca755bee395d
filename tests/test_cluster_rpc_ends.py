"""However a call of the gRPC API ends, or is refused: what its client is told, and that nothing of it is left."""

import asyncio
import logging
from collections.abc import Iterator
from logging.handlers import BufferingHandler
from typing import Any

import grpc
import pytest

from cluster.door.admission import Admission
from cluster.door.choices import ChoiceDelta
from cluster.door.failures import NoWorkerError, QuarantinedError, TimeIsOverError
from cluster.rpc import raydix_v1_pb2 as pb
from cluster.rpc.service import SERVICE
from tests.fake_pools import LIMIT, FakePools
from tests.rpc_client import KEY, Client, Run, all_of, asked, fails
from workers.request import RequestError

pytest_plugins = ["tests.frontend_fixtures", "tests.rpc_fixtures"]
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


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
        return pb.GenerateResponse(id=call_id, text=piece.delta.text + "x" * (3 * 2**20 if call_id == calls[0] else 0))

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
