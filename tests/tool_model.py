"""The bundled tokenizer under chat templates that know tools: it cannot call any, so what it says is scripted."""

import json
import shutil
from pathlib import Path

from workers.tokenizer import Tokenizer
from workers.weights.model_dir import TINY_MODEL

HERMES = """{{- bos_token }}
{%- for tool in tools or [] %}{{ tool | tojson }}{{ "\\n" }}{% endfor %}
{%- if tools %}{{ 'To call: <tool_call>{"name": it, "arguments": {}}</tool_call>\\n' }}{% endif %}
{%- for message in messages %}
    {{- message.role + ": " + message.content }}
    {%- for call in message.tool_calls %}
        {{- "\\n<tool_call>\\n" + call.function | tojson + "\\n</tool_call>" }}
    {%- endfor %}
    {%- if message.role == "tool" %}{{ " (" + message.name + ", " + message.tool_call_id + ")" }}{% endif %}
    {{- "\\n" }}
{%- endfor %}assistant: """
LLAMA = (
    HERMES.replace("<tool_call>", "<|start_header_id|>").replace("</tool_call>", "").replace("arguments", "parameters")
)


def tokenizer_with(directory: Path, template: str, special: tuple[str, ...] = ()) -> Tokenizer:
    """The tokenizer under a chat template, in a directory of its own; `special` are tokens of it that it calls so."""
    directory.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY_MODEL / name, directory)
    (directory / "chat_template.jinja").write_text(template, "utf-8")
    path = directory / "tokenizer.json"
    fields = json.loads(path.read_text("utf-8"))
    like = fields["added_tokens"][0]
    fields["added_tokens"] += [like | {"id": 4096 + place, "content": text} for place, text in enumerate(special)]
    path.write_text(json.dumps(fields), "utf-8")
    return Tokenizer(directory)
