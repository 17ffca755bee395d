"""Tokens per second of the whole engine on models with random weights: no checkpoint is needed.

python -m bench.gpu_engine [--models llama-3-8b tinyllama-1.1b] [--batch-sizes 1 64] [--context 2048]
                           [--group-size 128] [--device cuda] [--json] [--out FILE]

A row for each model, numerics and batch size. Prompts of `context` random tokens that share nothing are computed first;
then steps are timed in which every sequence gains one token.
"""

import argparse
import gc
import json
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

from bench.random_model import SPECS, RandomTensors
from bench.report import environment, print_table, write_report
from workers.config import EngineConfig, SchedulerConfig, WeightConfig
from workers.engine.build import assemble_engine, pick_device
from workers.engine.engine import Engine
from workers.models.spec import ModelSpec
from workers.request import GenerationRequest, SamplingParams
from workers.weights.loader import WeightLoader

WARM_STEPS, TIMED_STEPS = 8, 64


@dataclass(frozen=True)
class EngineRow:
    """One load on one engine.

    Attributes:
        ms_per_step: median of the timed steps; min_ms and max_ms are their extremes.
        tok_s: tokens per second of all sequences together, over all timed steps.
        prefill_tok_s: prompt tokens per second, until every sequence has its first token.
        load_s: seconds to make and pack the weights.
        error: what went wrong; empty where nothing did.
    """

    case: str
    ms_per_step: float = 0.0
    min_ms: float = 0.0
    max_ms: float = 0.0
    tok_s: float = 0.0
    prefill_tok_s: float = 0.0
    load_s: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Load:
    """What is run."""

    model: str
    numerics: Literal["strict", "fast"]
    context: int
    batch_sizes: tuple[int, ...]
    group_size: int
    device: torch.device

    def case(self, batch_size: int) -> str:
        """The name of a row."""
        return f"{self.model} g{self.group_size} {self.numerics} b={batch_size} ctx={self.context}"


def build(load: Load) -> Engine:
    """An engine on random int4 weights."""
    spec = SPECS[load.model]
    weights = WeightConfig(numerics=load.numerics, group_size=load.group_size, device=str(load.device))
    config = EngineConfig(scheduler=SchedulerConfig(max_num_seqs=max(load.batch_sizes)), weights=weights)
    loaded = WeightLoader(RandomTensors(load.device), spec, weights, load.device).load()
    return assemble_engine(spec, loaded, config, namespace="random").engine


def prompts(spec: ModelSpec, load: Load, batch_size: int) -> list[tuple[int, ...]]:
    """Random ones, others for every batch size, so that no prefix is in the cache."""
    rng = random.Random(batch_size)
    return [tuple(rng.randrange(spec.vocab_size) for _ in range(load.context)) for _ in range(batch_size)]


def measure(engine: Engine, load: Load, batch_size: int, load_s: float) -> EngineRow:
    """Compute the prompts, then time steps of one token for each sequence."""
    waiting = add_requests(engine, load, batch_size)
    begin_s = time.perf_counter()
    while waiting:
        waiting -= {output.request_id for output in engine.step()}
    prefill_s = time.perf_counter() - begin_s
    for _ in range(WARM_STEPS):
        engine.step()
    seconds = [timed_step(engine) for _ in range(TIMED_STEPS)]
    for index in range(batch_size):
        engine.abort(str(index))
    engine.take_events()
    return EngineRow(
        load.case(batch_size),
        statistics.median(seconds) * 1e3,
        min(seconds) * 1e3,
        max(seconds) * 1e3,
        batch_size * TIMED_STEPS / sum(seconds),
        batch_size * load.context / prefill_s,
        load_s,
    )


def warm_up(engine: Engine, load: Load) -> None:
    """Compute another prompt of the same length, so that no kernel is compiled while prompts are timed."""
    prompt = tuple(index % SPECS[load.model].vocab_size for index in range(load.context))
    engine.add_request(GenerationRequest("warm", prompt, SamplingParams(max_tokens=1, temperature=0, ignore_eos=True)))
    while engine.has_work:
        engine.step()
    engine.take_events()


def add_requests(engine: Engine, load: Load, batch_size: int) -> set[str]:
    """Queue the prompts, each with room for all steps, those beside later prompts too; returns the requests' ids."""
    room = SamplingParams(max_tokens=engine.max_model_len - load.context, temperature=0, ignore_eos=True)
    for index, prompt in enumerate(prompts(SPECS[load.model], load, batch_size)):
        engine.add_request(GenerationRequest(str(index), prompt, room))
    return {str(index) for index in range(batch_size)}


def timed_step(engine: Engine) -> float:
    """Seconds; the tokens are on the host when a step ends."""
    begin_s = time.perf_counter()
    engine.step()
    return time.perf_counter() - begin_s


def rows(load: Load) -> Iterator[EngineRow]:
    """One for each batch size; what raises is a row with its error, and the others are measured."""
    try:
        begin_s = time.perf_counter()
        engine = build(load)
        load_s = time.perf_counter() - begin_s
        warm_up(engine, load)
    except Exception as error:
        yield from (EngineRow(load.case(size), error=repr(error)[:200]) for size in load.batch_sizes)
        return
    for size in load.batch_sizes:
        try:
            yield measure(engine, load, size, load_s)
        except Exception as error:
            yield EngineRow(load.case(size), error=repr(error)[:200])


def run(loads: Sequence[Load], out: Path | None) -> list[EngineRow]:
    """Every load, each row written as soon as it is there."""
    found = []
    for load in loads:
        for row in rows(load):
            found.append(row)
            print(f"{row.case}: {row.tok_s:.0f} tok/s {row.error}", file=sys.stderr, flush=True)
            if out is not None:
                write_report(out, environment(load.device), [asdict(row)])
        gc.collect()  # the next engine's pool wants this one's memory
        if load.device.type == "cuda":
            torch.cuda.empty_cache()
    return found


def main() -> int:
    """Parse the command line and print; the exit status is 1 where a row failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SPECS, default=["llama-3-8b", "tinyllama-1.1b"])
    parser.add_argument("--numerics", nargs="+", choices=["fast", "strict"], default=["fast", "strict"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--context", type=int, default=2048, help="tokens of a prompt")
    parser.add_argument("--group-size", type=int, default=128, help="weights of a scale, 128 as the goals are stated")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep the rows in a file, one by one")
    options = parser.parse_args()
    device = pick_device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no GPU to run the engine on; --device cpu --models toy --context 64 tries it without one")
    sizes = tuple(options.batch_sizes)
    names = [(model, numerics) for model in options.models for numerics in options.numerics]
    loads = [Load(*name, options.context, sizes, options.group_size, device) for name in names]
    found = [asdict(row) for row in run(loads, options.out)]
    if options.json:
        print(json.dumps({"environment": environment(device), "rows": found}, indent=1))
    else:
        print_table([{k: f"{v:.3f}" if isinstance(v, float) else v for k, v in row.items()} for row in found])
    return int(any(row["error"] for row in found))


if __name__ == "__main__":
    sys.exit(main())
