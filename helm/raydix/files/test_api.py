"""What `helm test` runs: the models and a completion, over the API. Standard library only.

Arguments: URL, prompt, tokens at most, seconds at most. Where the API wants a key, RAYDIX_API_KEY has it.
"""

import json
import os
import sys
import urllib.request
from typing import Any


def ask(url: str, body: dict[str, Any] | None, timeout_s: float) -> dict[str, Any]:
    """GET, or POST where there is a body; an HTTP error ends the test."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("RAYDIX_API_KEY", "").strip():
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url, data, headers)
    with urllib.request.urlopen(request, timeout=timeout_s) as response:
        return dict(json.load(response))


def main(url: str, prompt: str, max_tokens: str, timeout_s: str) -> None:
    """Raise where the service does not do what it is for."""
    models = ask(f"{url}/v1/models", None, float(timeout_s))["data"]
    print("models:", ", ".join(model["id"] for model in models))
    body = {"model": models[0]["id"], "prompt": prompt, "max_tokens": int(max_tokens), "temperature": 0}
    answer = ask(f"{url}/v1/completions", body, float(timeout_s))
    print("completion:", repr(answer["choices"][0]["text"]))
    if answer["usage"]["completion_tokens"] < 1:
        raise SystemExit("the completion has no tokens")


if __name__ == "__main__":
    main(*sys.argv[1:])
