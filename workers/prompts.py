"""Prompts as they are given to `LLM`: text, tokens or messages."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypedDict

from workers.request import RequestError
from workers.tokenizer import Tokenizer
from workers.validation import check_int


class TextPrompt(TypedDict):
    """A prompt as text; a plain string means the same."""

    prompt: str


class TokensPrompt(TypedDict):
    """A prompt as tokens, taken as they are."""

    prompt_token_ids: Sequence[int]


Prompt = str | TextPrompt | TokensPrompt
Message = Mapping[str, str]


@contextmanager
def naming_prompt(index: int) -> Iterator[None]:
    """Say in a RequestError which of several prompts is at fault."""
    try:
        yield
    except RequestError as error:
        raise RequestError(f"prompt {index}: {error}") from error


def read_prompt(prompt: object, tokenizer: Tokenizer) -> tuple[str | None, tuple[int, ...]]:
    """A prompt's text, where it has one, and its tokens. Raises RequestError where it is none."""
    fields = {"prompt": prompt} if isinstance(prompt, str) else prompt
    match fields:
        case {"prompt": str(text), **rest} if not rest:
            return text, tuple(tokenizer.encode(text))
        case {"prompt_token_ids": list() | tuple() as tokens, **rest} if not rest:
            for token in tokens:
                check_int("a token of prompt_token_ids", token, 0)
            return None, tuple(tokens)
    raise RequestError('a prompt is a string, {"prompt": string} or {"prompt_token_ids": list of token ids}')


def read_messages(messages: Any, tokenizer: Tokenizer) -> tuple[None, tuple[int, ...]]:
    """No text, and a conversation's tokens. Raises RequestError where it is none, or the template refuses it."""
    if not isinstance(messages, list | tuple) or not messages:
        raise RequestError("a conversation is a list of at least one message")
    for message in messages:
        match message:
            case {"role": str(), "content": str()}:
                continue
        raise RequestError(f'{message!r} is no message; one is {{"role": string, "content": string}}')
    return None, tuple(tokenizer.encode_chat(messages))
