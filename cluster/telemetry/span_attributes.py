"""What spans say of a request: OpenTelemetry's conventions for generative AI and for HTTP. No text of anybody's.

https://github.com/open-telemetry/semantic-conventions-genai (status: development), names as in its Python package 0.66.
"""

from cluster.api.protocol import ChatBody, GenerationBody
from cluster.door.batch import Batch
from cluster.door.leg import Leg
from cluster.telemetry.exchange import REQUEST_ID, Exchange

PROVIDER = "raydix"
MAX_NAME = 128  # characters: what a model is called is up to the client
Attributes = dict[str, str | int | float | list[str]]


def span_name(body: GenerationBody) -> str:
    """The operation and the model."""
    return f"{operation(body)} {body.model[:MAX_NAME]}"


def operation(body: GenerationBody) -> str:
    """What kind of request it is."""
    return "chat" if isinstance(body, ChatBody) else "text_completion"


def request_attributes(exchange: Exchange, body: GenerationBody) -> Attributes:
    """What was asked, and what came of it."""
    said: dict[str, str | int | float | list[str] | None] = {
        "gen_ai.operation.name": operation(body),
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": body.model[:MAX_NAME],
        "gen_ai.request.temperature": body.temperature,
        "gen_ai.request.top_p": body.top_p,
        "gen_ai.request.seed": body.seed,
        "gen_ai.request.choice.count": body.n,
        "gen_ai.request.stream": body.stream or None,
        "http.request.method": exchange.method,
        "url.path": exchange.path,
        "http.response.status_code": exchange.status,
        f"http.request.header.{REQUEST_ID}": [exchange.request_id],
        "error.type": exchange.error or (str(exchange.status) if exchange.status >= 400 else None),
    }
    present: Attributes = {name: value for name, value in said.items() if value is not None}
    if exchange.batch is not None:
        present |= generation_attributes(exchange, body, exchange.batch)
    return present


def generation_attributes(exchange: Exchange, body: GenerationBody, batch: Batch) -> Attributes:
    """Of a request that was taken. Where the client named no limit, `max_tokens` is what was left to it."""
    first, used = batch.completions[0], batch.usage(0)
    said: Attributes = {
        "gen_ai.request.max_tokens": first.request.sampling.max_tokens,
        "gen_ai.response.id": exchange.answer_id,
        "gen_ai.response.model": body.model,
        "gen_ai.response.finish_reasons": exchange.endings,
        "gen_ai.usage.input_tokens": used.num_prompt,
        "gen_ai.usage.output_tokens": used.num_completion,
        "gen_ai.usage.cache_read.input_tokens": used.num_cached,
    }
    first_s = next((leg.first_s for leg in first.legs if leg.first_s is not None), None)
    if body.stream and first_s is not None:
        said["gen_ai.response.time_to_first_chunk"] = first_s - exchange.began_s
    return said


def leg_attributes(choice: int, leg: Leg) -> Attributes:
    """Of one call to a worker; `raydix.work` is what it was asked for."""
    said: Attributes = {"raydix.attempt": leg.attempt, "raydix.choice": choice, "raydix.work": leg.work}
    if leg.worker:
        said["raydix.worker"] = leg.worker
    return said
