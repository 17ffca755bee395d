"""The same load on servers that differ in one thing: routing, pools, the prefix cache; and on vLLM.

    python -m bench.load_policies [--model DIR] [--vllm PYTHON] [--rounds 2] [--share 1.0] [--svg FILE] [--json]

Each is started afresh, one at a time, in turn; of ours each is `raydix serve` with two workers. In a round all of them
are asked the same, in another round something else. A worker's KV pool of 4,096 tokens holds at most 11 of the 16
beginnings of `shared-prefix` (347 tokens each of the bundled model's); two together hold all of them.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.load_servers import Servers
from bench.timing import machine
from cluster.loadtest.plot import svg
from cluster.loadtest.report import report
from cluster.loadtest.run import Run, run
from cluster.loadtest.settings import Settings
from workers.weights.model_dir import TINY_MODEL

LOADS = (
    Settings("shared-prefix", 1, requests=240, prefixes=16, prefix_words=300, words=50, max_tokens=16, concurrency=4),
    Settings("unique", 2, requests=160, words=350, max_tokens=16, concurrency=4),
    Settings("multi-turn", 3, requests=160, turns=5, words=120, max_tokens=16, concurrency=4),
)
PLOTTED = "shared-prefix"
Json = dict[str, Any]
Key = tuple[str, str]


def measure(servers: Servers, loads: Sequence[Settings], rounds: int) -> dict[Key, list[Run]]:
    """A run for each round, by profile and server."""
    runs: dict[Key, list[Run]] = {(load.profile, name): [] for load in loads for name in servers.names}
    for number in range(rounds):
        for name in servers.names:
            with servers.started(name) as port:
                for load in loads:
                    print(f"round {number + 1}: {name}, {load.profile}", file=sys.stderr, flush=True)
                    settings = replace(load, url=f"http://127.0.0.1:{port}", seed=load.seed + 100 * number)
                    runs[load.profile, name].append(asyncio.run(run(settings)))
    return runs


def row(load: Settings, runs: list[Run]) -> Json:
    """The medians of the rounds, and the load as it was when they were reckoned."""
    totals = [report(one, load)["total"] for one in runs]
    return {
        "failed": sum(total["failed"] for total in totals),
        "cached_share": median(total["cached_share"] for total in totals),
        "cached_share_of_possible": median(total["cached_share_of_possible"] for total in totals),
        "ttft_p50_ms": median(total["ttft_ms"].get("p50") for total in totals),
        "ttft_p99_ms": median(total["ttft_ms"].get("p99") for total in totals),
        "itl_p50_ms": median(total["itl_ms"].get("p50") for total in totals),
        "answers_per_s": median(total["answers_per_s"] for total in totals),
        "answers_per_s_of_each": [total["answers_per_s"] for total in totals],
    }


def median(values: Any) -> float | None:
    """Of those that there are."""
    known = [value for value in values if value is not None]
    return round(statistics.median(known), 3) if known else None


def table(rows: Mapping[Key, Json]) -> str:
    """In Markdown."""
    names = ["cached_share", "cached_share_of_possible", "ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms", "answers_per_s"]
    lines = [f"| profile | server | {' | '.join(names)} | failed |", f"|{' --- |' * (len(names) + 3)}"]
    for (profile, cluster), figures in rows.items():
        lines.append(f"| {profile} | {cluster} | {' | '.join(str(figures[name]) for name in [*names, 'failed'])} |")
    return "\n".join(lines)


def plot(runs: Mapping[Key, list[Run]]) -> str:
    """How many prompt tokens had to be computed, of one profile's first round: busy neighbours do not change that."""
    lines = {
        cluster: computed_tokens([(one.prompt_tokens, one.cached_tokens) for one in some[0].heard])
        for (profile, cluster), some in runs.items()
        if profile == PLOTTED
    }
    return svg(f"{PLOTTED}: prompt tokens computed so far", "requests answered", "tokens", lines)


def computed_tokens(prompts: Iterable[tuple[int, int]]) -> list[tuple[float, float]]:
    """Prompt and cached tokens of each answer in turn: the answers so far, and the prompt tokens computed for them."""
    return list(enumerate(itertools.accumulate((prompt - cached for prompt, cached in prompts), initial=0)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=TINY_MODEL, metavar="DIR", help="the bundled one")
    parser.add_argument("--vllm", type=Path, metavar="PYTHON", help="a Python that has vLLM, to measure it as well")
    parser.add_argument("--rounds", type=int, default=2, help="of all servers (2)")
    parser.add_argument("--share", type=float, default=1.0, help="of the requests, for slower models (1)")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write a plot there")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    servers = Servers(options.model.resolve(), options.vllm)
    loads = [replace(load, requests=round(load.requests * options.share)) for load in LOADS]
    runs = measure(servers, loads, options.rounds)
    rows: dict[Key, Json] = {
        (load.profile, name): row(load, runs[load.profile, name]) for load in loads for name in servers.names
    }
    if options.svg:
        options.svg.write_text(plot(runs), "utf-8")
    where = machine()
    if options.json:
        print(json.dumps({"machine": where, "rows": {", ".join(key): value for key, value in rows.items()}}, indent=2))
        return
    print(table(rows))
    print(f"\n{where}")


if __name__ == "__main__":
    main()
