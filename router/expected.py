"""What workers will soon hold: prompts sent there whose events have not come yet."""

from collections.abc import Sequence

from radix.prefix_index import PrefixIndex

LIFETIME_S = 30.0


class ExpectedPrefixes:
    """A small second index, filled when a request is sent, so that a burst of one new prompt stays together.

    Nothing is confirmed or taken back: the events put a prompt into the true index, and here it is forgotten after one
    to two lifetimes. That is done a generation at a time, and costs nothing per entry.

    Args:
        root: namespace of the index.
        lifetime_s: how long an entry lives at least. Longer than a prompt waits and is computed.
    """

    def __init__(self, root: int, lifetime_s: float = LIFETIME_S) -> None:
        self.root = root
        self._lifetime_s = lifetime_s
        self._young, self._old = PrefixIndex(root), PrefixIndex(root)
        self._born_s = 0.0

    def insert(self, worker: str, hashes: Sequence[int], now_s: float) -> None:
        """The worker has been sent this prompt."""
        self._age(now_s)
        if hashes:
            self._young.insert(worker, hashes)

    def indexes(self, now_s: float) -> tuple[PrefixIndex, PrefixIndex]:
        """All that is expected, in two indexes."""
        self._age(now_s)
        return self._young, self._old

    def _age(self, now_s: float) -> None:
        generations = int((now_s - self._born_s) / self._lifetime_s)
        if generations > 0:
            self._old = self._young if generations == 1 else PrefixIndex(self.root)
            self._young = PrefixIndex(self.root)
            self._born_s += generations * self._lifetime_s
