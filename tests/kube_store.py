"""The objects of the API server of the tests, and what controllers would do to them."""

import copy
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.kube_kinds import Kind

Object = dict[str, Any]
Key = tuple[str, str, str]  # plural, namespace, name


def condition(name: str) -> Object:
    """The status of an object that has come to where this condition holds."""
    return {"conditions": [{"type": name, "status": "True"}]}


def generation(before: Object | None, new: Object) -> int:
    """How often the object has been changed, but for its metadata and status."""
    if before is None:
        return 1
    same = before.keys() - {"status"} == new.keys() and all(
        before[key] == new[key] for key in new.keys() - {"metadata"}
    )
    return int(before["metadata"]["generation"]) + (not same)


# What the controllers of a real cluster would have made of an object after a while.
DONE: dict[str, Object] = {
    "Namespace": {"phase": "Active"},
    "PersistentVolumeClaim": {"phase": "Bound"},
    "Job": condition("Complete"),
    "Pod": {"phase": "Succeeded"},
    "RayService": condition("Ready"),
}


@dataclass
class Store:
    """All objects, numbered by their changes.

    Attributes:
        on_create: called with each new object, by kind; what it returns becomes the status.
        logs: what containers of pods said, by pod.
    """

    objects: dict[Key, Object] = field(default_factory=dict)
    changes: list[tuple[str, Key, Object]] = field(default_factory=list)
    on_create: dict[str, Callable[[Object], Object]] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)
    logs: dict[Key, str] = field(default_factory=dict)

    def put(self, kind: Kind, namespace: str, item: Object) -> Object:
        """Create an object, or replace all of it but what the server itself says of it."""
        key = (kind.plural, namespace, item["metadata"]["name"])
        with self.changed:
            before = self.objects.get(key)
            new = copy.deepcopy(item) | {"apiVersion": kind.group_version, "kind": kind.name}
            meta = new["metadata"]
            meta["uid"] = before["metadata"]["uid"] if before else f"uid-{len(self.changes)}"
            meta["creationTimestamp"] = "2026-01-01T00:00:00Z"
            meta["generation"] = generation(before, new)
            if kind.namespaced:
                meta["namespace"] = namespace
            status = before.get("status") if before else self.first_status(new)
            return self.record("MODIFIED" if before else "ADDED", key, new | ({"status": status} if status else {}))

    def first_status(self, item: Object) -> Object | None:
        """What a controller makes of a new object."""
        controller = self.on_create.get(item["kind"])
        return controller(item) if controller else DONE.get(item["kind"])

    def set_status(self, key: Key, status: Object) -> None:
        """What a controller says later."""
        with self.changed:
            if key in self.objects:
                self.record("MODIFIED", key, copy.deepcopy(self.objects[key]) | {"status": status})

    def record(self, what: str, key: Key, item: Object) -> Object:
        """Number a change and tell those who watch; the lock is held."""
        item["metadata"]["resourceVersion"] = str(len(self.changes) + 1)
        if what == "DELETED":
            self.objects.pop(key, None)
        else:
            self.objects[key] = item
        self.changes.append((what, key, item))
        self.changed.notify_all()
        return item

    def delete(self, key: Key) -> Object | None:
        """Take an object away; None where there is none."""
        with self.changed:
            item = self.objects.get(key)
            return None if item is None else self.record("DELETED", key, copy.deepcopy(item))

    def named(self, plural: str, name: str, namespace: str = "") -> Object:
        """One object, for tests; of any namespace where none is named."""
        (found,) = [
            item
            for (its_plural, its_namespace, its_name), item in self.objects.items()
            if (its_plural, its_name) == (plural, name) and namespace in ("", its_namespace)
        ]
        return found

    def names(self, plural: str) -> list[str]:
        """Names of all objects of a kind that are not Helm's own."""
        found = [name for its_plural, _, name in self.objects if its_plural == plural]
        return sorted(name for name in found if not name.startswith("sh.helm.release"))
