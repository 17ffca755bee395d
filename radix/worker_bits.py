"""A bit for each worker, so that a set of workers is one integer."""

MAX_REMEMBERED = 1024


class WorkerBits:
    """Gives names bits, the lowest free one first, and takes them back."""

    def __init__(self) -> None:
        self._bit_of: dict[str, int] = {}
        self._names: list[str] = []  # by place of the bit; "" where it is free
        self._names_of: dict[int, tuple[str, ...]] = {}  # sets met before: routing meets few, again and again

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
            self._names_of.clear()
        return bit

    def release(self, worker: str) -> None:
        """Take the bit back. Whoever calls has removed it from every set."""
        bit = self._bit_of.pop(worker)
        self._names[bit.bit_length() - 1] = ""
        self._names_of.clear()

    def rename(self, worker: str, name: str) -> None:
        """Give the worker's bit, if it has one, to a name that has none."""
        bit = self._bit_of.pop(worker, 0)
        if bit:
            self._bit_of[name] = bit
            self._names[bit.bit_length() - 1] = name
            self._names_of.clear()

    def names(self, mask: int) -> tuple[str, ...]:
        """The workers of a set, in the order of their bits; bits of nobody are left out."""
        names = self._names_of.get(mask)
        if names is None:
            if len(self._names_of) == MAX_REMEMBERED:
                self._names_of.clear()
            names = self._names_of[mask] = self._spell(mask)
        return names

    def _spell(self, mask: int) -> tuple[str, ...]:
        names = []
        mask &= (1 << len(self._names)) - 1
        while mask:
            lowest = mask & -mask
            names.append(self._names[lowest.bit_length() - 1])
            mask ^= lowest
        return tuple(name for name in names if name)
