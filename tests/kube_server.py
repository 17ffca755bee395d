"""An API server in this process: as much of Kubernetes as Helm 4 speaks to, with strict validation of fields.

There are no admission webhooks, no roles, no quotas, no CEL rules, no conflicts between field managers and no
controllers but those of `tests.kube_store`.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.helm_kinds import WrongObjectError, check
from tests.kube_kinds import document
from tests.kube_protobuf import MAGIC, read_secret
from tests.kube_selection import Selection, selection
from tests.kube_store import Store
from tests.kube_watch import events


class Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def log_message(self, *arguments: object) -> None:
        """Nothing on the terminal."""

    def do_GET(self) -> None:
        """Discovery, an object, a list, or a watch."""
        path = urlsplit(self.path)
        if (found := document(path.path)) is not None:
            return self.answer(200, found)
        meant = selection(self.path)
        if meant is None:
            return self.fail(404, "NotFound", f"nothing at {path.path}")
        if "watch" in parse_qs(path.query):
            return self.watch(meant)
        if path.path.endswith("/log"):
            return self.answer(200, self.store.logs.get((meant.kind.plural, meant.namespace, meant.name), ""))
        return self.list(meant) if not meant.name else self.get(meant)

    def do_POST(self) -> None:
        """Create."""
        self.write(selection(self.path), 201)

    def do_PUT(self) -> None:
        """Replace."""
        self.write(selection(self.path), 200)

    def do_PATCH(self) -> None:
        """Server-side apply; other patches are taken for it, which is right for whole objects."""
        self.write(selection(self.path), 200)

    def do_DELETE(self) -> None:
        """Delete at once."""
        self.body()
        meant = selection(self.path)
        if meant is None or self.store.delete((meant.kind.plural, meant.namespace, meant.name)) is None:
            return self.fail(404, "NotFound", f"{self.path} not found")
        return self.answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})

    @property
    def store(self) -> Store:
        """All objects."""
        return self.server.store

    def get(self, meant: Selection) -> None:
        """One object."""
        item = self.store.objects.get((meant.kind.plural, meant.namespace, meant.name))
        if item is None:
            return self.fail(404, "NotFound", f'{meant.kind.plural} "{meant.name}" not found')
        return self.answer(200, item)

    def list(self, meant: Selection) -> None:
        """All objects that are meant."""
        with self.store.changed:
            items = [item for key, item in self.store.objects.items() if meant.has(key, item)]
            version = str(len(self.store.changes))
        kind = {"kind": f"{meant.kind.name}List", "apiVersion": meant.kind.group_version}
        self.answer(200, kind | {"metadata": {"resourceVersion": version}, "items": items})

    def watch(self, meant: Selection) -> None:
        """Changes for as long as the client listens."""
        query = parse_qs(urlsplit(self.path).query)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        seen = None if "sendInitialEvents" in query else int(query.get("resourceVersion", ["0"])[0] or 0)
        for event in events(self.store, meant, seen, self.server.ended):
            line = json.dumps(event).encode() + b"\n"
            self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
            self.wfile.flush()

    def write(self, meant: Selection | None, status: int) -> None:
        """Store the object in the body, where it is one."""
        body = self.body()
        if meant is None:
            return self.fail(404, "NotFound", f"nothing at {self.path}")
        item = read_secret(body) if body.startswith(MAGIC) else yaml.load(body, yaml.CSafeLoader)
        try:
            check(item)
        except WrongObjectError as error:
            return self.fail(422, "Invalid", str(error))
        namespace = meant.namespace if meant.kind.namespaced else ""
        return self.answer(status, self.store.put(meant.kind, namespace, item))

    def body(self) -> bytes:
        """What the client sent."""
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def fail(self, code: int, reason: str, message: str) -> None:
        """An error as Kubernetes words it."""
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code}
        self.answer(code, status | {"message": message})

    def answer(self, code: int, content: dict[str, Any] | str) -> None:
        """A whole answer: JSON, or text."""
        data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if isinstance(content, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Server(ThreadingHTTPServer):
    """The API server."""

    daemon_threads = True

    def __init__(self, store: Store) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.store, self.ended = store, threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left is no error."""


@contextmanager
def kube_server(store: Store) -> Iterator[str]:
    """Serve `store`; yields the address."""
    server = Server(store)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{cast(tuple[str, int], server.server_address)[1]}"
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
