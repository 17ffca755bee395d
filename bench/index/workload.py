"""What is put into an index and asked of it: prompts of 2,000 tokens that share system prompts and contexts."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

VOCAB_SIZE = 151_936  # Qwen's
NUM_WORKERS = 8
NUM_SYSTEMS, NUM_CONTEXTS = 100, 10
SYSTEM_TOKENS, CONTEXT_TOKENS, TAIL_TOKENS, NEXT_TURN_TOKENS = 1024, 512, 464, 100
PROMPT_TOKENS = SYSTEM_TOKENS + CONTEXT_TOKENS + TAIL_TOKENS
CHUNK = 500

Tokens = NDArray[np.int32]


class Workload:
    """Prompts of 1,024 tokens that a hundred users' products share, 512 that ten of their tasks share, and 464 alone.

    A tenth of the prompts goes to a random worker, the others to that of their system prompt.
    """

    def __init__(self, num_prompts: int) -> None:
        self.num_prompts = num_prompts
        rng = np.random.default_rng(0)
        self._systems = random_tokens(rng, NUM_SYSTEMS, SYSTEM_TOKENS)
        self._contexts = random_tokens(rng, NUM_SYSTEMS * NUM_CONTEXTS, CONTEXT_TOKENS)
        self._context_of = rng.integers(0, NUM_SYSTEMS * NUM_CONTEXTS, num_prompts)
        usual = self._context_of // NUM_CONTEXTS % NUM_WORKERS
        spilled = rng.random(num_prompts) < 0.1
        self.worker_of = np.where(spilled, rng.integers(0, NUM_WORKERS, num_prompts), usual)

    def prompt(self, number: int) -> Tokens:
        """The tokens of one prompt, made anew each time: they are not to be counted as memory of an index."""
        return self._with_tail(int(self._context_of[number]), np.random.default_rng((1, number)))

    def chunks(self) -> Iterator[list[tuple[Tokens, int]]]:
        """All prompts with their workers, a few hundred at a time."""
        for begin in range(0, self.num_prompts, CHUNK):
            numbers = range(begin, min(begin + CHUNK, self.num_prompts))
            yield [(self.prompt(number), int(self.worker_of[number])) for number in numbers]

    def queries(self, count: int) -> list[tuple[Tokens, int]]:
        """Prompts with how many of their tokens are held somewhere: 40 % are next turns, 40 % have a known context,
        20 % are new from the first token."""
        rng = np.random.default_rng(2)
        return [self._query(rng, kind) for kind in rng.choice(3, count, p=(0.4, 0.4, 0.2))]

    def _query(self, rng: np.random.Generator, kind: int) -> tuple[Tokens, int]:
        number = int(rng.integers(self.num_prompts))
        if kind == 0:
            more = random_tokens(rng, NEXT_TURN_TOKENS)
            return np.concatenate([self.prompt(number), more]), PROMPT_TOKENS
        if kind == 1:
            return self._with_tail(int(self._context_of[number]), rng), SYSTEM_TOKENS + CONTEXT_TOKENS
        return random_tokens(rng, PROMPT_TOKENS), 0

    def _with_tail(self, context: int, rng: np.random.Generator) -> Tokens:
        system = self._systems[context // NUM_CONTEXTS]
        return np.concatenate([system, self._contexts[context], random_tokens(rng, TAIL_TOKENS)])


def random_tokens(rng: np.random.Generator, *shape: int) -> Tokens:
    """Token ids, all equally likely."""
    return rng.integers(0, VOCAB_SIZE, shape, dtype=np.int32)
