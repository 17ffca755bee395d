"""Cache events for tests that do not care how an event is built, only what it says."""

from array import array

from radix.events import BlocksRemoved, BlocksStored

ROOT = 1


def stored(*path: int) -> BlocksStored:
    """The worker holds this path from the root on; it may have held the beginning before."""
    return BlocksStored(ROOT, 0, array("Q", path))


def removed(num_kept: int, *path: int) -> BlocksRemoved:
    """Of this path from the root on the worker holds only the first blocks now."""
    return BlocksRemoved(ROOT, 0, array("Q", path), num_kept)


def orphan(*blocks: int) -> BlocksStored:
    """These blocks follow one that nobody has ever heard of."""
    return BlocksStored(2, 16, array("Q", blocks))
