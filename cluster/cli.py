"""The `raydix` command."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from cluster.commands.export import add_export_options
from cluster.commands.inspect import add_inspect_options
from cluster.commands.keys import add_keys_options
from cluster.commands.loadtest import JobError, add_loadtest_options
from cluster.commands.perplexity import add_perplexity_options
from cluster.commands.quantize import add_quantize_options
from cluster.loadtest.settings import SettingsError
from workers.models.spec import ModelError
from workers.request import RequestError

EPILOG = """examples:
  raydix serve                                  the bundled model on 127.0.0.1:8000
  raydix serve --model meta-llama/Llama-3.2-1B  a model from the Hugging Face Hub
  raydix serve --config cluster.yaml            pools, engine and ports from a file (docs/configuration.md)
  raydix loadtest --profile shared-prefix       load on a served API, as a Ray job (docs/benchmarks.md)
  raydix status                                 a live table of the cluster that runs on this machine
  raydix inspect models/tiny --memory 24GiB     what a model takes, and how much KV fits beside it
  raydix generate --prompt 'def main():'        a completion without a server
  raydix generate --temperature 0.8 < draft.py  the prompt from a file
  raydix quantize SRC DST --calibration text.txt  4 bits a weight by GPTQ (docs/quantisation.md)
  raydix keys new --tenant alice                an API key (docs/security.md)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    from cluster.commands.status import StatusError
    from cluster.config import ConfigError, DeployError

    options = make_parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int | None] = options.command
    try:
        return command(options) or 0
    except (ConfigError, DeployError, JobError, ModelError, RequestError, SettingsError, StatusError) as error:
        print(f"raydix: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


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
    serving.add_argument("--dashboard-port", type=int, metavar="PORT", help="Ray's dashboard and job server (none)")
    serving.set_defaults(command=run_serve)
    add_inspect_options(commands.add_parser("inspect", help="what a model is, what it takes, and how much fits"))
    add_keys_options(commands.add_parser("keys", help="make API keys"))
    loading = commands.add_parser("loadtest", help="put load on a served API, from a Ray job on its cluster")
    add_loadtest_options(loading)
    status = commands.add_parser("status", help="a live table of a cluster's workers, out of its metrics")
    status.add_argument(
        "--metrics",
        metavar="URL_OR_FILE",
        help="a metrics port, or Ray's list of them (what runs on this machine)",
    )
    status.set_defaults(command=run_status)
    add_quantize_options(commands.add_parser("quantize", help="round a model's weights to 4 or 8 bits"))
    add_perplexity_options(commands.add_parser("perplexity", help="how well a model predicts a text"))
    add_export_options(commands.add_parser("export", help="write a model in another format"))
    add_generate_options(commands.add_parser("generate", help="complete prompts in this process, without Ray"))
    return parser


def add_generate_options(parser: argparse.ArgumentParser) -> None:
    """`raydix generate`; what the sampling options do is said at `workers.sampling_params.SamplingParams`."""
    parser.add_argument("--prompt", action="append", help="text to continue; may be repeated (standard input)")
    parser.add_argument("--model", metavar="DIR_OR_ID", help="model directory or Hugging Face Hub id")
    parser.add_argument("--max-tokens", type=int, default=64, help="tokens to generate at most (64)")
    parser.add_argument("--min-tokens", type=int, default=0, help="tokens before which nothing else stops (0)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token (0)")
    parser.add_argument("--top-k", type=int, default=0, help="draw from this many of the likeliest; 0 for all (0)")
    parser.add_argument("--top-p", type=float, default=1.0, help="draw from the likeliest with this share (1)")
    parser.add_argument("--min-p", type=float, default=0.0, help="least likelihood, of the likeliest token's (0)")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, help="for tokens seen; 1 for none (1)")
    parser.add_argument("--presence-penalty", type=float, default=0.0, help="for tokens generated, -2 to 2 (0)")
    parser.add_argument("--frequency-penalty", type=float, default=0.0, help="for each time they were, -2 to 2 (0)")
    parser.add_argument("--seed", type=int, default=0, help="decides the draws where temperature is not 0 (0)")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="ends the completion; repeatable")
    parser.add_argument("--ignore-eos", action="store_true", help="go on after the model's end of text")
    parser.set_defaults(command=run_generate)


def run_serve(options: argparse.Namespace) -> None:
    """`raydix serve`."""
    from cluster.config import load_config, parse_config

    config = load_config(options.config) if options.config else parse_config({})
    said = config.model_dump(exclude_unset=True)  # defaults would stand beside keys that exclude them
    config = parse_config(overridden(said, options))
    from cluster.haproxy import proxy_environment

    with proxy_environment(config.http, config.ingress.max_ongoing_requests):
        from cluster.local import serve_until_interrupted  # imports Ray, which reads the environment

        serve_until_interrupted(config)


def run_status(options: argparse.Namespace) -> None:
    """`raydix status`."""
    from cluster.commands.status_screen import show

    show(options.metrics)


def run_generate(options: argparse.Namespace) -> None:
    """`raydix generate`."""
    from workers.llm import LLM
    from workers.request import SamplingParams
    from workers.weights.model_dir import TINY_MODEL

    names = {item.name for item in fields(SamplingParams)}
    sampling = SamplingParams(**{name: value for name, value in vars(options).items() if name in names})
    prompts = options.prompt or [sys.stdin.read()]
    llm = LLM(options.model or TINY_MODEL)
    for prompt in prompts:
        for text in llm.stream(prompt, sampling):
            print(text, end="", flush=True)
        print()


def overridden(values: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """What a file says, but for what the options of `raydix serve` say."""
    http = values.setdefault("http", {})
    override(values, "model", options.model)
    override(values, "dashboard_port", options.dashboard_port)
    override(http, "host", options.host)
    override(http, "port", options.port)
    return values


def override(values: dict[str, Any], key: str, value: Any) -> None:
    """Let an option that was given win over the file."""
    if value is not None:
        values[key] = value
