"""cluster/pools.py without Ray: where a prompt starts, and what Serve's errors say of a worker."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from ray.exceptions import RayActorError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from cluster import pools
from cluster.door import journey
from cluster.door.failures import Loss, WorkerLostError
from cluster.haproxy import free_ports
from cluster.kv_transfer import RESET
from cluster.pools import ServePools, loss_of
from cluster.route_question import RouteQuestion
from cluster.worker_server import Context, WorkerServer
from tests.scripted_workers import a_request
from workers.async_worker import RequestAbortedError, WorkerDiedError
from workers.request import GenerationRequest, RequestError


class FakeCall:
    """A call: a question is answered by the pool's router, if there is one; a request brings items, or an error."""

    def __init__(self, handle: "FakeHandle", argument: Any) -> None:
        self._handle = handle
        if isinstance(argument, RouteQuestion) and handle.answer is not None:
            argument.answer.set_result(handle.answer)

    async def __aiter__(self) -> AsyncIterator[Any]:
        for item in self._handle.items:
            if isinstance(item, Exception):
                raise item
            yield item

    def cancel(self) -> None:
        self._handle.num_cancelled += 1


class FakeHandle:
    """Of one pool, whose methods all do the same."""

    def __init__(self, answer: Any = None, items: tuple[Any, ...] = ()) -> None:
        self.answer = answer
        self.items = items
        self.num_called = 0
        self.num_cancelled = 0

    def options(self, stream: bool) -> "FakeHandle":
        assert stream
        return self

    @property
    def prefill(self) -> "FakeHandle":
        return self

    decode = prefill

    def remote(self, argument: Any, *_: Any) -> FakeCall:
        self.num_called += 1
        return FakeCall(self, argument)


def pair(decode: FakeHandle, local_prefill_tokens: int = 0) -> ServePools:
    return ServePools({"prefill": FakeHandle(), "decode": decode}, "token", local_prefill_tokens)


def starts(workers: ServePools, request: GenerationRequest) -> bool:
    return asyncio.run(workers.starts_at_decode(request))


async def items_of(workers: ServePools) -> list[Any]:
    return [item async for item in workers.decode(a_request(), None)]


@pytest.mark.parametrize(("cached", "starts_there"), [(0, False), (95, False), (96, True), (100, True)])
def test_a_prompt_starts_where_little_of_it_has_to_be_computed(cached: int, starts_there: bool) -> None:
    decode = FakeHandle({"candidates": [{"credited_tokens": cached}, {"credited_tokens": 100}]})
    assert starts(pair(decode, local_prefill_tokens=4), a_request(prompt=[1] * 100)) is starts_there
    assert decode.num_called == decode.num_cancelled == 1, "a question is never sent to a worker"


def test_a_short_prompt_and_a_single_pool_need_no_question() -> None:
    decode = FakeHandle()
    assert starts(pair(decode, local_prefill_tokens=4), a_request(prompt=[1] * 4))
    assert not starts(pair(decode), a_request(prompt=[1] * 4))
    assert starts(ServePools({"unified": decode}, "token", 0), a_request(prompt=[1] * 100))
    assert decode.num_called == 0


def test_a_decode_pool_without_a_router_to_ask_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ServePools._ask
    monkeypatch.setattr(ServePools, "_ask", lambda self, pool, question: asked(self, pool, question, 0.01))
    with pytest.raises(WorkerLostError) as lost:
        starts(pair(FakeHandle(), local_prefill_tokens=4), a_request(prompt=[1] * 100))
    assert lost.value.loss is Loss.UNREACHED


@pytest.mark.parametrize(
    ("answer", "loss"), [({"left": True}, Loss.LEFT), ({"left": False}, Loss.DIED), (None, Loss.DIED)]
)
def test_a_worker_that_had_been_taken_out_did_not_die(monkeypatch: pytest.MonkeyPatch, answer: Any, loss: Loss) -> None:
    monkeypatch.setattr(pools, "LEFT_TIMEOUT_S", 0.01)
    decode = FakeHandle(answer, ("item", RayActorError()))
    with pytest.raises(WorkerLostError) as lost:
        asyncio.run(items_of(pair(decode)))
    assert lost.value.loss is loss
    assert decode.num_cancelled == decode.num_called == 2


def test_a_pool_whose_only_worker_has_died_says_so_before_it_counts_as_silent() -> None:
    assert pools.LEFT_TIMEOUT_S < journey.STALL_S / 2


def test_an_error_of_the_request_stays_what_it_is() -> None:
    decode = FakeHandle(None, (RequestError("no"),))
    with pytest.raises(RequestError):
        asyncio.run(items_of(pair(decode)))
    assert decode.num_cancelled == 1


def rpc_error(code: grpc.StatusCode) -> Exception:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("error", "loss"),
    [
        (RequestAbortedError(), Loss.LEFT),
        (WorkerDiedError(), Loss.DIED),
        (RayActorError(), Loss.DIED),
        (DeploymentUnavailableError(DeploymentID("decode")), Loss.UNREACHED),
        (rpc_error(grpc.StatusCode.CANCELLED), Loss.LEFT),
        (rpc_error(grpc.StatusCode.UNAVAILABLE), Loss.DIED),
        (BackPressureError(num_queued_requests=1, max_queued_requests=1), None),
        (RequestError("no"), None),
        (ValueError(), None),
    ],
)
def test_what_an_error_says_of_a_worker(error: Exception, loss: Loss | None) -> None:
    assert loss_of(error) is loss


def test_workers_that_cannot_be_told_to_forget_are_named() -> None:
    async def main() -> list[str]:
        told = []

        async def reset(request: bytes, _: Context) -> bytes:
            told.append(request)
            return b""

        server = WorkerServer("token", "127.0.0.1")
        server.add_unary(RESET, reset)
        there = await server.start()
        (nowhere,) = free_ports(1)
        handles: Any = {
            "prefill": FakeHandle({"workers": {"a": there, "b": f"127.0.0.1:{nowhere}"}}),
            "decode": FakeHandle({"workers": {"c": there}}),
        }
        missed = await ServePools(handles, "token", 0).reset_prefix_caches()
        await server.stop()
        assert told == [b"", b""]
        return missed

    assert asyncio.run(main()) == ["b"]
