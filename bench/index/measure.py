"""Figures of one index. Run one in a process: resident memory is the process's."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence

from bench.index.indexes import INDEXES, WORKERS, Index, new_hasher
from bench.index.workload import (
    CONTEXT_TOKENS,
    NEXT_TURN_TOKENS,
    NUM_CONTEXTS,
    NUM_SYSTEMS,
    PROMPT_TOKENS,
    SYSTEM_TOKENS,
    Workload,
)
from radix.events import CacheEvent
from radix.prefix_cache import PrefixCache
from radix.prefix_index import PrefixIndex

NUM_QUERIES = 2000
NUM_EVENT_PROMPTS = 10_000


def measure_index(name: str, num_prompts: int, block_size: int) -> dict[str, float]:
    """Insert all prompts, then match: microseconds, and megabytes of resident memory per million distinct blocks.

    Raises:
        RuntimeError: a match gave another depth than it should.
    """
    workload = Workload(num_prompts)
    index = INDEXES[name](block_size)
    queries = [(index.prepare(prompt), depth // block_size) for prompt, depth in workload.queries(NUM_QUERIES)]
    warm_up = [index.prepare(prompt) for prompt, _ in next(workload.chunks())]  # the memory that keys take for a while
    del warm_up
    before = resident_bytes()
    insert_us = insert_all(index, workload)
    grown = resident_bytes() - before
    matches_us = [match_us(index, key, depth) for key, depth in queries]
    return {
        "insert_us": insert_us,
        "match_p50_us": statistics.median(matches_us),
        "match_p99_us": statistics.quantiles(matches_us, n=100)[98],
        "mb_per_million_blocks": grown / num_blocks(workload, block_size),
    }


def insert_all(index: Index, workload: Workload) -> float:
    """Mean time of an insertion."""
    seconds = 0.0
    for chunk in workload.chunks():
        keys = [(index.prepare(prompt), worker) for prompt, worker in chunk]
        begin_s = time.perf_counter()
        for key, worker in keys:
            index.insert(key, worker)
        seconds += time.perf_counter() - begin_s
    return seconds / workload.num_prompts * 1e6


def match_us(index: Index, key: object, depth: int) -> float:
    begin_s = time.perf_counter()
    found = index.match(key)
    seconds = time.perf_counter() - begin_s
    if found != depth:
        raise RuntimeError(f"a match of {found} blocks where {depth} are held")
    return seconds * 1e6


def measure_hash(block_size: int) -> dict[str, float]:
    """Microseconds to hash a whole prompt and a next turn, from int32 tokens."""
    hasher = new_hasher(block_size)
    prompts = [prompt.tobytes() for prompt, _ in next(Workload(200).chunks())]
    _, state = hasher.hash_blocks(prompts[0])
    turns = [prompt[: NEXT_TURN_TOKENS // block_size * block_size * 4] for prompt in prompts]
    return {
        "hash_us": fastest_us(hasher.hash_blocks, prompts),
        "next_turn_hash_us": fastest_us(lambda turn: hasher.hash_blocks(turn, state), turns),
    }


def measure_events(block_size: int) -> dict[str, float]:
    """Blocks a second that an index takes in from the events of eight workers' caches, stored and then evicted."""
    hasher, workload = new_hasher(block_size), Workload(NUM_EVENT_PROMPTS)
    caches = [PrefixCache(block_size, hasher.root) for _ in WORKERS]
    events: list[tuple[str, CacheEvent]] = []
    for chunk in workload.chunks():
        for prompt, worker in chunk:
            tokens = prompt[: len(prompt) // block_size * block_size].tobytes()
            hashes, _ = hasher.hash_blocks(tokens)
            lease, _ = caches[worker].extend(caches[worker].root, hashes, [0] * len(hashes), tokens)
            caches[worker].release(lease)
            events += [(WORKERS[worker], event) for event in caches[worker].take_events()]
    num_stored = sum(cache.num_idle_blocks for cache in caches)
    for worker, cache in enumerate(caches):
        while cache.evict(1000):
            events += [(WORKERS[worker], event) for event in cache.take_events()]
    index = PrefixIndex(hasher.root, max_bytes=2**40)
    begin_s = time.perf_counter()
    for name, event in events:
        index.apply(name, event)
    seconds = time.perf_counter() - begin_s
    if index.num_blocks:
        raise RuntimeError(f"{index.num_blocks} blocks are left after all were removed")
    return {"events_per_s": 2 * num_stored / seconds}


def fastest_us(function: Callable[[bytes], object], arguments: Sequence[bytes], repeats: int = 7) -> float:
    """Mean microseconds of a call, in the fastest of several rounds."""
    rounds = []
    for _ in range(repeats):
        begin_s = time.perf_counter()
        for argument in arguments:
            function(argument)
        rounds.append(time.perf_counter() - begin_s)
    return min(rounds) / len(arguments) * 1e6


def num_blocks(workload: Workload, block_size: int) -> int:
    """Distinct full blocks of all prompts, each context being drawn at least once."""
    systems, shared = SYSTEM_TOKENS // block_size, (SYSTEM_TOKENS + CONTEXT_TOKENS) // block_size
    contexts = NUM_SYSTEMS * NUM_CONTEXTS * (shared - systems)
    return NUM_SYSTEMS * systems + contexts + workload.num_prompts * (PROMPT_TOKENS // block_size - shared)


def resident_bytes() -> int:
    """Resident memory of this process, garbage collected."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
