"""From a stream of tokens to a stream of text that ends before a stop string."""

from collections.abc import Sequence

from workers.tokenizer import Detokenizer, Tokenizer


class TextStream:
    """Text as it becomes certain. What could be the beginning of a stop string is held back until it is not.

    Attributes:
        stopped: a stop string was found; the text before it has been given out and no more will come.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False

    def push(self, token_ids: Sequence[int], *, last: bool) -> str:
        """Take tokens in and return the new text. With `last`, everything held back comes out."""
        if self.stopped:
            return ""
        text = self._held + self._detokenizer.push(token_ids)
        if last:
            text += self._detokenizer.flush()
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
