"""What bits that do not depend on the batch cost: strict in C++, strict and fast in torch, in turn.

python -m bench.strict [--model DIR] [--rounds N] [--json]

Each line is `python -m bench.engine` in a process of its own, for a process has one set of operators. In C++ there is
one order of summation, so strict and fast are the same there.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.timing import machine
from workers.weights.model_dir import TINY_MODEL

WAYS = {
    "C++ (strict)": {"numerics": "strict"},
    "torch, strict": {"numerics": "strict", "operators": "off"},
    "torch, fast": {"numerics": "fast", "operators": "off"},
}


def run(model: Path, numerics: str, operators: str | None = None) -> dict[str, Any]:
    """The report of one engine."""
    environment = os.environ | ({"RAYDIX_CPU_OPS": operators} if operators else {})
    command = [sys.executable, "-m", "bench.engine", "--model", str(model), "--numerics", numerics, "--json"]
    result: dict[str, Any] = json.loads(
        subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
    )
    return result


def figures(report: dict[str, Any]) -> dict[str, float]:
    """The numbers that are compared: tokens per second."""
    decode = {f"decode, batch of {size}": rate for size, rate in report["decode_tok_s"].items()}
    return {**decode, "prefill of 1,024": report["prefill_tok_s"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=TINY_MODEL)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    rounds = [{name: figures(run(options.model, **way)) for name, way in WAYS.items()} for _ in range(options.rounds)]
    rows = {
        what: {name: statistics.median(values[name][what] for values in rounds) for name in WAYS}
        for what in rounds[0]["torch, fast"]
    }
    if options.json:
        print(json.dumps({"machine": machine(), "tok_s": rows}, indent=2))
        return
    print(f"| | {' | '.join(WAYS)} |\n| --- {'| --- ' * len(WAYS)}|")
    for what, rates in rows.items():
        print(f"| {what} | {' | '.join(f'{rate:,.0f}' for rate in rates.values())} |")


if __name__ == "__main__":
    main()
