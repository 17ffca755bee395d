"""The path through our router against a trivial one and Ray's own prefix router, on real Serve with no-op workers.

`python -m bench.route [--json]`. Two workers each; the routers are measured in turn, in rounds.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from bench.timing import machine

ROUNDS, ONE_BY_ONE, LOADED, IN_FLIGHT = 5, 60, 320, 32
SPREADS, NUM_GROUPS, GROUP_REQUESTS, GROUPS_IN_FLIGHT = 7, 20, 400, 16


async def one_by_one(handle: Any, prompts: Any) -> list[float]:
    """Seconds of each of some requests, one after another."""
    seconds = []
    for _ in range(ONE_BY_ONE):
        request = prompts.next()
        begin_s = time.perf_counter()
        await handle.remote(request)
        seconds.append(time.perf_counter() - begin_s)
    return seconds


async def in_flight(handle: Any, prompts: Any, num_requests: int, width: int) -> list[Any]:
    """What came back of `num_requests` requests, `width` at a time."""
    served: list[Any] = []

    async def client() -> None:
        while len(served) + width <= num_requests:
            served.append(await handle.remote(prompts.next()))

    await asyncio.gather(*(client() for _ in range(width)))
    return served


async def price(handles: dict[str, Any], prompts: Any) -> dict[str, float]:
    """Median milliseconds alone and requests per second under load, the routers in turn."""
    alone: dict[str, list[float]] = {name: [] for name in handles}
    rates: dict[str, list[float]] = {name: [] for name in handles}
    for _ in range(ROUNDS):
        for name, handle in handles.items():
            alone[name] += await one_by_one(handle, prompts)
            begin_s = time.perf_counter()
            served = await in_flight(handle, prompts, LOADED, IN_FLIGHT)
            rates[name].append(len(served) / (time.perf_counter() - begin_s))
    medians = {f"{name}_p50_ms": 1e3 * statistics.median(seconds) for name, seconds in alone.items()}
    return medians | {f"{name}_per_s": statistics.median(rate) for name, rate in rates.items()}


async def spread(name: str, handle: Any, rounds: Sequence[Any]) -> dict[str, float]:
    """Groups of prompts over two idle workers: the larger worker's share, and hits against one pooled cache's.

    Each round has groups of its own, all of them new; medians, and the worst round's share.
    """
    shares, hits = [], []
    for prompts in rounds:
        served = await in_flight(handle, prompts, GROUP_REQUESTS, GROUPS_IN_FLIGHT)
        shares.append(max(Counter(one.worker for one in served).values()) / len(served))
        hits.append(sum(one.num_held_blocks for one in served) / (96 * (len(served) - NUM_GROUPS)))
    return {
        f"{name}_worst_share": statistics.median(shares),
        f"{name}_worst_share_of_all_rounds": max(shares),
        f"{name}_hits_of_ideal": statistics.median(hits),
    }


async def measure(handles: dict[str, Any], rng: random.Random) -> dict[str, float]:
    """All figures."""
    from bench.no_op_pool import Prompts

    figures: dict[str, float] = {}
    await asyncio.sleep(2.0)  # until the routers follow the workers
    for name, handle in handles.items():
        figures |= await spread(name, handle, [Prompts(rng, NUM_GROUPS) for _ in range(SPREADS)])
    return figures | await price(handles, Prompts(rng, NUM_GROUPS))


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    as_json = parser.parse_args().json
    os.environ.setdefault("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1")  # read when Ray is imported
    import ray
    from ray import serve
    from ray.llm._internal.serve.routing_policies.prefix_aware.prefix_aware_router import PrefixCacheAffinityRouter
    from ray.serve.config import RequestRouterConfig

    from bench.no_op_pool import OURS, TrivialRouter, deploy

    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    with asyncio.Runner() as runner:  # with the throughput flags the routers live on this loop until Serve has stopped
        try:
            serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
            routers = {
                "trivial": RequestRouterConfig(request_router_class=TrivialRouter),
                "ours": OURS,
                "ray_prefix": RequestRouterConfig(request_router_class=PrefixCacheAffinityRouter),
            }
            handles = {name: deploy(name, router) for name, router in routers.items()}
            figures: dict[str, object] = {**runner.run(measure(handles, random.Random(0))), **machine()}
        finally:
            runner.run(serve.shutdown_async())
            ray.shutdown()
    print(json.dumps(figures) if as_json else "\n".join(f"{key:28} {value}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
