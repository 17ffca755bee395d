"""Text to tokens and back, chat templates included: Hugging Face's tokenizers, and a detokeniser for streams."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from workers.chat_template import ChatTemplate
from workers.control_tokens import ControlTokens, strings_in
from workers.load_tokenizer import load_tokenizer
from workers.request import RequestError

TOOL_CALL_MARKERS = ("<tool_call>", "</tool_call>")


class Tokenizer:
    """A model's tokenizer."""

    def __init__(self, model_dir: Path) -> None:
        """Of a model directory or a GGUF file. Raises ModelError where it has none that can be used."""
        self._tokenizer: Any = load_tokenizer(model_dir)
        self._templates: dict[str, ChatTemplate] = {}
        self._control = ControlTokens(self._tokenizer.backend_tokenizer, self._control_tokens())
        added = self._tokenizer.added_tokens_decoder.items()
        self._silent = {token for token, text in added if text.special and text.content not in TOOL_CALL_MARKERS}
        # One for plain text, whose special tokens are letters, so that no call changes what another one sees: long
        # texts are tokenised in threads.
        self._plain: Any = deepcopy(self._tokenizer.backend_tokenizer)
        self._plain.encode_special_tokens = True
        self._longest_token = max(map(len, self._plain.get_vocab()))

    @property
    def longest_token(self) -> int:
        """Characters that one token stands for at most."""
        return self._longest_token

    @property
    def vocab_size(self) -> int:
        """Tokens, special ones included."""
        return len(self._tokenizer)

    def token_strings(self, token_ids: Sequence[int]) -> list[str]:
        """Each token as the vocabulary spells it."""
        strings: list[str] = self._tokenizer.convert_ids_to_tokens(list(token_ids))
        return strings

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """The tokens of a plain prompt; with `special`, after the model's begin-of-text token where it has one.

        Text that spells a special token is encoded as the letters it is made of. Raises RequestError for text that is
        not Unicode.
        """
        check_text(text)
        bos = self._tokenizer.bos_token_id
        tokens: list[int] = self._plain.encode_batch_fast([text], add_special_tokens=False)[0].ids  # without the GIL
        return tokens if bos is None or not special else [bos, *tokens]

    @property
    def tool_template(self) -> str:
        """The chat template of conversations that have tools; empty where there is none at all."""
        template: str = self._tokenizer.get_chat_template(tools=[{}]) if self._tokenizer.chat_template else ""
        return template

    def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> list[int]:
        """The tokens of a conversation, up to where the assistant speaks.

        Messages and tools that spell a control token are encoded as the letters it is made of.

        Args:
            messages: each with `role` and `content`, and what else the template knows.
            tools: what the assistant may call, as the template expects them; None for no tools.

        Raises:
            RequestError: the model has no chat template, or its template refuses the messages or would leave out calls
                of tools.
        """
        if not self._tokenizer.chat_template:
            raise RequestError("this model has no chat template; send it plain prompts (/v1/completions in the API)")
        if any("tool_calls" in message for message in messages) and "tool_calls" not in self.tool_template:
            raise RequestError("the chat template of this model knows no calls of tools; leave tool_calls out")
        stand_ins = self._control.spelled_in([messages, tools])
        messages, tools = self._control.masked([messages, tools], stand_ins)
        try:
            text = self._rendered(messages, tools)
        except TemplateError as error:
            raise RequestError(f"the chat template refuses these messages: {error}") from error
        except (TypeError, ValueError, LookupError, ArithmeticError) as error:  # not all templates check what they get
            raise RequestError("the chat template fails on these messages") from error
        check_text(text)
        return self._control.encode(text, stand_ins)

    def _rendered(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None) -> str:
        source = self._tokenizer.get_chat_template(tools=tools)
        if source not in self._templates:
            self._templates[source] = ChatTemplate(source)
        fields = {"messages": messages, "tools": tools, "documents": None, "add_generation_prompt": True}
        num_characters = sum(map(len, strings_in([messages, tools])))
        return self._templates[source].render(num_characters, self._tokenizer.special_tokens_map | fields)

    def _control_tokens(self) -> set[str]:
        """How the tokens are spelled that must come from the template only: special ones, and others of those that a
        tokenizer takes out of a text first, where the template marks turns with them."""
        added = self._tokenizer.added_tokens_decoder.values()
        written = self._written_by_the_template()
        return {
            token.content
            for token in added
            if token.special or (token.content in written and not token.content.isspace())
        }

    def _written_by_the_template(self) -> str:
        """A conversation about nothing."""
        messages = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]
        try:
            return self._rendered(messages, None) if self._tokenizer.chat_template else ""
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError):  # it wants other messages
            return ""

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of tokens, special ones left out, exactly as they spell it. Markers of tool calls are kept: to some
        tokenizers they are special."""
        spoken = [token for token in token_ids if token not in self._silent]
        text: str = self._tokenizer.decode(spoken, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text


def check_text(text: str) -> None:
    """Raise RequestError for a lone surrogate: JSON can spell one, but it is no character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"the text holds a lone surrogate at character {error.start}, which is no character"
        ) from error


class Detokenizer:
    """Turns a stream of tokens into a stream of text that never splits a character.

    Decodes a short window rather than everything again: from a token before which the text was already settled.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._token_ids: list[int] = []
        self._window = 0  # tokens before this one are never decoded again
        self._settled = 0  # tokens before this one have been given out as text

    def push(self, token_ids: Sequence[int]) -> str:
        """Take tokens in and return the text that is now certain; bytes of an unfinished character are held back."""
        self._token_ids += token_ids
        text = self._fresh_text()
        if not text or text.endswith("\ufffd"):
            return ""
        self._window, self._settled = self._settled, len(self._token_ids)
        return text

    def flush(self) -> str:
        """What is left at the end, an unfinished character as U+FFFD."""
        text = self._fresh_text()
        self._window = self._settled = len(self._token_ids)
        return text

    def _fresh_text(self) -> str:
        before = self._tokenizer.decode(self._token_ids[self._window : self._settled])
        return self._tokenizer.decode(self._token_ids[self._window :])[len(before) :]
