"""Metrics on their way to Ray's exporter: the only file that knows Ray's metric objects."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from ray import serve
from ray.serve.exceptions import RayServeException
from ray.util import metrics

from cluster.telemetry.metric_names import Kind, Metric

logger = logging.getLogger("ray.serve")

RECORD_PERIOD_S = 1.0  # as often as a Ray process passes metrics on, at most


class RaySink:
    """To Ray. A record takes one or two microseconds (docs/metrics.md); what it says is exported some seconds later.

    Args:
        model_name, pool, engine: the values of `metric_names.LABELS`.
    """

    def __init__(self, model_name: str, pool: str, engine: str) -> None:
        shown = model_name.encode("ascii", "backslashreplace").decode()  # Ray refuses a label that is not ASCII
        self._labels = {"model_name": shown, "pool": pool, "engine": engine}
        self._record_of: dict[str, Callable[[float, dict[str, str] | None], None]] = {}

    def record(self, metric: Metric, value: float, label: str = "") -> None:
        """As `cluster.telemetry.metric_sink.Sink` has it."""
        record = self._record_of.get(metric.name)
        if record is None:
            record = self._record_of[metric.name] = recorder(metric, self._labels)
        record(value, {metric.label: label} if label else None)


def recorder(metric: Metric, labels: dict[str, str]) -> Callable[[float, dict[str, str] | None], None]:
    """Make Ray's metric. The same one may be made any number of times in a process."""
    if metric.kind is Kind.HISTOGRAM:
        made: Any = metrics.Histogram(metric.name, metric.meaning, list(metric.buckets), metric.labels)
        record = made.observe
    elif metric.kind is Kind.GAUGE:
        made = metrics.Gauge(metric.name, metric.meaning, metric.labels)
        record = made.set
    else:
        made = metrics.Counter(metric.name, metric.meaning, metric.labels)
        record = made._record  # `inc` refuses 0; without a 0 the first increase would be invisible to `rate()`
    made.set_default_tags(labels)
    return record  # type: ignore[no-any-return]


def replica_name() -> str:
    """What this process is called as a replica; empty where it is none."""
    try:
        return str(serve.get_replica_context().replica_id.unique_id)
    except RayServeException:
        return ""


async def every_second(record: Callable[[], None]) -> None:
    """Call it for ever. What goes wrong with metrics is logged, and nothing else."""
    while True:
        try:
            record()
        except Exception:
            logger.exception("metrics could not be recorded")
        await asyncio.sleep(RECORD_PERIOD_S)
