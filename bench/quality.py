"""Bits per byte of the bundled model on text it never saw: float against int4, and against `xz -9`.

python -m bench.quality [--json] [--max-bytes N]
"""

import argparse
import json
import lzma
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from kernels.attention_inputs import StepTensors
from workers.config import WeightConfig
from workers.engine.attention_metadata import AttentionMetadata
from workers.models.decoder import Decoder
from workers.models.spec import ModelSpec, read_model_spec
from workers.tokenizer import Tokenizer
from workers.weights.loader import WeightLoader
from workers.weights.model_dir import TINY_MODEL
from workers.weights.open_checkpoint import open_checkpoint

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


def load_model(model_dir: Path, config: WeightConfig) -> Decoder:
    """The decoder alone, on the CPU."""
    spec = read_model_spec(model_dir)
    weights = WeightLoader(open_checkpoint(model_dir, spec), spec, config, torch.device("cpu")).load()
    return Decoder(spec, weights, spec.max_model_len, strict=False)


@torch.inference_mode()
def bits_per_byte(model_dir: Path, text: str, config: WeightConfig) -> float:
    """Coding cost of a text. Every token sees at least half a context of tokens before it, but for the first ones."""
    model = load_model(model_dir, config)
    spec = model.spec
    tokens = torch.tensor(Tokenizer(model_dir).encode(text))
    stride = spec.max_model_len // 2
    nats = 0.0
    for begin in range(0, max(len(tokens) - spec.max_model_len, 0) + stride, stride):
        window = tokens[begin : begin + spec.max_model_len + 1]
        if len(window) > (1 if begin == 0 else spec.max_model_len - stride + 1):
            losses = window_losses(model, window, getattr(torch, config.dtype))
            nats += losses[0 if begin == 0 else spec.max_model_len - stride :].sum().item()
    return nats / math.log(2) / len(text.encode())


def window_losses(model: Decoder, window: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Nats of each token but the first, given those before it in the window."""
    return F.cross_entropy(all_logits(model, window[:-1], dtype), window[1:], reduction="none")


def all_logits(model: Decoder, tokens: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """float32 [tokens, vocab]: what follows each token, given those before it."""
    rows = torch.arange(len(tokens))
    count = torch.tensor([len(rows)], dtype=torch.int32)
    step = StepTensors(rows, rows, torch.zeros(1, 1, dtype=torch.int32), F.pad(count, (1, 0)), count)
    return model.forward(tokens, AttentionMetadata(step, rows), one_block_cache(model.spec, len(rows), dtype))


def one_block_cache(spec: ModelSpec, num_tokens: int, dtype: torch.dtype) -> torch.Tensor:
    """KV for one sequence, as a single block."""
    return torch.zeros(spec.num_layers, 2, 1, num_tokens, spec.num_kv_heads, spec.head_dim, dtype=dtype)


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
