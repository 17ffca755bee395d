"""Prompts of words that most tokenizers know whole, so that a text's tokens grow with its characters."""

import random
from collections.abc import Hashable

COMMON = (
    "about after again answer array before begin block branch buffer build call case change check class client close "
    "code column common count data default define device end error event false file find first format function given "
    "group handle header import index input inside item keep key kind last length level line list local loop make "
    "match memory message method model module name never next node none number object only open order other output "
    "parse part path pattern place point port print process query queue raise range read record request result "
    "return right root row run same search second self send server set show size source stack start state step stop "
    "string table task test text thread time token total tree true type under update use user value version wait "
    "while word work write"
)
WORDS = COMMON.split()


def words(count: int, *key: Hashable) -> str:
    """A line of so many words; the same for the same key, and for another one different from the first few words on.

    It begins with its line break: tokenizers then cut it off from whatever stands before it, and what follows it does
    not change its tokens.
    """
    rng = random.Random(repr(key))
    return "\n" + " ".join(rng.choice(WORDS) for _ in range(count))
