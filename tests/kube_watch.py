"""What a client that watches is told."""

import threading
from collections.abc import Iterator
from typing import Any

from tests.kube_selection import Selection
from tests.kube_store import Store

POLL_S = 0.2


def events(store: Store, meant: Selection, seen: int | None, ended: threading.Event) -> Iterator[dict[str, Any]]:
    """Changes after number `seen`, as they come; for None what there is, a bookmark, and then changes."""
    if seen is None:
        with store.changed:
            items = [item for key, item in store.objects.items() if meant.has(key, item)]
            seen = len(store.changes)
        yield from ({"type": "ADDED", "object": item} for item in items)
        yield {"type": "BOOKMARK", "object": bookmark(meant, seen)}
    while not ended.is_set():
        with store.changed:
            if len(store.changes) == seen:
                store.changed.wait(POLL_S)
            news, seen = store.changes[seen:], len(store.changes)
        yield from ({"type": what, "object": item} for what, key, item in news if meant.has(key, item))


def bookmark(meant: Selection, version: int) -> dict[str, Any]:
    """Says that what there was has been told."""
    metadata = {"resourceVersion": str(version), "annotations": {"k8s.io/initial-events-end": "true"}}
    return {"kind": meant.kind.name, "apiVersion": meant.kind.group_version, "metadata": metadata}
