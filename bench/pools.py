"""Two pools or one, and from which length on a prompt is worth a hop: the same requests to three clusters in turns.

    python -m bench.pools [--json] [--rounds N]

Each cluster has two workers of the bundled model: *split* (every prompt goes to the prefill worker), *local* (the
decode worker computes all prompts, the other is idle), *unified* (one pool of two). First, next turns: a conversation
of 600 tokens is told once, then goes on by so many tokens more. Then 8 clients at once, with prompts of 400 tokens and
48 tokens to generate.
"""

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import sys
import time
from collections import defaultdict
from itertools import pairwise
from typing import Any, NamedTuple

from bench.report import print_table
from bench.serving import serving
from bench.timing import machine

CASES = {
    "split": "pools: {{local_prefill_tokens: 0}}\n",
    "local": "pools: {{local_prefill_tokens: 1000000}}\n",
    "unified": "pools: {{unified: {{replicas: 2}}}}\n",
}
HISTORY_TOKENS, REST_TOKENS = 600, (16, 64, 128, 256)
CLIENTS, REQUESTS_EACH = 8, 2


class Timed(NamedTuple):
    """One stream: seconds to its first text, the longest and the mean pause after it, and how many pieces it had."""

    first_s: float
    longest_s: float
    mean_s: float
    pieces: int


async def stream(port: int, prompt: list[int], num_tokens: int) -> Timed:
    """Ask for a completion. Raises RuntimeError where it does not come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = {"model": "tiny", "prompt": prompt, "max_tokens": num_tokens, "stream": True, "ignore_eos": True}
    content = json.dumps(body | {"temperature": 0}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    begin_s = time.perf_counter()
    writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    times_s = []
    while line := await reader.readline():
        if line.startswith(b'data: {"id"'):
            times_s.append(time.perf_counter() - begin_s)
    writer.close()
    if len(times_s) < 2:
        raise RuntimeError(f"port {port} gave no stream")
    pauses_s = [after - before for before, after in pairwise(times_s)]
    return Timed(times_s[0], max(pauses_s), statistics.fmean(pauses_s), len(times_s))


def tokens(rng: random.Random, count: int) -> list[int]:
    """A prompt that no cluster has seen."""
    return [rng.randrange(300, 2000) for _ in range(count)]


async def next_turn_s(port: int, rng: random.Random, rest: int) -> float:
    """Seconds to the first text of a turn that adds so many tokens to what was said before."""
    history = tokens(rng, HISTORY_TOKENS)
    await stream(port, history, 4)
    await asyncio.sleep(0.2)  # events are on their way
    return (await stream(port, history + tokens(rng, rest), 4)).first_s


async def at_once(port: int, rng: random.Random) -> dict[str, float]:
    """Tokens per second and what clients see of several requests at a time."""

    async def client(prompts: list[list[int]]) -> list[Timed]:
        return [await stream(port, prompt, 48) for prompt in prompts]

    asked = [[tokens(rng, 400) for _ in range(REQUESTS_EACH)] for _ in range(CLIENTS)]
    begin_s = time.perf_counter()
    answers = [one for answers in await asyncio.gather(*map(client, asked)) for one in answers]
    seconds = time.perf_counter() - begin_s
    return {
        "tokens/s": sum(one.pieces for one in answers) / seconds,
        "first ms": 1e3 * statistics.median(one.first_s for one in answers),
        "token ms": 1e3 * statistics.median(one.mean_s for one in answers),
        "longest pause ms": 1e3 * statistics.median(one.longest_s for one in answers),
    }


def measure(ports: dict[str, int], rounds: int) -> list[dict[str, Any]]:
    """A row for each thing measured: the median of each case, over rounds in turns."""
    rng = random.Random()
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for turn in range(rounds + 1):
        print(f"round {turn} of {rounds}", file=sys.stderr)
        for rest in REST_TOKENS:
            for case, port in ports.items():
                seconds = asyncio.run(next_turn_s(port, rng, rest))
                if turn:  # the first round warms up
                    found[f"next turn of {rest} tokens: first ms"][case].append(1e3 * seconds)
        for case, port in ports.items():
            for name, value in asyncio.run(at_once(port, rng)).items():
                if turn:
                    found[f"{CLIENTS} clients: {name}"][case].append(value)
    return [
        {"measured": name} | {case: round(statistics.median(values), 1) for case, values in of.items()}
        for name, of in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--rounds", type=int, default=7, help="after one that warms up (7)")
    options = parser.parse_args()
    with contextlib.ExitStack() as clusters:
        port = "http: {{port: {port}}}\n"
        ports = {case: clusters.enter_context(serving(text + port)) for case, text in CASES.items()}
        rows = measure(ports, options.rounds)
    if options.json:
        print(json.dumps({"machine": machine(), "rows": rows}, indent=1))
    else:
        print_table(rows)


if __name__ == "__main__":
    main()
