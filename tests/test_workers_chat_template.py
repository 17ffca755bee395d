"""Chat templates come with models: they are kept in, and come to an end."""

import time
from typing import Any

import pytest
from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from workers.chat_template import MAX_EXTRA_OUTPUT, ChatTemplate
from workers.request import RequestError
from workers.tokenizer import Tokenizer
from workers.weights.model_dir import TINY_MODEL

MESSAGES = [{"role": "user", "content": " hi "}, {"role": "assistant", "content": "yes"}]
CHATML = """{%- if tools %}{{ tools | tojson }}{% endif -%}
{% macro turn(message) %}<|im_start|>{{ message.role }}
{{ message['content'] | trim }}<|im_end|>
{% endmacro %}
{% for message in messages if message.role != 'system' %}
    {%- set found = namespace(last=false) %}{% if loop.last %}{% set found.last = true %}{% endif %}
    {{- turn(message) }}{% if found.last %}{% break %}{% endif %}
{% else %}nobody{% endfor %}
{%- if add_generation_prompt %}{{ bos_token }}<|im_start|>assistant
{% endif %}"""
FIELDS: dict[str, Any] = {"messages": MESSAGES, "tools": None, "add_generation_prompt": True, "bos_token": "<s>"}


def render(source: str, **fields: Any) -> str:
    return ChatTemplate(source).render(100, FIELDS | fields)


@pytest.mark.parametrize(
    "source",
    [CHATML, "{{ bos_token }}{% for m in messages %}{% for c in m.content %}{{ c }}-{% endfor %}{% endfor %}", "", "x"],
)
@pytest.mark.parametrize("tools", [None, [{"type": "function", "function": {"name": "f"}}]])
def test_it_writes_what_transformers_would(source: str, tools: Any) -> None:
    (theirs,), _ = render_jinja_template([MESSAGES], tools, None, source, add_generation_prompt=True, bos_token="<s>")
    assert render(source, tools=tools) == theirs


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{{ i }}{% endfor %}{% endfor %}",
        "{% for a in range(999) %}{% for b in range(999) %}{% for c in range(999) %}{% if a %}{% endif %}"
        "{% endfor %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    ],
)
def test_one_that_does_not_end_is_ended(source: str) -> None:
    began_s = time.process_time()
    with pytest.raises(RequestError, match=r"does not come to an end|writes far more"):
        render(source)
    assert time.process_time() - began_s < 10


def test_one_that_writes_without_end_is_ended() -> None:
    with pytest.raises(RequestError, match="writes far more than it is given"):
        render("{% for i in range(99999) %}{{ messages[0].content * 100 }}{% endfor %}")
    assert len(render("{{ 'x' * size }}", size=MAX_EXTRA_OUTPUT)) == MAX_EXTRA_OUTPUT


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{% include '/etc/passwd' %}",
        "{{ raise_exception('no') }}",
    ],
)
def test_it_reaches_and_changes_nothing(source: str) -> None:
    with pytest.raises((TemplateError, TypeError)):
        render(source)


def test_what_counts_its_turns_leads_nowhere() -> None:
    assert render("{{ raydix_turn.__globals__ }}{{ raydix_turn.__closure__ }}") == ""


def test_what_a_user_writes_is_no_template() -> None:
    """CVE-2025-61620 and its like: contents are data."""
    text = "{{ 7 * 7 }}{% for i in range(9) %}{% endfor %}{{ ''.__class__ }}"
    assert render(CHATML, messages=[{"role": "user", "content": text}]).count(text) == 1


def test_a_template_that_fails_is_the_requests_fault() -> None:
    tokenizer = Tokenizer(TINY_MODEL)
    tokenizer._tokenizer.chat_template = "{% for m in messages %}{{ 'a' + m.content }}{{ 1 / 0 }}{% endfor %}"
    contents: list[object] = [None, 5, [], {}, "x"]
    for content in contents:
        with pytest.raises(RequestError, match="the chat template fails on these messages"):
            tokenizer.encode_chat([{"role": "user", "content": content}])
