"""What a client hears of one request."""

from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["answered", "left", "failed"]


@dataclass
class Heard:
    """One answer as it came. Times are of the monotonic clock.

    Attributes:
        group: of the request (`Ask.group`).
        sent_s: when the client began to connect.
        shared_share: of the prompt (`Ask.shared_share`).
        pieces_s: when each piece of text came.
        error: the kind of failure: connect, timeout, cut, malformed, error_event, no_usage, or http_ and the status;
            empty where there was none.
        detail: what there is to say about it.
        left: the client went before the end, as it was told.
        prompt_tokens, cached_tokens, output_tokens: as the server counts them; 0 until it has.
    """

    group: str
    sent_s: float
    shared_share: float = 0.0
    pieces_s: list[float] = field(default_factory=list)
    text: str = ""
    error: str = ""
    detail: str = ""
    left: bool = False
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    end_s: float = 0.0

    @property
    def outcome(self) -> Outcome:
        """How it ended."""
        return "failed" if self.error else "left" if self.left else "answered"

    @property
    def ttft_ms(self) -> float:
        """To the first piece of text, or to the end where there was none."""
        return 1000 * ((self.pieces_s[0] if self.pieces_s else self.end_s) - self.sent_s)

    @property
    def itl_ms(self) -> float | None:
        """For each token after the first, on average; None where there is only one."""
        if self.output_tokens < 2 or not self.pieces_s:
            return None
        return 1000 * (self.pieces_s[-1] - self.pieces_s[0]) / (self.output_tokens - 1)

    @property
    def e2e_ms(self) -> float:
        """To the end."""
        return 1000 * (self.end_s - self.sent_s)

    @property
    def gaps_ms(self) -> list[float]:
        """Between one piece and the next."""
        pairs = zip(self.pieces_s, self.pieces_s[1:], strict=False)
        return [1000 * (later - earlier) for earlier, later in pairs]
