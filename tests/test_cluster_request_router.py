"""The adapter as Serve drives it: charges follow the replica that a request ends up at, and none is left behind."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from ray.serve._private.common import DeploymentHandleSource, DeploymentID, ReplicaID, RequestMetadata
from ray.serve.request_router import PendingRequest

from cluster.request_router import LOAD_STAT, RadixRequestRouter, name_of
from cluster.route_question import RouteQuestion
from cluster.telemetry.router_metrics import RouterMetrics
from router.request import RoutingRequest
from tests.fake_sink import FakeSink
from workers.load import WorkerLoad
from workers.request import GenerationRequest, SamplingParams

DEPLOYMENT = DeploymentID("prefill", "app")
PROMPT = tuple(range(40))
HASHES = (7, 8)


class FakeReplica:
    """A replica as the router sees it."""

    def __init__(self, name: str) -> None:
        self.replica_id = ReplicaID(name, DEPLOYMENT)
        self.max_ongoing_requests = 4
        self.routing_stats: dict[str, Any] = {}
        self.queue_len = 0

    async def get_queue_len(self, *, deadline_s: float) -> int:
        return self.queue_len


def make_router(*replicas: FakeReplica) -> RadixRequestRouter:
    router = RadixRequestRouter(DEPLOYMENT, DeploymentHandleSource.REPLICA, use_replica_queue_len_cache=True)
    router.initialize_state(root=1, block_size=16, pool="prefill", policy="prefix", token="t", model_name="m")
    router.update_replicas(list(replicas))
    return router


def pending(request_id: str, argument: object = None, call: str = "call") -> PendingRequest:
    sampling = SamplingParams(max_tokens=1)
    request = argument or GenerationRequest(request_id, PROMPT, sampling, HASHES)
    return PendingRequest([request], {}, RequestMetadata(request_id=call, internal_request_id=call))


def run(scene: Callable[[FakeReplica, FakeReplica], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scene(FakeReplica("a"), FakeReplica("b")))


async def assigned(router: RadixRequestRouter, request: PendingRequest, *, is_retry: bool = False) -> str:
    """Where Serve would send it."""
    replica = await router._choose_replica_for_request(request, is_retry=is_retry)
    await asyncio.sleep(0)
    return name_of(replica.replica_id)


def charged(router: RadixRequestRouter) -> dict[str, int]:
    return {name: state.reserved_tokens for name, state in router._radix_router.table.states.items()}


def test_a_request_is_charged_until_its_call_ends() -> None:
    async def scene(a: FakeReplica, b: FakeReplica) -> None:
        router = make_router(a, b)
        worker = await assigned(router, pending("r"))
        assert charged(router)[worker] == 40
        router.on_request_completed(ReplicaID(worker, DEPLOYMENT), "call")
        await asyncio.sleep(0)
        assert set(charged(router).values()) == {0}
        assert not router._sent

    run(scene)


def test_a_full_replica_is_passed_over_and_the_charge_follows() -> None:
    async def scene(a: FakeReplica, b: FakeReplica) -> None:
        router = make_router(a, b)
        first = await assigned(router, pending("r"))
        full, other = (a, b) if first == "a" else (b, a)
        full.queue_len = full.max_ongoing_requests
        router.on_new_queue_len_info(full.replica_id, full.queue_len)
        assert await assigned(router, pending("s", call="second")) == name_of(other.replica_id)
        assert charged(router)[name_of(other.replica_id)] == 40

    run(scene)


def test_a_client_that_leaves_while_everybody_is_full_leaves_no_charge() -> None:
    async def scene(a: FakeReplica, b: FakeReplica) -> None:
        a.queue_len = b.queue_len = 4
        router = make_router(a, b)
        waiting = asyncio.ensure_future(assigned(router, pending("r")))
        while not router._radix_router.table.num_open:
            await asyncio.sleep(0.001)
        waiting.cancel()
        await asyncio.wait([waiting])
        await asyncio.sleep(0.01)
        assert (router._radix_router.table.num_open, dict(router._sent)) == (0, {})

    run(scene)


def test_a_refusal_reported_after_the_next_attempt_ends_only_the_first() -> None:
    async def scene(a: FakeReplica, b: FakeReplica) -> None:
        router = make_router(a, b)
        request = pending("r")
        first = await assigned(router, request)
        refusing = a if first == "a" else b
        refusing.queue_len = 4
        router.on_new_queue_len_info(refusing.replica_id, 4)
        second = await assigned(router, request, is_retry=True)
        router.on_request_completed(refusing.replica_id, "call")
        await asyncio.sleep(0)
        assert first != second
        assert charged(router) == {first: 0, second: 40}
        router.on_request_completed(ReplicaID(second, DEPLOYMENT), "call")
        await asyncio.sleep(0)
        assert (charged(router), dict(router._sent)) == ({first: 0, second: 0}, {})

    run(scene)


def test_a_call_that_cannot_even_be_sent_is_settled() -> None:
    async def scene(a: FakeReplica, b: FakeReplica) -> None:
        router = make_router(a, b)
        replica = await router._choose_replica_for_request(pending("r"))
        router.on_request_completed(replica.replica_id, "call")  # at once, before any other callback has run
        await asyncio.sleep(0.001)
        assert (router._radix_router.table.num_open, dict(router._sent)) == (0, {})

    run(scene)


def test_loads_and_results_come_with_the_routing_stats() -> None:
    async def scene(a: FakeReplica, b: FakeReplica) -> None:
        router = make_router(a, b)
        worker = await assigned(router, pending("r"))
        (a if worker == "a" else b).routing_stats = {LOAD_STAT: WorkerLoad(1000, 500.0, 9, 1, (("r", 16),))}
        router.update_replicas([a, b])
        state = router._radix_router.table.states[worker]
        assert (state.tokens_per_s, state.free_blocks()) == (500.0, 9)
        assert router._radix_router.counts.underpredicted_tokens == 16

    run(scene)


def test_metrics_are_recorded_though_nothing_happens() -> None:
    async def scene(a: FakeReplica, b: FakeReplica) -> None:
        router, sink = make_router(a, b), FakeSink()
        router._metrics = RouterMetrics(sink)
        router.update_replicas([a, b])
        await asyncio.sleep(0)
        assert sink.values["raydix_router_decisions cold"] == 0
        assert sink.values["raydix_index_lag_seconds"] == float("inf"), "their events were never heard"
        await assigned(router, pending("r"))
        router._record()
        assert sink.values["raydix_router_decisions cold"] == 1

    run(scene)


def test_a_question_is_answered_and_never_sent() -> None:
    async def scene(a: FakeReplica, b: FakeReplica) -> None:
        router = make_router(a, b)
        await assigned(router, pending("r"))
        for question, key in (
            (RouteQuestion(RoutingRequest("dry", HASHES, 40)), "candidates"),
            (RouteQuestion(request_id="r"), "candidates"),
            (RouteQuestion(), "num_requests"),
            (RouteQuestion(workers=True), "workers"),
        ):
            call = asyncio.ensure_future(assigned(router, pending("", question, "asked")))
            answer = await asyncio.wrap_future(question.answer)
            await asyncio.sleep(0.01)
            assert key in answer
            assert not call.done()
            call.cancel()
            await asyncio.wait([call])
        assert router._radix_router.table.num_open == 1
        await asyncio.sleep(0.01)
        assert router.curr_num_routing_tasks == 0

    run(scene)


def test_a_question_that_nobody_waits_for_any_more_disturbs_nobody() -> None:
    async def scene(a: FakeReplica, b: FakeReplica) -> None:
        router = make_router(a, b)
        question = RouteQuestion(request_id="r")
        question.answer.cancel()
        asking = asyncio.ensure_future(router.choose_replicas([a, b], pending("q", question)))
        await asyncio.sleep(0)
        assert not asking.done(), "it waits to be withdrawn, as any question"
        asking.cancel()
        assert await assigned(router, pending("r")) in ("a", "b")

    run(scene)
