"""A request's way through the pools, whatever becomes of the workers: attempts that go on where the last one ended.

Free of Ray: the pools are behind `Workers`, and time is the event loop's, so that a simulation runs this code as it
stands (`tests/pool_simulation.py`).

Every attempt has an id of its own and reads only its own streams: what a worker that was given up still says is read by
nobody. Draws are keyed by (seed, position), so the next attempt draws what the last one would have drawn.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from itertools import count
from typing import Protocol, TypeVar

from cluster.door.failures import (
    Loss,
    NoWorkerError,
    QuarantinedError,
    RequestFailures,
    TimeIsOverError,
    WorkerLostError,
)
from cluster.door.leg import Leg
from workers.pools.kv_handoff import Prefilled
from workers.request import Beat, GenerationRequest, RequestOutput

STALL_S = 4.0  # without a sign of life, which come every half second
RETRY_S = 0.05  # before the first retry, doubled for each
MAX_RETRY_S = 1.0
ISOLATED_OUTPUTS = 2
MAX_ABSENT = 2  # a node takes a worker of each pool with it, and for a moment requests are still sent to both

Item = TypeVar("Item")


class Workers(Protocol):
    """The pools as a request sees them. A stream that breaks raises WorkerLostError."""

    def prefill(self, request: GenerationRequest) -> AsyncGenerator[Beat | Prefilled]:
        """Have a prompt computed; the outcome is the last item."""

    def decode(self, request: GenerationRequest, prefilled: Prefilled | None) -> AsyncGenerator[Beat | RequestOutput]:
        """Have a completion generated, by a worker that computes the prompt itself where nobody else did."""

    async def starts_at_decode(self, request: GenerationRequest) -> bool:
        """Whether a decode worker is to compute the prompt. Raises WorkerLostError where nobody is there to ask."""

    def abort(self, endpoint: str, request_id: str) -> None:
        """Tell a worker that nobody waits for a request any more. Does not wait, and does not fail."""


class Journey:
    """One request on its way.

    Args:
        failures: what all requests of this front door share: who may try again, and who may not come back.

    Attributes:
        legs: the calls to workers so far.
    """

    def __init__(self, request: GenerationRequest, workers: Workers, failures: RequestFailures) -> None:
        self._request = request
        self._workers = workers
        self._failures = failures
        self._output_token_ids: list[int] = []
        self._num_cached_tokens: int | None = None
        self._num_deaths = 0
        self._num_absent = 0
        self._alone_for = 0
        self._unreached_since_s: float | None = None
        self.legs: list[Leg] = []

    async def outputs(self) -> AsyncGenerator[RequestOutput]:
        """All tokens, each once. Closing it ends the request wherever it is.

        Raises:
            RequestError: a worker refuses it.
            QuarantinedError: workers die of it, or seem to.
            NoWorkerError: there is nobody to send it to.
            TimeIsOverError: it has taken longer than it may.
        """
        self._failures.admit(self._request)
        deadline_s = self._now_s() + self._request.timeout_s if self._request.timeout_s is not None else None
        try:
            async with aclosing(self._attempts(deadline_s)) as outputs:
                async for output in outputs:
                    yield self._taken(output)
        finally:
            self._isolate_for(0)

    async def _attempts(self, deadline_s: float | None) -> AsyncGenerator[RequestOutput]:
        request = self._request
        for attempt in count():
            left_s = None if deadline_s is None else deadline_s - self._now_s()
            if left_s is not None and left_s <= 0:  # while nobody is there, no stream is waited for that would notice
                raise TimeIsOverError
            request = request.resumed(self._output_token_ids, attempt, left_s)
            try:
                async with aclosing(self._attempt(request, attempt, deadline_s)) as outputs:
                    async for output in outputs:
                        yield output
                        if output.finish_reason is not None:
                            return
            except WorkerLostError as lost:
                self.legs[-1].end(lost.loss)
                await self._recover(lost, attempt, deadline_s)

    async def _attempt(
        self, request: GenerationRequest, attempt: int, deadline_s: float | None
    ) -> AsyncGenerator[RequestOutput]:
        leg, prefilled = self._new_leg(attempt), None
        if not await self._workers.starts_at_decode(request):
            prefilled = await self._prefilled(request, leg, deadline_s)
        ticket = prefilled.ticket if prefilled else None
        try:
            if prefilled is not None:
                yield prefilled.first_output
                leg = self._new_leg(attempt)
            leg.work = "decode"
            decoding = self._watched(self._workers.decode(request, prefilled), request, leg, deadline_s)
            async with aclosing(decoding) as outputs:
                async for output in outputs:
                    self._unreached_since_s = None  # not before: prefills that nobody goes on with are no service
                    ticket = None
                    yield output
        finally:
            if ticket is not None:  # nobody may have come for the KV
                self._workers.abort(ticket.endpoint, ticket.request_id)

    async def _prefilled(self, request: GenerationRequest, leg: Leg, deadline_s: float | None) -> Prefilled:
        leg.work = "prefill"
        async with aclosing(self._watched(self._workers.prefill(request), request, leg, deadline_s)) as outcomes:
            return await anext(outcomes)

    async def _watched(
        self, stream: AsyncGenerator[Beat | Item], request: GenerationRequest, leg: Leg, deadline_s: float | None
    ) -> AsyncGenerator[Item]:
        """What a stream brings besides signs of life. A stream left early is ended at its worker too."""
        endpoint, ended, silence = "", False, Loss.UNREACHED
        try:
            async with aclosing(stream):
                while True:
                    item = await self._next(stream, deadline_s, silence)
                    silence = Loss.SILENT
                    leg.take(item)
                    if isinstance(item, Beat):
                        endpoint = item.endpoint
                        continue
                    ended = isinstance(item, Prefilled) or getattr(item, "finish_reason", None) is not None
                    yield item
        except WorkerLostError as lost:
            if endpoint or lost.loss is not Loss.DIED:
                raise
            raise WorkerLostError(Loss.ABSENT) from lost
        finally:
            leg.end()
            if endpoint and not ended:
                self._workers.abort(endpoint, request.request_id)

    async def _next(self, stream: AsyncGenerator[Item], deadline_s: float | None, silence: Loss) -> Item:
        stalled_s = self._now_s() + STALL_S
        try:
            async with asyncio.timeout_at(stalled_s if deadline_s is None else min(stalled_s, deadline_s)):
                return await anext(stream)
        except TimeoutError:
            if deadline_s is not None and self._now_s() >= deadline_s:
                raise TimeIsOverError from None
            raise WorkerLostError(silence) from None
        except StopAsyncIteration:
            raise WorkerLostError(Loss.LEFT) from None

    def _new_leg(self, attempt: int) -> Leg:
        self.legs.append(Leg(attempt))
        return self.legs[-1]

    async def _recover(self, lost: WorkerLostError, attempt: int, deadline_s: float | None) -> None:
        """Wait for the next attempt, or give up."""
        if self._may_have_died_of_it(lost.loss):
            try:
                async with asyncio.timeout_at(deadline_s):
                    await self._count_death()
            except TimeoutError:  # it waited for its turn to be tried alone
                raise TimeIsOverError from None
        if lost.loss is Loss.UNREACHED:
            if self._unreached_since_s is None:
                self._unreached_since_s = self._now_s()
            if self._now_s() - self._unreached_since_s > self._failures.no_worker_timeout_s:
                raise NoWorkerError from lost
        elif not self._failures.may_retry():
            raise NoWorkerError from lost
        await asyncio.sleep(min(RETRY_S * 2**attempt, MAX_RETRY_S) if attempt else 0)

    def _may_have_died_of_it(self, loss: Loss) -> bool:
        """Whether the worker had the request, as far as anybody can tell. What kills at once may kill before the first
        sign of life has come through, so not every worker may have been gone before."""
        self._num_absent += loss is Loss.ABSENT
        return loss.is_death or (loss is Loss.ABSENT and self._num_absent > MAX_ABSENT)

    async def _count_death(self) -> None:
        """At the second one the request is the cause, unless others were with it both times.

        Then they go on one by one, each alone until it has got further than at its last death, and the cause is the one
        that does not. One token more is not enough: that may be the prefill's, and what kills is to decode.
        """
        self._num_deaths += 1
        if self._num_deaths < 2:
            return
        if self._alone_for or await self._failures.died_alone():
            self._failures.quarantine(self._request)
            raise QuarantinedError
        await self._failures.isolation.acquire()
        self._alone_for = ISOLATED_OUTPUTS

    def _isolate_for(self, num_outputs: int) -> None:
        """Stay alone for so many outputs more."""
        if self._alone_for and not num_outputs:
            self._failures.isolation.release()
        self._alone_for = num_outputs

    def _taken(self, output: RequestOutput) -> RequestOutput:
        """An output as the client counts it: under the request's own id, with what its first attempt found cached."""
        self._isolate_for(max(self._alone_for - 1, 0))
        self._output_token_ids += output.token_ids
        if self._num_cached_tokens is None:
            self._num_cached_tokens = min(output.num_cached_tokens, len(self._request.prompt_token_ids))
        return replace(output, request_id=self._request.request_id, num_cached_tokens=self._num_cached_tokens)

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()
