"""Requests of the gRPC API as the bodies that the HTTP API has, checked by the same validator."""

from typing import Any

from cluster.api.protocol import ChatBody, CompletionBody
from cluster.api.tokenize_bodies import TokenizeBody
from cluster.api.validation import validated
from cluster.rpc.raydix_v1_pb2 import Conversation, GenerateRequest, TokenizeRequest

SAMPLING = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "min_tokens",
    "ignore_eos",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "n",
    "prompt_cache_key",
)


def body_of(request: GenerateRequest) -> ChatBody | CompletionBody:
    """What is to be generated. Raises ApiError that names the field at fault; `prompt` is whichever of the three is
    set."""
    values = model_of(request.model) | {name: getattr(request, name) for name in SAMPLING if request.HasField(name)}
    values |= {name: list(given) for name in ("stop", "stop_token_ids") if (given := getattr(request, name))}
    if request.logit_bias:
        values["logit_bias"] = {str(token): bias for token, bias in request.logit_bias.items()}
    match request.WhichOneof("prompt"):
        case "conversation":
            return validated(ChatBody, values | {"messages": messages_of(request.conversation)})
        case "text":
            values["prompt"] = request.text
        case "tokens":
            values["prompt"] = list(request.tokens.ids)
    return validated(CompletionBody, values)


def tokenize_body_of(request: TokenizeRequest) -> TokenizeBody:
    """What is to be tokenised. Raises ApiError that names the field at fault."""
    values = model_of(request.model)
    match request.WhichOneof("prompt"):
        case "text":
            values["prompt"] = request.text
        case "conversation":
            values["messages"] = messages_of(request.conversation)
    return validated(TokenizeBody, values)


def model_of(name: str) -> dict[str, Any]:
    """The field, unless it was left out: protocol buffers cannot tell that from an empty one."""
    return {"model": name} if name else {}


def messages_of(conversation: Conversation) -> list[dict[str, Any]]:
    """As the HTTP API has them."""
    return [{"role": message.role, "content": message.content} for message in conversation.messages]
