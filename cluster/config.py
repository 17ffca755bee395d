"""The one configuration file of a cluster. Unknown keys are refused by name."""

import os
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from cluster.access.auth_config import AdminSection, AuthSection, check_who_may_ask
from cluster.address_config import GrpcSection, check_proxy
from cluster.address_config import HttpSection as HttpSection
from cluster.section import ConfigError as ConfigError
from cluster.section import Count as Count
from cluster.section import Port as Port
from cluster.section import Section as Section
from cluster.section import explain
from cluster.telemetry.config import LogsSection, TracingSection
from router.policies import PolicyName
from workers.async_worker import STEP_TIMEOUT_S
from workers.config import CacheConfig, EngineConfig, SchedulerConfig, WeightConfig
from workers.weights.model_dir import TINY_MODEL

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
PoolName = Literal["prefill", "decode", "unified"]
LabelSelector = dict[str, str]  # labels of Ray nodes, in Ray's own words: a value, "!value", "in(a, b)" or "!in(a, b)"


def whole_above_one(num_gpus: float) -> float:
    """Ray gives out parts of one GPU, or whole ones."""
    if num_gpus > 1 and num_gpus != int(num_gpus):
        raise ValueError("above 1 it must be a whole number")
    return num_gpus


GpuCount = Annotated[float, Field(ge=0, allow_inf_nan=False), AfterValidator(whole_above_one)]


class DeployError(Exception):
    """A replica could not start; the message holds Serve's account of it."""


class EngineSection(Section):
    """Every worker's engine; see `workers.config`. Which device "auto" is, and a worker's part of a GPU, depend on the
    cluster (`cluster/placement.py`)."""

    quantization: Literal["int4", "none"] = "int4"
    group_size: Count = WeightConfig.group_size
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    activations: Literal["dtype", "int8"] = "dtype"
    numerics: Literal["strict", "fast"] = "strict"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    block_size: Count = CacheConfig.block_size
    kv_cache_mib: Count | None = None
    gpu_memory_utilization: float | None = None
    enable_prefix_caching: bool = CacheConfig.enable_prefix_caching
    max_num_seqs: Count = SchedulerConfig.max_num_seqs
    max_num_batched_tokens: Count = SchedulerConfig.max_num_batched_tokens

    def engine_config(self) -> EngineConfig:
        """The same for `workers`. Raises ValueError where values contradict each other."""
        memory_bytes = None if self.kv_cache_mib is None else self.kv_cache_mib * 2**20
        share = self.gpu_memory_utilization
        return EngineConfig(
            cache=CacheConfig(
                self.block_size,
                memory_bytes,
                CacheConfig.gpu_memory_utilization if share is None else share,
                self.enable_prefix_caching,
            ),
            scheduler=SchedulerConfig(self.max_num_seqs, self.max_num_batched_tokens),
            weights=WeightConfig(
                quantization=self.quantization,
                group_size=self.group_size,
                dtype=self.dtype,
                activations=self.activations,
                numerics=self.numerics,
                device=self.device,
            ),
        )


class AutoscalingSection(Section):
    """Between how many replicas a pool has. They start as few."""

    min_replicas: Count = 1
    max_replicas: Count

    @model_validator(mode="after")
    def check_bounds(self) -> Self:
        """At least as many at most as at least."""
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas is {self.max_replicas}; it must be at least min_replicas")
        return self

    @property
    def targets(self) -> dict[str, float]:
        """What one replica should have at most, by the name of the measure."""
        fields = self.model_dump().items()
        return {name.removeprefix("target_"): float(value) for name, value in fields if name.startswith("target_")}


class PrefillAutoscaling(AutoscalingSection):
    """By prompt tokens that wait to be computed."""

    target_queued_tokens: Count = 8192


class DecodeAutoscaling(AutoscalingSection):
    """By the part of the KV pool that is in use."""

    target_kv_usage: Annotated[float, Field(gt=0, le=1)] = 0.8


class UnifiedAutoscaling(PrefillAutoscaling, DecodeAutoscaling):
    """By both, whichever asks for more."""


class PoolSection(Section):
    """One pool of workers: how many replicas and what each asks Ray for."""

    replicas: Count = 1
    num_cpus: Annotated[float, Field(ge=0)] = 1.0
    num_gpus: GpuCount | None = None
    policy: PolicyName = "prefix"
    max_ongoing_requests: Count = 1024
    label_selector: LabelSelector = Field(default_factory=dict)
    autoscaling: AutoscalingSection | None = None

    @model_validator(mode="after")
    def check_replicas(self) -> Self:
        """A fixed number, or one that follows the load."""
        if self.autoscaling is not None and "replicas" in self.model_fields_set:
            raise ValueError("autoscaling decides on the number of replicas: leave replicas out, or autoscaling")
        return self

    @property
    def most_replicas(self) -> int:
        """How many there may be at a time."""
        return self.replicas if self.autoscaling is None else self.autoscaling.max_replicas


class PrefillSection(PoolSection):
    """The prefill pool."""

    autoscaling: PrefillAutoscaling | None = None


class DecodeSection(PoolSection):
    """The decode pool."""

    autoscaling: DecodeAutoscaling | None = None


class UnifiedSection(PoolSection):
    """A pool whose workers prefill and decode."""

    autoscaling: UnifiedAutoscaling | None = None


class PoolsSection(Section):
    """A prefill pool and a decode pool, or one pool, `unified`, whose workers do both.

    Attributes:
        local_prefill_tokens: a prompt of which a decode worker has to compute at most so many tokens skips the prefill
            pool (docs/pools.md has what it is worth).
        step_timeout_s: after so long a step of a worker's engine counts as hung.
        drain_timeout_s: a worker that is to stop finishes what it has for so long; what is left goes on elsewhere.
    """

    prefill: PrefillSection = PrefillSection()
    decode: DecodeSection = DecodeSection()
    unified: UnifiedSection | None = None
    local_prefill_tokens: Annotated[int, Field(ge=0)] = 128
    step_timeout_s: Seconds = STEP_TIMEOUT_S
    drain_timeout_s: Seconds = 30.0

    @model_validator(mode="after")
    def check_unified(self) -> Self:
        """One pool or two."""
        if self.unified is not None and self.model_fields_set & {"prefill", "decode", "local_prefill_tokens"}:
            raise ValueError("unified stands alone: leave prefill, decode and local_prefill_tokens out, or unified")
        return self

    @property
    def by_name(self) -> dict[PoolName, PoolSection]:
        """The pools that there are."""
        if self.unified is not None:
            return {"unified": self.unified}
        return {"prefill": self.prefill, "decode": self.decode}


class IngressSection(Section):
    """The replicas that speak HTTP, tokenise and route."""

    replicas: Count = 1
    max_ongoing_requests: Count = 256
    label_selector: LabelSelector = Field(default_factory=dict)


class ClusterConfig(Section):
    """A whole cluster. `model` is a directory or a Hugging Face Hub id; `dashboard_port` is where `raydix serve` has
    Ray's dashboard and job server, on loopback; None for neither."""

    model: str = str(TINY_MODEL)
    served_model_name: str | None = None
    http: HttpSection = HttpSection()
    grpc: GrpcSection = GrpcSection()
    auth: AuthSection = AuthSection()
    admin: AdminSection = AdminSection()
    dashboard_port: Port | None = None
    engine: EngineSection = EngineSection()
    pools: PoolsSection = PoolsSection()
    ingress: IngressSection = IngressSection()
    tracing: TracingSection = TracingSection()
    logs: LogsSection = LogsSection()

    @property
    def grpc_address(self) -> tuple[str, int] | None:
        """Host and port of the gRPC API; None for none."""
        return None if self.grpc.port is None else (self.grpc.host or self.http.host, self.grpc.port)

    @property
    def model_name(self) -> str:
        """What clients call the model: the name given, or the last part of the path or id."""
        return self.served_model_name or Path(os.path.abspath(self.model)).name  # "." has no name of its own


def parse_config(values: dict[str, Any]) -> ClusterConfig:
    """Check a configuration. Raises ConfigError that names every key at fault."""
    try:
        config = ClusterConfig.model_validate(values)
        config.engine.engine_config()
        check_devices(config)
        check_proxy(config.http)
        check_ports(config)
        check_who_may_ask(config.auth, config.http.host)
        if config.grpc_address is not None:
            check_who_may_ask(config.auth, config.grpc_address[0], "grpc.host")
    except ValidationError as error:
        raise ConfigError("\n".join(explain(item) for item in error.errors())) from error
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"engine: {error}") from error
    return config


def check_devices(config: ClusterConfig) -> None:
    """Raise ConfigError where a pool's num_gpus contradicts the device."""
    device = config.engine.device
    for name, pool in config.pools.by_name.items():
        if pool.num_gpus is None:
            continue
        if device == "cpu" and pool.num_gpus > 0:
            raise ConfigError(f"pools.{name}.num_gpus is {pool.num_gpus:g}, but engine.device is cpu; drop one of them")
        if device == "cuda" and pool.num_gpus == 0:
            raise ConfigError(f"pools.{name}.num_gpus is 0, but engine.device is cuda; take auto to mix CPUs and GPUs")


def check_ports(config: ClusterConfig) -> None:
    """Raise ConfigError where two things would listen on one port."""
    ports = {"http.port": config.http.port, "grpc.port": config.grpc.port, "admin.port": config.admin.port}
    for (key, port), (other, taken) in combinations(ports.items(), 2):
        if port is not None and port == taken:
            raise ConfigError(f"{key} and {other} are both {port}; each needs a port of its own")


def load_config(path: Path) -> ClusterConfig:
    """Read a YAML file. Raises ConfigError where it cannot be read or `parse_config` refuses it."""
    try:
        values = yaml.safe_load(path.read_text("utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of keys to values, not a {type(values).__name__}")
    try:
        return parse_config(values)
    except ConfigError as error:
        raise ConfigError(f"{path}:\n{error}") from error
