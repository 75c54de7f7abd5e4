"""Rendering: only the gold turn is learned, prompts are the same in training and inference, and bad rows are refused.

The real tokenizers render the bundled data set. The tiny ones render cases that it does not have.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolhone.chat.parse import parse_turn
from toolhone.chat.probe import make_base_renderer, make_renderer, needs_of
from toolhone.chat.render import ChatRenderer, Rendered, RenderError, render_all
from toolhone.config import ChatConfig
from toolhone.data.read import read_conversations, read_tools, turns
from toolhone.data.split import read_files
from toolhone.errors import UserError
from toolhone.formats import FORMATS
from toolhone.records import Example, FormatName, Gold, Message, Tool, ToolCall

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
DATA = ROOT / "data" / "customer_service"
END: dict[FormatName, str] = {
    "hermes": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "gemma": "<end_of_turn>",
    "json": "<|im_end|>",
}
EACH = pytest.mark.parametrize("renderer", list(END), indirect=True)

TOOLS = (
    Tool("query_order", "查询订单状态", {"type": "object", "properties": {"order_id": {"type": "string"}}}),
    Tool("list_orders", "", {"type": "object", "properties": {}}),
)
SYSTEM = Message("system", "Be brief.")
USER = Message("user", "Where is A1?")
ORDER = ToolCall("query_order", {"order_id": "A1"}, "call_1")
LIST = ToolCall("list_orders", {}, "call_2")


def example(*messages: Message, tools: tuple[Tool, ...] = TOOLS, id: str = "c/1") -> Example:
    """Return the example whose turn is the last message."""
    *prompt, turn = messages
    return Example(id, "c", tuple(prompt), turn, Gold.of_message(turn), tools, "rows.jsonl:7", None, {})


def say(content: str, *calls: ToolCall) -> Message:
    return Message("assistant", content, calls)


def written(turn: Message, format: FormatName) -> str:
    """Return the turn in its format, written independently of the templates."""
    if format == "pythonic":
        listed = [
            f"{call.name}({', '.join(f'{name}={json.dumps(value, ensure_ascii=False)}' for name, value in found)})"
            for call in turn.tool_calls
            for found in [call.arguments.items()]
        ]
        return turn.content + (f"[{', '.join(listed)}]" if listed else "") + "<end_of_turn>"
    key, opening, closing, between = {
        "hermes": ("arguments", "<tool_call>\n", "\n</tool_call>", "\n"),
        "llama3": ("parameters", "", "", "; "),
        "gemma": ("parameters", "", "", "\n"),
        "json": ("arguments", "", "", "\n"),
    }[format]
    space = "" if format == "gemma" else " "
    separators = (f",{space}", f":{space}")
    bodies = [
        json.dumps({"name": call.name, key: call.arguments}, ensure_ascii=False, separators=separators)
        for call in turn.tool_calls
    ]
    calls = [opening + body + closing for body in bodies]
    return turn.content + ("\n" if turn.content and calls else "") + between.join(calls) + END[format]


@pytest.fixture(scope="module")
def renderer(
    request: pytest.FixtureRequest, tiny_tokenizer: Any, tiny_llama3_tokenizer: Any, tiny_gemma_tokenizer: Any
) -> ChatRenderer:
    """toolhone's template in the format of the test, with a tiny tokenizer."""
    tokenizers = {"llama3": tiny_llama3_tokenizer, "gemma": tiny_gemma_tokenizer}
    tokenizer = tokenizers.get(request.param, tiny_tokenizer)
    return make_renderer(tokenizer, ChatConfig(format=request.param, template="toolhone"), "tiny")


def with_template(tokenizer: Any, template: str | None) -> Any:
    own = copy.deepcopy(tokenizer)
    own.chat_template = template
    return own


def renderer_with(tokenizer: Any, template: str) -> ChatRenderer:
    return ChatRenderer(tokenizer, FORMATS["hermes"], template, "model", "", {})


# Real tokenizers on the full data set


@dataclasses.dataclass(frozen=True)
class Real:
    """A fetched tokenizer and the rendered turns of a third of the data set."""

    name: str
    renderer: ChatRenderer
    rows: list[Rendered]


@pytest.fixture(scope="module")
def data_set() -> list[Example]:
    files = [str(DATA / name) for name in ("train.jsonl", "test.jsonl")]
    rows = list(read_files(files, {}, read_tools(DATA / "tools.json")))
    return turns(rows[::3])


REAL = [
    pytest.param("llama3.2", marks=pytest.mark.tokenizers),
    pytest.param("qwen3", marks=pytest.mark.tokenizers),
    pytest.param("smollm2", marks=pytest.mark.smollm2),
    pytest.param("gemma3", marks=pytest.mark.gemma3),
]


@pytest.fixture(scope="module", params=REAL)
def real(request: pytest.FixtureRequest, fetched_tokenizer: Callable[[str], Any], data_set: list[Example]) -> Real:
    needs = needs_of(data_set)
    renderer = make_renderer(fetched_tokenizer(request.param), ChatConfig(), request.param, needs=needs)
    rows, dropped = render_all(renderer, data_set, ChatConfig())
    assert not dropped
    return Real(request.param, renderer, rows)


def test_each_real_tokenizer_gets_the_right_format_and_template(real: Real) -> None:
    expected = {
        "llama3.2": ("llama3", "toolhone", "parallel calls cannot be read back from it"),
        "qwen3": ("hermes", "model", ""),
        "smollm2": ("hermes", "toolhone", "it leaves out the tools"),
        "gemma3": ("pythonic", "toolhone", "the tokenizer has no chat template of its own"),
    }
    found = (real.renderer.format.name, real.renderer.source, real.renderer.note)
    assert found == expected[real.name]


def test_every_turn_is_rendered(real: Real, data_set: list[Example]) -> None:
    assert [row.example.id for row in real.rows] == [found.id for found in data_set]
    assert len(data_set) > 800


def test_labels_decode_to_exactly_the_gold_turn_and_its_end_token(real: Real) -> None:
    stop_ids = real.renderer.stop_ids()
    for row in real.rows:
        assert real.renderer.decode(row.completion_ids) == written(row.example.turn, real.renderer.format.name)
        assert row.completion_ids[-1] in stop_ids
        assert not stop_ids & set(row.completion_ids[:-1])


def test_prompt_ids_are_the_same_in_training_and_inference(real: Real) -> None:
    for row in real.rows[::5]:
        assert (row.prompt_text, row.prompt_ids) == real.renderer.prompt(row.example.prompt, row.example.tools)


def test_ids_decode_to_the_text(real: Real) -> None:
    for row in real.rows:
        assert real.renderer.decode(row.prompt_ids) == row.prompt_text
        assert real.renderer.decode(row.prompt_ids + row.completion_ids) == row.prompt_text + row.completion_text


def test_prompts_contain_every_tool_and_message(real: Real) -> None:
    for row in real.rows:
        for tool in row.example.tools:
            assert json.dumps(tool.name) in row.prompt_text
        for message in row.example.prompt:
            assert message.content in row.prompt_text


@pytest.mark.tokenizers
@pytest.mark.parametrize("whose", ["toolhone", "model"])
def test_llama_prompts_contain_only_the_pinned_date(
    fetched_tokenizer: Callable[[str], Any], data_set: list[Example], whose: str
) -> None:
    chosen = make_renderer(fetched_tokenizer("llama3.2"), ChatConfig(), "llama")
    template = chosen.template if whose == "toolhone" else chosen.tokenizer.chat_template
    renderer = ChatRenderer(chosen.tokenizer, chosen.format, template, whose, "", chosen.template_kwargs)
    for found in data_set[:50]:
        if any(len(message.tool_calls) > 1 for message in found.prompt):
            continue
        text = renderer.prompt(found.prompt, found.tools)[0]
        assert re.findall(r"Today Date: (.*)", text) == ["26 Jul 2024"]
        assert re.findall(r"\b\d{1,2} [A-Z][a-z]{2} \d{4}\b", text) == ["26 Jul 2024"]


@pytest.mark.tokenizers
def test_llama_text_begins_with_one_beginning_of_text_token(fetched_tokenizer: Callable[[str], Any]) -> None:
    renderer = make_renderer(fetched_tokenizer("llama3.2"), ChatConfig(), "llama")
    row = renderer.render(example(SYSTEM, USER, say("", ORDER)))
    begin = renderer.tokenizer.convert_tokens_to_ids("<|begin_of_text|>")
    assert [n for n, id_ in enumerate(row.prompt_ids + row.completion_ids) if id_ == begin] == [0]


@pytest.mark.tokenizers
def test_the_empty_thought_belongs_to_the_prompt_and_is_not_learned(fetched_tokenizer: Callable[[str], Any]) -> None:
    qwen, thought = fetched_tokenizer("qwen3"), "<think>\n\n</think>\n\n"
    turn = say("Let me look.", ORDER)
    renderer = make_renderer(qwen, ChatConfig(), "qwen")
    row = renderer.render(example(SYSTEM, USER, turn))
    assert (renderer.source, renderer.template_kwargs) == ("model", {"enable_thinking": False})
    assert row.prompt_text.endswith(f"<|im_start|>assistant\n{thought}")
    assert renderer.decode(row.completion_ids) == written(turn, "hermes")
    assert row.prompt_ids == renderer.prompt((SYSTEM, USER), TOOLS)[1]


@pytest.mark.tokenizers
@pytest.mark.parametrize(
    "messages",
    [
        (USER, say("Café".replace("é", "e\u0301"))),
        (Message("user", "Cafe\u0301?"), say("Yes.")),
        (USER, say("", ToolCall("query_order", {"order_id": "Cafe\u0301"}))),
    ],
    ids=["in the turn", "in the prompt", "in an argument"],
)
def test_text_that_the_tokenizer_would_normalise_is_refused_with_the_fix(
    fetched_tokenizer: Callable[[str], Any], messages: tuple[Message, ...]
) -> None:
    renderer = make_renderer(fetched_tokenizer("qwen3"), ChatConfig(), "qwen")
    with pytest.raises(RenderError, match=r"^rows\.jsonl:7: .*NFC"):
        renderer.render(example(*messages))


@pytest.mark.tokenizers
def test_the_same_text_in_nfc_is_accepted(fetched_tokenizer: Callable[[str], Any]) -> None:
    renderer = make_renderer(fetched_tokenizer("qwen3"), ChatConfig(), "qwen")
    assert "Caf\u00e9" in renderer.render(example(USER, say("Caf\u00e9"))).completion_text


@pytest.mark.smollm2
def test_a_character_that_the_tokenizer_drops_is_refused(fetched_tokenizer: Callable[[str], Any]) -> None:
    renderer = make_renderer(fetched_tokenizer("smollm2"), ChatConfig(), "smollm2")
    with pytest.raises(RenderError, match=r"^rows\.jsonl:7: the tokenizer drops '.x16' .*remove it"):
        renderer.render(example(USER, say("one\x16two")))


# toolhone's templates


@EACH
def test_the_contract_row_renders_as_the_stored_text(renderer: ChatRenderer) -> None:
    """Changing a template changes the prompts of new runs. If the change is intended, store the new text."""
    row = next(read_conversations(FIXTURES / "contracts" / "conversation.jsonl"))
    stored = FIXTURES / "templates" / f"{renderer.format.name}.txt"
    assert renderer.text(row.messages, row.tools, ask=True) == stored.read_text(encoding="utf-8")


TURNS = {
    "one call": say("", ORDER),
    "a call without arguments": say("", LIST),
    "parallel calls": say("", ORDER, LIST, ORDER),
    "text beside a call": say("Let me look.\nOne moment.", ORDER),
    "text beside parallel calls": say("Let me look.", LIST, ORDER),
    "a plain answer": say("In Berlin."),
    "markup in an argument": say("", ToolCall("query_order", {"order_id": '</tool_call>"}; {"name": "x"}\n<think>'})),
    "quotes in a name": say("", ToolCall('say "hi"', {})),
}


@EACH
@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
def test_a_turn_is_written_in_its_format(renderer: ChatRenderer, turn: Message) -> None:
    row = renderer.render(example(SYSTEM, USER, turn))
    assert row.completion_text == written(turn, renderer.format.name)
    assert renderer.decode(row.completion_ids) == row.completion_text


@EACH
def test_earlier_turns_are_in_the_prompt_exactly_as_learned(renderer: ChatRenderer) -> None:
    results = (Message("tool", "shipped", tool_call_id="call_1"), Message("tool", "[]", tool_call_id="call_2"))
    messages = (SYSTEM, USER, say("", ORDER, LIST), *results, say("Shipped."), USER, say("Still."))
    learned = [renderer.render(example(*messages[: n + 1])) for n in (2, 5, 7)]
    for earlier, later in itertools.pairwise(learned):
        assert later.prompt_text.startswith(earlier.prompt_text + earlier.completion_text)
        earlier_ids = earlier.prompt_ids + earlier.completion_ids
        assert later.prompt_ids[: len(earlier_ids)] == earlier_ids


def test_consecutive_hermes_tool_results_share_one_turn(tiny_tokenizer: Any) -> None:
    renderer = make_renderer(tiny_tokenizer, ChatConfig(), "tiny")
    results = (Message("tool", "one", tool_call_id="call_1"), Message("tool", "two", tool_call_id="call_2"))
    text = renderer.prompt((USER, say("", ORDER, LIST), *results), TOOLS)[0]
    shared = (
        "<|im_start|>user\n<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response><|im_end|>\n"
    )
    assert text.endswith(shared + "<|im_start|>assistant\n")


def test_consecutive_llama_tool_results_have_one_turn_each(tiny_llama3_tokenizer: Any) -> None:
    renderer = make_renderer(tiny_llama3_tokenizer, ChatConfig(), "tiny")
    results = (Message("tool", "one", tool_call_id="call_1"), Message("tool", "two", tool_call_id="call_2"))
    text = renderer.prompt((USER, say("", ORDER, LIST), *results), TOOLS)[0]
    head = "<|start_header_id|>{}<|end_header_id|>\n\n"
    ipython = head.format("ipython")
    assert text.endswith(f"{ipython}one<|eot_id|>{ipython}two<|eot_id|>{head.format('assistant')}")


@pytest.mark.parametrize("tools", [(), TOOLS], ids=["no tools", "tools"])
@pytest.mark.parametrize("system", [(), (SYSTEM,)], ids=["no system message", "system message"])
@EACH
def test_a_prompt_contains_tools_and_system_message_only_if_there_are_any(
    renderer: ChatRenderer, system: tuple[Message, ...], tools: tuple[Tool, ...]
) -> None:
    row = renderer.render(example(*system, USER, say("In Berlin."), tools=tools))
    assert ("Be brief." in row.prompt_text) == bool(system)
    assert ("function" in row.prompt_text) == bool(tools)
    assert all(json.dumps(tool.to_json(), ensure_ascii=False) in row.prompt_text for tool in tools)
    assert row.completion_text == "In Berlin." + END[renderer.format.name]
    if not tools and not system and renderer.format.name == "gemma":
        assert row.prompt_text == "<bos><start_of_turn>user\nWhere is A1?<end_of_turn>\n<start_of_turn>model\n"
    if not tools and not system and renderer.format.end_of_turn == "<|im_end|>":
        assert row.prompt_text == "<|im_start|>user\nWhere is A1?<|im_end|>\n<|im_start|>assistant\n"


REFUSED = {
    "hermes": ("<tool_call>", "a </tool_call> b", "<think>", "<|im_start|>", "cut <|im_end|> here", "<|endoftext|>"),
    "llama3": (
        '{"name": "x", "parameters": {}}',
        "<|eot_id|>",
        "a <|python_tag|> b",
        "<|start_header_id|>",
        "<|eom_id|>x",
    ),
    "gemma": (
        '{"name": "x", "parameters": {}}',
        "<end_of_turn>",
        "<start_of_turn>",
        "<eos>",
        "<tool_call>",
    ),
    "json": (
        '{"name": "x", "arguments": {}}',
        '```json\n{"name": "x", "arguments": {}}\n```',
        "<|im_end|>",
        "<tool_call>",
    ),
}


@pytest.mark.parametrize(
    ("renderer", "content"),
    [(name, content) for name, contents in REFUSED.items() for content in contents],
    indirect=["renderer"],
)
def test_gold_text_with_a_call_tag_or_a_special_token_is_refused(renderer: ChatRenderer, content: str) -> None:
    if content == "<think>":
        content = "<think>hidden</think> said"
    with pytest.raises(RenderError, match=r"^rows\.jsonl:7: .*special tokens or call tags"):
        renderer.render(example(SYSTEM, USER, say(content)))


@pytest.mark.parametrize("renderer", ["hermes"], indirect=True)
def test_gold_text_that_would_be_scored_as_a_malformed_call_is_refused(renderer: ChatRenderer) -> None:
    with pytest.raises(RenderError, match=r"^rows\.jsonl:7: .*status malformed \(a call outside <tool_call> tags\)"):
        renderer.render(example(SYSTEM, USER, say('{"name": "query_order", "arguments": {}}')))


@EACH
@pytest.mark.parametrize("where", ["value", "key", "nested", "name"])
def test_a_call_with_a_special_token_in_it_is_refused(renderer: ChatRenderer, where: str) -> None:
    token = END[renderer.format.name]
    arguments = {"value": {"x": f"a{token}"}, "key": {token: 1}, "nested": {"x": [{"y": token}]}, "name": {}}
    call = ToolCall(token if where == "name" else "query_order", arguments[where])
    with pytest.raises(RenderError, match=rf"^rows\.jsonl:7: .*{re.escape(token)}"):
        renderer.render(example(SYSTEM, USER, say("", call)))


@EACH
def test_a_row_without_a_question_before_the_turn_is_refused(renderer: ChatRenderer) -> None:
    with pytest.raises(RenderError, match=r"^rows\.jsonl:7: the chat template refuses the row"):
        renderer.render(example(say("Hello, how can I help?")))


# Any conversation

CONTENT = st.text(st.characters(exclude_characters='<{["`', exclude_categories=["Cs"]), max_size=30).map(str.strip)
MARKUP = [
    "}",
    "]}",
    "</tool_call>",
    "<tool_call>",
    "; {",
    '"',
    "\\",
    "<think>",
    "</think>",
    "\n{",
    "```",
    "\n```json\n",
    "; ",
    "\x00",
    "\x1b",
    "\u2028",
    "é",
    "e\u0301",
    "查",
    "😀",
]
# hypothesis also draws texts from the source code, including special tokens, which a gold turn cannot contain.
NAMES = st.text(min_size=1, max_size=12).filter(lambda text: "<|" not in text)
STRINGS = st.one_of(
    st.text(max_size=12).filter(lambda text: "<|" not in text),
    st.lists(st.sampled_from(MARKUP), max_size=4).map("".join),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | STRINGS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(STRINGS, inner, max_size=3),
    max_leaves=6,
)
CALLS = st.builds(ToolCall, NAMES, st.dictionaries(STRINGS, VALUES, max_size=3))
SAID = st.builds(Message, st.just("assistant"), CONTENT, st.lists(CALLS, max_size=3).map(tuple))
TOOLS_OF_ANY_KIND = st.lists(
    st.builds(
        Tool,
        NAMES,
        STRINGS,
        st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.dictionaries(STRINGS, st.just({}), max_size=3)}
        ),
    ),
    max_size=3,
).map(tuple)
ASKED = st.lists(st.text(max_size=20) | st.sampled_from([*END.values(), "<|im_start|>", "<eos>"]), max_size=3).map(
    "".join
)
BEFORE = st.lists(st.builds(Message, st.sampled_from(["user", "tool"]), ASKED) | SAID, max_size=4)


@EACH
@settings(max_examples=40, deadline=None)
@given(st.booleans(), BEFORE, SAID, TOOLS_OF_ANY_KIND)
def test_any_conversation_renders_and_reads_back(
    renderer: ChatRenderer, system: bool, before: list[Message], turn: Message, tools: tuple[Tool, ...]
) -> None:
    found = example(*([SYSTEM] if system else [USER]), *before, turn, tools=tools)
    row = renderer.render(found)
    text = renderer.decode(row.completion_ids)
    read = parse_turn(text, renderer.format.name)
    assert text == written(turn, renderer.format.name)
    assert read.content == turn.content
    assert json.dumps([[c.name, c.arguments] for c in read.calls]) == json.dumps(
        [[c.name, c.arguments] for c in turn.tool_calls]
    )
    assert row.prompt_ids == renderer.prompt(found.prompt, found.tools)[1]


# Tools in the prompt

SIGNATURES = {
    "no arguments": ({"type": "object", "properties": {}}, "f()"),
    "no schema at all": ({}, "f()"),
    "required and optional": (
        {"properties": {"a": {"type": "string"}, "b": {"type": "number"}}, "required": ["a"]},
        "f(a: string, b?: number)",
    ),
    "a default": ({"properties": {"n": {"type": "integer", "default": 1}}}, "f(n?: integer = 1)"),
    "a default that is nothing": ({"properties": {"n": {"default": None}}}, "f(n?: any = null)"),
    "listed values": ({"properties": {"a": {"type": "string", "enum": ["是", "n"]}}}, 'f(a?: "是"|"n")'),
    "a list": ({"properties": {"a": {"type": "array", "items": {"type": "string"}}}}, "f(a?: list[string])"),
    "a list of anything": ({"properties": {"a": {"type": "array"}}}, "f(a?: list[any])"),
    "an object": (
        {"properties": {"o": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}}},
        "f(o?: {x: integer})",
    ),
    "an object of anything": ({"properties": {"o": {"type": "object"}}}, "f(o?: object)"),
    "several types": ({"properties": {"a": {"type": ["string", "null"]}}}, "f(a?: string|null)"),
    "any of several": (
        {"properties": {"a": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "integer"}}]}}},
        "f(a?: string|list[integer])",
    ),
    "a schema that is true": ({"properties": {"a": True}}, "f(a?: any)"),
    "an argument called items": ({"properties": {"items": {"type": "string"}}}, "f(items?: string)"),
}


@pytest.mark.parametrize("case", SIGNATURES)
@pytest.mark.parametrize("format", ["hermes", "llama3"])
def test_a_signature_has_names_types_and_marks_optional_arguments(
    tiny_tokenizer: Any, tiny_llama3_tokenizer: Any, format: str, case: str
) -> None:
    parameters, signature = SIGNATURES[case]
    tokenizer = tiny_tokenizer if format == "hermes" else tiny_llama3_tokenizer
    renderer = make_renderer(tokenizer, ChatConfig(tools="signatures"), "tiny")
    text = renderer.text((Message("user", "hi"),), (Tool("f", "does\nit", parameters),), ask=True)
    assert f"\n{signature}  # does it\n" in text
    bare = renderer.text((Message("user", "hi"),), (Tool("f", "", parameters),), ask=True)
    assert f"\n{signature}\n" in bare


LOOK_UP = Tool("look_up", "finds an order", {"type": "object", "properties": {"id": {}, "n": {}}, "required": ["id"]})


def test_names_list_the_tools_and_nothing_else(
    tiny_tokenizer: Any, tiny_llama3_tokenizer: Any, tiny_gemma_tokenizer: Any
) -> None:
    asked = (Message("system", "Be brief."), Message("user", "hi"))
    tools = (LOOK_UP, Tool("wait", "", {}))
    hermes = make_renderer(tiny_tokenizer, ChatConfig(tools="names"), "tiny").text(asked, tools, ask=True)
    assert hermes == (
        "<|im_start|>system\nBe brief.\n\n<tools>\nlook_up(id, n?)\nwait()\n</tools><|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    llama3 = make_renderer(tiny_llama3_tokenizer, ChatConfig(tools="names"), "tiny").text(asked, tools, ask=True)
    assert "26 Jul 2024\n\nlook_up(id, n?)\nwait()\n\nBe brief.<|eot_id|>" in llama3
    gemma = make_renderer(tiny_gemma_tokenizer, ChatConfig(format="gemma", tools="names"), "tiny").text(
        asked, tools, ask=True
    )
    assert gemma == (
        "<bos><start_of_turn>user\nBe brief.\n\nlook_up(id, n?)\nwait()\n\nhi<end_of_turn>\n<start_of_turn>model\n"
    )
    assert "finds an order" not in hermes + llama3 + gemma


GEMMA_PROMPTS = {
    "a result": (
        (SYSTEM, USER, say("", ORDER), Message("tool", "sent", tool_call_id="call_1")),
        "<start_of_turn>user\nBe brief.\n\nlook_up(id, n?)\n\nWhere is A1?<end_of_turn>\n<start_of_turn>model\n"
        '{"name":"query_order","parameters":{"order_id":"A1"}}<end_of_turn>\n'
        "<start_of_turn>user\n```tool_output\nsent\n```<end_of_turn>\n",
    ),
    "no system message": ((USER,), "<start_of_turn>user\nlook_up(id, n?)\n\nWhere is A1?<end_of_turn>\n"),
    "the turn first": ((SYSTEM,), "<start_of_turn>user\nBe brief.\n\nlook_up(id, n?)\n\n<end_of_turn>\n"),
    "the model first": (
        (SYSTEM, say("Hello."), USER),
        "<start_of_turn>user\nBe brief.\n\nlook_up(id, n?)\n\n<end_of_turn>\n"
        "<start_of_turn>model\nHello.<end_of_turn>\n<start_of_turn>user\nWhere is A1?<end_of_turn>\n",
    ),
}


@pytest.mark.parametrize("case", GEMMA_PROMPTS)
def test_gemma_has_system_message_and_tools_in_the_first_user_turn(tiny_gemma_tokenizer: Any, case: str) -> None:
    asked, expected = GEMMA_PROMPTS[case]
    renderer = make_renderer(tiny_gemma_tokenizer, ChatConfig(format="gemma", tools="names"), "tiny")
    assert renderer.text(asked, (LOOK_UP,), ask=True) == f"<bos>{expected}<start_of_turn>model\n"
    row = renderer.render(example(*asked, say("Gone."), tools=(LOOK_UP,)))
    assert row.completion_text == "Gone.<end_of_turn>"


@pytest.mark.parametrize(
    ("tools", "expected"), [("names", "schema"), ("signatures", "signatures"), ("schema", "schema")]
)
def test_the_base_model_gets_schemas_instead_of_names(tiny_tokenizer: Any, tools: Any, expected: Any) -> None:
    asked, offered = (Message("user", "hi"),), (LOOK_UP,)
    base = make_base_renderer(tiny_tokenizer, ChatConfig(tools=tools, template="auto"), "tiny", "tuned")
    same = make_renderer(tiny_tokenizer, ChatConfig(tools=expected, template="auto"), "tiny")
    assert base.text(asked, offered, ask=True) == same.text(asked, offered, ask=True)


def test_signatures_use_toolhones_template_even_if_the_models_own_is_usable(tiny_tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = FORMATS["hermes"].template_with("schema")
    assert make_renderer(tokenizer, ChatConfig(), "tiny").source == "model"
    assert make_renderer(tokenizer, ChatConfig(tools="signatures"), "tiny").source == "toolhone"


# Templates that cannot be used

OWN = FORMATS["hermes"].template_with("schema")
SPEECH_ONLY = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BAD_TEMPLATES = {
    "drops calls": (SPEECH_ONLY, "cannot be read back in the hermes format"),
    "refuses": ("{{ raise_exception('no tools here') }}", "the chat template refuses the row: no tools here"),
    "is not Jinja": ("{% for %}", "the chat template refuses the row"),
    "has no end of turn": (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
        r"does not end the turn with <\|im_end\|>",
    ),
    "goes on after the end of turn": (
        OWN + "{% if not add_generation_prompt %}{{ 'END' }}{% endif %}",
        r"does not end the turn with <\|im_end\|>",
    ),
    "writes history differently": (
        "{{ messages | length }} messages\n" + OWN,
        "writes the messages before turn 2 differently",
    ),
    "trims text": (
        OWN.replace("{{- content }}", "{{- content[:5] }}"),
        "cannot be read back in the hermes format",
    ),
}


@pytest.mark.parametrize("fault", BAD_TEMPLATES)
def test_an_unusable_template_is_an_error_that_names_the_row(tiny_tokenizer: Any, fault: str) -> None:
    template, message = BAD_TEMPLATES[fault]
    with pytest.raises(RenderError, match=rf"^rows\.jsonl:7: .*{message}"):
        renderer_with(tiny_tokenizer, template).render(example(SYSTEM, USER, say("Let me look.", ORDER)))


@pytest.mark.parametrize(
    ("template", "note"),
    [
        (SPEECH_ONLY, "it leaves out the tools"),
        ("{{ raise_exception('none') }}", "it refuses tools (none)"),
        (
            OWN.replace("message.tool_calls or []", "(message.tool_calls or [])[:1]"),
            "parallel calls cannot be read back",
        ),
        (
            OWN.replace("{{- content }}", "{{- content if not calls }}"),
            "text beside a call cannot be read",
        ),
        ("{{ messages | length }}" + OWN, "one call cannot be read back"),
        (None, "the tokenizer has no chat template of its own"),
    ],
)
def test_an_unusable_template_is_replaced_by_toolhones_or_refused_if_required(
    tiny_tokenizer: Any, template: str | None, note: str
) -> None:
    tokenizer = with_template(tiny_tokenizer, template)
    chosen = make_renderer(tokenizer, ChatConfig(), "tiny")
    assert (chosen.source, chosen.template) == ("toolhone", OWN)
    assert note in chosen.note
    with pytest.raises(UserError, match=rf"^chat\.template: .*tiny.*{re.escape(note)}.*auto or toolhone"):
        make_renderer(tokenizer, ChatConfig(template="model"), "tiny")


def test_a_usable_template_of_the_model_is_used_unless_the_config_says_toolhone(tiny_tokenizer: Any) -> None:
    theirs = OWN.replace("You may call one or more functions", "You may call functions")
    tokenizer = with_template(tiny_tokenizer, theirs)
    auto = make_renderer(tokenizer, ChatConfig(), "tiny")
    assert (auto.source, auto.note, auto.template) == ("model", "", theirs)
    forced = make_renderer(tokenizer, ChatConfig(template="toolhone"), "tiny")
    assert (forced.source, forced.template) == ("toolhone", OWN)


def test_a_template_gets_none_instead_of_an_empty_list_of_tools(tiny_tokenizer: Any) -> None:
    renderer = renderer_with(tiny_tokenizer, "{{ 'none' if tools is none else tools | length }}")
    assert renderer.text((USER,), (), ask=True) == "none"
    assert renderer.text((USER,), TOOLS, ask=True) == "2"


def test_the_template_hash_depends_only_on_the_template_and_its_variables(tiny_tokenizer: Any) -> None:
    def hash_of(template: str, **variables: Any) -> str:
        return ChatRenderer(tiny_tokenizer, FORMATS["hermes"], template, "model", "", variables).template_hash()

    assert hash_of(OWN, a=1, b=2) == hash_of(OWN, b=2, a=1)
    assert len({hash_of(OWN), hash_of(OWN + " "), hash_of(OWN, a=1), hash_of(OWN, a=2)}) == 4


def test_stop_ids_are_the_stop_tokens_that_the_tokenizer_has(tiny_tokenizer: Any, tiny_llama3_tokenizer: Any) -> None:
    for tokenizer, tokens in (
        (tiny_tokenizer, ("<|im_end|>", "<|endoftext|>")),
        (tiny_llama3_tokenizer, ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>")),
    ):
        renderer = make_renderer(tokenizer, ChatConfig(), "tiny")
        vocabulary = tokenizer.get_vocab()
        assert renderer.stop_ids() == {vocabulary[token] for token in tokens}


def test_a_stop_token_that_the_tokenizer_lacks_is_ignored(tiny_tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    chat_format = dataclasses.replace(FORMATS["hermes"], other_stops=("<|unheard_of|>",))
    for unknown in (None, "a"):
        tokenizer.unk_token = unknown
        renderer = ChatRenderer(tokenizer, chat_format, OWN, "toolhone", "", {})
        assert renderer.stop_ids() == {tokenizer.get_vocab()["<|im_end|>"]}


# Rendering many


def long_and_short() -> tuple[Example, Example]:
    """Return an example of over 500 tokens, and one of fewer than 100."""
    short = example(USER, say("Yes."), tools=(), id="short/1")
    return example(USER, say("查" * 500), tools=(), id="long/1"), short


def test_an_over_long_example_is_an_error_with_its_length_and_the_limit(tiny_tokenizer: Any) -> None:
    renderer = make_renderer(tiny_tokenizer, ChatConfig(), "tiny")
    length = len(renderer.render(long_and_short()[0]))
    config = ChatConfig(max_tokens=100)
    with pytest.raises(UserError, match=rf"^rows\.jsonl:7: turn 1 is {length} tokens .* is 100; .*over_long: drop"):
        render_all(renderer, long_and_short(), config)


def test_over_long_drop_leaves_the_example_out_and_names_it(tiny_tokenizer: Any) -> None:
    renderer = make_renderer(tiny_tokenizer, ChatConfig(), "tiny")
    rows, dropped = render_all(renderer, long_and_short(), ChatConfig(max_tokens=100, over_long="drop"))
    assert [row.example.id for row in rows] == ["short/1"]
    assert dropped == ["long/1"]
    assert rows[0] == renderer.render(long_and_short()[1])


def test_an_example_exactly_at_the_limit_is_kept(tiny_tokenizer: Any) -> None:
    renderer = make_renderer(tiny_tokenizer, ChatConfig(), "tiny")
    length = len(renderer.render(long_and_short()[1]))
    assert len(render_all(renderer, long_and_short()[1:], ChatConfig(max_tokens=length))[0]) == 1
    with pytest.raises(UserError, match=rf"is {length} tokens"):
        render_all(renderer, long_and_short()[1:], ChatConfig(max_tokens=length - 1))


def test_dropping_every_example_is_an_error(tiny_tokenizer: Any) -> None:
    renderer = make_renderer(tiny_tokenizer, ChatConfig(), "tiny")
    with pytest.raises(UserError, match=r"^chat\.max_tokens: every example is longer than 16"):
        render_all(renderer, long_and_short(), ChatConfig(max_tokens=16, over_long="drop"))


def test_one_error_lists_all_rows_that_cannot_be_rendered(tiny_tokenizer: Any) -> None:
    renderer = make_renderer(tiny_tokenizer, ChatConfig(), "tiny")
    bad = [example(USER, say(f"<tool_call> {n}"), id=f"bad-{n}/1") for n in range(23)]
    with pytest.raises(UserError) as caught:
        render_all(renderer, [bad[0], long_and_short()[1], *bad[1:]], ChatConfig())
    lines = str(caught.value).split("\n")
    assert [f"'<tool_call> {n}'" in line for n, line in enumerate(lines[:20])] == [True] * 20
    assert lines[20:] == ["... and 3 more"]
