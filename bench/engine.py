"""Tokens per second of one engine on this CPU, and how near its int4 operator comes to the speed of memory.

python -m bench.engine [--model DIR] [--group-size N] [--activations int8] [--json]

Counted as load tests of other engines count: prompts of 16 random tokens, 64 tokens each, so that 63 steps and a short
prefill are timed; prompts of 1,024 tokens for prefill, each sent twice for the prefix hit.
"""

import argparse
import json
import random
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch

from bench.memory import memory_speed
from bench.timing import machine
from kernels.cpu_ops.loader import arithmetic
from workers.config import EngineConfig, WeightConfig
from workers.engine.build import build_engine
from workers.request import GenerationRequest, SamplingParams
from workers.weights.model_dir import TINY_MODEL

BATCH_SIZES = (1, 8)
SHORT_PROMPT, LONG_PROMPT, OUTPUT_TOKENS = 16, 1024, 64
REPEATS = 5


class Load:
    """Runs requests through one engine."""

    def __init__(self, model_dir: Path, config: WeightConfig) -> None:
        built = build_engine(model_dir, EngineConfig(weights=config))
        self._engine, self._vocab_size = built.engine, built.spec.vocab_size
        self._random = random.Random(0)
        self._count = 0

    def prompt(self, num_tokens: int) -> tuple[int, ...]:
        """A prompt that shares no prefix with another."""
        return tuple(self._random.randrange(10, self._vocab_size) for _ in range(num_tokens))

    def run(self, prompts: list[tuple[int, ...]], max_tokens: int) -> float:
        """Seconds from the first step to the last token of all prompts."""
        sampling = SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True)
        for prompt in prompts:
            self._count += 1
            self._engine.add_request(GenerationRequest(str(self._count), prompt, sampling))
        begin_s = time.perf_counter()
        while self._engine.has_work:
            self._engine.step()
        self._engine.take_events()
        return time.perf_counter() - begin_s


def decode_tok_s(load: Load, batch_size: int) -> float:
    prompts = [load.prompt(SHORT_PROMPT) for _ in range(batch_size)]
    return batch_size * (OUTPUT_TOKENS - 1) / load.run(prompts, OUTPUT_TOKENS)


def prefill(load: Load) -> tuple[float, float]:
    """Tokens per second of a prompt, and seconds to the first token of the same prompt again."""
    prompt = load.prompt(LONG_PROMPT)
    return LONG_PROMPT / load.run([prompt], 1), load.run([prompt], 1)


def measure(load: Load) -> dict[str, dict[str, list[float]]]:
    """All values of every repetition, the kinds of load in turn."""
    decode: dict[str, list[float]] = {str(size): [] for size in BATCH_SIZES}
    fills: list[tuple[float, float]] = []
    for repeat in range(REPEATS + 1):
        values = {str(size): decode_tok_s(load, size) for size in BATCH_SIZES}
        fill = prefill(load)
        if repeat:  # the first round warms up
            fills.append(fill)
            for size, value in values.items():
                decode[size].append(value)
        print(f"round {repeat} of {REPEATS}", file=sys.stderr, flush=True)
    return {"decode_tok_s": decode, "prefill": {"tok_s": [f for f, _ in fills], "hit_s": [h for _, h in fills]}}


def report(load: Load, config: WeightConfig) -> dict[str, object]:
    values = measure(load)
    fills, decode = values["prefill"], values["decode_tok_s"]
    return {
        "decode_tok_s": {size: statistics.median(rates) for size, rates in decode.items()},
        "prefill_tok_s": statistics.median(fills["tok_s"]),
        "prefix_hit_s": statistics.median(fills["hit_s"]),
        **asdict(memory_speed(config.group_size, int8_rows=config.activations == "int8")),
        "arithmetic": arithmetic(),
        "min_max": {
            **{f"decode_tok_s {size}": [min(rates), max(rates)] for size, rates in decode.items()},
            **{f"prefill {name}": [min(rates), max(rates)] for name, rates in fills.items()},
        },
        "machine": machine() | {"threads": torch.get_num_threads()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=TINY_MODEL, help="a Hugging Face directory; the bundled model")
    parser.add_argument("--group-size", type=int, default=WeightConfig().group_size, help="weights per int4 scale")
    parser.add_argument("--activations", choices=["dtype", "int8"], default="dtype")
    parser.add_argument("--numerics", choices=["strict", "fast"], default="strict")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    options = parser.parse_args()
    config = WeightConfig(
        group_size=options.group_size, activations=options.activations, numerics=options.numerics, device="cpu"
    )
    rows = report(Load(options.model, config), config)
    print(json.dumps(rows, indent=2) if options.json else "\n".join(f"{name}: {value}" for name, value in rows.items()))


if __name__ == "__main__":
    main()
