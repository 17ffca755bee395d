"""Requests per second and time of one through each front door: Serve's proxy and HAProxy, with and without the flags.

    python -m bench.front_door [--json] [--rounds N] [--seconds S] [--cases serve,haproxy+flags]

Starts a cluster with the bundled model for each case, all at once, and asks them in turns: what else happens on the
machine happens to all. GET /v1/models is the cost of the door itself; the completion is 4 tokens of a known prompt.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence

from bench.serving import serving
from bench.timing import machine
from cluster.haproxy import THROUGHPUT

SERVE_DEFAULTS = {name: "01"[value == "0"] for name, value in THROUGHPUT.items()}
CASES = ("serve", "serve+flags", "haproxy", "haproxy+flags")
CLIENTS = (1, 16)
Place = tuple[str, str, int]  # case, request, clients


def request(method: str, path: str, body: object = None) -> bytes:
    """A whole HTTP/1.1 request on a connection that stays open."""
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    return f"{head}\r\n\r\n".encode() + content


COMPLETION = {"model": "tiny", "prompt": "import os\n", "max_tokens": 4, "temperature": 0, "ignore_eos": True}
REQUESTS = {
    "models": request("GET", "/v1/models"),
    "completion": request("POST", "/v1/completions", COMPLETION),
}


async def ask(port: int, asked: bytes, end_s: float) -> list[float]:
    """Ask over one connection until then; returns seconds per answer. Raises RuntimeError where one is not a 200."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    taken_s = []
    while (begin_s := time.perf_counter()) < end_s:
        writer.write(asked)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if not head.startswith(b"http/1.1 200 "):
            raise RuntimeError(f"port {port} answered {head.decode()!r}")
        await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
        taken_s.append(time.perf_counter() - begin_s)
    writer.close()
    return taken_s


async def load(port: int, asked: bytes, clients: int, seconds: float) -> list[float]:
    """The same over several connections at once."""
    end_s = time.perf_counter() + seconds
    taken_s = await asyncio.gather(*(ask(port, asked, end_s) for _ in range(clients)))
    return [one_s for of_client in taken_s for one_s in of_client]


def serving_case(case: str) -> contextlib.AbstractContextManager[int]:
    """The port of a cluster of that case."""
    proxy, _, flags = case.partition("+")
    return serving(f"http: {{{{port: {{port}}, proxy: {proxy}}}}}\n", THROUGHPUT if flags else SERVE_DEFAULTS)


def measure(ports: dict[str, int], rounds: int, seconds: float) -> list[dict[str, object]]:
    """One row for each case, request and number of clients: medians over the rounds."""
    rates: dict[Place, list[float]] = defaultdict(list)
    p50_ms: dict[Place, list[float]] = defaultdict(list)
    for turn in range(rounds + 1):
        for asked, content in REQUESTS.items():
            for clients in CLIENTS:
                for case, port in ports.items():
                    taken_s = asyncio.run(load(port, content, clients, seconds))
                    if turn:  # the first round warms up
                        rates[case, asked, clients].append(len(taken_s) / seconds)
                        p50_ms[case, asked, clients].append(1e3 * statistics.median(taken_s))
    return [row(place, rates, p50_ms[place], next(iter(ports))) for place in rates]


def row(place: Place, rates: dict[Place, list[float]], p50_ms: Sequence[float], first: str) -> dict[str, object]:
    """`times_first` is the median of the ratios within a round, to the first case."""
    case, asked, clients = place
    ratios = [rate / base for rate, base in zip(rates[place], rates[first, asked, clients], strict=True)]
    return {
        "case": case,
        "request": asked,
        "clients": clients,
        "requests_per_s": round(statistics.median(rates[place]), 1),
        "p50_ms": round(statistics.median(p50_ms), 3),
        "times_first": round(statistics.median(ratios), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--rounds", type=int, default=3, help="after one that warms up (3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn (2)")
    parser.add_argument("--cases", default=",".join(CASES), help=f"of {', '.join(CASES)}; ratios are to the first")
    options = parser.parse_args()
    with contextlib.ExitStack() as clusters:
        ports = {case: clusters.enter_context(serving_case(case)) for case in options.cases.split(",")}
        rows = measure(ports, options.rounds, options.seconds)
    if options.json:
        print(json.dumps({"machine": machine(), "rows": rows}, indent=2))
        return
    for line in rows:
        print(*line.values(), sep="\t")


if __name__ == "__main__":
    main()
