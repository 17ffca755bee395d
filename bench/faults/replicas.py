"""The replicas of a running application, looked into from a driver of its cluster.

Serve's replicas are named actors, and Ray runs any function in an actor that is asked with `__ray_call__`, on a thread
beside the replica's event loop. So nothing in the product has to serve these questions.
"""

import asyncio
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray._private import services

PREFIX, NAMESPACE = "SERVE_REPLICA::raydix#", "serve"
POOLS = ("ingress", "prefill", "decode")
BUSY_TIMEOUT_S = 1.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
Json = dict[str, Any]


def connect(address: str, node_ip: str | None = None) -> None:
    """Become a driver of a cluster on loopback, at the node of that address or at its only one. Ray would look for the
    cluster at another address of this machine."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # replicas need not find this module
    services.resolve_ip_for_localhost = lambda host: host
    ray.init(address=address, _node_ip_address=node_ip, log_to_driver=False)


def look(replica: Any) -> Json:
    """Runs in a replica: what it holds now. A replica that is not constructed yet says so."""
    seen: Json = {
        "pid": os.getpid(),
        "node": ray.get_runtime_context().get_node_id(),
        "fds": len(os.listdir("/proc/self/fd")),
        "tasks": len(pending(replica)),
        "rss_bytes": int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES,
    }
    instance = user_instance(replica)
    host = getattr(instance, "_host", None)
    if host is None:
        return seen | {"ready": hasattr(instance, "_frontend"), "ids": []}
    return seen | {"ready": hasattr(instance, "_service")} | look_at_worker(instance, host.worker)


def look_at_worker(instance: Any, driver: Any) -> Json:
    """Of a worker: its requests, its blocks, and what waits on its shelf."""
    engine = driver._worker._engine
    shelf = getattr(getattr(instance, "_service", None), "_shelf", None)
    return {
        "ids": list(driver._streams),
        "running": engine.load().num_running,
        "unfinished": len(engine._sequences),
        "leaked_blocks": engine.kv.pool.num_blocks - engine.kv.pool.num_free - engine.kv.cache.num_idle_blocks,
        "shelved": 0 if shelf is None else len(shelf._waiting),
    }


def task_names(replica: Any) -> list[str]:
    """Runs in a replica: the coroutines that are pending on its loop."""
    return [getattr(task.get_coro(), "__qualname__", "?") for task in pending(replica)]


def die_at(replica: Any, num_tokens: int, mark: str) -> None:
    """Runs in a decode replica: have its process killed when it is about to deliver the last of so many tokens from now
    on, so that this one has not left the process. Only the first replica to come there dies: it leaves a file."""
    driver = user_instance(replica)._host.worker
    deliver, left = driver._deliver, [num_tokens]

    def counted(outputs: Any, batch: Any) -> None:
        left[0] -= sum(len(output.token_ids) for _, output in outputs)
        if outputs and left[0] <= 0 and not os.path.exists(mark):
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
            os.kill(os.getpid(), signal.SIGKILL)
        deliver(outputs, batch)

    driver._deliver = counted


def pending(replica: Any) -> set[asyncio.Task[Any]]:
    """The tasks of the replica's event loop."""
    return asyncio.all_tasks(replica._replica_impl._event_loop)


def disarm(replica: Any) -> None:
    """Runs in a decode replica: undo `die_at`."""
    vars(user_instance(replica)._host.worker).pop("_deliver", None)


def user_instance(replica: Any) -> Any:
    """The deployment's own object in a replica actor; None before it is constructed."""
    wrapper = getattr(replica._replica_impl, "_user_callable_wrapper", None)
    return getattr(wrapper, "_callable", None)


def replica_names(pool: str = "") -> list[str]:
    """Actors that Ray does not know to be dead."""
    named = ray.util.list_named_actors(all_namespaces=True)
    return sorted(
        actor["name"]
        for actor in named
        if actor["namespace"] == NAMESPACE and actor["name"].startswith(f"{PREFIX}{pool}")
    )


def ask(names: list[str], function: Any, *arguments: Any, timeout_s: float = 2.0) -> dict[str, Any]:
    """Call a function in replicas at once: results of those that answer in time."""
    calls: dict[str, Any] = {}
    for name in names:
        try:
            calls[name] = ray.get_actor(name, namespace=NAMESPACE).__ray_call__.remote(function, *arguments)
        except ValueError:  # it has just died
            continue
    ray.wait(list(calls.values()), num_returns=max(1, len(calls)), timeout=timeout_s) if calls else None
    answers = {}
    for name, call in calls.items():
        try:
            answers[name] = ray.get(call, timeout=0.01)
        except Exception:  # dead, hung, or not constructed
            continue
    return answers


def pool_of(name: str) -> str:
    """Which deployment a replica's name belongs to."""
    return name.removeprefix(PREFIX).partition("#")[0]


def looks(names: list[str] | None = None, timeout_s: float = 2.0) -> list[Json]:
    """All replicas that answer."""
    answers = ask(replica_names() if names is None else names, look, timeout_s=timeout_s)
    return [seen | {"name": name, "pool": pool_of(name)} for name, seen in answers.items()]


def strike(pool: str, number: int, rng: random.Random) -> Json:
    """Send a signal to a replica that has requests, if one has any within a while; returns when that was, and which."""
    end_s = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        seen = [one for one in looks(replica_names(f"{pool}#"), timeout_s=1.0) if one["ready"]]
        busy = [one for one in seen if one["ids"]]
        if busy or (seen and time.monotonic() > end_s):
            struck = rng.choice(busy or seen)
            at_s = time.monotonic()
            os.kill(struck["pid"], number)
            return struck | {"at_s": at_s}
        if time.monotonic() > end_s + BUSY_TIMEOUT_S:
            raise RuntimeError(f"no replica of {pool} answers")
