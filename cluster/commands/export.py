"""`raydix export`: a model in another format."""

import argparse
from pathlib import Path


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """The model, where to write it, and the format."""
    parser.add_argument("model", metavar="DIR_OR_ID", help="model directory or Hugging Face Hub id")
    parser.add_argument("target", type=Path, metavar="DST", help="directory to be made")
    parser.add_argument("--format", choices=["q80"], required=True, help="q80: llama2.c's file of int8 weights")
    parser.set_defaults(command=run_export)


def run_export(options: argparse.Namespace) -> None:
    """Raises ModelError."""
    from workers.engine.build import check_model  # torch takes seconds to import
    from workers.weights.model_dir import resolve_model_dir
    from workers.weights.q80_export import export_q80

    model_dir = resolve_model_dir(options.model)
    spec, source = check_model(model_dir)
    print(export_q80(model_dir, source, spec, options.target))
