"""Time to first token over HTTP, cold and with the prompt's KV cached, through the whole cluster.

    python -m bench.first_token [--json] [--url http://127.0.0.1:8000/v1]

Without --url it starts a cluster of its own with the bundled model. Prompts are beginnings of standard library modules;
each is sent twice, and the first answer's text must come again.
"""

import argparse
import contextlib
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import openai

from bench.timing import machine

MODULES = ("heapq", "queue", "sched", "bisect", "cmd", "code", "calendar", "copy", "csv", "shlex", "string", "textwrap")
CHARACTERS = (2000, 5000)


def first_token_s(client: openai.OpenAI, prompt: str, max_tokens: int = 16) -> tuple[float, str, int]:
    """Seconds to the first text of a chat stream, or to its end where it has none, the text, and the cached tokens."""
    model = client.models.list().data[0].id
    begin_s, first_s, text, cached = time.perf_counter(), 0.0, "", 0
    for chunk in client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": prompt}],
        max_tokens=max_tokens,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ):
        for choice in chunk.choices:
            text += choice.delta.content or ""
            if not first_s and (choice.delta.content or choice.finish_reason):
                first_s = time.perf_counter() - begin_s
        if chunk.usage is not None and chunk.usage.prompt_tokens_details is not None:
            cached = chunk.usage.prompt_tokens_details.cached_tokens or 0
    return first_s, text, cached


def measure(client: openai.OpenAI, num_characters: int) -> dict[str, object]:
    """One line of the table: medians over the modules."""
    cold, warm, cached, same = [], [], [], 0
    salt = random.randrange(10**9)  # a server that has run this before would know the prompts
    for name in MODULES:
        source = (Path(os.__file__).parent / f"{name}.py").read_text("utf-8")
        prompt = f"# {salt} {name}\n{source[:num_characters]}"
        first, second = first_token_s(client, prompt), first_token_s(client, prompt)
        cold.append(first[0])
        warm.append(second[0])
        cached.append(second[2])
        same += first[1] == second[1]
    return {
        "prompts": len(MODULES),
        "characters": num_characters,
        "cached_tokens_median": statistics.median(cached),
        "cold_ms": {"median": 1e3 * statistics.median(cold), "min": 1e3 * min(cold), "max": 1e3 * max(cold)},
        "cached_ms": {"median": 1e3 * statistics.median(warm), "min": 1e3 * min(warm), "max": 1e3 * max(warm)},
        "median_ratio": statistics.median(w / c for w, c in zip(warm, cold, strict=True)),
        "same_text": same,
    }


@contextlib.contextmanager
def serving(url: str | None) -> Iterator[str]:
    """The URL given, or one of a cluster started for the purpose."""
    if url is not None:
        yield url
        return
    from cluster.config import parse_config
    from cluster.haproxy import free_ports, proxy_environment

    (port,) = free_ports(1)
    config = parse_config({"http": {"port": port}})
    with proxy_environment(config.http, config.ingress.max_ongoing_requests):
        from cluster.local import local_cluster

        with local_cluster(config):
            yield f"http://127.0.0.1:{port}/v1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--url", help="a running server; without it one is started")
    options = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr), serving(options.url) as url:  # progress must not mix with the JSON
        client = openai.OpenAI(base_url=url, api_key="none")
        first_token_s(client, "warm up\n")
        table = [measure(client, characters) for characters in CHARACTERS]
    if options.json:
        print(json.dumps({"machine": machine(), "rows": table}, indent=2))
        return
    for line in table:
        print(line)


if __name__ == "__main__":
    main()
