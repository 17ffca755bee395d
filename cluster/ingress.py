"""The ingress replica: the front door as Serve runs it."""

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from cluster.api import build_api
from cluster.completion import Pools
from cluster.frontend import Frontend, FrontendSettings
from workers.tokenizer import Tokenizer
from workers.weights.model_dir import resolve_model_dir


class FrontReplica:
    """One front door. Its FastAPI app is built in the replica, around the handles that Serve gives it."""

    def __init__(
        self, settings: FrontendSettings, prefill: DeploymentHandle, decode: DeploymentHandle, debug_route: bool
    ) -> None:
        tokenizer = Tokenizer(resolve_model_dir(settings.model))
        self._frontend = Frontend(settings, tokenizer, Pools(prefill, decode))
        self._debug_route = debug_route

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve once the replica is constructed."""
        return build_api(self._frontend, debug_route=self._debug_route)


IngressReplica = serve.ingress()(FrontReplica)
