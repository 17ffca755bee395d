"""A bit for each worker, so that a set of workers is one integer."""


class WorkerBits:
    """Gives names bits, the lowest free one first, and takes them back."""

    def __init__(self) -> None:
        self._bit_of: dict[str, int] = {}
        self._names: list[str] = []  # by place of the bit; "" where it is free

    def __len__(self) -> int:
        """Bits that the largest set takes."""
        return len(self._names)

    def get(self, worker: str) -> int:
        """The worker's bit, 0 where it has none."""
        return self._bit_of.get(worker, 0)

    def assign(self, worker: str) -> int:
        """The worker's bit, a new one where it had none."""
        bit = self._bit_of.get(worker)
        if bit is None:
            place = next((place for place, name in enumerate(self._names) if not name), len(self._names))
            self._names[place : place + 1] = [worker]
            bit = self._bit_of[worker] = 1 << place
        return bit

    def release(self, worker: str) -> None:
        """Take the bit back. Whoever calls has removed it from every set."""
        bit = self._bit_of.pop(worker)
        self._names[bit.bit_length() - 1] = ""

    def names(self, mask: int) -> list[str]:
        """The workers of a set, in the order of their bits; bits of nobody are left out."""
        names, found = self._names, []
        mask &= (1 << len(names)) - 1
        while mask:
            lowest = mask & -mask
            found.append(names[lowest.bit_length() - 1])
            mask ^= lowest
        return [name for name in found if name]
