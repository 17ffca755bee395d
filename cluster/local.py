"""A cluster of its own on this machine: started, watched, and ended without a trace."""

import contextlib
import errno
import functools
import json
import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator

import ray
from ray import serve
from ray._private import parameter

from cluster.access.tenants import read_tenants
from cluster.app import build_app
from cluster.config import ClusterConfig, ConfigError, DeployError
from cluster.placement import check_enough_gpus, cluster_gpus
from workers.engine.build import check_model
from workers.weights.model_dir import resolve_model_dir

APP_NAME = "raydix"
LOOPBACK = "127.0.0.1"
STATUS_PERIOD_S = 2.0
SERVE_WAITS_S = 5.0  # longer than a request may take, for the ingress to say so itself
ENDINGS = (signal.SIGINT, signal.SIGTERM)
STARTED_S = time.monotonic()


def serve_until_interrupted(config: ClusterConfig) -> None:
    """Start Ray and Serve, deploy, print how to use it, wait for Ctrl-C or SIGTERM, and end every process started.

    Raises:
        ConfigError: the port is taken, the keys file cannot be used, or the pools ask for GPUs that are not there.
        ModelError: the model cannot be served.
        DeployError: a replica cannot start.
    """
    check_port_free(config.http.host, config.http.port)
    if config.grpc_address is not None:
        check_port_free(*config.grpc_address, "grpc.port")
    if config.dashboard_port is not None:
        check_port_free(LOOPBACK, config.dashboard_port, "--dashboard-port")
    for path in filter(None, (config.auth.keys_path, config.admin.keys_path)):
        read_tenants(path)  # refused before Ray starts
    for ending in ENDINGS:  # a shell may have told a background job to ignore SIGINT
        signal.signal(ending, signal.default_int_handler)
    try:
        with local_cluster(config):
            print(ready_message(config, metrics_url()), flush=True)
            signal.pause()
    except KeyboardInterrupt:
        print("\nstopped", flush=True)


@contextlib.contextmanager
def local_cluster(config: ClusterConfig) -> Iterator[None]:
    """A Ray cluster that serves `config` for as long as the context lasts.

    For it to have the proxy that `config` names, `cluster.haproxy.proxy_environment` must have been entered before this
    module was imported.
    """
    check_model(resolve_model_dir(config.model))  # a model that cannot be served is refused before Ray starts
    say("starting Ray")
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        with interrupts_deferred():  # Ray's agents outlive an interrupted ray.init by a minute
            start_ray(config)
        gpus = cluster_gpus()
        check_enough_gpus(config, gpus)
        app = build_app(config, gpus, worker_host=LOOPBACK)
        say("starting Serve")
        late_s = config.http.request_timeout_s + SERVE_WAITS_S
        http = {"host": config.http.host, "port": config.http.port, "request_timeout_s": late_s}
        serve.start(proxy_location="HeadOnly", http_options=http, logging_config=config.logs.for_serve)
        say(f"loading {config.model}")
        with progress():
            deploy(app)
        yield
    finally:
        with interrupts_deferred():
            stop_cluster()


def start_ray(config: ClusterConfig) -> None:
    """Start Ray with at least the CPUs that the pools ask for: on a laptop, sharing cores beats waiting for ever."""
    pools = config.pools.by_name.values()
    num_cpus = max(os.cpu_count() or 1, int(sum(pool.most_replicas * pool.num_cpus for pool in pools)) + 1)
    port = config.dashboard_port
    dashboard = {"include_dashboard": port is not None, "dashboard_host": LOOPBACK, "dashboard_port": port}
    with agent_port_of_its_own():
        ray.init(address="local", num_cpus=num_cpus, logging_level=logging.WARNING, **dashboard)


@contextlib.contextmanager
def agent_port_of_its_own() -> Iterator[None]:
    """Have `ray.init` start an agent at any free port.

    Jobs go through the agent. Ray 2.60 gives those of all clusters of a machine one port, which only the first gets;
    the others then run without, silently. `ray start` has an option for it, `ray.init` has none.
    """
    before = parameter.RayParams
    parameter.RayParams = functools.partial(before, dashboard_agent_listen_port=0)
    try:
        yield
    finally:
        parameter.RayParams = before


def deploy(app: serve.Application) -> None:
    """Run the application. Raises DeployError where a replica cannot start, with what it says of its model."""
    try:
        serve.run(app, name=APP_NAME, route_prefix="/")
    except RuntimeError as error:
        said = refused_model() or f"{error} The log above has the reason"
        raise DeployError(f"the cluster did not come up: {said}") from error


def refused_model() -> str:
    """The line in which a replica has refused its model: tensors are read by the workers only. Empty where none has."""
    application = serve.status().applications.get(APP_NAME)
    messages = [deployment.message for deployment in application.deployments.values()] if application else []
    found = re.search(r"ModelError: (.+)", "\n".join(messages))
    return found[1] if found else ""


def stop_cluster() -> None:
    """End every process of the cluster."""
    say("stopping")
    if ray.is_initialized():
        serve.shutdown()
        ray.shutdown()


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Let what is inside finish before a Ctrl-C or SIGTERM that came meanwhile is raised as KeyboardInterrupt."""
    came: list[int] = []
    before = {ending: signal.signal(ending, lambda number, _: came.append(number)) for ending in ENDINGS}
    try:
        yield
    finally:
        for ending, handler in before.items():
            signal.signal(ending, handler)
    if came:
        raise KeyboardInterrupt


@contextlib.contextmanager
def progress() -> Iterator[None]:
    """Print which deployments are up while the context lasts."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(STATUS_PERIOD_S):
            app = serve.status().applications.get(APP_NAME)
            states = {name: state.status.value.lower() for name, state in app.deployments.items()} if app else {}
            say(", ".join(f"{name} {state}" for name, state in states.items()) or "deploying")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def check_port_free(host: str, port: int, option: str = "--port") -> None:
    """Raise ConfigError where something listens there, or the address is not one of this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            hint = f"choose another with {option}" if error.errno == errno.EADDRINUSE else "choose another with --host"
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}; {hint}") from error


def metrics_url() -> str:
    """Where Ray exports the metrics of this node (docs/metrics.md)."""
    (node,) = ray.nodes()
    return f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"


def ready_message(config: ClusterConfig, metrics: str) -> str:
    """What to type next."""
    base = f"http://{config.http.host}:{config.http.port}"
    prompt = "def read_file(path):\n    with open("
    who = f"anybody who reaches {config.http.host} may ask: there are no API keys (docs/security.md)"
    header = ""
    if config.auth.keys_file is not None:
        who, header = f"who may ask: {config.auth.keys_file}", '-H "Authorization: Bearer $RAYDIX_API_KEY" '
    jobs = (
        "" if config.dashboard_port is None else f"  dashboard and jobs at http://{LOOPBACK}:{config.dashboard_port}\n"
    )
    grpc = "" if config.grpc_address is None else "gRPC at {}:{} (docs/grpc.md)\n".format(*config.grpc_address)
    body = json.dumps({"model": config.model_name, "prompt": prompt, "max_tokens": 24, "temperature": 0})
    return f"""
raydix serves {config.model_name!r} at {base}/v1  (Ctrl-C stops it)
{who}
{grpc}metrics for Prometheus at {metrics}
{jobs}
  curl {base}/v1/completions {header}-H 'Content-Type: application/json' \\
    -d '{body}'
"""


def say(message: str) -> None:
    """One line of progress with the time since the process began."""
    print(f"[{time.monotonic() - STARTED_S:5.1f} s] {message}", flush=True)
