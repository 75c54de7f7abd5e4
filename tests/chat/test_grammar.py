"""The grammar of an answer: what it accepts, and that random answers that follow it have valid calls only."""

from __future__ import annotations

import functools
import json
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typed_calls
from conftest import byte_tokenizer, load_script
from hypothesis import given, settings
from hypothesis import strategies as st

from toolhone.chat.grammar import Grammar, call_grammar, syntax_tokens
from toolhone.chat.parse import parse_turn
from toolhone.formats import FORMATS
from toolhone.formats.chat_format import RawCall
from toolhone.records import Tool
from toolhone.tool_schema import arguments_valid

llguidance = pytest.importorskip("llguidance", reason="grammars are checked with the package llguidance")

check_grammar = load_script("check_grammar")
FIND = Tool(
    "find",
    "",
    {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 5}, "count": {"type": "integer", "minimum": 1}},
        "required": ["city"],
    },
)
NOW = Tool("now", "", {"type": "object", "properties": {}})
TOOLS = (FIND, NOW)


@functools.cache
def byte_level() -> Any:
    return llguidance.LLTokenizer("byte")


def accepts(grammar: Grammar, text: str) -> bool:
    matcher = llguidance.LLMatcher(byte_level(), llguidance.LLMatcher.grammar_from_lark(grammar.lark))
    assert not matcher.is_error(), matcher.get_error()
    taken = matcher.try_consume_tokens(list(text.encode())) if text else 0
    return bool(taken == len(text.encode()) and matcher.is_accepting())


def written(format: str, content: str, *calls: tuple[str, dict[str, Any]]) -> str:
    raw = [RawCall(name, json.dumps(arguments, ensure_ascii=False)) for name, arguments in calls]
    return FORMATS[format].write(content, raw, "stop")


def accepts_value(schema: dict[str, Any], value: Any, format: str = "hermes") -> bool:
    """Whether the grammar accepts a call with this value, written by the format."""
    tool = Tool("f", "", {"type": "object", "properties": {"a": schema}})
    return accepts(call_grammar(FORMATS[format], [tool]), written(format, "", ("f", {"a": value})))


def accepts_json(schema: dict[str, Any], value: str) -> bool:
    tool = Tool("f", "", {"type": "object", "properties": {"a": schema}})
    call = f'{{"name": "f", "arguments": {{"a": {value}}}}}'
    return accepts(call_grammar(FORMATS["hermes"], [tool]), f"<tool_call>\n{call}\n</tool_call>")


@pytest.mark.parametrize("format", FORMATS)
def test_calls_that_the_format_writes_are_accepted_and_others_are_not(format: str) -> None:
    grammar = call_grammar(FORMATS[format], TOOLS)
    assert accepts(grammar, "Which city?")
    assert accepts(grammar, "")
    one, other = ("find", {"city": "é\n", "count": 3}), ("now", {})
    assert accepts(grammar, written(format, "", one))
    assert accepts(grammar, written(format, "", other, one, ("find", {"count": 7, "city": "'\"\\"})))
    for wrong in (
        ("find", {"count": 3}),
        ("find", {"city": "Lisbon"}),
        ("find", {"city": "a", "count": 0}),
        ("go", {}),
    ):
        assert not accepts(grammar, written(format, "", wrong)), wrong


@pytest.mark.parametrize("format", ["hermes", "pythonic", "json", "mistral", "qwen_xml", "glm4", "gemma4", "harmony"])
def test_requests_limit_the_answer(format: str) -> None:
    call, chat = written(format, "", ("now", {})), FORMATS[format]
    both = written(format, "", ("now", {}), ("now", {}))
    assert not accepts(call_grammar(chat, TOOLS, required=True), "hello")
    assert accepts(call_grammar(chat, TOOLS, required=True, free_text=False), call)
    assert not accepts(call_grammar(chat, TOOLS, parallel=False), both)
    assert accepts(call_grammar(chat, TOOLS, parallel=False), call)
    data = call_grammar(chat, TOOLS, text_schema={"type": "object", "properties": {"name": {"type": "string"}}})
    assert accepts(data, '{"name": "now"}')
    assert accepts(data, call)
    assert not accepts(data, "hello")
    assert not accepts(data, '{"name": 1}')
    assert not accepts(call_grammar(chat, ()), call)


def test_prose_and_thoughts_stay_free_in_hermes() -> None:
    grammar = call_grammar(FORMATS["hermes"], TOOLS)
    call = written("hermes", "", ("now", {}))
    assert accepts(grammar, f"Let me look.\n{call}\nDone.")
    assert accepts(grammar, f"<think>a <tool_call> would do</think>\n\n{call}")
    assert accepts(grammar, "a < b, <tool_cal")
    assert not accepts(grammar, "<tool_call> is a tag")


@pytest.mark.parametrize("format", ["mistral_args", "lfm2", "functiongemma", "gemma4", "harmony"])
def test_special_tokens_open_and_close_calls_and_texts(format: str) -> None:
    chat = FORMATS[format]
    tokenizer = byte_tokenizer([*chat.call_tokens, "\n\n", "<other>", "<end>"], eos_token="<end>")
    special = syntax_tokens(chat, tokenizer.get_added_vocab())
    assert special
    assert set(special) <= set(chat.call_tokens)
    calls = ("find", {"city": "é", "count": 3}), ("find", {"city": ""}), ("now", {})
    text = _THOUGHTS.get(format, "") + written(format, "Look.", *calls)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert set(special.values()) & set(ids)
    from llguidance.hf import from_tokenizer

    vocabulary = from_tokenizer(tokenizer)
    for tokens, is_accepted in ((special, True), (None, False)):
        grammar = call_grammar(chat, TOOLS, special_tokens=tokens)
        matcher = llguidance.LLMatcher(vocabulary, llguidance.LLMatcher.grammar_from_lark(grammar.lark))
        assert (matcher.try_consume_tokens(ids) == len(ids)) is is_accepted


_THOUGHTS = {
    "gemma4": "<|channel>thought\nHm.<channel|>",
    "harmony": "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant",
}


@pytest.mark.parametrize("format", _THOUGHTS)
def test_a_thought_has_the_tags_of_its_format(format: str) -> None:
    thought, call = _THOUGHTS[format], written(format, "", ("now", {}))
    text = f"{thought}<|channel|>final<|message|>Fine." if format == "harmony" else f"{thought}Fine."
    grammar, plain = (call_grammar(FORMATS[format], TOOLS, thinks=thinks) for thinks in (True, False))
    for answer in (text, thought + call):
        assert parse_turn(answer, format, tools={"now": NOW}).thinking == "Hm."
        assert accepts(grammar, answer)
        assert not accepts(plain, answer)
    in_thought = thought.replace("Hm.", call)
    assert not accepts(grammar, in_thought + call)


@pytest.mark.parametrize(
    ("format", "closing"),
    [
        ("lfm2", "<|tool_call_end|>"),
        ("olmo3", "</function_calls>"),
        ("functiongemma", "<end_function_call>"),
        ("gemma4", "<tool_call|>"),
        ("glm45", "</tool_call>"),
        ("minicpm5", "</function>"),
        ("harmony", "<|end|>"),
    ],
)
def test_a_text_does_not_contain_what_ends_the_call(format: str, closing: str) -> None:
    tool = Tool("f", "", {"type": "object", "properties": {"a": {"type": "string"}}})
    grammar = call_grammar(FORMATS[format], [tool])
    assert accepts(grammar, written(format, "", ("f", {"a": "1 < 2 & 3 > 2 ]] </b> <|x"})))
    text = written(format, "", ("f", {"a": "here"}))
    assert accepts(grammar, text)
    assert not accepts(grammar, text.replace("here", f"x{closing}x"))


def test_minicpm5_writes_what_xml_does_not_allow_as_a_section_of_text() -> None:
    open_, close = '<function name="f"><param name="a">', "</param></function>"
    schema: dict[str, Any] = {"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]}
    grammar = call_grammar(FORMATS["minicpm5"], [Tool("f", "", {"type": "object", "properties": {"a": schema}})])
    for text in ("<![CDATA[<b> & ]]>", "plain ]]", "12", "null", '"12"', '"\\u003c"'):
        assert accepts(grammar, open_ + text + close), text
    for text in ("<b>", "a & b", "a ]]> b", "1.5", "[1]", '"<"', "<![CDATA[[1]]]>"):
        assert not accepts(grammar, open_ + text + close), text


def test_a_glm4_call_is_a_name_alone_on_a_line_above_an_object() -> None:
    grammar = call_grammar(FORMATS["glm4"], TOOLS)
    for text in ('find\n{"city": "a"}', 'Sure.\nfind\n{"city": "a"}\nnow\n{}', "now\nis the time", "As JSON:\n{}"):
        assert accepts(grammar, text), text
    for text in ('find\n{"count": 1}', "go\n{}", 'Sure. find\n{"city": "a"}{}', 'Sure.\nnow {"city": "a"}\ngo\n{}'):
        assert not accepts(grammar, text), text


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"type": "integer", "minimum": -5, "exclusiveMaximum": 120}, ["-5", "0", "119"], ["-6", "120", "1.5", "007"]),
        ({"type": "integer", "multipleOf": 25}, ["0", "125", "-50"], ["30", "1"]),
        (
            {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5},
            ["0.5", "0.50", "0.01", "1e-7"],
            ["0", "0.51", "-1"],
        ),
        (
            {"type": "string", "minLength": 1, "maxLength": 2},
            ['"é"', r'"\u00e9\n"', r'"\ud83d\ude00"'],
            ['""', '"abc"'],
        ),
        ({"type": "string", "pattern": r"^\d{2}-[^x]+$"}, ['"12-a"'], ['"1-a"', '"12-x"', '"12-"']),
        ({"type": "string", "pattern": "b"}, ['"abc"', r'"\nb"'], ['"ac"']),
        ({"type": "string", "format": "date"}, ['"2026-12-31"'], ['"2026-13-01"', '"today"', '"2026-02-30"']),
        ({"enum": ["a", 1, None], "type": ["string", "null"]}, ['"a"', "null"], ["1", '"b"']),
        ({"const": {"x": [1]}}, ['{"x": [1]}'], ['{"x": []}']),
        (
            {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2},
            ["[1]", "[1, 2]"],
            ["[]", "[1,2,3]"],
        ),
        ({"type": "array", "uniqueItems": True, "items": {"enum": [1, 2]}}, ["[]", "[2, 1]"], ["[1, 1]"]),
        ({"type": "array", "prefixItems": [{"const": 1}], "items": {"const": 2}}, ["[1, 2, 2]", "[]"], ["[2]"]),
        ({"anyOf": [{"type": "integer"}, {"type": "boolean"}], "maximum": 3}, ["3", "true"], ["4", '"x"']),
        ({"allOf": [{"minimum": 2}, {"type": "integer"}, {"maximum": 4}]}, ["2"], ["1", "5", "2.5"]),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, ["{}", '{"k": 1}'], ['{"k": "v"}']),
        (
            {"type": "object", "properties": {"k": {}, "l": False}, "required": ["k"]},
            ['{"k": [{}]}'],
            ["{}", '{"k":1,"l":1}'],
        ),
    ],
    ids=lambda each: json.dumps(each)[:50],
)
def test_keywords_are_enforced(schema: dict[str, Any], right: list[str], wrong: list[str]) -> None:
    for value in right:
        assert arguments_valid({"a": json.loads(value)}, Tool("f", "", {"properties": {"a": schema}}), "")
        assert accepts_json(schema, value), value
    for value in wrong:
        assert not accepts_json(schema, value), value


def test_schemas_refer_to_themselves() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}
    tool = Tool("f", "", {"type": "object", "properties": {"a": {"$ref": "#/$defs/node"}}, "$defs": {"node": node}})
    for format in ("hermes", "pythonic", "qwen_xml", "gemma4"):
        grammar = call_grammar(FORMATS[format], [tool])
        assert accepts(grammar, written(format, "", ("f", {"a": {"next": {"next": {}}}})))
        assert not accepts(grammar, written(format, "", ("f", {"a": {"next": {"last": {}}}})))


def test_keywords_that_are_not_enforced_are_named() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=x)"}, "b": {"not": {"const": 1}}}}
    grammar = call_grammar(FORMATS["hermes"], [Tool("f", "", schema), NOW])
    assert set(grammar.unenforced) == {"f: pattern", "f: not", "f: no key twice"}


@pytest.mark.parametrize("format", ["hermes", "pythonic"])
def test_large_tools_have_a_grammar_of_bounded_size(format: str) -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(60):
        deep = {"type": "object", "properties": {"a": deep}}
    names = [f"p{number}" for number in range(200)]
    large = {
        "wide": {"properties": {name: {"type": "integer"} for name in names}, "required": names[::2]},
        "deep": {"properties": {"x": deep}},
        "enum": {"properties": {"x": {"type": "string", "enum": [f"v{number}" for number in range(20_000)]}}},
        "prefixes": {"properties": {"x": {"enum": ["a" * number for number in range(400)]}}},
        "pattern": {"properties": {"x": {"type": "string", "pattern": "^((a{1,300}){1,300}){1,300}$"}}},
        "broken": {"properties": {"x": {"type": "dict"}}},
    }
    for name, parameters in large.items():
        grammar = call_grammar(FORMATS[format], [Tool(name, "", {"type": "object", **parameters})])
        assert len(grammar.gbnf) + len(grammar.lark) < 1_000_000
        assert accepts(grammar, "hello"), name
    in_order = written(format, "", ("wide", dict.fromkeys(names, 1)))
    assert accepts(call_grammar(FORMATS[format], [Tool("wide", "", {"type": "object", **large["wide"]})]), in_order)


@settings(max_examples=12)
@given(made=typed_calls.calls)
def test_written_calls_are_accepted(made: list[Any]) -> None:
    grammar = call_grammar(FORMATS["hermes"], [typed_calls.LOOK, typed_calls.EMPTY])
    order = list(typed_calls.LOOK.parameters["properties"])
    made = [
        replace(call, arguments=dict(sorted(call.arguments.items(), key=lambda e: order.index(e[0])))) for call in made
    ]
    text = typed_calls.written("hermes", "", made)
    is_plain = all(
        arguments_valid(call.arguments, typed_calls.TOOLS[call.name], "") and _is_closed(call.arguments)
        for call in made
    )
    if is_plain:
        assert accepts(grammar, text)


def _is_closed(arguments: dict[str, Any]) -> bool:
    """Whether numbers are short, and objects have no key that the schema does not list."""
    numbers = [value for value in _inside(arguments) if isinstance(value, int | float)]
    return all(abs(number) < 1e30 for number in numbers) and "\0" not in json.dumps(arguments, ensure_ascii=False)


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return [each for item in inner for each in _inside(item)]
    return [value]


@pytest.mark.parametrize("format", FORMATS)
def test_random_answers_have_valid_calls_only(format: str) -> None:
    count = check_grammar.counted(format, 3, 1, check_grammar.byte_walk)
    assert not count.invalid
    assert count.valid == count.calls >= 3


@given(seed=st.integers(0, 2**32))
@settings(max_examples=10)
def test_a_random_tool_has_a_grammar_that_enforces_everything(seed: int) -> None:
    tool = check_grammar.random_tool(random.Random(seed), 0)
    grammar = call_grammar(FORMATS["pythonic"], [tool])
    assert grammar.unenforced == ()


def test_llama_cpp_writes_valid_calls_only(tiny_llama: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="llama.cpp needs the package xllamacpp")
    pytest.importorskip("gguf", reason="writing GGUF files needs the package gguf")
    from tiny_gguf import write_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    renderer: Any = SimpleNamespace(tokenizer=AutoTokenizer.from_pretrained(tiny_llama), template="{{ messages }}")
    gguf = write_model(tmp_path / "tiny.gguf", AutoModelForCausalLM.from_pretrained(tiny_llama), renderer)
    with check_grammar.llama_cpp_answers(gguf) as answer:
        for format in ("hermes", "pythonic", "gemma4"):
            count = check_grammar.counted(format, 3, 1, answer)
            assert not count.invalid
            assert count.valid == count.calls


def test_a_text_may_contain_data_but_no_call_at_the_start_of_a_line() -> None:
    grammar = call_grammar(FORMATS["json"], TOOLS)
    for text in ('A list:\n{"city": "Lisbon"}', "[1] is a note", "f(x) = {x}"):
        assert parse_turn(text, "json", tools={"now": NOW}).status == "none"
        assert accepts(grammar, text)
    assert not accepts(grammar, 'Like this:\n{"name": "go", "arguments": {}}')


@pytest.mark.parametrize("name", ["hermes", "pythonic"])
def test_an_answer_without_thinking_has_no_thought(name: str) -> None:
    tools = [Tool("look", "", {"type": "object", "properties": {"id": {"type": "integer"}}})]
    schema = {"type": "object", "properties": {"id": {"type": "integer"}}, "additionalProperties": False}
    cases: tuple[dict[str, Any], ...] = ({}, {"text_schema": schema}, {"required": True, "free_text": False})
    for options in cases:
        thinks, plain = (call_grammar(FORMATS[name], tools, thinks=thinks, **options) for thinks in (True, False))
        assert "think" in thinks.gbnf
        call = written(name, "", ("look", {"id": 1}))
        assert accepts(plain, call)
        assert not accepts(plain, f"<think>Hm.</think>{call}")


@pytest.mark.parametrize("format", ["hermes", "pythonic"])
def test_escapes_in_gbnf_have_a_fixed_width_because_xgrammar_reads_all_digits_after_an_x(format: str) -> None:
    grammar = call_grammar(FORMATS[format], TOOLS)
    assert grammar is not None
    assert r"\u0022" in grammar.gbnf
    assert r"\x" not in grammar.gbnf
