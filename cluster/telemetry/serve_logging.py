"""Whose log lines go to Serve's log, and under which request's id."""

import contextvars
import logging

from ray.serve import context as serve_context

SERVE_LOGGER = "ray.serve"
OUR_LOGGERS = ("workers", "radix", "router")


class ToServe(logging.Handler):
    """To whatever Serve's logger writes to, with the request's id where a request is being served."""

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging with each line."""
        logging.getLogger(SERVE_LOGGER).handle(record)


def join_serve_log() -> None:
    """Have the packages that know nothing of Ray log where a replica does, from the same level on."""
    for name in OUR_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [ToServe()], False
        logger.setLevel(logging.getLogger(SERVE_LOGGER).level)


def context_of_another_call() -> contextvars.Context:
    """An empty context, but for what Serve's log says of the current request. Serve's own id of it is not taken over:
    what shares that is one call to Serve."""
    current, other = serve_context._get_serve_request_context(), contextvars.Context()
    known = {"route": current.route, "request_id": current.request_id, "app_name": current.app_name}
    other.run(serve_context._set_request_context, **known)
    return other
