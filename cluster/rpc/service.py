"""The methods of the gRPC API, over the same front door as the HTTP API."""

import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from urllib.parse import quote

from cluster.api.answers import Usage
from cluster.door.caller import Caller
from cluster.door.choices import ChoiceDelta
from cluster.door.frontend import Frontend
from cluster.rpc import raydix_v1_pb2 as pb
from cluster.rpc.bodies import body_of, tokenize_body_of
from cluster.rpc.gate import Gate, Headers, headers_of
from cluster.rpc.status import refuse
from cluster.telemetry.access_log import Trace, tell
from cluster.telemetry.exchange import REQUEST_ID, Exchange
from cluster.worker_server import Context

SERVICE = pb.DESCRIPTOR.services_by_name["Generation"].full_name
OK = 200
MAX_ID = 128  # characters of a client's own id
FINISH_REASONS = {
    None: pb.FINISH_REASON_UNSPECIFIED,
    "stop": pb.FINISH_REASON_STOP,
    "length": pb.FINISH_REASON_LENGTH,
}


class GenerationService:
    """Answers calls, and logs them as the HTTP API does, by the status that each would have had there.

    Args:
        frontend: the front door.
        gate: lets calls in.
        trace: makes spans of calls for generation; None for none.
    """

    def __init__(self, frontend: Frontend, gate: Gate, trace: Trace | None = None) -> None:
        self._frontend = frontend
        self._gate = gate
        self._trace = trace

    async def generate(self, request: pb.GenerateRequest, context: Context) -> None:
        """Completions piece by piece, and their usage. A client that cancels or goes ends them.

        Written, not yielded: so it is here that a cancelled call is cancelled, and all that it holds let go.
        """
        headers = headers_of(context.invocation_metadata())
        async with self._told(f"/{SERVICE}/Generate", headers, context) as exchange:
            with self._gate.entered(headers, exchange) as caller:
                async with aclosing(self._responses(request, caller)) as responses:
                    async for response in responses:
                        await context.write(response)

    async def tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        """The tokens of a prompt."""
        async with self._told(f"/{SERVICE}/Tokenize", headers_of(context.invocation_metadata()), context):
            given = await self._frontend.tokenize(tokenize_body_of(request))
        return pb.TokenizeResponse(tokens=given["tokens"], max_model_len=given["max_model_len"])

    async def health(self, _: pb.HealthRequest, __: Context) -> pb.HealthResponse:
        """Whether every pool has a worker."""
        return pb.HealthResponse(ready=await self._frontend.is_ready(), model=self._frontend.model_name)

    async def _responses(self, request: pb.GenerateRequest, caller: Caller) -> AsyncGenerator[pb.GenerateResponse]:
        call_id = f"grpc-{uuid.uuid4().hex}"
        batch = await self._frontend.batch(body_of(request), call_id, caller)
        async with aclosing(batch.deltas()) as pieces:
            async for piece in pieces:
                yield response_of(call_id, piece)
        yield pb.GenerateResponse(id=call_id, usage=usage_of(self._frontend.usage(batch)))

    @asynccontextmanager
    async def _told(self, method: str, headers: Headers, context: Context) -> AsyncIterator[Exchange]:
        """A call, from its metadata to its line in the log. An error inside becomes its status."""
        exchange = exchange_of(method, headers)
        await context.send_initial_metadata(((REQUEST_ID, exchange.request_id),))
        try:
            yield exchange
            exchange.status = OK
        except Exception as error:
            told = self._frontend.logged(error, exchange)
            exchange.status = told.status
            await refuse(context, told)
        finally:
            exchange.end(self._gate.owner(headers))
            tell(exchange, self._trace)


def exchange_of(method: str, headers: Headers) -> Exchange:
    """A call that begins, under the client's id for it or a new one."""
    named = {name.decode(): value.decode("ascii", "replace") for name, value in headers}
    request_id = named.get(REQUEST_ID, "")[:MAX_ID] or str(uuid.uuid4())
    return Exchange("POST", quote(method), request_id, named)


def response_of(call_id: str, piece: ChoiceDelta) -> pb.GenerateResponse:
    """A piece of a completion on the wire."""
    reason = FINISH_REASONS[piece.delta.finish_reason]
    return pb.GenerateResponse(id=call_id, choice=piece.choice, text=piece.delta.text, finish_reason=reason)


def usage_of(used: Usage) -> pb.Usage:
    """The counts on the wire."""
    return pb.Usage(prompt_tokens=used.num_prompt, completion_tokens=used.num_completion, cached_tokens=used.num_cached)
