"""Fields of the OpenAI API, and of vLLM's, that would change the answer and are not honoured: refused by name, unless
they have a value that asks for nothing."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

Unsupported = dict[str, tuple[Any, ...]]  # by name, the values that ask for nothing

EVERYWHERE: Unsupported = {
    "allowed_token_ids": (None,),
    "bad_words": (None, []),
    "guided_choice": (None,),
    "guided_grammar": (None,),
    "guided_json": (None,),
    "guided_regex": (None,),
    "include_stop_str_in_output": (None, False),
    "length_penalty": (None, 1, 1.0),
    "logits_processors": (None, []),
    "prompt_embeds": (None,),
    "prompt_logprobs": (None,),
    "service_tier": (None, "auto", "default"),
    "skip_special_tokens": (None, True),
    "structured_outputs": (None,),
    "truncate_prompt_tokens": (None,),
    "use_beam_search": (None, False),
}
COMPLETION_ONLY: Unsupported = {"suffix": (None, "")}
CHAT_ONLY: Unsupported = {
    "add_generation_prompt": (None, True),
    "audio": (None,),
    "chat_template": (None,),
    "chat_template_kwargs": (None, {}),
    "continue_final_message": (None, False),
    "documents": (None, []),
    "function_call": (None, "none"),
    "functions": (None, []),
    "modalities": (None, [], ["text"]),
    "moderation": (None,),
    "prediction": (None,),
    "prompt_cache_options": (None, {}, {"mode": "implicit"}),
    "prompt_cache_retention": (None, "in_memory"),
    "reasoning_effort": (None, "none"),
    "response_format": (None, {"type": "text"}),
    "store": (None, False),
    "verbosity": (None, "medium"),
    "web_search_options": (None,),
}


class JsonSchemaFormat(BaseModel):
    """The schema that an answer is to follow."""

    model_config = ConfigDict(strict=True)
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """What form an answer is to have: any text, or, which is refused, JSON."""

    model_config = ConfigDict(strict=True)
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


def refuse_unsupported(values: dict[str, Any], unsupported: Unsupported) -> None:
    """Raise PydanticCustomError, which names the field, where one asks for something."""
    for name, value in values.items():
        neutral = unsupported.get(name, (value,))
        if not any(type(value) is type(one) and value == one for one in neutral):
            raise PydanticCustomError(
                "unsupported_parameter", "this is not supported here; leave it out", {"param": name}
            )
