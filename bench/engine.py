"""Tokens per second of one engine on the bundled model: prefill and decode, strict against fast numerics.

python -m bench.engine [--json]
"""

import argparse
import json
import statistics
from collections.abc import Callable

from bench.timing import alternate, machine
from workers.config import EngineConfig, WeightConfig
from workers.engine.build import build_engine
from workers.engine.engine import Engine
from workers.request import GenerationRequest, SamplingParams
from workers.weights.model_dir import TINY_MODEL

PROMPT_TOKENS = 1024
OUTPUT_TOKENS = 64
REPEATS = 7


class Load:
    """Runs fresh requests through one engine; no two share a prefix."""

    def __init__(self, config: WeightConfig) -> None:
        self._engine: Engine = build_engine(TINY_MODEL, EngineConfig(weights=config)).engine
        self._count = 0

    def run(self, batch_size: int, prompt_tokens: int, output_tokens: int) -> None:
        """One batch to its end."""
        sampling = SamplingParams(max_tokens=output_tokens, temperature=0, ignore_eos=True)
        for _ in range(batch_size):
            self._count += 1
            prompt = tuple((self._count * 977 + at * 31) % 4000 + 2 for at in range(prompt_tokens))
            self._engine.add_request(GenerationRequest(str(self._count), prompt, sampling))
        while self._engine.has_work:
            self._engine.step()

    def prefill(self) -> None:
        """1,024 tokens of one prompt."""
        self.run(1, PROMPT_TOKENS, 1)

    def decode(self, batch_size: int) -> None:
        """64 tokens for each of `batch_size` sequences with short prompts."""
        self.run(batch_size, 16, OUTPUT_TOKENS)


def measure(name: str, num_tokens: int, run: Callable[[Load], None], loads: dict[str, Load]) -> dict[str, object]:
    """One line of the table: medians in tokens per second, and the ratio of the modes pair by pair."""
    seconds = alternate({mode: lambda load=load: run(load) for mode, load in loads.items()}, REPEATS)  # type: ignore[misc]
    rates = {mode: num_tokens / statistics.median(values) for mode, values in seconds.items()}
    spreads = {mode: [num_tokens / max(values), num_tokens / min(values)] for mode, values in seconds.items()}
    ratio = statistics.median(f / s for f, s in zip(seconds["fast"], seconds["strict"], strict=True))
    return {"what": name, "tokens_per_s": rates, "min_max": spreads, "strict_over_fast": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    loads = {
        "strict": Load(WeightConfig(numerics="strict", device="cpu")),
        "fast": Load(WeightConfig(numerics="fast", device="cpu")),
    }
    table = [
        measure("prefill of 1,024 tokens", PROMPT_TOKENS, Load.prefill, loads),
        measure("decode, 1 sequence", OUTPUT_TOKENS, lambda load: load.decode(1), loads),
        measure("decode, 8 sequences", 8 * OUTPUT_TOKENS, lambda load: load.decode(8), loads),
    ]
    print(json.dumps({"machine": machine(), "rows": table}, indent=2) if options.json else "\n".join(map(str, table)))


if __name__ == "__main__":
    main()
