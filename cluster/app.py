"""The whole Serve graph on one page: ingress -> prefill pool -> decode pool."""

import secrets
from dataclasses import replace
from typing import Any

from ray import serve
from ray.serve.config import RequestRouterConfig

from cluster.config import ClusterConfig, parse_config
from cluster.deployments import DecodeReplica, PrefillReplica
from cluster.frontend import FrontendSettings
from cluster.ingress import IngressReplica
from cluster.placement import Placement, cluster_gpus, place
from cluster.request_router import PoolName, RadixRequestRouter
from cluster.worker_host import WorkerSettings
from radix.block_hash import root_hash
from workers.engine.build import kv_namespace, max_sequence_len
from workers.models.spec import read_model_spec
from workers.weights.model_dir import resolve_model_dir

ROUTING_STATS_PERIOD_S = 1.0


def build_app(config: ClusterConfig, gpus: float, events_host: str | None = None) -> serve.Application:
    """Bind the deployments.

    Args:
        gpus: how many the Ray cluster has (`cluster.placement.cluster_gpus`).
        events_host: address that workers publish cache events on; None for each node's own.

    Raises:
        ModelError: the model cannot be served.
    """
    engine = config.engine.engine_config()
    block_size = engine.cache.block_size
    model_dir = resolve_model_dir(config.model)
    spec = read_model_spec(model_dir)
    secret, token = secrets.token_bytes(32), secrets.token_urlsafe(32)
    namespace = kv_namespace(model_dir, engine.weights, block_size)
    settings = WorkerSettings(config.model, engine, secret, token, events_host)
    routing = {"root": root_hash(namespace, secret), "block_size": block_size, "token": token}
    at_prefill, at_decode = (place(config, pool, gpus) for pool in config.pools.both)
    prefill = bind_pool(PrefillReplica, "prefill", at_prefill, routing, settings)
    decode = bind_pool(DecodeReplica, "decode", at_decode, routing, settings)
    longest = min(max_sequence_len(spec, at.engine) for at in (at_prefill, at_decode))
    front = FrontendSettings(config.model, config.model_name, longest, spec.vocab_size, block_size, namespace, secret)
    return bind_ingress(config, front, prefill, decode)


def bind_pool(
    replica: type, name: PoolName, at: Placement, routing: dict[str, Any], settings: WorkerSettings
) -> serve.Application:
    """A pool of workers, routed to by our router."""
    router = RequestRouterConfig(
        request_router_class=RadixRequestRouter,
        request_router_kwargs=routing | {"pool": name, "policy": at.pool.policy},
        request_routing_stats_period_s=ROUTING_STATS_PERIOD_S,
    )
    deployment = serve.deployment(
        replica,
        name=name,
        num_replicas=at.pool.replicas,
        max_ongoing_requests=at.pool.max_ongoing_requests,
        ray_actor_options={"num_cpus": at.pool.num_cpus, "num_gpus": at.num_gpus},
        request_router_config=router,
    )
    return deployment.bind(replace(settings, engine=at.engine))


def bind_ingress(
    config: ClusterConfig, front: FrontendSettings, prefill: serve.Application, decode: serve.Application
) -> serve.Application:
    """The front doors, which hold a handle to each pool."""
    deployment = serve.deployment(
        IngressReplica,
        name="ingress",
        num_replicas=config.ingress.replicas,
        max_ongoing_requests=config.ingress.max_ongoing_requests,
        max_queued_requests=config.ingress.max_queued_requests,
        ray_actor_options={"num_cpus": 0},
    )
    return deployment.bind(front, prefill, decode, config.ingress.debug_route)


def build_app_from_args(args: dict[str, Any]) -> serve.Application:
    """The same for a Serve config file: `import_path: cluster.app:build_app_from_args`, the configuration as `args`."""
    return build_app(parse_config(args), cluster_gpus())
