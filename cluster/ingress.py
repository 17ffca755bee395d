"""The ingress replica: the front door as Serve runs it."""

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from cluster.admission import Admission
from cluster.api import build_api
from cluster.config import IngressSection, PoolName
from cluster.frontend import Frontend, FrontendSettings
from cluster.pools import ServePools
from workers.tokenizer import Tokenizer
from workers.weights.model_dir import resolve_model_dir


class FrontReplica:
    """One front door. Its FastAPI app is built in the replica, around the handles that Serve gives it."""

    def __init__(
        self, settings: FrontendSettings, pools: dict[PoolName, DeploymentHandle], ingress: IngressSection
    ) -> None:
        tokenizer = Tokenizer(resolve_model_dir(settings.model))
        self._frontend = Frontend(settings, tokenizer, ServePools(pools, settings.token, settings.local_prefill_tokens))
        self._admission = Admission(ingress.max_ongoing_requests)
        self._debug_route = ingress.debug_route

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve once the replica is constructed."""
        return build_api(self._frontend, self._admission, debug_route=self._debug_route)


IngressReplica = serve.ingress()(FrontReplica)
