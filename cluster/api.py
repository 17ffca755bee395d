"""The HTTP routes: which path is which method of the front door."""

from fastapi import FastAPI
from starlette.responses import Response

from cluster.answers import Json
from cluster.errors import install_handlers
from cluster.frontend import Frontend
from cluster.protocol import ChatBody, CompletionBody


def build_api(frontend: Frontend) -> FastAPI:
    """The OpenAI API over one front door."""
    api = FastAPI(title="raydix", docs_url=None, redoc_url=None)
    install_handlers(api)

    @api.get("/healthz")
    async def healthz() -> Response:
        return Response(status_code=200)

    @api.get("/v1/models")
    async def models() -> Json:
        return frontend.models()

    @api.get("/v1/models/{name:path}")
    async def model(name: str) -> Json:
        return frontend.model(name)

    @api.post("/v1/completions")
    async def completions(body: CompletionBody) -> Response:
        return await frontend.completions(body)

    @api.post("/v1/chat/completions")
    async def chat_completions(body: ChatBody) -> Response:
        return await frontend.chat_completions(body)

    return api
