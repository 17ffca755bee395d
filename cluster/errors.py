"""Errors as OpenAI's clients expect them: {"error": {message, type, param, code}}, never a traceback."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from ray.serve.exceptions import BackPressureError
from starlette.exceptions import HTTPException

from workers.request import RequestError


class ApiError(Exception):
    """An error that a client sees.

    Attributes:
        param: the field at fault, where there is one.
        code: a stable word for programs.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code

    def body(self) -> dict[str, object]:
        """The error object of the API."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The same as an HTTP response."""
        headers = {"Retry-After": "1"} if self.status == 503 else None
        return JSONResponse(self.body(), self.status, headers)


def from_exception(error: BaseException) -> ApiError:
    """What a client is told of an exception; of one that nobody foresaw, only that it happened."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestError):
        return ApiError(400, error.args[0] if error.args else "the request is invalid", code="invalid_value")
    if isinstance(error, BackPressureError):
        return ApiError(503, "the server is at its limit of waiting requests; try again", code="overloaded")
    return ApiError(500, "the server failed on this request; its log has the reason", code="internal_error")


def from_validation(error: RequestValidationError) -> ApiError:
    """The first field at fault, by name."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"] if part != "body"]
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is not valid JSON: {first['ctx']['error']}")
    if first["type"] == "missing":
        return ApiError(400, f"{'.'.join(path) or 'a JSON body'} is required", param=".".join(path) or None)
    if first["type"] == "unsupported_parameter":
        return ApiError(400, first["msg"], param=first["ctx"]["param"], code="unsupported_parameter")
    return ApiError(400, f"{'.'.join(path)}: {first['msg']}", param=".".join(path) or None, code="invalid_value")


def install_handlers(app: FastAPI) -> None:
    """Make every error of an app an error of the API."""

    async def on_validation(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return from_validation(error).response()

    async def on_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}").response()

    async def on_api(_: Request, error: Exception) -> JSONResponse:
        return from_exception(error).response()

    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(ApiError, on_api)
    app.add_exception_handler(Exception, on_api)
