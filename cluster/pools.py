"""The two pools through Serve's handles: calls out, streams back, and Serve's errors as what befell a worker."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import grpc
from ray.exceptions import RayActorError
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from cluster.api.answers import Json
from cluster.config import PoolName
from cluster.door.failures import Loss, WorkerLostError
from cluster.kv_transfer import WorkerClient
from cluster.request_router import routing_request
from cluster.route_question import RouteQuestion
from workers.async_worker import RequestAbortedError, WorkerDiedError
from workers.pools.kv_handoff import Prefilled
from workers.request import Beat, GenerationRequest, RequestOutput

logger = logging.getLogger("ray.serve")

ROUTE_TIMEOUT_S = 5.0
LEFT_TIMEOUT_S = 1.0  # well below `journey.STALL_S`: a pool whose last worker has died has nobody to route to


class ServePools:
    """The pools as a request sees them (`cluster.door.journey.Workers`). Lives on one event loop.

    Args:
        pools: handles by the name of the pool: "prefill" and "decode", or "unified" alone.
        token: admits to the workers' own ports.
        local_prefill_tokens: what a decode worker computes of a prompt itself, at most.
    """

    def __init__(self, pools: Mapping[PoolName, DeploymentHandle], token: str, local_prefill_tokens: int) -> None:
        self._pools = {name: handle.options(stream=True) for name, handle in pools.items()}
        self._decode_pool: PoolName = "unified" if "unified" in pools else "decode"
        self._local_prefill_tokens = local_prefill_tokens
        self._client = WorkerClient(token)
        self._aborts: set[asyncio.Task[None]] = set()

    def prefill(self, request: GenerationRequest) -> AsyncGenerator[Beat | Prefilled]:
        """Have a prompt computed."""
        return self._items("prefill", request, self._pools["prefill"].prefill.remote(request))

    def decode(self, request: GenerationRequest, prefilled: Prefilled | None) -> AsyncGenerator[Beat | RequestOutput]:
        """Have a completion generated."""
        pool = self._decode_pool
        return self._items(pool, request, self._pools[pool].decode.remote(request, prefilled))

    async def starts_at_decode(self, request: GenerationRequest) -> bool:
        """Where there is one pool, or where what a decode worker has to compute is not worth another hop.

        Raises WorkerLostError where there is nobody to decode.
        """
        if self._decode_pool == "unified" or len(request.token_ids) <= self._local_prefill_tokens:
            return True
        if not self._local_prefill_tokens:
            return False
        try:
            answer = await self._ask("decode", RouteQuestion(routing_request(request)))
        except TimeoutError:
            raise WorkerLostError(Loss.UNREACHED) from None
        best = next(iter(answer["candidates"]), None)
        return best is not None and len(request.token_ids) - best["credited_tokens"] <= self._local_prefill_tokens

    def abort(self, endpoint: str, request_id: str) -> None:
        """Tell a worker that nobody waits for a request any more; cancelling the call may not reach it."""
        task = asyncio.get_running_loop().create_task(self._abort(endpoint, request_id))
        self._aborts.add(task)
        task.add_done_callback(self._aborts.discard)

    async def reset_prefix_caches(self) -> list[str]:
        """Have every worker forget what it has cached, but for what requests use. Returns those that were not reached.

        Raises TimeoutError where a pool has had no replica for a while.
        """
        pools = await self.ask_all(lambda: RouteQuestion(workers=True))
        endpoints = {name: endpoint for pool in pools.values() for name, endpoint in pool["workers"].items()}
        calls = (self._client.reset_prefix_cache(endpoint) for endpoint in endpoints.values())
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        return [name for name, outcome in zip(endpoints, outcomes, strict=True) if isinstance(outcome, BaseException)]

    async def ask_all(self, make_question: Callable[[], RouteQuestion]) -> Json:
        """Ask the router of each pool. Raises TimeoutError where a pool has had no replica for a while."""
        return {name: await self._ask(name, make_question()) for name in self._pools}

    async def _ask(self, pool: PoolName, question: RouteQuestion, timeout_s: float = ROUTE_TIMEOUT_S) -> Json:
        method = "prefill" if pool == "prefill" else "decode"
        call = getattr(self._pools[pool], method).remote(question)
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.wrap_future(question.answer)
        finally:
            call.cancel()

    async def _items(
        self, pool: PoolName, request: GenerationRequest, call: DeploymentResponseGenerator
    ) -> AsyncGenerator[Any]:
        """What a replica streams. Closing it cancels the call. Raises WorkerLostError where the replica is gone."""
        try:
            async for item in call:
                yield item
        except Exception as error:
            loss = loss_of(error)
            if loss is Loss.DIED and await self._has_left(pool, request):
                loss = Loss.LEFT
            if loss is None:
                raise
            raise WorkerLostError(loss) from error
        finally:
            call.cancel()

    async def _has_left(self, pool: PoolName, request: GenerationRequest) -> bool:
        """Whether its worker had been taken out of the pool before: then it did not die of this request."""
        try:
            return bool((await self._ask(pool, RouteQuestion(left=request.request_id), LEFT_TIMEOUT_S))["left"])
        except TimeoutError:
            return False

    async def _abort(self, endpoint: str, request_id: str) -> None:
        try:
            await self._client.abort(endpoint, request_id)
        except grpc.RpcError as error:  # then it is dead, or hangs
            logger.info("%s could not be told to abort %s: %s", endpoint, request_id, error)


def loss_of(error: Exception) -> Loss | None:
    """How a worker was lost, if that is what an error of Serve or of the worker says."""
    match error:
        case RequestAbortedError():
            return Loss.LEFT
        case DeploymentUnavailableError():
            return Loss.UNREACHED
        case RayActorError() | WorkerDiedError():
            return Loss.DIED
        case grpc.RpcError():  # a replica that shuts down cancels its calls
            return Loss.LEFT if error.code() is grpc.StatusCode.CANCELLED else Loss.DIED
    return None
