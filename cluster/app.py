"""The whole Serve graph on one page: ingress -> prefill pool -> decode pool, or one pool for both."""

import secrets
from dataclasses import replace
from typing import Any

from ray import serve
from ray.serve.config import RequestRouterConfig

from cluster.access.auth_config import check_who_may_ask
from cluster.autoscaling import autoscaling_config
from cluster.config import ClusterConfig, LabelSelector, PoolName, parse_config
from cluster.deployments import DecodeReplica, PrefillReplica
from cluster.door.frontend_settings import FrontendSettings
from cluster.ingress import IngressReplica
from cluster.placement import Placement, cluster_gpus, place
from cluster.request_router import RadixRequestRouter
from cluster.worker_host import WorkerSettings
from radix.block_hash import root_hash
from workers.engine.build import kv_namespace, max_sequence_len
from workers.weights.model_dir import resolve_model_dir
from workers.weights.open_checkpoint import read_spec

ROUTING_STATS_PERIOD_S = 1.0
ROOM_TO_REFUSE = 1024  # requests that a front door may be busy refusing, or answering without a worker
# Serve replaces a replica that failed three checks in a row, or whose process has gone: after some 7 s and 1 s. No
# request waits for that (cluster/door/journey.py).
HEALTH_PERIOD_S, HEALTH_TIMEOUT_S = 1.0, 2.0
DRAIN_LOOP_S = 0.2


def build_app(config: ClusterConfig, gpus: float, worker_host: str | None = None) -> serve.Application:
    """Bind the deployments.

    Args:
        gpus: how many the Ray cluster has (`cluster.placement.cluster_gpus`).
        worker_host: address that the workers' own ports listen on; None for each node's own.

    Raises:
        ModelError: the model cannot be served.
    """
    engine = config.engine.engine_config()
    block_size = engine.cache.block_size
    model_dir = resolve_model_dir(config.model)
    spec = read_spec(model_dir)
    secret, token = secrets.token_bytes(32), secrets.token_urlsafe(32)
    namespace = kv_namespace(model_dir, engine.weights, block_size)
    settings = WorkerSettings(
        config.model, engine, secret, token, worker_host, config.pools.step_timeout_s, config.model_name
    )
    routing: dict[str, Any] = {"root": root_hash(namespace, secret), "block_size": block_size}
    routing |= {"token": token, "model_name": config.model_name}
    places = {name: place(config, pool, gpus) for name, pool in config.pools.by_name.items()}
    pools = {name: bind_pool(config, name, at, routing, settings) for name, at in places.items()}
    longest = min(max_sequence_len(spec, at.engine) for at in places.values())
    limits = config.http.request_timeout_s, config.pools.local_prefill_tokens, engine.cache.enable_prefix_caching
    sizes = longest, spec.vocab_size, block_size
    front = FrontendSettings(config.model, config.model_name, *sizes, namespace, secret, token, *limits)
    return bind_ingress(config, front, pools)


def bind_pool(
    config: ClusterConfig, name: PoolName, at: Placement, routing: dict[str, Any], settings: WorkerSettings
) -> serve.Application:
    """A pool of workers, routed to by our router."""
    router = RequestRouterConfig(
        request_router_class=RadixRequestRouter,
        request_router_kwargs=routing | {"pool": name, "policy": at.pool.policy},
        request_routing_stats_period_s=ROUTING_STATS_PERIOD_S,
    )
    scaling = at.pool.autoscaling
    deployment = serve.deployment(
        PrefillReplica if name == "prefill" else DecodeReplica,
        name=name,
        num_replicas=None if scaling else at.pool.replicas,
        autoscaling_config=autoscaling_config(scaling) if scaling else None,
        max_ongoing_requests=at.pool.max_ongoing_requests,
        ray_actor_options={"num_cpus": at.pool.num_cpus, "num_gpus": at.num_gpus} | on_nodes(at.pool.label_selector),
        request_router_config=router,
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        graceful_shutdown_wait_loop_s=DRAIN_LOOP_S,
        graceful_shutdown_timeout_s=config.pools.drain_timeout_s,
        logging_config=config.logs.for_serve,
    )
    return deployment.bind(replace(settings, engine=at.engine, pool=name))


def bind_ingress(
    config: ClusterConfig, front: FrontendSettings, pools: dict[PoolName, serve.Application]
) -> serve.Application:
    """The front doors, which hold a handle to each pool.

    Each refuses what is too much itself (`cluster.door.admission`), so Serve must let it through: Serve's own refusal
    is a line of text, and what it queues has been promised nothing.
    """
    deployment = serve.deployment(
        IngressReplica,
        name="ingress",
        num_replicas=config.ingress.replicas,
        max_ongoing_requests=config.ingress.max_ongoing_requests + ROOM_TO_REFUSE,
        ray_actor_options={"num_cpus": 0} | on_nodes(config.ingress.label_selector),
        logging_config=config.logs.for_serve,
    )
    settings = config.ingress, config.auth, config.admin, config.tracing, config.grpc_address
    return deployment.bind(front, pools, *settings)


def on_nodes(selector: LabelSelector) -> dict[str, Any]:
    """The actor options that keep replicas to nodes with these labels; none where any node will do."""
    return {"label_selector": selector} if selector else {}


def build_app_from_args(args: dict[str, Any]) -> serve.Application:
    """The same for a Serve config file: `import_path: cluster.app:build_app_from_args`, the configuration as `args`.

    Serve listens where its own configuration says, so who may ask must be said here.
    """
    config = parse_config(args)
    check_who_may_ask(config.auth, host=None)
    return build_app(config, cluster_gpus())
