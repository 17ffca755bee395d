"""Workers for a `Journey` to which befalls what a test says, and which remember what they were told."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

from cluster.api.answers import Json
from cluster.door.failures import Loss, RequestFailures, WorkerLostError
from cluster.door.journey import Journey
from cluster.route_question import RouteQuestion
from workers.pools.kv_handoff import KVTicket, Prefilled
from workers.request import Beat, FinishReason, GenerationRequest, RequestOutput, SamplingParams

TOKENS = (11, 12, 13, 14, 15)  # what every worker draws at these positions, as real ones draw by seed and position
PREFILL, DECODE = "prefill:1", "decode:1"

Result = TypeVar("Result")


def a_request(timeout_s: float | None = None, prompt: Sequence[int] = (1, 2, 3), seed: int = 7) -> GenerationRequest:
    return GenerationRequest(
        "r", tuple(prompt), SamplingParams(max_tokens=len(TOKENS), temperature=1.0, seed=seed), timeout_s=timeout_s
    )


@dataclass(frozen=True)
class Fate:
    """What becomes of one stream.

    Attributes:
        after: items that it brings before, a sign of life being the first.
        then: a loss, an error of another kind, silence (None), or an end without an outcome ("ends").
    """

    after: int
    then: "Loss | Exception | str | None"

    async def befall(self) -> None:
        """Raise it, or be silent."""
        if isinstance(self.then, Loss):
            raise WorkerLostError(self.then)
        if isinstance(self.then, Exception):
            raise self.then
        await asyncio.Event().wait()


class ScriptedWorkers:
    """The pools as a request sees them. A stream whose fate the script does not say comes to a good end."""

    def __init__(
        self, prefills: Sequence[Fate] = (), decodes: Sequence[Fate] = (), num_cached: Sequence[int] = ()
    ) -> None:
        self._fates = {PREFILL: deque(prefills), DECODE: deque(decodes)}
        self._num_cached = deque(num_cached)
        self.local = False
        self.num_unasked = 0  # questions that find no router
        self.last_finish = FinishReason.LENGTH
        self.prefilled: list[GenerationRequest] = []
        self.decoded: list[GenerationRequest] = []
        self.handed: list[Prefilled | None] = []
        self.aborted: list[tuple[str, str]] = []
        self.num_open = 0

    async def starts_at_decode(self, request: GenerationRequest) -> bool:
        if self.num_unasked:
            self.num_unasked -= 1
            raise WorkerLostError(Loss.UNREACHED)
        return self.local

    def abort(self, endpoint: str, request_id: str) -> None:
        self.aborted.append((endpoint, request_id))

    async def prefill(self, request: GenerationRequest) -> AsyncGenerator[Beat | Prefilled]:
        self.prefilled.append(request)
        at = len(request.output_token_ids)
        num_cached = self._num_cached.popleft() if self._num_cached else 0
        finish = self._finish(at)
        ticket = None if finish else KVTicket(PREFILL, "epoch", request.request_id, b"", 10.0)
        done = Prefilled(request.request_id, "", b"", 1, num_cached, TOKENS[at], finish, ticket=ticket)
        async with aclosing(self._stream(PREFILL, [done])) as items:
            async for item in items:
                assert not isinstance(item, RequestOutput)
                yield item

    async def decode(
        self, request: GenerationRequest, prefilled: Prefilled | None
    ) -> AsyncGenerator[Beat | RequestOutput]:
        self.decoded.append(request)
        self.handed.append(prefilled)
        first = len(request.output_token_ids) + (prefilled is not None)
        outputs = [RequestOutput(request.request_id, (t,), 9, self._finish(i)) for i, t in enumerate(TOKENS)]
        async with aclosing(self._stream(DECODE, outputs[first:])) as items:
            async for item in items:
                assert not isinstance(item, Prefilled)
                yield item

    def _finish(self, at: int) -> FinishReason | None:
        return self.last_finish if at == len(TOKENS) - 1 else None

    async def _stream(
        self, endpoint: str, items: Sequence[Prefilled | RequestOutput]
    ) -> AsyncGenerator[Beat | Prefilled | RequestOutput]:
        fate = self._fates[endpoint].popleft() if self._fates[endpoint] else None
        self.num_open += 1
        try:
            for count, item in enumerate([Beat(endpoint, f"worker at {endpoint}"), *items]):
                await asyncio.sleep(0)
                if fate is not None and count == fate.after:
                    if fate.then == "ends":
                        return
                    await fate.befall()
                yield item
        finally:
            self.num_open -= 1


class ScriptedPools(ScriptedWorkers):
    """With routers that are not asked."""

    async def ask_all(self, make_question: Callable[[], RouteQuestion]) -> Json:
        raise AssertionError("nobody asks")

    async def reset_prefix_caches(self) -> list[str]:
        raise AssertionError("nobody asks")


def run(workers: ScriptedWorkers, doing: Awaitable[Result]) -> Result:
    """Whatever comes of it, no stream may stay open."""

    async def whole() -> Result:
        try:
            return await doing
        finally:
            assert workers.num_open == 0

    return asyncio.run(whole())


async def collected(
    workers: ScriptedWorkers, request: GenerationRequest, shared: RequestFailures | None = None
) -> list[RequestOutput]:
    return [output async for output in Journey(request, workers, shared or RequestFailures()).outputs()]


def outputs_of(
    workers: ScriptedWorkers, request: GenerationRequest | None = None, shared: RequestFailures | None = None
) -> list[RequestOutput]:
    return run(workers, collected(workers, request or a_request(), shared))


def tokens_of(outputs: list[RequestOutput]) -> tuple[int, ...]:
    return tuple(token for output in outputs for token in output.token_ids)
