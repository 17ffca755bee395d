"""How many workers a pool should have, by what they say of themselves. Serve asks, and applies bounds and delays.

Serve's own measure is the number of requests in flight, which says little of workers: one prompt may be a thousand
times another, and a decode worker takes requests until its KV pool is full.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from cluster.config import AutoscalingSection

DOWN_AT = 0.7  # of the target: fewer workers must not be so busy that one more is wanted at the next breath


class PoolScaling:
    """Serve's policy for one pool. Runs in Serve's controller, to which it is sent with all that it needs.

    Args:
        targets: what each worker should have at most, by the name of the measure (`PoolReplica`).
    """

    def __init__(self, targets: dict[str, float]) -> None:
        self._targets = targets

    def __call__(self, ctx: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Called by Serve for each decision; nothing is remembered between two."""
        told = {name: by_replica.values() for name, by_replica in (ctx.aggregated_metrics or {}).items()}
        return wanted_replicas(ctx.target_num_replicas, len(ctx.running_replicas), told, self._targets), {}


def wanted_replicas(
    num_wanted: int, num_running: int, told: Mapping[str, Collection[float]], targets: Mapping[str, float]
) -> int:
    """The number of workers that keeps every measure at its target, and as it is where that would do as well.

    A worker that has said nothing counts for nothing, so one that has just come asks for no more of its kind; but as
    long as one is silent nobody is sent away, for it may have much to do.

    Args:
        num_wanted: how many were wanted last.
        num_running: how many there are.
        told: what they have, by the name of the measure; not all may have told.
        targets: what one of them should have at most.
    """
    totals = {name: sum(told.get(name, ())) for name in targets}
    needed = max(enough_for(totals[name], target) for name, target in targets.items())
    is_anyone_silent = any(len(told.get(name, ())) < num_running for name in targets)
    if needed >= num_wanted or is_anyone_silent or not num_running:
        return max(needed, num_wanted)
    return min(num_wanted, max(enough_for(totals[name], target * DOWN_AT) for name, target in targets.items()))


def enough_for(total: float, share: float) -> int:
    """How many workers have at most `share` each; never none."""
    return max(1, math.ceil(total / share - 1e-9))


def autoscaling_config(section: AutoscalingSection) -> AutoscalingConfig:
    """A pool's section as Serve takes it."""
    policy = AutoscalingPolicy(policy_function=PoolScaling, policy_kwargs={"targets": section.targets})
    return AutoscalingConfig(min_replicas=section.min_replicas, max_replicas=section.max_replicas, policy=policy)
