"""The `raydix` command."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from workers.models.spec import ModelError
from workers.request import RequestError

EPILOG = """examples:
  raydix serve                                  the bundled model on 127.0.0.1:8000
  raydix serve --model meta-llama/Llama-3.2-1B  a model from the Hugging Face Hub
  raydix serve --config cluster.yaml            pools, engine and ports from a file (docs/configuration.md)
  raydix generate --prompt 'def main():'        a completion without a server
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    from cluster.config import ConfigError, DeployError

    options = make_parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], None] = options.command
    try:
        command(options)
    except (ConfigError, DeployError, ModelError, RequestError) as error:
        print(f"raydix: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def make_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("raydix", description="LLM serving on Ray.", epilog=EPILOG, formatter_class=raw)
    commands = parser.add_subparsers(required=True, metavar="command")
    serving = commands.add_parser("serve", help="start a cluster on this machine and serve the OpenAI API")
    serving.add_argument("--config", type=Path, metavar="FILE", help="YAML configuration; options below override it")
    serving.add_argument("--model", metavar="DIR_OR_ID", help="model directory or Hugging Face Hub id")
    serving.add_argument("--host", help="address to listen on (127.0.0.1)")
    serving.add_argument("--port", type=int, help="port to listen on (8000)")
    serving.set_defaults(command=run_serve)
    generating = commands.add_parser("generate", help="complete one prompt in this process, without Ray")
    generating.add_argument("--prompt", required=True, help="text to continue")
    generating.add_argument("--model", metavar="DIR_OR_ID", help="model directory or Hugging Face Hub id")
    generating.add_argument("--max-tokens", type=int, default=64, help="tokens to generate (64)")
    generating.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token (0)")
    generating.add_argument("--seed", type=int, default=0, help="decides the draws where temperature is not 0 (0)")
    generating.set_defaults(command=run_generate)
    return parser


def run_serve(options: argparse.Namespace) -> None:
    """`raydix serve`."""
    from cluster.config import load_config, parse_config

    config = load_config(options.config) if options.config else parse_config({})
    values = config.model_dump()
    override(values, "model", options.model)
    override(values["http"], "host", options.host)
    override(values["http"], "port", options.port)
    from cluster.local import serve_until_interrupted  # imports Ray: after the configuration is known to be good

    serve_until_interrupted(parse_config(values))


def run_generate(options: argparse.Namespace) -> None:
    """`raydix generate`."""
    from workers.generate import generate
    from workers.request import SamplingParams
    from workers.weights.model_dir import TINY_MODEL, resolve_model_dir

    sampling = SamplingParams(max_tokens=options.max_tokens, temperature=options.temperature, seed=options.seed)
    for text in generate(resolve_model_dir(options.model or str(TINY_MODEL)), options.prompt, sampling):
        print(text, end="", flush=True)
    print()


def override(values: dict[str, Any], key: str, value: Any) -> None:
    """Let an option that was given win over the file."""
    if value is not None:
        values[key] = value
