"""Eviction from a worker's prefix cache: 100,000 tokens out of a tree of 100,000 leaves, events included.

python -m bench.evict [--json]

The tree is 100 system prompts of 64 blocks, ten contexts of 32 blocks under each, and leaves under these: one per
request that has ended. Hashes are random numbers; eviction looks at neither tokens nor their hashes.
"""

import argparse
import json
import random
import time

from bench.timing import machine, spread
from radix.prefix_cache import PrefixCache

BLOCK_SIZE = 16
NUM_PROMPTS, NUM_CONTEXTS, NUM_LEAVES = 100, 10, 100_000
PROMPT_BLOCKS, CONTEXT_BLOCKS = 64, 32
EVICTED_BLOCKS = 100_000 // BLOCK_SIZE
REPEATS = 15
LEAF_BLOCKS = {"leaves of 29 blocks": 29, "leaves of one block": 1}


def build(leaf_blocks: int) -> PrefixCache:
    """The cache, all of it idle."""
    rng = random.Random(0)
    cache = PrefixCache(BLOCK_SIZE, root=0)

    def hashes(count: int) -> list[int]:
        return [rng.getrandbits(64) for _ in range(count)]

    paths = [
        [*prompt, *hashes(CONTEXT_BLOCKS)]
        for prompt in (hashes(PROMPT_BLOCKS) for _ in range(NUM_PROMPTS))
        for _ in range(NUM_CONTEXTS)
    ]
    for _ in range(NUM_LEAVES):
        path = [*rng.choice(paths), *hashes(leaf_blocks)]
        tokens = bytes(len(path) * BLOCK_SIZE * 4)
        lease, _ = cache.extend(cache.root, path, list(range(len(path))), tokens)
        cache.release(lease)
    cache.take_events()
    return cache


def measure(leaf_blocks: int) -> dict[str, float]:
    """Times of `REPEATS` evictions, one after the other."""
    cache = build(leaf_blocks)
    seconds = []
    for _ in range(REPEATS):
        begin_s = time.perf_counter()
        freed = cache.evict(EVICTED_BLOCKS)
        seconds.append(time.perf_counter() - begin_s)
        if len(freed) != EVICTED_BLOCKS or not cache.take_events():
            raise RuntimeError(f"{len(freed)} blocks came free, not {EVICTED_BLOCKS}, or nobody was told")
    return spread(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    times = {name: measure(leaf_blocks) for name, leaf_blocks in LEAF_BLOCKS.items()}
    if options.json:
        print(json.dumps({"machine": machine(), "evicted_blocks": EVICTED_BLOCKS, "times": times}, indent=2))
        return
    print("| tree | evict 100,000 tokens, us: median | min | max |\n| --- | --- | --- | --- |")
    for name, line in times.items():
        print(f"| {name} | {line['median_us']:.0f} | {line['min_us']:.0f} | {line['max_us']:.0f} |")


if __name__ == "__main__":
    main()
