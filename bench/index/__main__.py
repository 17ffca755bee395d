"""The routers' index beside other ways to keep one: match, insert, memory, events, hashing.

python -m bench.index [--prompts 100000] [--block-size 16] [--json]

Prompts have 2,000 tokens, on eight workers (`bench/index/workload.py`). Each index runs in a process of its own, and
the depth of every match is checked.
"""

import argparse
import json
import subprocess
import sys

from bench.index.indexes import INDEXES
from bench.index.measure import measure_events, measure_hash, measure_index
from bench.timing import machine

COLUMNS = ("insert_us", "match_p50_us", "match_p99_us", "mb_per_million_blocks")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=100_000, help="how many are inserted (default 100000)")
    parser.add_argument("--block-size", type=int, default=16, help="tokens per block (default 16)")
    parser.add_argument("--only", choices=INDEXES, help="measure this index alone, in this process, and print JSON")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure_index(options.only, options.prompts, options.block_size)))
        return
    tables = {name: measure_in_process(name, options.prompts, options.block_size) for name in INDEXES}
    figures = summary(tables) | measure_hash(options.block_size) | measure_events(options.block_size)
    if options.json:
        print(json.dumps(figures | {"indexes": tables, "machine": machine()}, indent=2))
    else:
        print_tables(tables, figures)


def measure_in_process(name: str, num_prompts: int, block_size: int) -> dict[str, float]:
    """One index in a new process."""
    arguments = ["--only", name, "--prompts", str(num_prompts), "--block-size", str(block_size)]
    run = subprocess.run([sys.executable, "-m", "bench.index", *arguments], stdout=subprocess.PIPE, check=True)
    measured: dict[str, float] = json.loads(run.stdout)
    return measured


def summary(tables: dict[str, dict[str, float]]) -> dict[str, float]:
    """Our own figures: matches are of hashes, insertions from tokens."""
    ours, hashing = tables["raydix"], tables["raydix with hashing"]
    return {
        "match_p50_us": ours["match_p50_us"],
        "match_p99_us": ours["match_p99_us"],
        "insert_us": hashing["insert_us"],
        "hash_match_us": hashing["match_p50_us"],
        "mb_per_million_blocks": ours["mb_per_million_blocks"],
    }


def print_tables(tables: dict[str, dict[str, float]], figures: dict[str, float]) -> None:
    print("| index | insert, us | match p50, us | p99, us | MB per million blocks |\n| --- | --- | --- | --- | --- |")
    for name, row in tables.items():
        print(f"| {name} | " + " | ".join(f"{row[column]:.1f}" for column in COLUMNS) + " |")
    print(f"\nhash: {figures['hash_us']:.1f} us a prompt, {figures['next_turn_hash_us']:.1f} us a next turn")
    print(f"events: {figures['events_per_s'] / 1e6:.2f} million blocks a second")


if __name__ == "__main__":
    main()
