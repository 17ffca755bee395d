"""How often the same greedy request gives other tokens: computed cold, from the prefix cache, and in small chunks.

python -m bench.exactness [--json]
"""

import argparse
import json
import os
from pathlib import Path
from typing import Literal

from workers.config import EngineConfig, SchedulerConfig, WeightConfig
from workers.engine.build import build_engine
from workers.engine.engine import Engine
from workers.request import GenerationRequest, SamplingParams
from workers.tokenizer import Tokenizer
from workers.weights.model_dir import TINY_MODEL

NUM_PROMPTS = 24
GREEDY = SamplingParams(max_tokens=32, temperature=0)
ONE_STEP, SMALL_CHUNKS = SchedulerConfig(), SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=97)


def prompts() -> list[tuple[int, ...]]:
    """2,500 characters from the middle of standard library modules."""
    tokenizer = Tokenizer(TINY_MODEL)
    modules = sorted(Path(os.__file__).parent.glob("*.py"))[::6][:NUM_PROMPTS]
    return [tuple(tokenizer.encode(module.read_text("utf-8")[1000:3500])) for module in modules]


def complete(engine: Engine, request_id: str, prompt: tuple[int, ...]) -> list[int]:
    """The completion of one prompt, alone in the engine."""
    engine.add_request(GenerationRequest(request_id, prompt, GREEDY))
    tokens: list[int] = []
    while engine.has_work:
        for output in engine.step():
            tokens += output.token_ids
    return tokens


def measure(numerics: Literal["strict", "fast"]) -> dict[str, object]:
    """One line of the table."""
    weights = WeightConfig(numerics=numerics, device="cpu")
    whole = build_engine(TINY_MODEL, EngineConfig(scheduler=ONE_STEP, weights=weights)).engine
    chunked = build_engine(TINY_MODEL, EngineConfig(scheduler=SMALL_CHUNKS, weights=weights)).engine
    compared = differ_cached = differ_chunked = 0
    for number, prompt in enumerate(prompts()):
        cold = complete(whole, f"cold {number}", prompt)
        differ_cached += complete(whole, f"cached {number}", prompt) != cold
        differ_chunked += complete(chunked, f"chunked {number}", prompt) != cold
        compared += 1
    return {"numerics": numerics, "texts": compared, "differ_cached": differ_cached, "differ_chunked": differ_chunked}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    table = [measure("strict"), measure("fast")]
    print(json.dumps(table, indent=2) if options.json else "\n".join(map(str, table)))


if __name__ == "__main__":
    main()
