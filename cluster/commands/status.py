"""What a cluster is doing, worked out of its metrics: a row for each worker, and figures of the front doors."""

from collections import deque
from dataclasses import dataclass

from cluster.telemetry.prometheus_text import Samples, quantile

WINDOW_S = 30.0  # rates are over as long; new numbers come every ten seconds
DECISIONS = "ray_raydix_router_decisions_total"
FIRST_TOKEN = "ray_vllm_time_to_first_token_seconds"


class StatusError(Exception):
    """There is no cluster to be seen; the message says where it was looked for."""


@dataclass(frozen=True)
class WorkerRow:
    """One worker.

    Attributes:
        kv_usage: part of its KV blocks that requests hold.
        hit_rate: part of the tokens looked up lately that its cache held; None where none were.
        tokens_per_s: tokens that it drew lately.
    """

    pool: str
    name: str
    running: int
    waiting: int
    queued_tokens: int
    kv_usage: float
    hit_rate: float | None
    tokens_per_s: float


@dataclass(frozen=True)
class DoorFigures:
    """All front doors together.

    Attributes:
        requests_per_s: that ended lately, however they did.
        first_token_s: median and 95th percentile of late; None where there was none.
        failed, refused, resumed: since the front doors began.
        index_lag_s: of the router that knows least.
        decisions: how many requests were placed for which reason, lately.
    """

    requests_per_s: float
    first_token_s: tuple[float, float] | None
    failed: int
    refused: int
    resumed: int
    index_lag_s: float
    decisions: dict[str, int]


class ClusterStatus:
    """Keeps the scrapes of the last `WINDOW_S`, for rates need two."""

    def __init__(self) -> None:
        self._scrapes: deque[tuple[float, Samples]] = deque()

    def take(self, samples: Samples, now_s: float) -> None:
        """A scrape has come."""
        self._scrapes.append((now_s, samples))
        while len(self._scrapes) > 2 and self._scrapes[1][0] <= now_s - WINDOW_S:
            self._scrapes.popleft()

    @property
    def workers(self) -> list[WorkerRow]:
        """By pool and name. A worker that is gone is told of no more after some 20 s, when Ray forgets its gauges."""
        running = self._now.series.get("ray_vllm_num_requests_running", [])
        return [self._worker(*place) for place in sorted({(own["pool"], own["engine"]) for own, _ in running})]

    @property
    def doors(self) -> DoorFigures:
        """All front doors together."""
        median, slow = (quantile(self._now, self._then, FIRST_TOKEN, part) for part in (0.5, 0.95))
        lags = [value for _, value in self._now.series.get("ray_raydix_index_lag_seconds", [])]
        reasons = sorted({own["reason"] for own, _ in self._now.series.get(DECISIONS, [])})
        return DoorFigures(
            requests_per_s=self._per_s("ray_vllm_request_success_total"),
            first_token_s=None if median is None or slow is None else (median, slow),
            failed=int(self._now.total("ray_vllm_request_success_total", finished_reason="error")),
            refused=int(self._now.total("ray_raydix_refused_requests_total")),
            resumed=int(self._now.total("ray_raydix_resumed_requests_total")),
            index_lag_s=max(lags, default=0.0),
            decisions={reason: int(self._increase(DECISIONS, reason=reason)) for reason in reasons},
        )

    def _worker(self, pool: str, engine: str) -> WorkerRow:
        own = {"pool": pool, "engine": engine}
        queries = self._increase("ray_vllm_prefix_cache_queries_total", **own)
        hits = self._increase("ray_vllm_prefix_cache_hits_total", **own)
        return WorkerRow(
            pool=pool,
            name=engine,
            running=int(self._now.total("ray_vllm_num_requests_running", **own)),
            waiting=int(self._now.total("ray_vllm_num_requests_waiting", **own)),
            queued_tokens=int(self._now.total("ray_raydix_queued_tokens", **own)),
            kv_usage=self._now.total("ray_vllm_kv_cache_usage_perc", **own),
            hit_rate=hits / queries if queries else None,
            tokens_per_s=self._per_s("ray_vllm_generation_tokens_total", **own),
        )

    @property
    def _now(self) -> Samples:
        return self._scrapes[-1][1] if self._scrapes else Samples({})

    @property
    def _then(self) -> Samples:
        return self._scrapes[0][1] if self._scrapes else Samples({})

    def _increase(self, name: str, **labels: str) -> float:
        return max(0.0, self._now.total(name, **labels) - self._then.total(name, **labels))

    def _per_s(self, name: str, **labels: str) -> float:
        seconds = self._scrapes[-1][0] - self._scrapes[0][0] if self._scrapes else 0.0
        return self._increase(name, **labels) / seconds if seconds else 0.0
