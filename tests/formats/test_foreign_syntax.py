"""A call in another syntax is malformed and the syntax is named; prose that only names a tool is not a call."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolhone.chat.parse import parse_turn
from toolhone.data.read import read_conversations, read_tools
from toolhone.formats import FORMATS
from toolhone.formats.foreign_syntax import HERMES_SYNTAX, PYTHON_TAG_SYNTAX, TAGGED, call_syntax
from toolhone.formats.pieces import OTHER_FORMAT

DATA = Path(__file__).parents[2] / "data" / "customer_service"
TOOLS = ("query_order", "cancel_order", "search", "orders.find", "查询订单")
EVERY = pytest.mark.parametrize("format", FORMATS)

# The syntaxes are from the families' chat templates and the parsers of serving engines.
FOREIGN: list[tuple[str, str]] = [
    ("Mistral", '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}, "id": "abcdefghi"}]'),
    ("Mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}]'),
    ("Mistral", '[TOOL_CALLS]f[ARGS]{"a": 1}'),
    ("Mistral", '[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{"a": 1}'),
    ("Phi-4-mini", '<|tool_call|>[{"name": "f", "arguments": {"a": 1}}]<|/tool_call|>'),
    ("Phi-4-mini", '<|tool_call|>\n[{"name": "f", "arguments": {"a": 1}}]\n<|/tool_call|>'),
    ("Phi-4-mini", 'functools[{"name": "f", "arguments": {"a": 1}}]'),
    ("Granite 3", '<|tool_call|>[{"name": "f", "arguments": {"a": 1}}]'),
    ("Granite 3", '<tool_call>[{"name": "f", "arguments": {"a": 1}}]'),
    ("Falcon 3", '<tool_call>\n[{"name": "f", "arguments": {"a": 1}}]\n</tool_call>'),
    ("GLM-4.5", "<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n</tool_call>"),
    ("GLM-4.5", "<tool_call>f<arg_key>a</arg_key><arg_value>1</arg_value></tool_call>"),
    ("GLM-4.5", "<tool_call>f\n</tool_call>"),
    ("Qwen3-Coder", "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>"),
    ("Qwen3-Coder", "<function=f>\n<parameter=a>\n1\n</parameter>\n</function>"),
    ("Llama 3.1", '<function=f>{"a": 1}</function>'),
    ("Llama 4", "<|python_start|>[f(a=1)]<|python_end|>"),
    ("Hunyuan", '<tool_calls>[{"name": "f", "arguments": {"a": 1}}]</tool_calls>'),
    ("Hunyuan", '<tool_calls>\n[\n{"name": "f", "arguments": {"a": 1}}\n]\n</tool_calls>'),
    ("MiniMax", '<tool_calls>\n{"name": "f", "arguments": {"a": 1}}\n</tool_calls>'),
    ("MiniMax", '<minimax:tool_call>\n<invoke name="f">\n<parameter name="a">1</parameter>\n</invoke>'),
    ("LFM2", "<|tool_call_start|>[f(a=1)]<|tool_call_end|>"),
    ("LFM2", "Checking the order.<|tool_call_start|>[f(a=1)]<|tool_call_end|>"),
    ("LFM2", '<|tool_call_start|>[{"name": "f", "arguments": {"a": 1}}]<|tool_call_end|>'),
    ("LFM2", "<|tool_call_start|>[f(a="),
    ("MiniCPM3", "<|tool_call_start|>\n```python\nf(a=1)\n```\n<|tool_call_end|>"),
    ("MiniCPM5", '<function name="f"><param name="a">1</param></function>'),
    ("Python", '[f(a=1), g(s="x")]'),
    ("Python", "[f(a=1)]"),
    ("Python", "[f(), g()]"),
    ("Python", '[Get Weather(city="Paris"), math.add(a=1, b=2)]'),
    ("Python", 'Let me look: [f(a="x")]'),
    ("Python", "```python\n[f(a=1)]\n```"),
    ("Python", '[\n  f(a=1),\n  g(s="x")\n]'),
    ("OLMo-3", "<function_calls>f(a=1)</function_calls>"),
    ("tool_code", "```tool_code\nf(a=1)\n```"),
    ("tool_code", "```tool_code\nprint(default_api.f(a=1))\n```"),
    ("default_api", "default_api.f(a=1)"),
    ("FunctionGemma", "<start_function_call>call:f{a:<escape>x<escape>}<end_function_call>"),
    ("Gemma 4", '<|tool_call>call:f{a:<|"|>x<|"|>}<tool_call|>'),
    (
        "DeepSeek",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n"
        '```json\n{"a": 1}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    ),
    ("DeepSeek", '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": 1}<｜tool▁call▁end｜>'),
    ("DeepSeek", '<|tool▁calls▁begin|><|tool▁call▁begin|>f<|tool▁sep|>{"a": 1}<|tool▁call▁end|>'),
    ("DSML", '<｜DSML｜function_calls>\n<｜DSML｜invoke name="f">\n<｜DSML｜parameter name="a" string="true">x'),
    ("harmony", '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": 1}<|call|>'),
    ("harmony", '<|start|>assistant to=functions.f<|channel|>commentary json<|message|>{"a": 1}<|call|>'),
    ("harmony", 'assistantcommentary to=functions.f json{"a": 1}'),
    ("GLM-4", 'query_order\n{"order_id": "1"}'),
    ("GLM-4", '\nquery_order \n{"order_id": "1"}'),
    ("Kimi", '<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{"a": 1}'),
    ("JSON with other keys", '{"function": "f", "arguments": {"a": 1}}'),
    ("JSON with other keys", '{"function": "f", "parameters": {"a": 1}}'),
    ("JSON with other keys", '{"tool": "f", "args": {"a": 1}}'),
    ("JSON with other keys", '{"tool_name": "f", "parameters": {"a": 1}}'),
    ("JSON with other keys", '```json\n{"action": "f", "action_input": {"a": 1}}\n```'),
    ("JSON with other keys", '{"action": "f", "action_input": "x"}'),
    ("JSON with other keys", '{"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}'),
    ("JSON with other keys", '{"recipient_name": "functions.f", "parameters": {"a": 1}}'),
    ("JSON with other keys", '{"tool_calls": [{"f": {"a": 1}}]}'),
    ("JSON with other keys", "{'function': 'f', 'arguments': {'a': 1}}"),
    ("ReAct", 'Thought: I need it.\nAction: f\nAction Input: {"a": 1}\nObservation:'),
    ("ReAct", "**Action:** f\n**Action Input:** x"),
    (
        "Anthropic",
        '<function_calls>\n<invoke name="f">\n<parameter name="a">1</parameter>\n</invoke>\n</function_calls>',
    ),
    ("Anthropic", '<invoke name="f"><parameter name="a">1</parameter></invoke>'),
    ("Nemotron", '<TOOLCALL>[{"name": "f", "arguments": {"a": 1}}]</TOOLCALL>'),
    ("InternLM", '<|action_start|><|plugin|>\n{"name": "f", "parameters": {"a": 1}}<|action_end|>'),
    ("Seed-OSS", "<seed:tool_call>\n<function=f>\n<parameter=a>1</parameter>\n</function>\n</seed:tool_call>"),
    ("Step", '<｜tool_calls_begin｜><｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="f">'),
    ("LongCat", "<longcat_tool_call>f\n<longcat_arg_key>a</longcat_arg_key>"),
    ("Command R", '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "f", "parameters": {"a": 1}}]<|END_ACTION|>'),
    ("Apertus", '<|tools_prefix|>[{"f": {"a": 1}}]<|tools_suffix|>'),
    ("Glaive", '<functioncall> {"name": "f", "arguments": \'{"a": 1}\'}'),
    ("Functionary", '<|from|>assistant\n<|recipient|>f\n<|content|>{"a": 1}'),
    ("Gorilla", "<<function>>f(a=1)"),
    ("Qwen-Agent", '✿FUNCTION✿: f\n✿ARGS✿: {"a": 1}'),
    ("a tag for calls", '<tool-call>{"f": 1}</tool-call>'),
    ("a tag for calls", '<toolCall name="f" />'),
    ("a tag for calls", "<acme:function_call>f</acme:function_call>"),
]


@pytest.mark.parametrize(("syntax", "text"), FOREIGN)
def test_a_call_in_the_syntax_of_another_family_is_malformed_and_the_syntax_named(syntax: str, text: str) -> None:
    others = [
        format
        for format in FORMATS
        if not any(syntax in own for own in FORMATS[format].syntaxes)
        and (format, syntax) not in (("glm4", "GLM-4"), ("pythonic", "Python"))
    ]
    assert len(others) > len(FORMATS) / 2
    for format in others:
        for finish_reason in ("stop", "length"):
            turn = parse_turn(text, format, finish_reason, tools=TOOLS)  # type: ignore[arg-type]
            assert (turn.status, turn.calls) == ("malformed", ()), format
            assert turn.failure is not None
            assert turn.failure.startswith(OTHER_FORMAT), format
            assert syntax in turn.failure, format


@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("hermes", '<|python_tag|>{"name": "f", "parameters": {}}'),
        ("gemma", '<|python_tag|>{"name": "f", "parameters": {}}'),
        ("llama3", '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'),
        ("json", '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'),
    ],
)
def test_the_syntax_of_another_chat_format_is_malformed_and_named(format: str, text: str) -> None:
    turn = parse_turn(text, format, tools=("f",))
    assert turn.status == "malformed"
    assert turn.failure in (f"{OTHER_FORMAT} (Llama 3 <|python_tag|>)", f"{OTHER_FORMAT} (Hermes <tool_call>)")


UNKNOWN_SHAPES = [
    'query_order(order_id="1")',
    "query_order(order_id='1')",
    "query_order(order_id=ORD-1)",
    "query_order(order_id = 1)",
    'query_order (order_id="1")',
    'query_order("ORD-1")',
    "query_order(17)",
    'query_order({"order_id": "1"})',
    "query_order(ORD-001)",
    "query_order()",
    "`query_order()`",
    "Call: query_order()",
    'functions.query_order(order_id="1")',
    '`query_order(order_id="1")`',
    '```python\nquery_order(order_id="1")\n```',
    '```\nquery_order("ORD-1")\n```',
    'I will call query_order(order_id="1") now.',
    'print(query_order(order_id="1"))',
    'result = query_order(order_id="1")',
    '我来调用query_order(order_id="1")。',
    '查询订单(订单号="1")',
    'query_order: {"order_id": "1"}',
    'query_order {"order_id": "1"}',
    'query_order{"order_id": "1"}',
    "query_order {}",
    "query_order{order_id: 1}",
    'call query_order {"order_id": 1}',
    'Call `query_order` with {"order_id": 1}.',
    'I call query_order with the arguments {"order_id": 1}',
    '**query_order**\n\n```json\n{"order_id": "1"}\n```',
    'query_order\n```json\n{"order_id": "1"}\n```',
    'query_order -> {"order_id": "1"}',
    ">>>query_order\n{'order_id': '1'}",
    '{"query_order": {"order_id": "1"}}',
    '[{"query_order": {"order_id": "1"}}]',
    '["query_order", {"order_id": "1"}]',
    '{"name": "query_order", "order_id": "1"}',
    '{"do": "query_order", "with": {"order_id": "1"}}',
    '{"function": "query_order", "order_id": "1"}',
    "<query_order><order_id>1</order_id></query_order>",
    "<query_order>\n1\n</query_order>",
    '<query_order order_id="1"/>',
    "<query_order/>",
    "<query_order><order_id>1",
    'query_order order_id="1"',
    "query_order --order_id 1",
    "query_order[order_id=1]",
    "query_order:\n  order_id: 1",
    "name: query_order\narguments:\n  order_id: 1",
    'Tool: query_order, Arguments: order_id "1"',
    "Action: query_order",
    "query_order",
    "orders.find('x')",
    '<tool>query_order</tool><args>{"order_id":"1"}</args>',
    "query_order\norder_id: ORD-1",
    'functions.query_order:0{"order_id": "1"}',
    "query_order|order_id=1",
    'query_order -> order_id="1"',
    '{"cmd": "query_order", "order_id": "1"}',
    '**Tool:** `query_order`\n**Input:** `{"order_id": "1"}`',
    '查询订单（订单号="1"）',
    'orders.find\n{"x": 1}',
    'search("shoes")',
]


@pytest.mark.parametrize("text", UNKNOWN_SHAPES)
def test_a_declared_tools_name_used_as_a_call_in_any_shape_is_malformed(text: str) -> None:
    for format in FORMATS:
        turn = parse_turn(text, format, tools=TOOLS)
        if format == "glm4" and text == 'orders.find\n{"x": 1}':
            assert turn.status == "calls"
            continue
        assert (turn.status, turn.calls) == ("malformed", ()), format
        assert turn.failure is not None
        assert turn.failure.startswith(OTHER_FORMAT), format


PROSE = [
    "I can use query_order to look it up; what is the order number?",
    "`query_order` needs an order number.",
    "The tool query_order(order_id) looks an order up, and cancel_order() cancels it.",
    "I have these tools:\n- query_order(order_id)\n- cancel_order(order_id, reason)\n- search(text)",
    "query_order(order_id)\ncancel_order(order_id, reason?)",
    "query_order(order_id: string)",
    "Use query_order(order_id=<your number>) or query_order(order_id=...).",
    "You can search (see below) for it.",
    "search",
    "Please search: shoes, hats and bags.",
    "The search returned nothing (2 pages).",
    "My research (2024) and search(es) took long.",
    "I did a search, then {braces} and [brackets](https://example.org/?query_order=1).",
    "Our query_orders({'a': 1}) differs, and my_query_order(1) too.",
    "To cancel I use cancel_order, which needs a reason: lost, late or other.",
    "查询订单需要订单号,请提供。",
    "I cannot query_order without its number, e.g. ORD-1.",
    "<b>query_order</b> and <query_order>",
    'Your record is {"name": "Ada"}.',
    '{"name": "Ada"}',
    '[{"name": "Ada"}, {"name": "Bob"}]',
    '```json\n{"name": "Ada"}\n```',
    '{"status": "shipped", "last_action": "none", "function": "a lamp"}',
    "[f] is a key; f(x) = x + 1, and [0, f(2)) is an interval.",
    "Use a hash (a=1) or [a=1].",
    "The tool-call budget and the function call are terms; <tool> is a tag.",
    "Action: we will refund you.",
    "query_order\nLooks an order up: give its number.",
    "search\nNote: it is slow.",
    "Use <tool>s and <b>query_order</b>.",
    "Note: the action input form is online.",
]


@pytest.mark.parametrize("text", PROSE)
def test_prose_that_names_a_tool_or_quotes_data_is_not_a_call(text: str) -> None:
    for format in FORMATS:
        turn = parse_turn(text, format, tools=TOOLS)
        assert (turn.status, turn.calls, turn.content, turn.failure) == ("none", (), text, None), format


@pytest.mark.parametrize("format", ["llama3", "gemma", "json"])
def test_a_bare_name_is_a_call_only_if_that_tool_is_declared(format: str) -> None:
    for text in ('{"name": "query_order"}', '[{"name": "query_order"}]'):
        assert parse_turn(text, format, tools=TOOLS).status == "calls"
    undeclared = parse_turn('{"name": "Ada"}', format, tools=TOOLS)
    assert (undeclared.status, undeclared.content) == ("none", '{"name": "Ada"}')
    assert parse_turn('{"name": "query_order"}', "hermes", tools=TOOLS).status == "malformed"


def test_no_gold_text_of_customer_service_is_a_call() -> None:
    tools = read_tools(DATA / "tools.json")
    said, answers = 0, set()
    for split in ("train", "test"):
        for row in read_conversations(DATA / f"{split}.jsonl", tools):
            names = tuple(tool.name for tool in row.tools)
            for message in row.messages:
                said += bool(message.content)
                assert call_syntax(message.content, names) is None, message.content
                if message.role == "assistant":
                    answers.add((message.content, names))
    assert said > 1000
    for answer, names in answers:
        for format in FORMATS:
            assert parse_turn(answer, format, tools=names).status == "none", (format, answer)


@given(
    text=st.lists(
        st.sampled_from(
            [*TOOLS, *(text for _, text in FOREIGN), *UNKNOWN_SHAPES, "(", ")", "{", "=", ":", "\n", " ", '"']
        )
        | st.text(max_size=5),
        max_size=8,
    ).map("".join),
    format=st.sampled_from(list(FORMATS)),
    cut=st.integers(0, 200),
    finish_reason=st.sampled_from(["stop", "length"]),
)
def test_any_mix_of_foreign_calls_is_parsed_without_an_error(
    text: str, format: str, cut: int, finish_reason: Any
) -> None:
    turn = parse_turn(text[:cut], format, finish_reason, tools=TOOLS)
    assert bool(turn.calls) == (turn.status in ("calls", "partial"))
    assert turn.failure is None or ("\n" not in turn.failure and len(turn.failure) < 200)


UNITS = [
    "f", "f ", "f(", "f()", "f \n", "f\n\n", "f: ", "f with the ", "<f", "<f ", "f arguments ", '"f"', '"name": "f"',
    "[f", "[f(", "[ ", "[a b c d e f(", "<tool_call> ", "<tool_call>f ", "<tool_call>[ ", "Action: ", "\nAction Input",
    '"function": "', "f[", "f=", "f --", "f:\n", "f(a", "<tool", "functools[ ", "to=functions.", "`f`", "f*", '{"f": ',
    "<function ", "```tool_code ",
]  # fmt: skip
"""Beginnings of calls. A text that repeats one of them makes a careless search start again at each place."""


def _seconds(text: str, format: str) -> float:
    start = time.process_time()
    parse_turn(text, format, "length", tools=("f", "g"))
    return time.process_time() - start


@pytest.mark.parametrize(("number", "unit"), list(enumerate(UNITS)))
def test_searching_for_foreign_calls_takes_linear_time(number: int, unit: str) -> None:
    # Every format searches in the same way. So each unit is tried in hermes and in one more format, in turn.
    for format in ("hermes", list(FORMATS)[number % len(FORMATS)]):
        assert _seconds(unit * (40_000 // len(unit)), format) < 1.5, (
            format
        )  # with quadratic time it takes half a minute


@EVERY
def test_reading_a_long_space_takes_linear_time(format: str) -> None:
    assert _seconds("f" + " " * 40_000 + "x", format) < 1.5


def test_each_tagged_syntax_has_a_test_text() -> None:
    named = [syntax for syntax, _ in FOREIGN]
    untried = [name for name in TAGGED if not any(syntax in name for syntax in named)]
    assert untried == [HERMES_SYNTAX, PYTHON_TAG_SYNTAX]
