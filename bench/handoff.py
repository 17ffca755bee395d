"""KV from one replica to another on real Ray Serve: through Ray's object store, or fetched over gRPC.

    python -m bench.handoff [--json]

Both are the whole hand-off, from the call that computes a prompt to the decode replica that has verified every block:
two calls from a third process, checksums at both ends. *By reference*: the unawaited response of the first call is
passed to the second, and Ray maps the bytes from its object store. *Fetched*: the first call returns a ticket and the
second fetches frames over gRPC, worker to worker (`cluster/kv_transfer.py`).
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
import zlib
from typing import Any

import numpy as np
import ray
import torch
from ray import serve
from ray.serve.handle import DeploymentHandle

from bench.report import print_table
from bench.timing import machine
from cluster.kv_transfer import WorkerClient, serve_kv
from cluster.worker_server import WorkerServer
from workers.pools.handoff_shelf import HandoffShelf
from workers.pools.kv_frames import ReceivedBlocks
from workers.pools.kv_handoff import KVBytes, KVTicket, Prefilled, digest_tokens

TOKEN, LOOPBACK, LAYOUT = "bench", "127.0.0.1", "bench"
BLOCK_SHAPE = (6, 2, 16, 2, 64)  # of the bundled model in bfloat16: 48 KiB
BLOCK_BYTES = 6 * 2 * 16 * 2 * 64 * 2
SIZES_MIB = (1, 16, 128)
ROUNDS = 15


class Prefill:
    """Has KV of any size, and gives it away in either manner."""

    async def __init__(self) -> None:  # type: ignore[misc]
        server = WorkerServer(TOKEN, LOOPBACK)
        self._shelf = HandoffShelf("life")
        serve_kv(server, self._shelf)
        self._endpoint = await server.start()
        self._blocks = {size: random_blocks(size) for size in SIZES_MIB}

    async def whole(self, size_mib: int) -> tuple[KVBytes, list[int]]:
        """The bytes and their checksums, into the object store."""
        blocks = self._blocks[size_mib]
        return blocks, [zlib.crc32(block.data) for block in blocks]

    async def ticket(self, size_mib: int, request_id: str) -> Prefilled:
        """Where to fetch them."""
        ticket = self._shelf.put(request_id, self._blocks[size_mib], self._endpoint, b"")
        return prefilled(size_mib, ticket)


class Decode:
    """Takes KV in until every block is verified and copied."""

    def __init__(self) -> None:
        self._client = WorkerClient(TOKEN)

    async def take(self, handoff: tuple[KVBytes, list[int]]) -> int:
        """From the object store."""
        blocks, checksums = handoff
        if [zlib.crc32(block.data) for block in blocks] != checksums:
            raise ValueError("a checksum is wrong")
        return int(blocks.copy().nbytes)

    async def fetch(self, handoff: Prefilled) -> int:
        """Over gRPC."""
        tokens = range(handoff.num_tokens)
        received = ReceivedBlocks(handoff, tokens, LAYOUT, BLOCK_SHAPE, torch.bfloat16)
        assert handoff.ticket is not None
        await self._client.fetch(handoff.ticket, received)
        return handoff.num_tokens // BLOCK_SHAPE[2] * BLOCK_BYTES


class Caller:
    """The third process, as the ingress is one."""

    def __init__(self, prefill: DeploymentHandle, decode: DeploymentHandle) -> None:
        self._by_reference = prefill.options(_by_reference=True), decode.options(_by_reference=True)
        self._by_value = prefill.options(_by_reference=False), decode.options(_by_reference=False)

    async def measure(self, size_mib: int, rounds: int) -> dict[str, list[float]]:
        """Seconds of each round, the two ways in turn; the first round warms up."""
        seconds: dict[str, list[float]] = {"by reference": [], "fetched": []}
        for count in range(rounds + 1):
            for name, way in (("by reference", self.refer), ("fetched", self.fetch)):
                begin_s = time.perf_counter()
                await way(size_mib, f"{name}{count}")
                if count:
                    seconds[name].append(time.perf_counter() - begin_s)
                await asyncio.sleep(0.02)
        return seconds

    async def refer(self, size_mib: int, _: str) -> None:
        """Pass the unawaited response on."""
        prefill, decode = self._by_reference
        await decode.take.remote(prefill.whole.remote(size_mib))

    async def fetch(self, size_mib: int, request_id: str) -> None:
        """Pass the ticket on."""
        prefill, decode = self._by_value
        await decode.fetch.remote(await prefill.ticket.remote(size_mib, request_id))


def random_blocks(size_mib: int) -> KVBytes:
    """Whole blocks of about this size."""
    return np.random.default_rng(size_mib).integers(0, 256, (size_mib * 2**20 // BLOCK_BYTES, BLOCK_BYTES), np.uint8)


def prefilled(size_mib: int, ticket: KVTicket) -> Prefilled:
    """The words that go with blocks of this size."""
    num_tokens = size_mib * 2**20 // BLOCK_BYTES * BLOCK_SHAPE[2]
    return Prefilled(ticket.request_id, LAYOUT, digest_tokens(range(num_tokens)), num_tokens, 0, 1, None, ticket=ticket)


def run(rounds: int) -> list[dict[str, Any]]:
    """A row for each size and way."""
    pools = [serve.deployment(kind, ray_actor_options={"num_cpus": 0}).bind() for kind in (Prefill, Decode)]
    caller = serve.deployment(Caller, ray_actor_options={"num_cpus": 0}).bind(*pools)
    handle = serve.run(caller, name="bench", route_prefix=None)
    rows = []
    for size_mib in SIZES_MIB:
        for name, seconds in handle.measure.remote(size_mib, rounds).result().items():
            low, high = min(seconds) * 1e3, max(seconds) * 1e3
            median_ms = round(statistics.median(seconds) * 1e3, 1)
            rows.append({"mib": size_mib, "way": name, "median_ms": median_ms, "min_ms": round(low, 1)})
            rows[-1]["max_ms"] = round(high, 1)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    print("starting Ray", file=sys.stderr)
    ray.init(address="local", num_cpus=4, include_dashboard=False, logging_level="WARNING")
    try:
        rows = run(arguments.rounds)
    finally:
        serve.shutdown()
        ray.shutdown()
    if arguments.json:
        print(json.dumps({"rows": rows, "machine": machine()}, indent=1))
    else:
        print_table(rows)


if __name__ == "__main__":
    main()
