"""Can a tenant tell from its time to first token what another tenant has asked?

    python -m bench.tenant_timing [--tries 1000] [--json]

Starts a cluster with API keys. In each try alice sends a prompt that nobody has sent; then bob sends the same one and
another one that nobody has sent, in an order drawn by lot, and alice sends hers again. AUC is the probability that a
prompt which alice has sent was answered faster than one that she has not: 0.5 tells nothing, 1 everything. That of
alice's own prompts shows that there is something to be told: without tenants bob would see it too.
"""

import argparse
import contextlib
import hashlib
import http.client
import json
import random
import statistics
import sys
import tempfile
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.serving import serving
from bench.timing import machine

TENANTS = ("alice", "bob")
CONFIG = """
http: {{port: {port}}}
auth: {{keys_file: KEYS}}
pools: {{unified: {{}}}}
"""
PROMPT_TOKENS = 640


@dataclass
class Times:
    """Seconds to the first token, by what the prompt was to whoever sent it.

    Attributes:
        strange: sent by nobody before.
        others: sent by the other tenant before.
        own: sent by the same tenant before.
    """

    strange: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, object]:
        """Medians, and how well each kind can be told from the first."""
        return {
            "tries": len(self.others),
            "auc_of_another_tenants_prompt": round(auc(self.others, self.strange), 4),
            "auc_of_an_own_prompt": round(auc(self.own, self.strange), 4),
            "median_ms": {name: round(1e3 * statistics.median(times), 3) for name, times in vars(self).items()},
        }


class Tenant:
    """One tenant's connection, which stays open."""

    def __init__(self, port: int, name: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._headers = {"Authorization": f"Bearer {name}", "Content-Type": "application/json"}

    def first_token_s(self, prompt: Sequence[int]) -> float:
        """How long the first event of a stream takes. Raises RuntimeError for an answer that is none."""
        body = {"model": "tiny", "prompt": prompt, "max_tokens": 1, "stream": True, "temperature": 0}
        begin_s = time.perf_counter()
        self._connection.request("POST", "/v1/completions", json.dumps(body), self._headers)
        response = self._connection.getresponse()
        line = response.readline()
        first_s = time.perf_counter() - begin_s
        response.read()
        if response.status != 200 or not line.startswith(b"data: "):
            raise RuntimeError(f"the server answered {response.status}: {line!r}")
        return first_s


def measure(port: int, tries: int, rng: random.Random) -> Times:
    """Run all tries."""
    alice, bob = (Tenant(port, name) for name in TENANTS)
    times = Times()
    for _ in range(10):
        alice.first_token_s(new_prompt(rng))
        bob.first_token_s(new_prompt(rng))
    for _ in range(tries):
        known, unknown = new_prompt(rng), new_prompt(rng)
        alice.first_token_s(known)
        asked = [(known, times.others), (unknown, times.strange)]
        rng.shuffle(asked)
        for prompt, kind in asked:
            kind.append(bob.first_token_s(prompt))
        times.own.append(alice.first_token_s(known))
    return times


def new_prompt(rng: random.Random) -> list[int]:
    """Tokens that nobody has sent."""
    return [rng.randrange(2, 4000) for _ in range(PROMPT_TOKENS)]


def auc(faster: Sequence[float], slower: Sequence[float]) -> float:
    """The probability that one of the first is less than one of the second: Mann and Whitney's U over all pairs. Equals
    count half."""
    ordered = sorted(slower)
    wins = sum(len(ordered) - (bisect_left(ordered, one) + bisect_right(ordered, one)) / 2 for one in faster)
    return wins / (len(faster) * len(slower))


@contextlib.contextmanager
def serving_tenants() -> Iterator[int]:
    """The port of a cluster whose tenants have their names as keys."""
    with tempfile.TemporaryDirectory(prefix="rk") as name:
        keys = Path(name) / "keys.yaml"
        digests = {tenant: hashlib.sha256(tenant.encode()).hexdigest() for tenant in TENANTS}
        keys.write_text("\n".join(f'- {{tenant: {one}, keys: ["{digest}"]}}' for one, digest in digests.items()))
        with serving(CONFIG.replace("KEYS", str(keys))) as port:
            yield port


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print JSON with what it was measured on")
    options = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr), serving_tenants() as port:
        summary = measure(port, options.tries, random.Random(options.seed)).summary()
    print(json.dumps({"machine": machine()} | summary if options.json else summary, indent=2))


if __name__ == "__main__":
    main()
