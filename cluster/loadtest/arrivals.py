"""When conversations begin, where they do not wait for each other."""

import random
from collections.abc import Iterable, Iterator


def poisson_s(rates: Iterable[float], seed: int) -> Iterator[float]:
    """Seconds from the first beginning on, the gaps drawn at random: `rates` has the mean number a second at each."""
    rng, at_s = random.Random(repr((seed, "arrivals"))), 0.0
    for rate in rates:
        yield at_s
        at_s += rng.expovariate(rate)
