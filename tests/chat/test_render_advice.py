"""Rows that cannot be rendered: the reason is true, and the advice helps."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sentencepiece_tokenizers import BYTES, CHATML, tokenizer_of

from toolhone.chat.probe import make_renderer
from toolhone.chat.render import ChatRenderer, RenderError, render_all
from toolhone.config import ChatConfig
from toolhone.errors import UserError
from toolhone.formats import FORMATS
from toolhone.records import Example, Gold, Message, Tool, ToolCall

TOOL = Tool("query", "", {"type": "object", "properties": {"id": {"type": "string"}}})
SYSTEM, USER = Message("system", "be brief"), Message("user", "where is it")
CALL = ToolCall("query", {"id": "a"}, "call_1")
OURS = FORMATS["hermes"].template_with("schema")


def example(*messages: Message, tools: tuple[Tool, ...] = (TOOL,)) -> Example:
    *prompt, turn = messages
    return Example("c/1", "c", tuple(prompt), turn, Gold.of_message(turn), tools, "rows.jsonl:7", None, {})


def say(content: str, *calls: ToolCall, thinking: str = "") -> Message:
    return Message("assistant", content, calls, thinking=thinking)


def fault(renderer: ChatRenderer, found: Example) -> str:
    with pytest.raises(RenderError, match=r"^rows\.jsonl:7: ") as caught:
        renderer.render(found)
    return str(caught.value)


# What a tokenizer changes

QUIET = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + ':' + m.content }}"
    "{% for c in m.tool_calls or [] %}{{ '<tool_call>' }}{{ c.function | tojson }}{{ '</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant:' }}{% endif %}"
)
"""A template without capital letters and line breaks, which some of these tokenizers lack."""


def quiet(template: str = QUIET, source: str = "model", **options: Any) -> ChatRenderer:
    return ChatRenderer(tokenizer_of("Llama 2", *CHATML, **options), FORMATS["hermes"], template, source, "", {})


def replacing(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}


CHANGED: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "NFC": (
        {"normalizer": {"type": "NFC"}},
        "cafe\u0301",
        "the tokenizer normalises Unicode: it reads 'e\u0301' (U+0065, U+0301) as '\u00e9'; write the row and its "
        "tools in NFC",
        "caf\u00e9",
    ),
    "NFC, marks in another order": (
        {"normalizer": {"type": "NFC"}},
        "q\u0307\u0323",
        "write the row and its tools in NFC",
        "q\u0323\u0307",
    ),
    "NFKC": ({"normalizer": {"type": "NFKC"}}, "①", "(U+2460) as '1'; write the row and its tools in NFKC", "1"),
    "NFD": ({"normalizer": {"type": "NFD"}}, "caf\u00e9", "write the row and its tools in NFD", "cafe\u0301"),
    "lower case": (
        {"normalizer": {"type": "Lowercase"}},
        "order Q",
        "the tokenizer reads 'Q' (U+0051) as 'q'; replace it in the row and its tools",
        "order q",
    ),
    "the sign for a space": ({}, "a▁b", "the tokenizer reads '▁' (U+2581) as ' '; replace it in the row", "a b"),
    "a character that it drops": (
        {"normalizer": replacing("§", "")},
        "a§b",
        "the tokenizer drops '§' (U+00A7); remove it from the row and its tools",
        "ab",
    ),
    "a character that it lacks": (
        {"drop": tuple(BYTES)},
        "a🐉b",
        "the tokenizer has no token for '🐉' (U+1F409); remove it from the row and its tools",
        "ab",
    ),
}


@pytest.mark.parametrize("where", ["the question", "the turn", "an argument"])
@pytest.mark.parametrize("change", CHANGED)
def test_a_text_that_the_tokenizer_changes_is_named_and_replacing_it_helps(change: str, where: str) -> None:
    options, faulty, message, fixed = CHANGED[change]
    renderer = quiet(**options)

    def row(text: str) -> Example:
        asked, said, value = (text if where == place else "ok" for place in ("the question", "the turn", "an argument"))
        return example(Message("user", asked), say(said, ToolCall("query", {"id": value})), tools=())

    assert message in fault(renderer, row(faulty))
    good = renderer.render(row(fixed))
    assert fixed in good.prompt_text + good.completion_text


def test_a_text_of_the_models_template_that_the_tokenizer_changes_needs_toolhones_template() -> None:
    options = {"normalizer": replacing("~", "-")}
    found = example(USER, say("yes"))
    said = fault(quiet("{{ '~' }}" + QUIET, **options), found)
    assert "the tokenizer reads '~' (U+007E), which the chat template writes, as '-'; set chat.template: too" in said
    assert quiet(OURS, "toolhone", **options).render(found).completion_text == "yes<|im_end|>"


def test_a_text_of_toolhones_template_that_the_tokenizer_changes_needs_another_model() -> None:
    found = example(USER, say("yes"))
    said = fault(quiet(OURS, "toolhone", normalizer=replacing("\n", " ")), found)
    assert "the tokenizer reads '\\n' (U+000A), which the chat template writes, as ' '; choose another model" in said
    assert quiet(OURS, "toolhone").render(found).completion_text == "yes<|im_end|>"


def test_an_end_of_turn_that_is_not_read_as_its_token_needs_another_flag_in_the_tokenizer() -> None:
    """Llama 2's normalizer puts a space into normalised tokens, so they only match after a space."""
    found, config = example(USER, say("yes")), ChatConfig(format="hermes", template="toolhone")
    renderer = make_renderer(tokenizer_of("Llama 2", *CHATML, normalized=True), config, "tiny")
    said = fault(renderer, found)
    assert "reads <|im_end|> at the end of the turn as text and not as the token" in said
    assert said.endswith("set normalized: false for it in tokenizer.json")
    fixed = make_renderer(tokenizer_of("Llama 2", *CHATML, normalized=False), config, "tiny")
    assert fixed.render(found).completion_ids[-1] in fixed.stop_ids()


# What a template cannot write

SPEECH_ONLY = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {
    "drops calls": (SPEECH_ONLY, "cannot be read back in the hermes format"),
    "cuts texts": (OURS.replace("{{- content }}", "{{- content[:5] }}"), "cannot be read back"),
    "refuses": ("{{ raise_exception('no tools here') }}", "refuses the row: no tools here; change the row, or"),
    "has no end of turn": (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
        "does not end the turn",
    ),
    "writes history differently": ("{{ messages | length }} messages\n" + OURS, "writes the messages before turn 2"),
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_turn_that_the_models_template_cannot_write_is_written_by_toolhones(
    tiny_tokenizer: Any, template: str
) -> None:
    source, message = TEMPLATES[template]
    found = example(SYSTEM, USER, say("let me look", CALL))
    said = fault(ChatRenderer(tiny_tokenizer, FORMATS["hermes"], source, "model", "", {}), found)
    assert message in said
    assert said.endswith("set chat.template: toolhone")
    make_renderer(tiny_tokenizer, ChatConfig(format="hermes", template="toolhone"), "tiny").render(found)


@pytest.mark.parametrize("source", ["model", "toolhone"])
@pytest.mark.parametrize("text", ["</tool_call> x", '{"name": "query", "arguments": {}}', "a <|im_start|> b"])
def test_a_turn_with_call_tags_in_its_text_renders_without_them(tiny_tokenizer: Any, text: str, source: str) -> None:
    renderer = ChatRenderer(tiny_tokenizer, FORMATS["hermes"], OURS, source, "", {})
    said = fault(renderer, example(SYSTEM, USER, say(text, CALL)))
    assert said.endswith("remove special tokens or call tags from its texts")
    renderer.render(example(SYSTEM, USER, say("x", CALL)))


def test_thinking_that_the_models_template_drops_is_written_by_toolhones(tiny_tokenizer: Any) -> None:
    theirs = OURS + "{# message.reasoning_content #}"
    found = example(USER, say("yes", thinking="they ask"))
    renderer = ChatRenderer(tiny_tokenizer, FORMATS["hermes"], theirs, "model", "", {}, "train")
    said = fault(renderer, found)
    assert "thinking cannot be read back" in said
    assert said.endswith("set chat.template: toolhone")
    config = ChatConfig(format="hermes", template="toolhone", thinking="train")
    ours = make_renderer(tiny_tokenizer, config, "tiny")
    assert "they ask" in ours.render(found).completion_text
    assert fault(ours, example(USER, say("yes", thinking="<think>a"))).endswith("remove <think> tags from it")
    assert ours.render(example(USER, say("yes", thinking="a")))


@pytest.mark.parametrize("config", [ChatConfig(max_tokens=5000), ChatConfig(max_tokens=100, over_long="drop")])
def test_an_over_long_example_is_accepted_with_a_higher_limit_or_dropped(tiny_tokenizer: Any, config: Any) -> None:
    renderer = make_renderer(tiny_tokenizer, ChatConfig(format="hermes"), "tiny")
    rows = [example(USER, say("查" * 500), tools=()), example(USER, say("yes"), tools=())]
    with pytest.raises(UserError, match=re.escape("raise it, or set chat.over_long: drop")):
        render_all(renderer, rows, ChatConfig(max_tokens=100))
    rendered, dropped = render_all(renderer, rows, config)
    assert len(rendered) + len(dropped) == 2
