"""The completions of several prompts, read as one stream."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from cluster.api.answers import Usage
from cluster.door.choices import ChoiceDelta, Choices, interleaved
from cluster.door.completion import Completion
from cluster.door.journey import Journey


class Batch:
    """One or several prompts, each with as many completions as every other. Choices are numbered prompt by prompt.

    Args:
        prompts: the completions of each.
        journey_of: a completion's way through the pools.
    """

    def __init__(self, prompts: Sequence[Sequence[Completion]], journey_of: Callable[[Completion], Journey]) -> None:
        self._prompts = [Choices(completions, journey_of) for completions in prompts]

    @property
    def num_choices(self) -> int:
        """How many there are of all prompts."""
        return sum(prompt.num_choices for prompt in self._prompts)

    @property
    def completions(self) -> list[Completion]:
        """All of them, as they are numbered."""
        return [one for prompt in self._prompts for one in prompt.completions]

    async def deltas(self) -> AsyncGenerator[ChoiceDelta]:
        """All pieces as they come. Closing it, or an error in one, ends them all."""
        streams = [prompt.deltas() for prompt in self._prompts]
        if len(streams) == 1:
            async with aclosing(streams[0]) as pieces:
                async for piece in pieces:
                    yield piece
            return
        async with aclosing(interleaved(streams)) as numbered:
            async for index, (choice, delta) in numbered:
                yield ChoiceDelta(index * self._prompts[0].num_choices + choice, delta)

    def usage(self, block_size: int) -> Usage:
        """Of all together (`Choices.usage`)."""
        return Usage(*map(sum, zip(*(prompt.usage(block_size) for prompt in self._prompts), strict=True)))
