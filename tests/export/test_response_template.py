"""With a model's response template, transformers reads a turn exactly as `parse_turn` does."""

from __future__ import annotations

import copy
import functools
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, byte_tokenizer, load_script
from transformers import AutoTokenizer
from transformers.utils.chat_parsing import ResponseParser, parse_response

from toolhone.chat.parse import parse_turn
from toolhone.chat.probe import make_renderer
from toolhone.chat.render import ChatRenderer
from toolhone.chat.template import PLAIN_TURNS
from toolhone.config import ChatConfig
from toolhone.data.read import examples, read_conversations, read_tools
from toolhone.export.response_template import CANNOT_CARRY, NO_TEMPLATE, response_template, unread_turns
from toolhone.formats import FORMATS
from toolhone.records import Example, Gold, Message, ToolCall

check = load_script("check_parsers")
CARRIED = sorted(set(FORMATS) - set(NO_TEMPLATE))
PREFIX = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"


@functools.cache
def renderer(name: str, opening: str = "") -> ChatRenderer:
    """Return a renderer with ChatML turns and the tokens of a format. `opening` is more text at the start of a turn."""
    chat_format = FORMATS[name]
    tokens = dict.fromkeys(["<|im_start|>", "<|im_end|>", *chat_format.control_tokens])
    template = PLAIN_TURNS[0].template.replace("assistant\\n", f"assistant\\n{opening}")
    tokenizer = byte_tokenizer(list(tokens), eos_token="<|im_end|>")
    return ChatRenderer(tokenizer, replace(chat_format, end_of_turn="<|im_end|>"), template, "model", "", {})


@functools.cache
def template(name: str) -> dict[str, Any]:
    found = response_template(renderer(name))
    assert found is not None
    return found


def read(name: str, text: str, prefix: str = PREFIX) -> tuple[str, str]:
    """Return the calls as exact JSON, and the content, as transformers reads them."""
    message = parse_response(text, template(name), prefix=prefix)
    assert message["role"] == "assistant"
    calls = [call["function"] for call in message.get("tool_calls", ())]
    return check.exact(calls), message.get("content", "")


def parsed(name: str, text: str) -> tuple[str, str]:
    turn = parse_turn(text, name)
    assert turn.failure is None
    return check.exact([{"name": call.name, "arguments": call.arguments} for call in turn.calls]), turn.content


def not_carried(name: str, turn: Any) -> bool:
    return name in CANNOT_CARRY and any(check.cannot_carry(name, call["arguments"]) for call in turn.calls)


def test_each_format_has_a_template_or_a_reason_why_not() -> None:
    assert set(NO_TEMPLATE) | set(CANNOT_CARRY) <= set(FORMATS)
    for name in FORMATS:
        assert (response_template(renderer(name)) is None) == (name in NO_TEMPLATE)


@pytest.mark.parametrize("name", CARRIED)
def test_every_turn_that_the_format_writes_is_read_as_parse_turn_reads_it(name: str) -> None:
    made = [check.generated_turn(random.Random(f"response template {number}")) for number in range(60)]
    cases = [check.case_of(name, turn) for turn in (*check.FIXED_TURNS, *made)]
    cases = [case for case in cases if not case.refused and not not_carried(name, case.turn)]
    assert len(cases) > 50
    for case in cases:
        assert read(name, f"{case.text}<|im_end|>") == parsed(name, case.text), case.turn.name


@pytest.mark.parametrize("calls", ["f(flag=True)", "f(a=1), f(b=[None])", 'f(a={"b": False}), f(a=1)'])
def test_a_python_list_with_a_constant_stays_text_as_a_whole(calls: str) -> None:
    assert read("pythonic", f"[{calls}]<|im_end|>") == ("[]", f"[{calls}]")
    assert read("pythonic", '[f(a="True"), f(b="None")]') == parsed("pythonic", '[f(a="True"), f(b="None")]')


@pytest.mark.parametrize("name", ["functiongemma", "gemma4"])
def test_a_key_that_transformers_cannot_quote_is_an_error_and_no_wrong_call(name: str) -> None:
    case = check.case_of(name, check.Turn("", "", [{"name": "f", "arguments": {"order-id": "A1"}}], []))
    assert not case.refused
    with pytest.raises(ValueError, match="could not parse"):
        read(name, case.text)


@pytest.mark.parametrize("name", CARRIED)
def test_a_turn_is_read_the_same_if_its_text_arrives_character_by_character(name: str) -> None:
    names = {"two calls of different tools", "text beside two calls", "a string with angle brackets", "a plain answer"}
    for turn in check.FIXED_TURNS:
        case = check.case_of(name, turn)
        if turn.name not in names or case.refused:
            continue
        parser = ResponseParser(template(name), prefix=PREFIX)
        for character in f"{case.text}<|im_end|>":
            parser.feed(character)
        message, _ = parser.finalize()
        calls = [call["function"] for call in message.get("tool_calls", ())]
        assert (check.exact(calls), message.get("content", "")) == parsed(name, case.text), turn.name


@pytest.mark.parametrize("name", sorted({*CARRIED} - {"harmony"}))
def test_thinking_before_a_call_is_no_content(name: str) -> None:
    case = check.case_of(name, check.Turn("", "", [{"name": "f", "arguments": {"a": "</think> b"}}], []))
    text = f"<think>\nI call f.\n</think>\n\n{case.text}"
    message = parse_response(text, template(name), prefix=PREFIX)
    assert message["thinking"] == "I call f."
    assert read(name, text) == parsed(name, text)


@pytest.mark.parametrize("opening", ["<think>\\n", "<think>\\n\\n</think>\\n\\n"])
def test_a_thought_that_the_prompt_opens_belongs_to_the_turn(opening: str) -> None:
    own = renderer("hermes", opening)
    found = response_template(own)
    assert found is not None
    assert found["start_anchor"] == "<|im_start|>assistant\n"
    prompt = own.text((Message("user", "hello"),), (), ask=True)
    is_open = "</think>" not in opening
    message = parse_response("done\n</think>\n\nHello." if is_open else "Hello.", found, prefix=prompt)
    assert message == {"role": "assistant", "content": "Hello.", **({"thinking": "done"} if is_open else {})}


def test_a_template_that_opens_no_turn_reads_only_what_the_model_writes() -> None:
    own = replace(
        renderer("hermes"), template="{% for m in messages %}{{ '[INST]' + m.content + '[/INST]' }}{% endfor %}"
    )
    found = response_template(own)
    assert found is not None
    prompt = "[INST]<tool_call>\n{}\n</tool_call>[/INST]"
    assert parse_response("Hello.", found, prefix=prompt) == {"role": "assistant", "content": "Hello."}


def test_calls_of_earlier_turns_are_not_read() -> None:
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    prefix = f"<|im_start|>assistant\n{call}<|im_end|>\n{PREFIX}"
    assert read("hermes", "Hello.<|im_end|>", prefix) == ("[]", "Hello.")


HARMONY_CALL = '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": 1}<|call|>'


@pytest.mark.parametrize(
    "text",
    [
        "<|channel|>final<|message|>Hello.<|return|>",
        HARMONY_CALL,
        f"<|channel|>analysis<|message|>I call f.<|end|><|start|>assistant{HARMONY_CALL}",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hello.<|return|>",
        f"<|channel|>commentary<|message|>Let me look.<|end|><|start|>assistant{HARMONY_CALL}",
    ],
)
def test_messages_of_harmony_are_read_with_their_headers(text: str) -> None:
    assert read("harmony", text) == parsed("harmony", text)


@pytest.mark.parametrize("name", ["pythonic", "hermes", "gemma"])
def test_the_gold_turns_of_customer_service_are_read_as_they_are(name: str, tiny_gemma_tokenizer: Any) -> None:
    data = ROOT / "data" / "customer_service"
    tools = read_tools(data / "tools.json")
    rows = [
        example for conversation in read_conversations(data / "test.jsonl", tools) for example in examples(conversation)
    ]
    assert len(rows) == 242
    own = make_renderer(tiny_gemma_tokenizer, ChatConfig(tools="names", format=name), "gemma")
    found = response_template(own)
    assert found is not None
    assert unread_turns(found, own, rows) == []


def test_the_saved_tokenizer_reads_turns_from_their_tokens(tiny_gemma_tokenizer: Any, tmp_path: Path) -> None:
    own = make_renderer(tiny_gemma_tokenizer, ChatConfig(format="gemma"), "gemma")
    tokenizer = copy.deepcopy(tiny_gemma_tokenizer)
    tokenizer.response_template = response_template(own)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    _, prompt = own.prompt([Message("user", "hello")], ())
    ids = own.encode('Let me look.\n{"name":"f","parameters":{"a":[1,true]}}<end_of_turn>')
    call = {"type": "function", "function": {"name": "f", "arguments": {"a": [1, True]}}}
    message = loaded.parse_response(ids, prefix=prompt)
    assert message == {"role": "assistant", "content": "Let me look.", "tool_calls": [call]}


def test_turns_that_a_template_does_not_read_are_named(tiny_gemma_tokenizer: Any) -> None:
    own = make_renderer(tiny_gemma_tokenizer, ChatConfig(format="pythonic"), "gemma")
    rows = []
    for id_, arguments in (("number", {"a": 1}), ("boolean", {"a": True})):
        turn = Message("assistant", "", (ToolCall("f", arguments),))
        prompt = (Message("user", "go"),)
        rows.append(Example(id_, "c", prompt, turn, Gold.of_message(turn), (), "rows.jsonl:1", None, {}))
    found = response_template(own)
    assert found is not None
    assert unread_turns(found, own, rows) == ["boolean"]
