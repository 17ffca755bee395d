"""Tokens that shape a conversation, told apart from text that only spells them.

A user who writes `<|im_end|>` must not be able to end a turn (CVE-2026-44222), and must get his letters through. A
tokenizer takes its special tokens out of a text before anything else, wherever they stand. So there is a second one,
the same but for the names of its control tokens, which nobody outside can spell: what the template has written gets the
secret names, what a user has written stays text, and everything else is done by the tokenizer as ever.
"""

import json
import re
import secrets
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from tokenizers import Tokenizer

PRIVATE_USE = range(0xF0000, 0xFFFFE)  # a plane of Unicode without characters of its own


class ControlTokens:
    """The control tokens of one tokenizer.

    Args:
        backend: it.
        names: the control tokens as they are spelled.
    """

    def __init__(self, backend: Tokenizer, names: Collection[str]) -> None:
        nonce = secrets.token_hex(16)
        self._secret_names = {name: f"\ue000{nonce}-{index}\ue000" for index, name in enumerate(names)}
        longest_first = sorted(filter(None, names), key=len, reverse=True)
        self._spelled = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._backend = renamed(backend, self._secret_names)

    def spelled_in(self, value: Any) -> dict[str, str]:
        """A stand-in for each control token that is spelled anywhere in a JSON value: a character that is nowhere in
        it. Empty where there are none, as nearly always."""
        texts = list(strings_in(value))
        spelled = dict.fromkeys(name for text in texts for name in self._spelled.findall(text))
        if not spelled:
            return {}
        used = set().union(*texts)
        free = (chr(code) for code in PRIVATE_USE if chr(code) not in used)
        return dict(zip(spelled, free, strict=False))

    def masked(self, value: Any, stand_ins: dict[str, str]) -> Any:
        """The same JSON value with stand-ins in place of control tokens."""
        if isinstance(value, str):
            return self._spelled.sub(lambda found: stand_ins[found[0]], value)
        if isinstance(value, Mapping):
            return {self.masked(key, stand_ins): self.masked(item, stand_ins) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.masked(item, stand_ins) for item in value]
        return value

    def encode(self, text: str, stand_ins: dict[str, str]) -> list[int]:
        """The tokens of a text: what is spelled out in it are control tokens, and stand-ins are letters."""
        secret = self._spelled.sub(lambda found: self._secret_names[found[0]], text)
        spelled = secret.translate({ord(stand_in): name for name, stand_in in stand_ins.items()})
        ids: list[int] = self._backend.encode_batch_fast([spelled], add_special_tokens=False)[0].ids  # without the GIL
        return ids


def renamed(backend: Tokenizer, names: dict[str, str]) -> Tokenizer:
    """The same tokenizer with other names for some of its tokens."""
    state = json.loads(backend.to_str())
    for token in state["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = state["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(piece, piece): token_id for piece, token_id in model["vocab"].items()}
    else:  # Unigram: pieces with their scores, in order
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
    if model.get("unk_token") is not None:
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    state["post_processor"] = None  # adds tokens, by their old names; chat templates write theirs themselves
    return Tokenizer.from_str(json.dumps(state))


def strings_in(value: Any) -> Iterator[str]:
    """Every text in a JSON value, names of fields included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from strings_in(key)
            yield from strings_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings_in(item)
