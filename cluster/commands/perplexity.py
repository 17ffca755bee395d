"""`raydix perplexity`: how well a model predicts a text."""

import argparse
import json
from pathlib import Path


def add_perplexity_options(parser: argparse.ArgumentParser) -> None:
    """The model, the text, and how the result is shown."""
    parser.add_argument("model", metavar="DIR_OR_ID", help="model directory or Hugging Face Hub id")
    parser.add_argument("--text", type=Path, required=True, metavar="FILE", help="UTF-8 text, .xz too")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=run_perplexity)


def run_perplexity(options: argparse.Namespace) -> None:
    """Raises ModelError or RequestError."""
    from workers.perplexity import load_decoder, predict  # torch takes seconds to import
    from workers.text_file import read_text_file
    from workers.tokenizer import Tokenizer
    from workers.weights.model_dir import resolve_model_dir

    text = read_text_file(options.text)
    model_dir = resolve_model_dir(options.model)
    found = predict(load_decoder(model_dir), Tokenizer(model_dir).encode(text), len(text.encode()))
    figures = {
        "perplexity": found.perplexity,
        "bits_per_byte": found.bits_per_byte,
        "tokens": found.tokens,
        "bytes": found.bytes,
    }
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        print(f"perplexity     {found.perplexity:.4f}  ({found.tokens:,} tokens)")
        print(f"bits per byte  {found.bits_per_byte:.4f}  ({found.bytes:,} bytes)")
