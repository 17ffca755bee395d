"""From a stream of tokens to a stream of text that ends before a stop string."""

from collections.abc import Sequence

from workers.tokenizer import Detokenizer, Tokenizer


class TextStream:
    """Text as it becomes certain. What could be the beginning of a stop string is held back until it is not.

    Args:
        stop: strings that end the text and are no part of it.
        min_tokens: the text of this many tokens is given out without a search for them.

    Attributes:
        stopped: a stop string was found; the text before it has been given out and no more will come.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str], min_tokens: int = 0) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        self._stop = tuple(stop)
        self._num_unsearched = min_tokens
        self._held = ""
        self.stopped = False

    def push(self, token_ids: Sequence[int], *, last: bool) -> str:
        """Take tokens in and return the new text. With `last`, everything held back comes out."""
        if self.stopped:
            return ""
        unsearched = token_ids[: self._num_unsearched]
        self._num_unsearched -= len(unsearched)
        given = self._detokenizer.push(unsearched) if unsearched else ""
        text = self._held + self._detokenizer.push(token_ids[len(unsearched) :])
        if last:
            text += self._detokenizer.flush()
        return given + self._before_stop(text, last=last)

    def _before_stop(self, text: str, *, last: bool) -> str:
        """What of a text can be given out; the rest is held back, or dropped where a stop string was found."""
        cuts = [found for found in (text.find(stop) for stop in self._stop) if found >= 0]
        if cuts:
            self.stopped, self._held = True, ""
            return text[: min(cuts)]
        keep = 0 if last else self._num_suspect(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _num_suspect(self, text: str) -> int:
        """Length of the longest end of `text` that some stop string begins with."""
        longest = max(map(len, self._stop), default=1) - 1
        lengths = range(min(longest, len(text)), 0, -1)
        return next((n for n in lengths if any(stop.startswith(text[-n:]) for stop in self._stop)), 0)
