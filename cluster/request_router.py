"""The adapter from Ray Serve's request router to ours. One lives in each process that holds a handle to a pool."""

import random
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from cluster.event_relay import EventFollower
from radix.prefix_index import PrefixIndex
from router.router import Router
from router.scoring import Scoring
from workers.request import GenerationRequest

EVENTS_STAT = "cache_events_endpoint"


class RadixRequestRouter(RequestRouter):  # type: ignore[misc]
    """Ranks a pool's replicas by what they hold of the prompt and by their load.

    Nothing remote is called inside a decision: the index is in this process, fed by the workers' events.
    """

    def initialize_state(self, *, root: int, block_size: int, overlap_weight: float, token: str) -> None:
        """Called once by Serve, with `request_router_kwargs`."""
        index = PrefixIndex(root)
        scoring = Scoring(overlap_weight=overlap_weight)
        self._radix_router = Router(index, scoring, block_size, random.Random())
        self._follower = EventFollower(index, token)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Called by Serve when replicas come, go or report new routing stats."""
        super().update_replicas(replicas)
        endpoints = {name_of(replica.replica_id): replica.routing_stats.get(EVENTS_STAT) for replica in replicas}
        self._follower.set_workers({worker: endpoint for worker, endpoint in endpoints.items() if endpoint})

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The candidates, best first, each a rank of its own."""
        request = generation_request(pending_request)
        if request is None:
            return [candidate_replicas]
        by_name = {name_of(replica.replica_id): replica for replica in candidate_replicas}
        ranked = self._radix_router.rank(request.block_hashes, len(request.prompt_token_ids), list(by_name))
        return [[by_name[candidate.worker]] for candidate in ranked]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """Charge the request to the replica that took it."""
        request = generation_request(pending_request)
        if request is not None:
            num_tokens = len(request.prompt_token_ids)
            request_id = pending_request.metadata.internal_request_id
            self._radix_router.workers.charge(request_id, name_of(replica_id), num_tokens)

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """Settle it, however it ended."""
        self._radix_router.workers.settle(internal_request_id)


def name_of(replica_id: ReplicaID) -> str:
    """What our router calls a replica."""
    return str(replica_id.unique_id)


def generation_request(pending: PendingRequest | None) -> GenerationRequest | None:
    """The request that a call carries as its first argument, if it carries one."""
    first = pending.args[0] if pending is not None and pending.args else None
    return first if isinstance(first, GenerationRequest) else None
