"""Errors as OpenAI's clients expect them: {"error": {message, type, param, code}}, never a traceback."""

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from ray.serve.exceptions import BackPressureError
from starlette.exceptions import HTTPException

from cluster.door.failures import NoWorkerError, QuarantinedError, TimeIsOverError
from workers.request import RequestError

KINDS = {401: "authentication_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An error that a client sees.

    Attributes:
        param: the field at fault, where there is one.
        code: a stable word for programs.
        retry_after_s: when to come again, where that is worth trying.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s = 1 if status == 503 and retry_after_s is None else retry_after_s

    def body(self) -> dict[str, object]:
        """The error object of the API."""
        kind = KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The same as an HTTP response."""
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        if self.status == 413:
            headers["Connection"] = "close"  # or what is left of the body would be read, and thrown away
        return JSONResponse(self.body(), self.status, headers)


def from_exception(error: BaseException) -> ApiError:
    """What a client is told of an exception; of one that nobody foresaw, only that it happened."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestError):
        return ApiError(400, error.args[0] if error.args else "the request is invalid", code="invalid_value")
    if isinstance(error, BackPressureError | NoWorkerError):
        return ApiError(503, "no worker can take the request now; try again", code="overloaded")
    if isinstance(error, TimeIsOverError):
        return ApiError(504, "the request took longer than this server allows", code="deadline_exceeded")
    if isinstance(error, QuarantinedError):
        message = "two workers failed while they had this request; it is not tried again"
        return ApiError(500, message, code="request_quarantined")
    return ApiError(500, "the server failed on this request; its log has the reason", code="internal_error")


def install_handlers(app: FastAPI) -> None:
    """Make every error of an app an error of the API."""

    async def on_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = "unknown_url" if error.status_code == 404 else None
        message = f"{request.method} {request.url.path}: {error.detail}"
        return ApiError(error.status_code, message, code=code).response()

    async def on_api(_: Request, error: Exception) -> JSONResponse:
        return from_exception(error).response()

    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(ApiError, on_api)
    app.add_exception_handler(Exception, on_api)
