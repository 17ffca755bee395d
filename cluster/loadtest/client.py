"""One request to the OpenAI API, streamed, and what is heard of it."""

import asyncio
import time
from contextlib import aclosing
from typing import Any

from cluster.loadtest.api_key import VARIABLE
from cluster.loadtest.ask import Ask
from cluster.loadtest.heard import Heard
from cluster.loadtest.http_stream import Cut, Json, Malformed, Response, json_object, request
from cluster.loadtest.settings import Endpoint

PATHS: dict[Endpoint, str] = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
OK, UNAUTHORIZED = 200, 401


class NoServer(Exception):
    """The server does not say which model it has."""


class Client:
    """Asks one server. Nothing is kept between requests: each has its own connection."""

    def __init__(self, url: str, model: str, endpoint: Endpoint, timeout_s: float, key: str | None = None) -> None:
        self._url = base(url)
        self._model = model
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._key = key

    async def ask(self, ask: Ask) -> Heard:
        """All of the answer, or as much as the client stays for. Never raises: failures are heard too."""
        heard = Heard(ask.group, time.monotonic(), ask.shared_share)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._listen(ask, heard)
        except TimeoutError:
            heard.error, heard.detail = "timeout", f"no end within {self._timeout_s:g} s"
        except Cut as error:
            heard.error, heard.detail = "cut", str(error)
        except Malformed as error:
            heard.error, heard.detail = "malformed", str(error)
        except OSError as error:
            heard.error, heard.detail = "connect", str(error)
        heard.end_s = time.monotonic()
        return heard

    async def _listen(self, ask: Ask, heard: Heard) -> None:
        async with request(self._url + PATHS[self._endpoint], self._body(ask), self._key) as response:
            if response.status != OK:
                heard.error = f"http_{response.status}"
                heard.detail = (await response.content())[:200].decode("utf-8", "replace")
                return
            await take_events(response, heard, ask.leave_after)

    def _body(self, ask: Ask) -> Json:
        """Answers are as long as asked for, so that runs compare."""
        usage = {"stream": True, "stream_options": {"include_usage": True}}
        fixed = {"model": self._model, "max_tokens": ask.max_tokens, "temperature": 0, "ignore_eos": True} | usage
        if self._endpoint == "completions":
            return fixed | {"prompt": "".join(ask.messages)}
        roles = ("user", "assistant")
        messages = [{"role": roles[place % 2], "content": text} for place, text in enumerate(ask.messages)]
        return fixed | {"messages": messages}


async def take_events(response: Response, heard: Heard, leave_after: int | None) -> None:
    """Note each event as it comes. Raises Cut or Malformed."""
    async with aclosing(response.events()) as events:
        if leave_after == 0:
            heard.left = True
            return
        async for event in events:
            try:
                take_event(event, heard)
            except (KeyError, TypeError, AttributeError, IndexError) as error:
                raise Malformed(f"{type(error).__name__} {error} in {str(event)[:80]}") from error
            if heard.error:
                return
            if leave_after is not None and len(heard.pieces_s) >= leave_after:
                heard.left = True
                return
    if not heard.prompt_tokens:
        heard.error, heard.detail = "no_usage", "the stream does not say how many tokens it had"


def take_event(event: Json, heard: Heard) -> None:
    """Text, usage, or an error."""
    if "error" in event:
        heard.error, heard.detail = "error_event", str(event["error"])[:200]
        return
    for choice in event["choices"]:
        if text := text_of(choice):
            heard.pieces_s.append(time.monotonic())
            heard.text += text
    if usage := event.get("usage"):
        heard.prompt_tokens = int(usage["prompt_tokens"])
        heard.output_tokens = int(usage["completion_tokens"])
        heard.cached_tokens = int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)


def text_of(choice: dict[str, Any]) -> str:
    """Of either kind of completion."""
    text = choice["text"] if "text" in choice else choice["delta"].get("content")
    return str(text or "")


def base(url: str) -> str:
    """Without the /v1 that clients of the API are used to write."""
    return url.rstrip("/").removesuffix("/v1")


async def only_model(url: str, timeout_s: float, key: str | None = None) -> str:
    """The name of the first model that the server has. Raises NoServer where it cannot be asked."""
    try:
        async with asyncio.timeout(timeout_s), request(f"{base(url)}/v1/models", key=key) as response:
            content = await response.content()
            if response.status == UNAUTHORIZED:
                raise NoServer(f"{url} wants an API key that it knows: set {VARIABLE}")
            if response.status != OK:
                raise NoServer(f"{url} answers /v1/models with {response.status}: {content[:200]!r}")
            return str(json_object(content)["data"][0]["id"])
    except (OSError, Cut, Malformed, KeyError, IndexError, TypeError) as error:
        raise NoServer(f"{url} does not answer /v1/models: {type(error).__name__} {error}") from error
