"""Bits per byte of the bundled model on text it never saw, quantised by every method of `raydix quantize`.

python -m bench.quantisation --models DIR [--only TEXT] [--max-bytes N] [--json]

Models and figures are kept in DIR: a run that is ended is gone on with, and what is there is not made again.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.quality import held_out_text
from workers.perplexity import load_decoder, predict
from workers.quantization.options import Method, QuantizeOptions, Search, choose_options
from workers.quantization.quantize import quantize_model
from workers.tokenizer import Tokenizer
from workers.weights.manifest import read_manifest
from workers.weights.model_dir import TINY_MODEL

CALIBRATION = TINY_MODEL / "calibration.txt.xz"
SEARCHES: tuple[Search, ...] = ("mse", "percentile", "kl")
CALIBRATED: tuple[Method, ...] = ("gptq", "awq")
METHODS: tuple[Method, ...] = ("rtn", *CALIBRATED)


def rows() -> dict[str, QuantizeOptions]:
    """Every row but the floats, by a name that can be a directory's."""
    found = [choose_options(method, group_size=size) for size in (128, 64, 32) for method in METHODS]
    found += [choose_options("rtn", search=search) for search in SEARCHES]
    found += [choose_options(method, search="minmax") for method in CALIBRATED]
    found += [choose_options(method, symmetric=True) for method in METHODS]
    found += [choose_options("rtn", granularity="channel"), choose_options("rtn", granularity="tensor")]
    found += [choose_options("rtn", bits=8), choose_options("int8")]
    return {name_of(options): options for options in found}


def name_of(options: QuantizeOptions) -> str:
    """Such as rtn-4-g128-asymmetric-minmax."""
    unit = f"g{options.group_size}" if options.group_size else options.granularity
    zero = "symmetric" if options.symmetric else "asymmetric"
    return f"{options.method}-{options.bits}-{unit}-{zero}-{options.search}"


@dataclass(frozen=True)
class Figures:
    """What one model is like: bits per byte of the text, and bytes of its files of weights."""

    bits_per_byte: float
    weight_bytes: int


def measure(model_dir: Path, text: str) -> Figures:
    """Computed as a worker would, on int4 as it is packed."""
    found = predict(load_decoder(model_dir), Tokenizer(model_dir).encode(text), len(text.encode()))
    return Figures(found.bits_per_byte, sum(path.stat().st_size for path in model_dir.glob("*.safetensors")))


def quantised(name: str, options: QuantizeOptions, models: Path) -> Path:
    """The directory of a row's model, made unless it is there."""
    directory = models / name
    if not directory.exists() or read_manifest(directory) is None:
        quantize_model(TINY_MODEL, directory, options, CALIBRATION if options.needs_calibration else None)
    return directory


def collect(models: Path, max_bytes: int | None, only: str) -> dict[str, Figures]:
    """Figures of the floats and of all rows whose name has `only` in it, and of those measured before."""
    path = models / f"figures-{max_bytes or 'all'}.json"
    figures = {name: Figures(**known) for name, known in json.loads(path.read_text()).items()} if path.exists() else {}
    text = held_out_text(max_bytes)
    for name, options in {"float": None, **rows()}.items():
        if name in figures or (options is not None and only not in name):
            continue
        figures[name] = measure(TINY_MODEL if options is None else quantised(name, options, models), text)
        print(f"{name}: {figures[name].bits_per_byte:.4f}", file=sys.stderr, flush=True)
        path.write_text(json.dumps({name: vars(found) for name, found in figures.items()}, indent=2))
    return figures


def table(figures: dict[str, Figures]) -> list[str]:
    """Lines of Markdown. What a method recovers is a share of what plain rounding to as many bytes loses."""
    lines = ["| | MB | bits per byte | lost | of rounding's loss recovered |", "| --- | --- | --- | --- | --- |"]
    floats = figures["float"]
    for name in ["float", *(name for name in rows() if name in figures)]:
        found, plain = figures[name], figures.get(plain_rounding(name))
        lost = found.bits_per_byte - floats.bits_per_byte
        recovered = ""
        if plain is not None and plain is not found:
            recovered = f"{1 - lost / (plain.bits_per_byte - floats.bits_per_byte):.0%}"
        size = found.weight_bytes / 1e6
        lines.append(
            f"| {name.replace('-', ' ')} | {size:.2f} | {found.bits_per_byte:.4f} | {lost:.4f} | {recovered} |"
        )
    return lines


def plain_rounding(name: str) -> str:
    """The row that takes as many bytes and rounds between the least and the largest weight."""
    return "-".join(["rtn", *name.split("-")[1:-1], "minmax"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, metavar="DIR", help="where models and figures are kept")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows with this in their name, such as g128")
    parser.add_argument("--max-bytes", type=int, default=None, help="use only the beginning of the text")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    options.models.mkdir(parents=True, exist_ok=True)
    figures = collect(options.models, options.max_bytes, options.only)
    if options.json:
        print(json.dumps({name: vars(found) for name, found in figures.items()}, indent=2))
    else:
        print("\n".join(table(figures)))


if __name__ == "__main__":
    main()
