"""Faults in a real cluster under load, and what clients notice of them.

    python -m bench.faults --kills 100 [--json] [--minutes M] [--clients N] [--kinds "SIGKILL decode,SIGKILL node"]
    python -m bench.faults --sweep [STEP]

Starts Ray with a head node and two worker nodes on this machine, two prefill workers, two decode workers and two
ingress replicas. Clients stream completions whose undisturbed answers were taken before. Replicas are killed, frozen
and told to end, and nodes are killed, one after the other, each when the cluster is whole again. --sweep kills the
decode replica of a stream of 64 tokens at every STEP-th of its tokens instead.
"""

import argparse
import asyncio
import contextlib
import json
import math
import time
from collections.abc import AsyncIterator

from bench.faults.inject import KINDS, Injector, say
from bench.faults.load import Load
from bench.faults.remote import Json, Remote, remote
from bench.faults.report import report
from bench.faults.requests import cases, pieces
from bench.faults.sweep import sweep
from bench.processes import interruptible
from bench.timing import machine
from cluster.config import ClusterConfig
from cluster.haproxy import free_ports
from workers.tokenizer import Tokenizer
from workers.weights.model_dir import resolve_model_dir

NUM_CASES = 48
QUIET_S = 30.0  # leases of KV that nobody fetched end within ten seconds


def config(port: int) -> Json:
    """Two of everything, memory that fits into any machine, and a hand-off for every prompt."""
    two = {"replicas": 2}
    pools = {"prefill": two, "decode": two, "local_prefill_tokens": 0}
    return {"http": {"port": port}, "pools": pools, "ingress": two, "engine": {"kv_cache_mib": 64}}


@contextlib.asynccontextmanager
async def cluster() -> AsyncIterator[tuple[Remote, int]]:
    """One that serves, and its port."""
    (port,) = free_ports(1)
    say("starting the cluster")
    async with remote("bench.faults.cluster", json.dumps(config(port))) as spoken:
        await spoken.do("deploy")
        yield spoken, port


async def leaks(spoken: Remote) -> Json:
    """What the workers still hold when nobody asks for anything any more, given a while to let go of it."""
    end_s = time.monotonic() + QUIET_S
    names = ("leaked_blocks", "unfinished", "shelved")
    while True:
        seen = (await spoken.do("look"))["replicas"]
        held = {name: sum(one.get(name, 0) for one in seen) for name in names}
        if not any(held.values()) or time.monotonic() > end_s:
            return held
        await asyncio.sleep(1.0)


async def run(options: argparse.Namespace) -> Json:
    """Start, load, faults, report."""
    async with cluster() as (spoken, port):
        if options.sweep:
            return await sweep(spoken, port, options.sweep)
        return await faults(spoken, port, options)


async def faults(spoken: Remote, port: int, options: argparse.Namespace) -> Json:
    """The faults under load."""
    asked = await cases(port, NUM_CASES)
    say(f"{len(asked)} undisturbed answers taken")
    tokenizer = Tokenizer(resolve_model_dir(ClusterConfig().model))
    load, injector = Load(port, asked, options.clients, options.seed), Injector(spoken, options.seed, options.kinds)
    try:
        await injector.run(options.kills, time.monotonic() + 60 * options.minutes)
    except RuntimeError as error:
        say(f"given up: {error}")
    await load.stop()
    held = await leaks(spoken)
    return report(load.answers, injector.faults, held, lambda text: pieces(tokenizer, text))


def kinds(text: str) -> list[str]:
    """Names of faults. Raises ArgumentTypeError where one is unknown."""
    named = [name.strip() for name in text.split(",")]
    if unknown := set(named) - set(KINDS):
        raise argparse.ArgumentTypeError(f"no such fault: {', '.join(unknown)}; there are {', '.join(KINDS)}")
    return named


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    parser.add_argument("--kills", type=int, default=20, help="how many faults (20)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="inject no more after so long")
    parser.add_argument("--clients", type=int, default=8, help="that ask at once (8)")
    parser.add_argument("--kinds", type=kinds, default=list(KINDS), help=f"of {', '.join(KINDS)}")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (0)")
    parser.add_argument("--sweep", type=int, nargs="?", const=1, help="at every STEP-th token of one stream (1)")
    options = parser.parse_args()
    interruptible()
    figures = asyncio.run(run(options)) | {"machine": machine()}
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        print(f"{name:28} {value}")


if __name__ == "__main__":
    main()
