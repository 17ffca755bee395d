"""The requests of the load: shared beginnings, greedy and drawn, with and without stop strings and usage."""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.faults.client import Heard, complete
from workers.tokenizer import Tokenizer

MODULES = ("heapq", "queue", "sched", "bisect", "cmd", "calendar", "copy", "csv")
SHARED_CHARACTERS, OWN_CHARACTERS = 600, 80
MAX_TOKENS = 48
Json = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A request and the answer that nothing disturbed."""

    body: Json
    text: str
    finish_reason: str | None
    num_tokens: int | None


def bodies(count: int, max_tokens: int = MAX_TOKENS) -> list[Json]:
    """So many different requests. All of them say how many tokens they got, but for every third."""
    return [body(number, max_tokens) for number in range(count)]


def body(number: int, max_tokens: int) -> Json:
    """The kinds take turns: greedy and drawn, then the modules that they begin with."""
    source = (Path(os.__file__).parent / f"{MODULES[number // 2 % len(MODULES)]}.py").read_text("utf-8")
    own = source[(begin := SHARED_CHARACTERS + 37 * number) : begin + OWN_CHARACTERS]
    drawn = {"temperature": 0.8, "seed": number} if number % 2 else {"temperature": 0}
    usage = {"stream_options": {"include_usage": True}} if number % 3 else {}
    prompt = f"{source[:SHARED_CHARACTERS]}\n# {number}\n{own}"
    return {"model": "tiny", "prompt": prompt, "max_tokens": max_tokens, "ignore_eos": True} | drawn | usage


async def undisturbed(port: int, asked: Json) -> Case:
    """Ask once. Raises RuntimeError where that fails."""
    heard = await complete(port, asked)
    if heard.error:
        raise RuntimeError(f"undisturbed, and yet: {heard.error}")
    return case_of(asked, heard)


def case_of(asked: Json, heard: Heard) -> Case:
    """What was asked and what was answered."""
    return Case(asked, heard.text, heard.finish_reason, heard.num_tokens)


async def cases(port: int, count: int, max_tokens: int = MAX_TOKENS) -> list[Case]:
    """The load. Every fourth ends at a string that its answer is known to have; each is asked twice for once."""
    plain = [await undisturbed(port, asked) for asked in bodies(count, max_tokens)]
    found = [await undisturbed(port, stopped(case)) if not n % 4 else case for n, case in enumerate(plain)]
    again = await asyncio.gather(*(undisturbed(port, case.body) for case in found))
    for first, second in zip(found, again, strict=True):
        if first != second:
            raise RuntimeError(f"undisturbed answers differ: {first.text!r}, {second.text!r}")
    return found


def stopped(case: Case) -> Json:
    """The same request, ending two thirds into its answer."""
    at = len(case.text) * 2 // 3
    return case.body | {"stop": case.text[at : at + 4]}


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    """A text as its tokens, for comparison."""
    return [str(token) for token in tokenizer.encode(text)]
