"""One server under many requests, under far too many, and while it is updated.

    python -m bench.soak [--requests 10000] [--json] [--clients 16] [--seconds 10] [--updates 5] [--replicas 2]

Starts `raydix serve` with the bundled model. A fifth of the clients leave before their answer is whole. Then requests
come at ten times the rate that the server was measured to take. Then the same application is deployed again and again
under load. Every answer that ends is compared with the one that nothing disturbed.
"""

import argparse
import asyncio
import json
import time

from bench.faults.inject import say
from bench.faults.load import Load
from bench.faults.remote import Json, Remote
from bench.faults.report import report
from bench.faults.requests import Case, cases, pieces
from bench.processes import interruptible
from bench.soak.aborts import ABORTED, Crowd, growth, held, quiet
from bench.soak.overload import overload
from bench.soak.server import server
from bench.timing import machine
from cluster.config import ClusterConfig
from workers.tokenizer import Tokenizer
from workers.weights.model_dir import resolve_model_dir

NUM_CASES, MAX_TOKENS, WARM_UP = 32, 8, 500
OVERLOAD, MAX_ONGOING = 10.0, 64
COUNTS = ("requests", "failed", "lost_tokens", "duplicated_tokens", "changed_tokens", "reasons", "failures", "examples")


def settings(replicas: int) -> Json:
    """So many of everything, and few enough slots at the front doors for an overload to fill them."""
    each = {"replicas": replicas}
    ingress = each | {"max_ongoing_requests": MAX_ONGOING // replicas}
    return {"ingress": ingress, "pools": {"prefill": each, "decode": each}, "engine": {"kv_cache_mib": 64}}


async def run(options: argparse.Namespace) -> Json:
    """All three parts on one server."""
    async with server(settings(options.replicas)) as (driver, port):
        asked = await cases(port, NUM_CASES, MAX_TOKENS)
        say(f"{len(asked)} undisturbed answers taken")
        figures: Json = {"soak": await soak(driver, port, asked, options)}
        peak = await Crowd(port, asked, int(options.seconds * figures["soak"]["requests_per_s"]), 0.0, 1).run(32)
        say(f"peak {peak:.1f} requests/s")
        figures["peak_per_s"] = round(peak, 1)
        figures["overload"] = await overload(port, asked, peak, OVERLOAD, options.seconds)
        figures["after_overload"] = held(await quiet(driver))
        figures["updates"] = await updates(driver, port, asked, options.updates)
        return figures


async def soak(driver: Remote, port: int, asked: list[Case], options: argparse.Namespace) -> Json:
    """The many requests, and what is left of them."""
    await Crowd(port, asked, WARM_UP, ABORTED, 2).run(options.clients)
    before, names_before = await quiet(driver), await driver.do("tasks")
    crowd = Crowd(port, asked, options.requests, ABORTED, 3)
    rate = await crowd.run(options.clients)
    after = await quiet(driver)
    figures = judged(report(crowd.answers, [], {}, tokens_of))
    figures |= {"aborted": crowd.num_aborted, "requests_per_s": round(rate, 1)} | held(after)
    names = await driver.do("tasks")
    return figures | {"growth": growth(before, after), "new_tasks": new_tasks(names_before, names)}


async def updates(driver: Remote, port: int, asked: list[Case], count: int) -> Json:
    """The same application deployed again, so many times, while clients go on asking."""
    load, took_s = Load(port, asked, 4, 4), []
    for number in range(count):
        begin_s = time.monotonic()
        await driver.do("redeploy")
        took_s.append(round(time.monotonic() - begin_s, 1))
        say(f"update {number + 1}: {took_s[-1]} s, {len(load.answers)} answers")
    await load.stop()
    return judged(report(load.answers, [], {}, tokens_of)) | {"updates": count, "took_s": took_s}


def judged(figures: Json) -> Json:
    """What a report says of the answers."""
    return {name: figures[name] for name in COUNTS}


def tokens_of(text: str) -> list[str]:
    """By the model's own tokenizer; wanted only where answers differ."""
    return pieces(Tokenizer(resolve_model_dir(ClusterConfig().model)), text)


def new_tasks(before: dict[str, list[str]], after: dict[str, list[str]]) -> dict[str, list[str]]:
    """Coroutines that are pending in a replica more often than before."""
    return {
        name: sorted(one for one in set(names) if names.count(one) > before.get(name, []).count(one))
        for name, names in after.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    parser.add_argument("--requests", type=int, default=10_000, help="of the soak (10000)")
    parser.add_argument("--clients", type=int, default=16, help="that ask at once (16)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of measuring the peak, and of the overload (10)")
    parser.add_argument("--replicas", type=int, default=2, help="of each pool and of the ingress (2)")
    parser.add_argument("--updates", type=int, default=5, help="rolling updates (5)")
    options = parser.parse_args()
    interruptible()
    figures = asyncio.run(run(options)) | {"machine": machine()}
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    for part, values in figures.items():
        for name, value in values.items() if isinstance(values, dict) else [("", values)]:
            print(f"{part:16} {name:20} {value}")


if __name__ == "__main__":
    main()
