"""The completions of one prompt, where more than one is asked for."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import NamedTuple, TypeVar

from cluster.api.answers import Usage
from cluster.api.text_delta import TextDelta
from cluster.door.completion import Completion
from cluster.door.journey import Journey
from cluster.telemetry.serve_logging import context_of_another_call

Item = TypeVar("Item")
MAX_WAITING = 64  # pieces that a slow client has not read: beyond these the workers' streams wait


class ChoiceDelta(NamedTuple):
    """New text of one of the completions, named by its number."""

    choice: int
    delta: TextDelta


class Choices:
    """`n` completions of a prompt, each a request of its own, that its client reads as one stream.

    The others start when the first has its first text: by then the prompt's KV lies in a cache, where they are sent.

    Attributes:
        completions: the `n`.
    """

    def __init__(self, completions: Sequence[Completion], journey_of: Callable[[Completion], Journey]) -> None:
        self.completions = completions
        self._journey_of = journey_of

    @property
    def num_choices(self) -> int:
        """How many there are."""
        return len(self.completions)

    async def deltas(self) -> AsyncGenerator[ChoiceDelta]:
        """All pieces as they come. Closing it, or an error in one, ends them all."""
        streams = [one.deltas(self._journey_of(one)) for one in self.completions]
        async with aclosing(streams[0]) as first:
            async for delta in first:
                yield ChoiceDelta(0, delta)
                if len(streams) > 1:
                    break
            else:
                return
            async with aclosing(interleaved(streams)) as pieces:
                async for piece in pieces:
                    yield ChoiceDelta(*piece)

    def usage(self, block_size: int) -> Usage:
        """The prompt counts once. `block_size` is that of the cache that prompts are written to, 0 where there is
        none."""
        first = self.completions[0]
        cacheable = len(first.request.block_hashes) * block_size
        return Usage(
            first.num_prompt_tokens,
            sum(one.num_tokens for one in self.completions),
            first.num_cached_tokens,
            max(cacheable - first.num_cached_tokens, 0),
        )


async def interleaved(streams: Sequence[AsyncGenerator[Item]]) -> AsyncGenerator[tuple[int, Item]]:
    """What all streams bring, each with the number of its stream, in the order in which it comes. Raises the first
    error of any.

    Each is read in a context of its own: Serve does not tell the calls of one HTTP request apart, and where two wait
    for a replica at once it gives one of them both.
    """
    arrived: asyncio.Queue[tuple[int, Item] | Exception | None] = asyncio.Queue(MAX_WAITING)
    tasks = [
        asyncio.create_task(pump(index, stream, arrived), context=context_of_another_call())
        for index, stream in enumerate(streams)
    ]
    try:
        running = len(tasks)
        while running:
            item = await arrived.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                running -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def pump(
    index: int, stream: AsyncGenerator[Item], arrived: "asyncio.Queue[tuple[int, Item] | Exception | None]"
) -> None:
    """Pass on what a stream brings; its error or None comes last."""
    try:
        async with aclosing(stream):
            async for item in stream:
                await arrived.put((index, item))
        await arrived.put(None)
    except Exception as error:
        await arrived.put(error)
