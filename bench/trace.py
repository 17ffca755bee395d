"""A trace of real requests through the real router, index and prefix caches, with simulated compute.

python -m bench.trace --trace FILE [--workers 8] [--cache-blocks 50000] [--policy prefix] [--rate 1] [--seed 0]
                      [--json]

FILE holds a request a line, in the form of Mooncake's traces (https://github.com/kvcache-ai/Mooncake): `timestamp` in
ms, `input_length` in tokens, `hash_ids`, one per 512 tokens, the same id for the same prefix. `--rate 100` sends
them all in a hundredth of the time. The ideal is one cache as large as all workers' together, used in order of arrival.
"""

import argparse
import json
from pathlib import Path
from typing import get_args

from bench.timing import machine
from bench.trace_replay import Replay, ReplayResult, TraceRow, pooled_hit_rate
from router.policies import PolicyName


def read_trace(path: Path, rate: float = 1.0) -> list[TraceRow]:
    """The rows of a trace in order of arrival, which is `rate` times as fast as it was."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [TraceRow(row["timestamp"] / 1000 / rate, row["input_length"], tuple(row["hash_ids"])) for row in rows]


def as_json(result: ReplayResult, ideal_hit_rate: float) -> dict[str, float]:
    """The figures of one replay."""
    return {
        "hit_rate": result.hit_rate,
        "ideal_hit_rate": ideal_hit_rate,
        "ttft_p50_s": result.ttft_s(0.5),
        "ttft_p99_s": result.ttft_s(0.99),
        "worst_share": result.worst_share,
        "decision_p50_us": result.decision_us(0.5),
        "decision_p99_us": result.decision_us(0.99),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--cache-blocks", type=int, default=50_000, help="of all workers together")
    parser.add_argument("--policy", choices=get_args(PolicyName), default="prefix")
    parser.add_argument("--rate", type=float, default=1.0, help="how many times as fast requests arrive")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    options = parser.parse_args()
    rows = read_trace(options.trace, options.rate)
    result = Replay(rows, options.workers, options.cache_blocks, options.policy, options.seed).run()
    figures = as_json(result, pooled_hit_rate(rows, options.cache_blocks))
    if options.json:
        print(json.dumps(machine() | figures, indent=2))
    else:
        print("\n".join(f"{name:16} {value:.4g}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
