"""The adapter from Ray Serve's request router to ours. One lives in each process that holds a handle to a pool."""

import asyncio
import random
import time
from collections import defaultdict
from dataclasses import asdict
from typing import Any, TypeVar
from weakref import WeakSet

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from cluster.config import PoolName
from cluster.event_relay import EventFollower
from cluster.route_question import RouteQuestion
from cluster.telemetry.ray_metrics import RaySink, every_second, replica_name
from cluster.telemetry.router_metrics import RouterMetrics
from radix.prefix_index import PrefixIndex
from router.cost import DecodeCost, PrefillCost
from router.expected import ExpectedPrefixes
from router.explanation import Json
from router.policies import PolicyName, make_policy
from router.request import RoutingRequest
from router.router import Router
from router.worker_state import WorkerReport
from workers.load import WorkerLoad
from workers.request import GenerationRequest

EVENTS_STAT = "cache_events_endpoint"
LOAD_STAT = "load"
LISTED_PREFIXES = 20
Argument = TypeVar("Argument")


class RadixRequestRouter(RequestRouter):  # type: ignore[misc]
    """Ranks a pool's replicas by what they hold of the prompt and by their load.

    Nothing remote is called inside a decision: the index is in this process, fed by the workers' events.

    A request is charged when replicas are chosen for it. Where it finally went is known when its future is done; that
    moves the charge, or settles it where the client went away before. From then on Serve reports the end of each call.
    """

    def initialize_state(
        self, *, root: int, block_size: int, pool: PoolName, policy: PolicyName, token: str, model_name: str
    ) -> None:
        """Called once by Serve, with `request_router_kwargs`."""
        index = PrefixIndex(root)
        cost = DecodeCost(block_size) if pool == "decode" else PrefillCost()
        expected = ExpectedPrefixes(root)
        self._follower = EventFollower(index, token)
        rng, age_of = random.Random(), self._follower.age_s
        self._radix_router = Router(index, expected, make_policy(policy), cost, block_size, rng, age_of)
        self._replica_of: dict[str, RunningReplica] = {}
        self._died: set[str] = set()
        self._watched: WeakSet[asyncio.Future[RunningReplica]] = WeakSet()
        self._sent: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        self._metrics = RouterMetrics(RaySink(model_name, pool, replica_name()))
        self._recording: asyncio.Task[None] | None = None

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Called by Serve when replicas come, go or report new routing stats."""
        super().update_replicas(replicas)
        self._replica_of = {name_of(replica.replica_id): replica for replica in replicas}
        self._radix_router.set_workers(self._replica_of)
        stats = {name: replica.routing_stats for name, replica in self._replica_of.items()}
        self._follower.set_workers({name: stat[EVENTS_STAT] for name, stat in stats.items() if stat.get(EVENTS_STAT)})
        for name, stat in stats.items():
            if stat.get(LOAD_STAT):
                self._take_load(name, stat[LOAD_STAT])
        if self._recording is None:
            self._recording = asyncio.get_running_loop().create_task(every_second(self._record))

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The best candidates, each a rank of its own, and all of them as the last rank."""
        question = argument(pending_request, RouteQuestion)
        if pending_request is not None and question is not None:
            if not question.answer.done():  # else whoever asked has not waited
                question.answer.set_result(self._answer(question))
            await pending_request.future  # until the question is withdrawn, which cancels this
        request = argument(pending_request, GenerationRequest)
        if pending_request is None or request is None:
            return [candidate_replicas]
        self._watch(pending_request, request)
        ranked = self._radix_router.choose(routing_request(request), time.monotonic())
        there = {name_of(replica.replica_id): replica for replica in candidate_replicas}
        return [[there[worker]] for worker in ranked if worker in there] + [candidate_replicas]

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Serve has noticed before its controller has."""
        super().on_replica_actor_died(replica_id)
        self._replica_of.pop(name_of(replica_id), None)
        self._died.add(name_of(replica_id))
        self._radix_router.set_workers(self._replica_of)

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """The replica has accepted; it was charged when it was chosen."""

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """Settle the call, however it ended: done, failed, cancelled or refused by the replica.

        A call that cannot even be sent ends before the callbacks of its future have run, so they are let through first.
        """
        asyncio.get_running_loop().call_soon(self._on_ended, internal_request_id, name_of(replica_id))

    def _watch(self, pending: PendingRequest, request: GenerationRequest) -> None:
        """Learn which replica Serve settles on, once for each attempt."""
        future = pending.future
        if future in self._watched:
            return
        self._watched.add(future)
        call = pending.metadata.internal_request_id  # shared by all calls of one HTTP request
        future.add_done_callback(lambda done: self._on_assigned(done, call, request))

    def _on_assigned(self, future: "asyncio.Future[RunningReplica]", call: str, request: GenerationRequest) -> None:
        if future.cancelled() or future.exception() is not None:
            self._radix_router.settle(request.request_id, time.monotonic())
            return
        worker = name_of(future.result().replica_id)
        self._sent[call, worker].append(request.request_id)
        self._radix_router.place(routing_request(request), worker, time.monotonic())

    def _on_ended(self, call: str, worker: str) -> None:
        sent = self._sent.get((call, worker), [])
        if sent:
            self._radix_router.settle(sent.pop(0), time.monotonic(), worker)
        if not sent:
            self._sent.pop((call, worker), None)

    def _take_load(self, worker: str, load: WorkerLoad) -> None:
        report = WorkerReport(load.queued_tokens, load.tokens_per_s, load.free_blocks, load.num_running)
        self._radix_router.take_report(worker, report, time.monotonic())
        for request_id, num_cached_tokens in load.prefills:
            self._radix_router.observe(request_id, num_cached_tokens, time.monotonic())

    def _record(self) -> None:
        self._metrics.record(self._radix_router, map(self._follower.age_s, self._replica_of))

    def _answer(self, question: RouteQuestion) -> Json:
        if question.left:
            worker = self._radix_router.worker_of(question.left)
            return {"left": worker is not None and worker not in self._replica_of.keys() | self._died}
        if question.workers:
            return {"workers": self._follower.endpoints}
        if question.dry_run is not None:
            return self._radix_router.explain(question.dry_run, time.monotonic()).as_json()
        if not question.request_id:
            hottest = [asdict(prefix) for prefix in self._radix_router.hottest(LISTED_PREFIXES)]
            return asdict(self._radix_router.counts) | {"hot_prefixes": hottest}
        explanation = self._radix_router.explanations.get(question.request_id)
        return {} if explanation is None else explanation.as_json()


def name_of(replica_id: ReplicaID) -> str:
    """What our router calls a replica."""
    return str(replica_id.unique_id)


def routing_request(request: GenerationRequest) -> RoutingRequest:
    """What our router needs to know of a request."""
    num_tokens = len(request.prompt_token_ids) + len(request.output_token_ids)
    return RoutingRequest(request.request_id, request.block_hashes, num_tokens, request.session, request.lost)


def argument(pending: PendingRequest | None, kind: type[Argument]) -> Argument | None:
    """A call's first argument, if it is of this kind."""
    first = pending.args[0] if pending is not None and pending.args else None
    return first if isinstance(first, kind) else None
