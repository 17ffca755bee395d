"""`raydix quantize`: a checkpoint of floats rounded to 4 or 8 bits."""

import argparse
import sys
from pathlib import Path


def add_quantize_options(parser: argparse.ArgumentParser) -> None:
    """What is to be quantised, and how; the words are explained in docs/quantisation.md."""
    parser.add_argument("source", metavar="SRC", help="model directory or Hugging Face Hub id")
    parser.add_argument("destination", type=Path, metavar="DST", help="directory to make, or to go on with")
    parser.add_argument("--method", choices=("rtn", "gptq", "awq", "int8"), default="gptq", help="how to round (gptq)")
    parser.add_argument("--bits", type=int, choices=(4, 8), help="of a weight (4; 8 for int8)")
    parser.add_argument(
        "--granularity", choices=("tensor", "channel", "group"), help="weights that share a scale (group)"
    )
    parser.add_argument("--group-size", type=int, metavar="N", help="weights of a group (128)")
    zero = parser.add_mutually_exclusive_group()
    zero.add_argument("--symmetric", action="store_true", default=None, help="the middle level is zero (for int8)")
    zero.add_argument("--asymmetric", dest="symmetric", action="store_false", help="a zero point for each group")
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="text to run through the model, .xz too")
    parser.add_argument(
        "--search",
        choices=("minmax", "mse", "percentile", "kl"),
        help="how the range of a group is found (mse for gptq and awq, minmax for the others)",
    )
    parser.set_defaults(command=run_quantize)


def run_quantize(options: argparse.Namespace) -> None:
    """Raises ModelError or RequestError."""
    from workers.quantization.options import choose_options
    from workers.quantization.quantize import quantize_model  # torch takes seconds to import
    from workers.weights.model_dir import resolve_model_dir

    chosen = choose_options(
        options.method, options.bits, options.granularity, options.group_size, options.symmetric, options.search
    )
    try:
        quantize_model(resolve_model_dir(options.source), options.destination, chosen, options.calibration)
    except KeyboardInterrupt:
        print(f"\nraydix: finished layers are kept in {options.destination}; the same command goes on", file=sys.stderr)
        raise
