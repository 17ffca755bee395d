"""cluster/tools/hermes.py and llama.py: calls in a model's text, however it is cut, in time linear in its length."""

import json
import time
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.tools.hermes import CLOSE, OPEN, HermesReader
from cluster.tools.llama import PYTHON_TAG, LlamaReader
from cluster.tools.tool_call import ToolCall
from cluster.tools.tool_format import CallReader, MakeReader, reader_for

OFFERED = {"weather", "f"}
WEATHER = ToolCall("weather", '{"city": "Zürich"}')
F = ToolCall("f", "{}")
CALL = '{"name": "weather", "arguments": {"city": "Zürich"}}'
PARAMETERS = CALL.replace("arguments", "parameters")
READERS: list[MakeReader] = [HermesReader, LlamaReader]
CODE = "__import__('os').system('touch /tmp/x')"


def read(reader: CallReader, pieces: Sequence[str]) -> tuple[str, list[ToolCall]]:
    """The text and the calls of a completion that comes in pieces."""
    given_out = [one for piece in pieces for one in reader.push(piece)] + list(reader.finish())
    text = "".join(one for one in given_out if isinstance(one, str))
    return text, [one for one in given_out if isinstance(one, ToolCall)]


@pytest.mark.parametrize(
    ("text", "said", "calls"),
    [
        ("", "", []),
        ("just text, with {braces} and <tags>", "just text, with {braces} and <tags>", []),
        (f"{OPEN}{CALL}{CLOSE}", "", [WEATHER]),
        (f"{OPEN}\n{CALL}\n{CLOSE}\n{OPEN}\n" + '{"name": "f"}' + f"\n{CLOSE}\n", "", [WEATHER, F]),
        (f"Let me look.\n{OPEN}\n{CALL}\n{CLOSE}", "Let me look.", [WEATHER]),
        (f"{OPEN}{CALL}{CLOSE}\n done ", "\n done ", [WEATHER]),
        (f"first\n\n{OPEN}{CALL}{CLOSE}\nlast", "first\nlast", [WEATHER]),
        ("ends in space \n", "ends in space \n", []),
        (f"{OPEN}{CALL}", f"{OPEN}{CALL}", []),
        (f"{OPEN}{OPEN}{CALL}{CLOSE}{CLOSE}", f"{OPEN}{CLOSE}", [WEATHER]),
        (f"a {CLOSE} b", f"a {CLOSE} b", []),
        (f"a {OPEN[:-1]}", f"a {OPEN[:-1]}", []),
        (f"{OPEN}\n{CODE}\n{CLOSE}", f"{OPEN}\n{CODE}\n{CLOSE}", []),
    ],
)
def test_hermes(text: str, said: str, calls: list[ToolCall]) -> None:
    assert read(HermesReader(OFFERED), [text]) == (said if calls else text, calls)
    assert calls or said == text


@pytest.mark.parametrize(
    ("text", "said", "calls"),
    [
        ("", "", []),
        ("  ", "  ", []),
        ("text first " + PARAMETERS, "text first " + PARAMETERS, []),
        (PARAMETERS, "", [WEATHER]),
        (f"\n{PYTHON_TAG}{PARAMETERS}\n", "", [WEATHER]),
        (f'{PARAMETERS}; {{"name": "f", "parameters": {{}}}}', "", [WEATHER, F]),
        (PARAMETERS + " and text", PARAMETERS + " and text", []),
        (PARAMETERS[:-1], PARAMETERS[:-1], []),
        (f"{PYTHON_TAG}{CODE}", f"{PYTHON_TAG}{CODE}", []),
        (PYTHON_TAG[:5], PYTHON_TAG[:5], []),
        (PYTHON_TAG, PYTHON_TAG, []),
    ],
)
def test_llama(text: str, said: str, calls: list[ToolCall]) -> None:
    assert read(LlamaReader(OFFERED), [text]) == (said, calls)


NO_CALLS = [
    "{}",
    "[]",
    '"f"',
    CODE,
    '{"name": "other", "arguments": {}}',
    '{"name": ["f"], "arguments": {}}',
    '{"name": "f", "arguments": "{}"}',
    '{"name": "f", "arguments": null}',
    '{"name": "f", "arguments": {"x": NaN}}',
    '{"name": "f", "arguments": {"x": -Infinity}}',
    '{"name": "f", "arguments": {"x": 1e999}}',
    '{"name": "f", "arguments": {"x": "\\ud800"}}',
    '{"name": "f", "arguments": {"x": ' + "9" * 5000 + "}}",
    '{"name": "f", "arguments": {"x": ' + "[" * 100_000 + "]" * 100_000 + "}}",
    "{'name': 'f', 'arguments': {}}",
]


@pytest.mark.parametrize("body", NO_CALLS, ids=range(len(NO_CALLS)))
def test_what_is_no_call_stays_the_text_that_it_is(body: str) -> None:
    marked = f"{OPEN}{body}{CLOSE}"
    assert read(HermesReader(OFFERED), [marked]) == (marked, [])
    assert read(LlamaReader(OFFERED), [body]) == (body, [])


TEXTS = st.lists(
    st.sampled_from(
        [
            OPEN,
            CLOSE,
            f"{OPEN}{CALL}{CLOSE}",
            CALL,
            PARAMETERS,
            '{"name": "f"}',
            PYTHON_TAG,
            "{",
            "<",
            " ",
            "\n",
            ";",
            "text",
        ]
    )
    | st.text(max_size=3),
    max_size=12,
).map("".join)


@given(text=TEXTS, cuts=st.lists(st.integers(0, 200), max_size=8), make=st.sampled_from(READERS))
def test_any_cut_gives_what_the_whole_gives(text: str, cuts: list[int], make: MakeReader) -> None:
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in pairwise(places)]
    whole = read(make(OFFERED), [text])
    assert read(make(OFFERED), pieces) == read(make(OFFERED), list(text)) == whole


@given(text=TEXTS)
def test_nothing_is_lost(text: str) -> None:
    """All that is neither a call nor whitespace beside one comes out as text, in its order."""
    said, calls = read(HermesReader(OFFERED), [text])
    left = text
    for body, call in ((CALL, WEATHER), (PARAMETERS, WEATHER), ('{"name": "f"}', F)):
        left = left.replace(f"{OPEN}{body}{CLOSE}", "") if call in calls else left
    assert calls or said == text
    if len(calls) == text.count(OPEN):
        assert said.split() == left.split()


def test_text_before_a_call_does_not_wait() -> None:
    for make in READERS:
        reader = make(OFFERED)
        assert "".join(map(str, reader.push("Let me "))).strip() == "Let me"
        assert "".join(map(str, reader.push("look"))).strip() == "look"


ADVERSARIAL = {
    "opened": OPEN,
    "closed": OPEN + CLOSE,
    "begun": "<tool_call",
    "spaces": " ",
    "braces": "{",
    "objects": '{"a":',
    "strings": '{"name": "f", "parameters": {"x": "',
    "calls": '{"name": "f"};',
    "tags": PYTHON_TAG,
}


def cpu_s(make: MakeReader, text: str, size: int) -> float:
    """To read a text that comes in pieces of so many characters; the least of three times, for others use the cores."""
    pieces = [text[place : place + size] for place in range(0, len(text), size)]
    times_s = []
    for _ in range(3):
        start_s = time.process_time()
        read(make(OFFERED), pieces)
        times_s.append(time.process_time() - start_s)
    return min(times_s)


@pytest.mark.parametrize("name", ADVERSARIAL)
@pytest.mark.parametrize("make", READERS)
def test_the_time_grows_as_the_text(make: MakeReader, name: str) -> None:
    """A mebibyte, and as many pieces as it may well come in: double the text in double the time."""
    for size, most in ((2**20, 2**20), (2, 2**15)):
        text = (ADVERSARIAL[name] * most)[:most]
        quarter_s, half_s, all_s = (cpu_s(make, text[: most // part], size) for part in (4, 2, 1))
        assert half_s < 4 * quarter_s + 0.02, f"{quarter_s} and {half_s} s of CPU for pieces of {size}"
        assert all_s < 8 * quarter_s + 0.02, f"{quarter_s} and {all_s} s of CPU for pieces of {size}"


HERMES_TEMPLATE = '{% if tools %}<tool_call>{"name": <name>, "arguments": <object>}</tool_call>{% endif %}'
LLAMA_TEMPLATE = "<|start_header_id|>{{ 'Say {\"name\": it, \"parameters\": those}' if tools else '' }}"


@pytest.mark.parametrize(
    ("template", "make"),
    [
        (HERMES_TEMPLATE, HermesReader),
        (LLAMA_TEMPLATE, LlamaReader),
        (HERMES_TEMPLATE.replace('{"name": <name>', "<function=name>"), None),
        ("<|start_header_id|>{{ 'Say [f(parameters)]' if tools else '' }}", None),
        ("{% for message in messages %}{{ message.content }}{% endfor %}", None),
        ("", None),
    ],
)
def test_the_template_says_the_form(template: str, make: MakeReader | None) -> None:
    assert reader_for(template) is make


def test_arguments_are_passed_on_as_json() -> None:
    text = '{"name": "f", "parameters": {"a": [1, 2.5, null, true], "b": {"c": "\\u00e4\\n"}}}'
    _, (call,) = read(LlamaReader(OFFERED), [text])
    assert json.loads(call.arguments) == {"a": [1, 2.5, None, True], "b": {"c": "ä\n"}}
