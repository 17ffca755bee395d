"""Bits per byte of the bundled model on text it never saw: float against int4, and against `xz -9`.

python -m bench.quality [--json] [--max-bytes N]
"""

import argparse
import json
import lzma
import sys
from pathlib import Path

from workers.config import WeightConfig
from workers.perplexity import load_decoder, predict
from workers.tokenizer import Tokenizer
from workers.weights.model_dir import TINY_MODEL

HELD_OUT = TINY_MODEL / "heldout.txt.xz"
FLOAT = WeightConfig(quantization="none", dtype="float32", numerics="fast", device="cpu")
CONFIGS = {
    "float32": FLOAT,
    "bfloat16": WeightConfig(quantization="none", device="cpu"),
    "int4 g128": WeightConfig(group_size=128, device="cpu"),
    "int4 g64 (default)": WeightConfig(device="cpu"),
    "int4 g32": WeightConfig(group_size=32, device="cpu"),
    "int4 g64, int8 activations": WeightConfig(activations="int8", device="cpu"),
    "int4 g32, int8 activations": WeightConfig(group_size=32, activations="int8", device="cpu"),
}


def held_out_text(max_bytes: int | None = None) -> str:
    """The held-out files, one after another; the first `max_bytes` of them."""
    return lzma.decompress(HELD_OUT.read_bytes())[:max_bytes].decode("utf-8", errors="ignore")


def xz_bits_per_byte() -> float:
    """What `xz -9` needs for all held-out files together."""
    text = lzma.decompress(HELD_OUT.read_bytes())
    return 8 * len(lzma.compress(text, preset=9)) / len(text)


def bits_per_byte(model_dir: Path, text: str, config: WeightConfig) -> float:
    """Coding cost of a text (`workers.perplexity`)."""
    tokens = Tokenizer(model_dir).encode(text)
    return predict(load_decoder(model_dir, config), tokens, len(text.encode())).bits_per_byte


def measure(text: str) -> dict[str, float]:
    """Bits per byte of every configuration, printed to stderr as they are found."""
    rows = {"xz -9, all held-out files": xz_bits_per_byte()}
    for name, config in CONFIGS.items():
        rows[name] = bits_per_byte(TINY_MODEL, text, config)
        print(f"{name}: {rows[name]:.4f}", file=sys.stderr, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--max-bytes", type=int, default=None, help="use only the beginning of the text")
    options = parser.parse_args()
    text = held_out_text(options.max_bytes)
    rows = measure(text)
    if options.json:
        print(json.dumps({"bytes": len(text.encode()), "bits_per_byte": rows}, indent=2))
        return
    for name, bits in rows.items():
        print(f"| {name} | {bits:.4f} | {bits / rows['float32']:.4f} |")


if __name__ == "__main__":
    main()
