"""The load test's profiles asked by aiperf instead of our own client, to hold one against the other.

    python -m bench.aiperf --profile shared-prefix [--aiperf COMMAND] [--tokenizer DIR] [--keep DIR] ...

The other options are those of `python -m bench.load`. aiperf (PyPI) wants an environment of its own. It is given the
prompts of the profile as a file, so it asks what our client asks with the same --seed; a conversation's answers are
those that it gets itself. Its tables go to standard error; a few of its figures, under our names, to standard output.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.loadtest.ask import Session
from cluster.loadtest.client import NoServer, only_model
from cluster.loadtest.profiles.by_name import profile_of
from cluster.loadtest.run import planned_starts_s
from cluster.loadtest.settings import Settings, SettingsError, add_options, settings_of
from workers.weights.model_dir import TINY_MODEL

Json = dict[str, Any]
EXPORT = "profile_export_aiperf.json"
FIGURES = {"ttft_ms": "time_to_first_token", "itl_ms": "inter_token_latency", "e2e_ms": "request_latency"}
PERCENTILES = ("p50", "p90", "p99")


def conversations(settings: Settings) -> Iterator[Json]:
    """The lines of aiperf's `multi_turn` files. Those of an open loop say when they begin, in milliseconds."""
    profile = profile_of(settings)
    starts_s = planned_starts_s(settings, profile)
    for number, session in enumerate(profile.sessions()):
        asked = list(turns(session))
        if starts_s is not None:
            asked[0]["timestamp"] = round(1000 * next(starts_s))
        yield {"session_id": str(number), "turns": asked}


def turns(session: Session) -> Iterator[Json]:
    """What the user says, turn by turn; aiperf keeps the answers."""
    try:
        ask = next(session)
        while True:
            yield {"text": ask.messages[-1], "output_length": ask.max_tokens, "extra": {"ignore_eos": True}}
            ask = session.send("")
    except StopIteration:
        return


def command(aiperf: str, tokenizer: Path, settings: Settings, model: str, prompts: Path, out: Path) -> list[str]:
    """The command line of aiperf."""
    line = [aiperf, "profile", "--model", model, "--url", settings.url, "--endpoint-type", settings.endpoint]
    line += ["--streaming", "--tokenizer", str(tokenizer), "--use-server-token-count", "--ui", "none"]
    line += ["--input-file", str(prompts), "--custom-dataset-type", "multi_turn", "--artifact-dir", str(out)]
    line += ["--request-timeout-seconds", str(settings.timeout_s), "--workers-max", "1"]
    if planned_starts_s(settings, profile_of(settings)) is None:
        line += ["--concurrency", str(settings.concurrency), "--request-count", str(settings.requests)]
    else:
        line += ["--fixed-schedule"]
    if settings.profile == "cancellations":
        line += ["--request-cancellation-rate", str(100 * settings.leave_share)]
    return line


def figures(export: Json) -> Json:
    """Of aiperf's export, under the names that the load test's report has for them."""
    taken: Json = {
        ours: {name: export[theirs][name] for name in PERCENTILES}
        for ours, theirs in FIGURES.items()
        if theirs in export
    }
    cached = export.get("overall_usage_prompt_cache_read_pct")
    return taken | {
        "cached_share": None if cached is None else cached["avg"] / 100,
        "answers_per_s": export["request_throughput"]["avg"],
        "ok": export["request_count"]["avg"],
        "errors": export.get("error_summary", []),
    }


def measure(options: argparse.Namespace, settings: Settings, out: Path) -> Json:
    """Write the prompts, run aiperf, read its export. Raises CalledProcessError where it fails."""
    model = settings.model or asyncio.run(only_model(settings.url, settings.timeout_s))
    prompts = out / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(line) + "\n" for line in conversations(settings)), "utf-8")
    line = command(options.aiperf, options.tokenizer, settings, model, prompts, out)
    subprocess.run(line, check=True, stdout=sys.stderr)
    return figures(json.loads((out / EXPORT).read_text("utf-8")))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--aiperf", default="aiperf", metavar="COMMAND", help="of its own environment (on the path)")
    parser.add_argument("--tokenizer", type=Path, default=TINY_MODEL, metavar="DIR", help="the bundled model's")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep all of aiperf's files there")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as name:
            out = options.keep or Path(name)
            out.mkdir(parents=True, exist_ok=True)
            print(json.dumps(measure(options, settings_of(options), out), indent=2))
    except (NoServer, SettingsError, OSError, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
