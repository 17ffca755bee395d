"""/openapi.json: FastAPI writes it from the signatures of routes, and those of ours read their bodies themselves."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

SCHEMAS = "#/components/schemas/{model}"


def takes(body: type[BaseModel]) -> dict[str, Any]:
    """What a route that reads such a body says of itself: its `openapi_extra`."""
    schema = {"$ref": SCHEMAS.format(model=body.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


class OpenApi:
    """Writes an app's description once, the schemas of these bodies included."""

    def __init__(self, app: FastAPI, bodies: list[type[BaseModel]]) -> None:
        self._app = app
        self._bodies = bodies

    def __call__(self) -> dict[str, Any]:
        """Called by FastAPI for /openapi.json."""
        if self._app.openapi_schema is None:
            document = get_openapi(title=self._app.title, version=self._app.version, routes=self._app.routes)
            _, named = models_json_schema([(body, "validation") for body in self._bodies], ref_template=SCHEMAS)
            document["components"] = {"schemas": named["$defs"]}
            self._app.openapi_schema = document
        return self._app.openapi_schema
