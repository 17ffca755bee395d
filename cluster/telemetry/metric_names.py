"""Every metric that a cluster exports: its name, what kind it is, what it means. Free of Ray.

Engine and request metrics have vLLM's names, so that dashboards and scaling rules written for those work here.
"""

from dataclasses import dataclass
from enum import Enum

LABELS = ("model_name", "pool", "engine")  # of every metric
RAY = "ray_"  # Ray's exporter puts it before each name

SECONDS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75),
    *(1.0, 1.5, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0),
)
TOKENS = tuple(float(step * 10**power) for power in range(6) for step in (1, 2, 5))


class Kind(Enum):
    """What may be asked of a metric. COUNTER only grows, GAUGE is what is now, HISTOGRAM counts by size."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: as Ray is told it.
        unit: "" for a number of things that the name says.
        meaning: one sentence.
        label: one more than `LABELS`, where it has one.
        buckets: upper bounds of a histogram.
    """

    name: str
    kind: Kind
    unit: str
    meaning: str
    label: str = ""
    buckets: tuple[float, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels that the cluster gives it. Ray adds its own."""
        return (*LABELS, self.label) if self.label else LABELS

    @property
    def exported(self) -> tuple[str, ...]:
        """Its names at the metrics port."""
        suffixes = {Kind.COUNTER: ("_total",), Kind.GAUGE: ("",), Kind.HISTOGRAM: ("_bucket", "_sum", "_count")}
        return tuple(f"{RAY}{self.name}{suffix}" for suffix in suffixes[self.kind])


def counter(name: str, unit: str, meaning: str, label: str = "") -> Metric:
    """What only grows."""
    return Metric(name, Kind.COUNTER, unit, meaning, label)


def gauge(name: str, unit: str, meaning: str) -> Metric:
    """What is now."""
    return Metric(name, Kind.GAUGE, unit, meaning)


def seconds(name: str, meaning: str) -> Metric:
    """How long something took."""
    return Metric(name, Kind.HISTOGRAM, "s", meaning, buckets=SECONDS)


def tokens(name: str, meaning: str) -> Metric:
    """How many tokens a request has."""
    return Metric(name, Kind.HISTOGRAM, "tokens", meaning, buckets=TOKENS)


# Of each worker.
NUM_RUNNING = gauge("vllm_num_requests_running", "", "sequences that have KV blocks")
NUM_WAITING = gauge("vllm_num_requests_waiting", "", "sequences that wait for KV blocks")
KV_USAGE = gauge("vllm_kv_cache_usage_perc", "part of 1", "part of the KV blocks that requests hold")
QUEUED_TOKENS = gauge("raydix_queued_tokens", "tokens", "prompt tokens taken in, not computed and not cached")
PREFIX_QUERIES = counter("vllm_prefix_cache_queries", "tokens", "tokens of admitted requests, looked up in the cache")
PREFIX_HITS = counter("vllm_prefix_cache_hits", "tokens", "of those, tokens that the worker's own cache held")
PROMPT_TOKENS = counter("vllm_prompt_tokens", "tokens", "tokens of prompts whose first token was drawn here")
GENERATION_TOKENS = counter("vllm_generation_tokens", "tokens", "tokens that were drawn here")
PREEMPTIONS = counter("vllm_num_preemptions", "", "times that a sequence lost its blocks to another")
EVICTED_BLOCKS = counter("raydix_evicted_blocks", "blocks", "cached blocks dropped to make room")
RECOMPUTED_TOKENS = counter(
    "raydix_recomputed_tokens",
    "tokens",
    "tokens computed again, by how their KV was lost: preemption, handoff, resume",
    "reason",
)
QUEUE_TIME = seconds("vllm_request_queue_time_seconds", "from a worker's having a request to its blocks")
PREFILL_TIME = seconds("vllm_request_prefill_time_seconds", "from there to the first token, where it is drawn here")
DECODE_TIME = seconds("vllm_request_decode_time_seconds", "from the first token, or the KV's arrival, to the end")
HANDOFF_BYTES = counter("raydix_handoff_bytes", "bytes", "KV that decode workers got from prefill workers")
HANDOFF_SECONDS = seconds("raydix_handoff_seconds", "how long a decode worker took to fetch a prompt's KV")

# Of each front door.
REQUEST_SUCCESS = counter(
    "vllm_request_success", "", "requests that ended: stop, length, abort (client left), error", "finished_reason"
)
TIME_TO_FIRST_TOKEN = seconds("vllm_time_to_first_token_seconds", "from a request's arrival to its first token")
INTER_TOKEN_LATENCY = seconds("vllm_inter_token_latency_seconds", "from one token of a request to the next")
E2E_LATENCY = seconds("vllm_e2e_request_latency_seconds", "from arrival to last token, of requests that came to an end")
REQUEST_PROMPT_TOKENS = tokens("vllm_request_prompt_tokens", "prompt tokens of requests that came to an end")
REQUEST_GENERATION_TOKENS = tokens("vllm_request_generation_tokens", "tokens given to requests that came to an end")
RESUMED_REQUESTS = counter("raydix_resumed_requests", "", "times that a request went on after its worker was lost")
REFUSED_REQUESTS = counter("raydix_refused_requests", "", "requests refused with 429")
TENANT_TOKENS = counter("raydix_tenant_tokens", "tokens", "tokens of prompts and completions, by tenant", "tenant")
TENANT_REFUSED_REQUESTS = counter(
    "raydix_tenant_refused_requests", "", "requests refused because they were more than their tenant may have", "tenant"
)

# Of each front door's router to each pool.
ROUTER_DECISIONS = counter("raydix_router_decisions", "", "requests placed: prefix, load, cold", "reason")
EXPECTED_HIT_TOKENS = counter(
    "raydix_router_expected_hit_tokens", "tokens", "tokens that the chosen workers were believed to hold"
)
ACTUAL_HIT_TOKENS = counter("raydix_router_actual_hit_tokens", "tokens", "tokens that they then found in their caches")
INDEX_LAG = gauge("raydix_index_lag_seconds", "s", "age of what the index knows of the worker it knows least of")

METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))


def exported_names() -> frozenset[str]:
    """All names at the metrics port that are the cluster's own."""
    return frozenset(name for metric in METRICS for name in metric.exported)
