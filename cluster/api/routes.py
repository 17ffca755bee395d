"""The HTTP routes: which path is which method of the front door."""

from importlib import metadata

from fastapi import FastAPI, Request
from starlette.responses import PlainTextResponse, Response

from cluster.access.auth import AuthMiddleware
from cluster.access.header_limits import HeaderLimits
from cluster.access.key_file import KeyFile
from cluster.access.metering import Accounts, MeteringMiddleware
from cluster.api.answers import Json
from cluster.api.errors import ApiError, install_handlers
from cluster.api.openapi import OpenApi, takes
from cluster.api.protocol import ChatBody, CompletionBody
from cluster.api.request_body import body_of, naming_ignored
from cluster.api.tokenize_bodies import DetokenizeBody, TokenizeBody
from cluster.door.admission import Admission, AdmissionMiddleware
from cluster.door.caller import caller_of
from cluster.door.frontend import Frontend
from cluster.telemetry.access_log import AccessLog, Trace

METRICS_POINTER = "# Ray exports the whole cluster's metrics, at the address that its start prints: docs/metrics.md\n"


def build_api(
    frontend: Frontend,
    admission: Admission,
    *,
    keys: KeyFile | None = None,
    accounts: Accounts | None = None,
    trace: Trace | None = None,
) -> FastAPI:
    """The OpenAI API over one front door, for those with a key or, without `keys`, for everybody. Requests are traced
    where there is a `trace`."""
    api = FastAPI(title="raydix", docs_url=None, redoc_url=None)
    api.add_middleware(AdmissionMiddleware, admission=admission)
    api.add_middleware(MeteringMiddleware, accounts=Accounts() if accounts is None else accounts)
    if keys is not None:
        api.add_middleware(AuthMiddleware, owner_of=keys.owner_of)
    api.add_middleware(HeaderLimits)
    api.add_middleware(AccessLog, trace=trace)
    install_handlers(api)

    for add in (add_models, add_generation, add_tokenizer, add_probes):
        add(api, frontend)
    api.openapi = OpenApi(api, [CompletionBody, ChatBody, TokenizeBody, DetokenizeBody])  # type: ignore[method-assign]
    return api


def add_models(api: FastAPI, frontend: Frontend) -> None:
    """What there is."""

    @api.get("/v1/models")
    async def models() -> Json:
        return frontend.models()

    @api.get("/v1/models/{name:path}")
    async def model(name: str) -> Json:
        return frontend.model(name)


def add_generation(api: FastAPI, frontend: Frontend) -> None:
    """What workers are asked for."""

    @api.post("/v1/completions", openapi_extra=takes(CompletionBody))
    async def completions(request: Request) -> Response:
        body = await body_of(request, CompletionBody)
        return naming_ignored(await frontend.completions(body, caller_of(request)), body)

    @api.post("/v1/chat/completions", openapi_extra=takes(ChatBody))
    async def chat_completions(request: Request) -> Response:
        body = await body_of(request, ChatBody)
        return naming_ignored(await frontend.chat_completions(body, caller_of(request)), body)


def add_tokenizer(api: FastAPI, frontend: Frontend) -> None:
    """Tokens of text, and text of tokens."""

    @api.post("/tokenize", openapi_extra=takes(TokenizeBody))
    async def tokenize(request: Request) -> Json:
        return await frontend.tokenize(await body_of(request, TokenizeBody))

    @api.post("/detokenize", openapi_extra=takes(DetokenizeBody))
    async def detokenize(request: Request) -> Json:
        return await frontend.detokenize(await body_of(request, DetokenizeBody))


def add_probes(api: FastAPI, frontend: Frontend) -> None:
    """What load balancers, operators and Prometheus ask."""

    @api.get("/healthz")
    async def healthz() -> Response:
        return Response(status_code=200)

    @api.get("/readyz")
    async def readyz() -> Response:
        if not await frontend.is_ready():
            raise ApiError(503, "a pool has no replica yet", code="overloaded")
        return Response(status_code=200)

    @api.get("/version")
    async def version() -> Json:
        return {"version": metadata.version("raydix")}

    @api.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(METRICS_POINTER)
