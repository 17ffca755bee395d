"""Which objects a request means: its path and its selectors, taken apart."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.kube_kinds import KINDS, Kind
from tests.kube_store import Key


@dataclass(frozen=True)
class Selection:
    """Objects of one kind: one by name, or those of a namespace, or all, that fit the selectors."""

    kind: Kind
    namespace: str
    name: str
    labels: tuple[str, ...]
    fields: tuple[str, ...]

    def has(self, key: Key, item: dict[str, Any]) -> bool:
        """Whether this object is meant."""
        plural, namespace, name = key
        if plural != self.kind.plural or self.namespace not in ("", namespace) or self.name not in ("", name):
            return False
        labels = item["metadata"].get("labels", {})
        wanted = (term.replace("==", "=").partition("=") for term in self.labels)
        by_name = (term.partition("=")[2] for term in self.fields if term.startswith("metadata.name="))
        return all(labels.get(label) == value for label, _, value in wanted) and all(name == it for it in by_name)


def selection(target: str) -> Selection | None:
    """What the target of a request means, or None where no kind is served there."""
    url = urlsplit(target)
    query = parse_qs(url.query)
    for kind in KINDS:
        if not url.path.startswith(f"{kind.base}/"):
            continue
        parts = url.path.removeprefix(f"{kind.base}/").split("/")
        namespace = ""
        if kind.namespaced and parts[0] == "namespaces" and len(parts) > 2:
            namespace, parts = parts[1], parts[2:]
        if parts[0] == kind.plural and (kind.namespaced or len(parts) <= 2):
            name = parts[1] if len(parts) > 1 else ""
            return Selection(kind, namespace, name, terms(query, "labelSelector"), terms(query, "fieldSelector"))
    return None


def terms(query: dict[str, list[str]], name: str) -> tuple[str, ...]:
    """The terms of a selector."""
    return tuple(term for text in query.get(name, []) for term in text.split(",") if term)
