"""Servers to put the same load on: clusters that differ in one thing, and vLLM where it is installed."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.serving import serving
from cluster.haproxy import free_ports
from workers.engine.build import kv_bytes_per_token
from workers.models.spec import read_model_spec

KV_TOKENS = 4096  # of one worker's pool; vLLM, which has one worker, gets two pools
VLLM_BLOCK_SIZE = 128  # what vLLM takes on a CPU
VLLM_START_S = 900.0  # it compiles the model, the first time
POOLS: Mapping[str, str] = {
    "unified, prefix": "pools: {unified: {replicas: 2, policy: prefix}}",
    "unified, round_robin": "pools: {unified: {replicas: 2, policy: round_robin}}",
    "prefill + decode": "pools: {prefill: {replicas: 1}, decode: {replicas: 1}}",
    "unified, no cache": "pools: {unified: {replicas: 2}}",
}


@dataclass(frozen=True)
class Servers:
    """What is measured.

    Attributes:
        model_dir: the model that all of them serve.
        vllm_python: a Python that has vLLM; None leaves it out.
    """

    model_dir: Path
    vllm_python: Path | None = None

    @property
    def names(self) -> list[str]:
        """In the order in which they are asked."""
        return [*POOLS, *(["vLLM"] if self.vllm_python else [])]

    @contextlib.contextmanager
    def started(self, name: str) -> Iterator[int]:
        """The port of one of them, which ends with the context."""
        if name == "vLLM" and self.vllm_python:
            with vllm_serving(self.vllm_python, self.model_dir) as port:
                yield port
        else:
            with serving(self.config(name)) as port:
                yield port

    def config(self, name: str) -> str:
        """A configuration as `serving` wants it: a format string."""
        spec = read_model_spec(self.model_dir)
        pool_mib = -(-KV_TOKENS * kv_bytes_per_token(spec, torch.bfloat16) // 2**20)
        engine = f"{{kv_cache_mib: {pool_mib}, enable_prefix_caching: {str(name != 'unified, no cache').lower()}}}"
        text = f"model: {self.model_dir}\nengine: {engine}\n{POOLS[name]}\nhttp: {{port: PORT}}\n"
        return text.replace("{", "{{").replace("}", "}}").replace("PORT", "{port}")


@contextlib.contextmanager
def vllm_serving(python: Path, model_dir: Path) -> Iterator[int]:
    """vLLM's own server on both cores, bfloat16, with as much KV as two of our workers, and its cached tokens told."""
    (port,) = free_ports(1)
    blocks = 2 * KV_TOKENS // VLLM_BLOCK_SIZE
    options = f"--host 127.0.0.1 --port {port} --dtype bfloat16 --block-size {VLLM_BLOCK_SIZE} --max-model-len 2048"
    options += f" --num-gpu-blocks-override {blocks} --enable-prefix-caching --enable-prompt-tokens-details"
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model_dir), *options.split()]
    with tempfile.TemporaryDirectory(prefix="rx", dir="/tmp") as name:
        log = Path(name) / "log"
        variables = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
        with log.open("wb") as out, subprocess.Popen(command, env=variables, stdout=out, stderr=out) as process:
            try:
                wait_for_health(process, f"http://127.0.0.1:{port}/health", log)
                yield port
            finally:
                process.terminate()


def wait_for_health(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Raises RuntimeError where the server ends or does not answer in time."""
    end_s = time.monotonic() + VLLM_START_S
    while process.poll() is None and time.monotonic() < end_s:
        with contextlib.suppress(urllib.error.URLError, ConnectionError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.5)
    print(log.read_text()[-2000:], file=sys.stderr)
    raise RuntimeError(f"nothing answers at {url}")
