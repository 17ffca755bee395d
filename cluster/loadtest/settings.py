"""What a load test does, and the options that say so."""

import argparse
import random
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, get_args

ProfileName = Literal["unique", "shared-prefix", "multi-turn", "trace", "rate-sweep", "cancellations"]
Endpoint = Literal["completions", "chat"]
OWN_TIMES: Mapping[ProfileName, str] = {"trace": "--speed", "rate-sweep": "--rates"}  # and the option that changes them


class SettingsError(ValueError):
    """The settings cannot be used; the message says which and why."""


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run.

    Attributes:
        profile: which kind of load.
        seed: of the prompts and of the times between them. Another one for another run on the same server, whose caches
            know the prompts of the last.
        url: where the API is.
        model: what the server calls it; None asks the server.
        endpoint: which of the two kinds of completion.
        requests: in all, turns of conversations included; of a trace at most so many.
        warm_up: requests before them that do not count.
        concurrency: conversations at a time, each after the other.
        rate: conversations that begin in a second, at random times; None keeps to `concurrency` instead.
        timeout_s: after so long a request has failed.
        words: of each prompt, or of each turn, that no other has.
        max_tokens: of each answer.
        prefixes: how many beginnings there are (shared-prefix).
        prefix_words: of each beginning (shared-prefix).
        turns: of each conversation (multi-turn).
        rates: conversations a second, one stage after the other (rate-sweep).
        leave_share: of the clients, who leave before the end (cancellations).
        trace: a file in the form of Mooncake's traces (trace).
        speed: how many times as fast it is played (trace).
        block_words: that stand for one hash id of it, 512 tokens in the original (trace).
        slo_ttft_ms: time to first token that a good answer takes at most.
        slo_itl_ms: time for each further token that a good answer takes at most, on average.
        min_goodput: the share of requests that must have a good answer.
    """

    profile: ProfileName
    seed: int
    url: str = "http://127.0.0.1:8000"
    model: str | None = None
    endpoint: Endpoint = "completions"
    requests: int = 100
    warm_up: int = 4
    concurrency: int = 8
    rate: float | None = None
    timeout_s: float = 120.0
    words: int = 50
    max_tokens: int = 32
    prefixes: int = 4
    prefix_words: int = 300
    turns: int = 4
    rates: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    leave_share: float = 0.3
    trace: str | None = None
    speed: float = 1.0
    block_words: int = 400
    slo_ttft_ms: float | None = None
    slo_itl_ms: float | None = None
    min_goodput: float | None = None

    def __post_init__(self) -> None:
        counts = ("requests", "concurrency", "words", "max_tokens", "prefixes", "prefix_words", "turns", "block_words")
        positive = (*counts, "timeout_s", "speed", "rate", "slo_ttft_ms", "slo_itl_ms")
        for name in positive:
            if (value := getattr(self, name)) is not None and not value > 0:
                raise SettingsError(f"--{name.replace('_', '-')} is {value}; it must be above 0")
        for name in ("leave_share", "min_goodput"):
            if (value := getattr(self, name)) is not None and not 0 <= value <= 1:
                raise SettingsError(f"--{name.replace('_', '-')} is {value}; it must be from 0 to 1")
        if not self.url.startswith(("http://", "https://")):
            raise SettingsError(f"--url is {self.url}; it must begin with http:// or https://")
        if not self.rates or min(self.rates) <= 0:
            raise SettingsError("--rates must name rates above 0")
        if self.rate is not None and self.profile in OWN_TIMES:
            instead = OWN_TIMES[self.profile]
            raise SettingsError(f"--profile {self.profile} has times of its own: leave --rate out, or use {instead}")
        if self.profile == "trace" and not (self.trace and Path(self.trace).is_file()):
            raise SettingsError(f"--profile trace needs a --trace FILE that is there, not {self.trace}")


def add_options(parser: argparse.ArgumentParser) -> None:
    """One option for each setting; those left out keep the defaults of `Settings`."""
    add = parser.add_argument
    add("--profile", required=True, choices=get_args(ProfileName), help="the kind of load (docs/benchmarks.md)")
    add("--url", help="where the API is (http://127.0.0.1:8000)")
    add("--model", help="what the server calls it (its only one)")
    add("--endpoint", choices=get_args(Endpoint), help="which kind of completion (completions)")
    add("--requests", type=int, metavar="N", help="in all, all turns counted (100)")
    add("--warm-up", type=int, metavar="N", help="requests before them that do not count (4)")
    add("--concurrency", type=int, metavar="N", help="closed loop: so many clients, each asks when it is answered (8)")
    add("--rate", type=float, metavar="R", help="open loop: so many requests or conversations begin in a second")
    add("--timeout-s", type=float, metavar="S", help="after so long a request has failed (120)")
    add("--words", type=int, metavar="N", help="of each prompt or turn that no other has (50)")
    add("--max-tokens", type=int, metavar="N", help="of each answer (32)")
    add("--seed", type=int, metavar="N", help="of prompts and times (a new one each run, for servers remember)")
    add("--prefixes", type=int, metavar="N", help="shared-prefix: how many beginnings (4)")
    add("--prefix-words", type=int, metavar="N", help="shared-prefix: words of each (300)")
    add("--turns", type=int, metavar="N", help="multi-turn: of each conversation (4)")
    add("--rates", type=rates, metavar="R,R,...", help="rate-sweep: begun in a second, stage after stage (1,2,4,8)")
    add("--leave-share", type=float, metavar="SHARE", help="cancellations: of the clients, who leave early (0.3)")
    add("--trace", metavar="FILE", help="trace: requests in the form of Mooncake's traces")
    add("--speed", type=float, metavar="X", help="trace: how many times as fast (1)")
    add("--block-words", type=int, metavar="N", help="trace: words for a hash id, 512 tokens in the original (400)")
    add("--slo-ttft-ms", type=float, metavar="MS", help="time to first token of a good answer, at most")
    add("--slo-itl-ms", type=float, metavar="MS", help="time for each further token of a good answer, at most")
    add("--min-goodput", type=float, metavar="SHARE", help="share of good answers below which the exit status is 1")


def settings_of(options: argparse.Namespace) -> Settings:
    """What the options of `add_options` say. Raises SettingsError where that cannot be done."""
    names = {item.name for item in fields(Settings)}
    given = {name: value for name, value in vars(options).items() if name in names and value is not None}
    return Settings(**{"seed": random.randrange(2**31)} | given)


def rates(text: str) -> tuple[float, ...]:
    """Of the option --rates."""
    return tuple(map(float, text.split(",")))
