"""Log-probabilities of drawn tokens as the API words them, for its two kinds of completion."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workers.request import FinishReason, RequestOutput
from workers.tokenizer import Tokenizer

Json = dict[str, Any]
REPLACEMENT = "\ufffd"  # stands for bytes that are no character by themselves


@dataclass(frozen=True)
class LikelyToken:
    """A token and the natural logarithm of its probability. `text` is what it spells by itself."""

    text: str
    logprob: float

    def chat(self) -> Json:
        """As an entry of a chat completion. A part of a character has no text, and its bytes are not known here."""
        known = None if REPLACEMENT in self.text else list(self.text.encode())
        return {"token": self.text, "logprob": self.logprob, "bytes": known}


@dataclass(frozen=True)
class DrawnToken:
    """A token of a completion, and the likeliest ones in its place, the likeliest first."""

    drawn: LikelyToken
    top: tuple[LikelyToken, ...]


def drawn_tokens(output: RequestOutput, tokenizer: Tokenizer) -> list[DrawnToken]:
    """Those of an output that are part of the text: a token that stops the completion is none. Empty where
    log-probabilities were not asked for."""
    spoken = len(output.token_ids) - (output.finish_reason is FinishReason.STOP)
    pairs = list(zip(output.token_ids, output.logprobs or (), strict=output.logprobs is not None))
    return [
        DrawnToken(
            LikelyToken(tokenizer.decode([token]), logprobs.logprob),
            tuple(LikelyToken(tokenizer.decode([other]), logprob) for other, logprob in logprobs.top),
        )
        for token, logprobs in pairs[:spoken]
    ]


def chat_logprobs(tokens: Sequence[DrawnToken]) -> Json:
    """Of a choice of a chat completion."""
    content = [one.drawn.chat() | {"top_logprobs": [token.chat() for token in one.top]} for one in tokens]
    return {"content": content, "refusal": None}


def text_logprobs(tokens: Sequence[DrawnToken], offset: int) -> Json:
    """Of a choice of a text completion; the first token begins at character `offset` of the text."""
    texts = [one.drawn.text for one in tokens]
    return {
        "tokens": texts,
        "token_logprobs": [one.drawn.logprob for one in tokens],
        "top_logprobs": [{token.text: token.logprob for token in (one.drawn, *one.top)} for one in tokens],
        "text_offset": [offset + sum(map(len, texts[:index])) for index in range(len(texts))],
    }
