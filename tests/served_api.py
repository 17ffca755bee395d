"""An app on a real port, in a thread of the test's own process."""

import contextlib
import threading
import time
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from cluster.haproxy import free_ports


@contextlib.contextmanager
def served_api(api: FastAPI) -> Iterator[str]:
    """Its address, for as long as the context lasts."""
    (port,) = free_ports(1)
    server = uvicorn.Server(uvicorn.Config(api, host="127.0.0.1", port=port, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "it did not start"
            time.sleep(0.005)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
