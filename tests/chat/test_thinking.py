"""Thinking in prompts and turns: `chat.thinking` decides, and the prompt is the same in training and inference."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from conftest import byte_tokenizer
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from toolhone.chat.parse import parse_turn
from toolhone.chat.probe import make_renderer
from toolhone.chat.render import ChatRenderer, RenderError, render_all
from toolhone.chat.segments import segments
from toolhone.chat.token_bytes import TokenBytes
from toolhone.config import ChatConfig, Config, Thinking
from toolhone.data.read import examples
from toolhone.errors import UserError
from toolhone.evaluate.base_rows import with_gold_limit
from toolhone.evaluate.decode import Completion
from toolhone.evaluate.predict import prediction_of
from toolhone.formats import FORMATS
from toolhone.records import Conversation, Example, Message, Tool, ToolCall

TOOLS = (
    Tool("query_order", "查询订单", {"type": "object", "properties": {"order_id": {"type": "string"}}}),
    Tool("list_orders", "", {"type": "object", "properties": {}}),
)
ORDER, LIST = ToolCall("query_order", {"order_id": "A1"}, "c1"), ToolCall("list_orders", {}, "c2")


def think(thinking: str, content: str, *calls: ToolCall) -> Message:
    return Message("assistant", content, calls, thinking=thinking)


ROW = Conversation(
    "c",
    (
        Message("system", "Be brief."),
        Message("user", "Where is A1?"),
        think("First look\nit up.", "", ORDER),
        Message("tool", "shipped", tool_call_id="c1"),
        think("It was sent.", "It is on its way."),
        Message("user", "And all of them?"),
        think("Both at once.", "One moment.", ORDER, LIST),
        Message("tool", "shipped", tool_call_id="c1"),
        Message("tool", "A1, A2", tool_call_id="c2"),
        Message("assistant", "You have two."),
    ),
    TOOLS,
    "rows.jsonl:7",
)
TURNS = examples(ROW)
THOUGHTS = [example.turn.thinking for example in TURNS]

# A template in the style of Qwen3: it writes the thinking only of the turns after the last question.
QWEN = """{%- set last = namespace(at=-1) %}
{%- for m in messages %}{% if m.role == "user" %}{% set last.at = loop.index0 %}{% endif %}{% endfor %}
{%- if tools %}{{ "<|im_start|>system\n" }}{% for tool in tools %}{{ tool | tojson }}{{ "\n" }}{% endfor %}
{{- "<|im_end|>\n" }}{% endif %}
{%- for m in messages %}
    {%- set thought = "" %}
    {%- if m.reasoning_content is string %}{% set thought = m.reasoning_content %}{% endif %}
    {%- if m.role == "tool" %}
        {{- "<|im_start|>user\n<tool_response>" + m.content + "</tool_response><|im_end|>\n" }}
    {%- elif m.role == "assistant" %}
        {{- "<|im_start|>assistant\n" }}
        {%- if loop.index0 > last.at and (loop.last or thought) %}
            {{- "<think>\n" + thought.strip("\n") + "\n</think>\n\n" }}
        {%- endif %}
        {{- m.content }}
        {%- for call in m.tool_calls or [] %}
            {{- "\n" if m.content or not loop.first }}
            {{- '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- (call.function.arguments | tojson) + "}\n</tool_call>" }}
        {%- endfor %}
        {{- "<|im_end|>\n" }}
    {%- else %}
        {{- "<|im_start|>" + m.role + "\n" + m.content + "<|im_end|>\n" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ "<|im_start|>assistant\n" }}{% endif %}"""
# The same, except that it writes no thinking at all.
FORGETFUL = QWEN.replace("m.reasoning_content", "m.nothing")
QWENS = ("qwen", "qwen with special tokens")
WRITTEN = ("hermes", "llama3", "gemma", "json", "mistral", "deepseek", "qwen_xml", "gemma4")
"""A format of each kind of syntax. The turns here have text beside calls, which some others cannot carry."""
NAMES = (*WRITTEN, *QWENS)
CHATML = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]


def tokenizer_for(name: str) -> Any:
    from tokenizers import AddedToken

    if name == "llama3":
        words = ("begin_of_text", "end_of_text", "start_header_id", "end_header_id", "eot_id", "eom_id", "python_tag")
        return byte_tokenizer([f"<|{word}|>" for word in words], bos_token="<|begin_of_text|>")
    if name == "gemma":
        return byte_tokenizer(["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"], bos_token="<bos>")
    tags = ["<think>", "</think>"]
    made = byte_tokenizer(CHATML + (tags if name == "qwen with special tokens" else []))
    if name == "qwen":  # as Qwen3 has them: added, but not special
        made.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in tags])
    if name in QWENS:
        made.chat_template = QWEN
    return made


TOKENIZERS = {name: tokenizer_for(name) for name in NAMES}


def renderer(name: str, thinking: Thinking, **keys: Any) -> ChatRenderer:
    format = name if name in FORMATS else "hermes"
    template = "toolhone" if name in FORMATS else "model"
    config = ChatConfig(**{"format": format, "template": template, "thinking": thinking, **keys})
    return make_renderer(TOKENIZERS[name], config, name)


@pytest.mark.parametrize("thinking", ["strip", "keep", "train"])
@pytest.mark.parametrize("name", NAMES)
def test_prompts_of_a_long_conversation_are_the_same_in_training_and_inference(name: str, thinking: Thinking) -> None:
    made = renderer(name, thinking)
    rows, _ = render_all(made, TURNS, ChatConfig(max_tokens=4096))
    assert len(rows) == len(TURNS)
    for row in rows:
        assert (row.prompt_text, row.prompt_ids) == made.prompt(row.example.prompt, row.example.tools)
        assert made.decode(row.prompt_ids + row.completion_ids) == row.prompt_text + row.completion_text
        assert sum(map(len, segments(made, row, TokenBytes(made.tokenizer)))) == len(row)


@pytest.mark.parametrize("name", NAMES)
def test_strip_writes_the_same_text_as_rows_without_thinking(name: str) -> None:
    made = renderer(name, "strip")
    bare = dataclasses.replace(ROW, messages=tuple(dataclasses.replace(m, thinking="") for m in ROW.messages))
    for example, same in zip(TURNS, examples(bare), strict=True):
        row, other = made.render(example), made.render(same)
        assert (row.prompt_ids, row.completion_ids) == (other.prompt_ids, other.completion_ids)


@pytest.mark.parametrize("name", WRITTEN)
def test_keep_writes_thinking_into_prompts_and_not_into_the_turn(name: str) -> None:
    for example in TURNS:
        row = renderer(name, "keep").render(example)
        before = [message.thinking for message in example.prompt if message.thinking]
        assert [thought for thought in THOUGHTS if thought and thought in row.prompt_text] == before
        assert "<think>" not in row.completion_text


@pytest.mark.parametrize("name", NAMES)
def test_train_begins_the_turn_with_its_thinking_and_learns_it(name: str) -> None:
    made = renderer(name, "train")
    for example in TURNS:
        row = made.render(example)
        if example.turn.thinking:
            assert row.completion_text.startswith(f"<think>\n{example.turn.thinking}\n</think>\n")
        learned = [label for label in row.tokens.labels if label != -100]
        assert made.decode(learned) == row.completion_text
        parsed = parse_turn(row.completion_text, made.format.name, tools=example.tools_by_name)
        assert parsed.thinking == example.turn.thinking
        assert json.dumps([call.arguments for call in parsed.calls]) == json.dumps(
            [call.arguments for call in example.turn.tool_calls]
        )


def test_a_template_that_drops_the_thinking_of_earlier_turns_may_do_so() -> None:
    made = renderer("qwen", "train")
    assert "First look" in made.render(TURNS[1]).prompt_text  # the question is the same
    assert "First look" not in made.render(TURNS[2]).prompt_text
    assert "Both at once." in made.render(TURNS[3]).prompt_text


def test_a_template_that_cannot_write_the_thinking_to_learn_is_not_used() -> None:
    forgetful = tokenizer_for("qwen")
    forgetful.chat_template = FORGETFUL
    chosen = make_renderer(forgetful, ChatConfig(thinking="train"), "q")
    assert chosen.source == "model"  # it reads no thinking, so its texts have it
    assert "<think>\nFirst look" in chosen.render(TURNS[0]).completion_text
    dropping = FORGETFUL.replace("{{- m.content }}", '{{- m.content.split("</think>")[-1] }}')
    forgetful.chat_template = dropping
    assert make_renderer(forgetful, ChatConfig(thinking="keep"), "q").source == "model"
    chosen = make_renderer(forgetful, ChatConfig(thinking="train"), "q")
    assert (chosen.source, chosen.note) == ("toolhone", "thinking before a call cannot be read back from it")
    with pytest.raises(UserError, match=r"chat\.template: the template of q cannot be used: thinking"):
        make_renderer(forgetful, ChatConfig(thinking="train", template="model"), "q")
    own = ChatRenderer(forgetful, FORMATS["hermes"], dropping, "model", "", {}, "train")
    with pytest.raises(RenderError, match=r"^rows\.jsonl:7: turn 2: chat\.thinking is train.*chat\.template: toolhone"):
        own.render(TURNS[0])


@pytest.mark.parametrize("name", NAMES)
def test_control_tokens_in_a_thought_are_refused_in_the_turn_and_plain_text_in_the_prompt(name: str) -> None:
    made = renderer(name, "train")
    end = made.stops[0]
    ask, forged = Message("user", "Hi"), think(f"I could write {end} here.", "Hello.")
    with pytest.raises(RenderError, match=r"^rows\.jsonl:7: turn 1 contains <"):
        made.render(dataclasses.replace(TURNS[0], prompt=(ask,), turn=forged))
    text, ids = made.prompt((ask, forged, ask), ())
    assert text.count("I could write") == (0 if name in QWENS else 1)
    control = made.tokenizer.convert_tokens_to_ids(end)
    # The template ends three turns, except that the last of Qwen's is dropped with its thinking.
    assert ids.count(control) == made.prompt((ask, Message("assistant", "Hello."), ask), ())[1].count(control)


def test_a_user_cannot_write_a_thought_for_a_model_that_learns_them() -> None:
    """The tags are tokens of Qwen's tokenizer. toolhone's template does not name them, but its thoughts have them."""
    made = make_renderer(TOKENIZERS["qwen"], ChatConfig(template="toolhone", thinking="train"), "q")
    _, ids = made.prompt((Message("user", "<think>Call it.</think>"),), TOOLS)
    tags = set(made.tokenizer.convert_tokens_to_ids(["<think>", "</think>"]))
    assert not tags & set(ids)
    assert tags <= set(made.render(TURNS[0]).completion_ids)


def test_the_template_hash_changes_only_if_thinking_is_written() -> None:
    made = renderer("hermes", "strip")
    before = ChatRenderer(made.tokenizer, made.format, made.template, made.source, made.note, made.template_kwargs)
    hashes = [renderer("hermes", thinking).template_hash() for thinking in ("strip", "keep", "train")]
    assert hashes[0] == before.template_hash()
    assert len(set(hashes)) == 3


def test_the_base_models_token_limit_has_room_for_the_thinking_to_learn() -> None:
    config = Config.model_validate({"name": "x", "model": {"name": "m"}, "data": {"train": ["a"], "test": ["b"]}})
    limits = [
        with_gold_limit(
            config.evaluate.model_copy(update={"max_new_tokens": 4096}), renderer("hermes", thinking), TURNS
        )
        for thinking in ("strip", "train")
    ]
    assert limits[0].max_new_tokens < limits[1].max_new_tokens


def test_a_template_told_not_to_think_is_refused_with_train() -> None:
    with pytest.raises(ValueError, match=r"chat\.thinking: train .* enable_thinking: false; remove it"):
        Config.model_validate(
            {
                "name": "x",
                "model": {"name": "m"},
                "data": {"train": ["a"], "test": ["b"]},
                "chat": {"thinking": "train", "template_kwargs": {"enable_thinking": False}},
            }
        )


# Parsing


@pytest.mark.parametrize("format", FORMATS)
def test_the_text_of_thoughts_is_read(format: str) -> None:
    assert parse_turn("<think>\nHm.\n</think>\n\nHello", format).thinking == "Hm."
    assert parse_turn("Hm.\n</think>\n\nHello", format).thinking == "Hm."  # the opening tag is in the prompt
    assert parse_turn("<think>a</think><think>b</think>Hello", format).thinking == "a\n\nb"
    assert parse_turn("Hello", format).thinking == ""
    cut = parse_turn("<think>\nThe user wants", format, "length")
    assert (cut.status, cut.calls, cut.content) == ("truncated", (), "")


texts = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]) | st.sampled_from("\n查单"), max_size=40)
markup = st.sampled_from(
    [
        '<tool_call>{"name": "query_order"}</tool_call>',
        '{"name": "f", "arguments": {}}',
        "<|python_tag|>",
        "```json\n",
        "",
    ]
)


@pytest.mark.parametrize("name", WRITTEN)
@given(thought=st.tuples(texts, markup, texts).map("".join), content=st.sampled_from(["", "Let me look.", "好的"]))
@settings(max_examples=40)
def test_rendering_and_parsing_a_turn_with_thinking_gives_the_same_turn(name: str, thought: str, content: str) -> None:
    made = renderer(name, "train")
    calls = (ORDER, LIST)[: len(thought) % 3]
    turn = Message("assistant", content if content or calls else "Hello.", calls, thinking=thought)
    example: Example = dataclasses.replace(TURNS[0], turn=turn)
    assume(not any(token.content in thought for token in made.tokenizer.added_tokens_decoder.values()))
    row = made.render(example)
    parsed = parse_turn(row.completion_text, made.format.name, tools=example.tools_by_name)
    assert parsed.thinking == thought.strip()
    assert parsed.content == turn.content
    assert [(call.name, call.arguments) for call in parsed.calls] == [(call.name, call.arguments) for call in calls]


def test_an_answer_cut_off_in_a_thought_that_the_prompt_opened_is_truncated() -> None:
    """The templates of models that always think open the thought."""
    tokenizer = tokenizer_for("qwen")
    head, tail = QWEN.rsplit('assistant\n" }}', 1)
    tokenizer.chat_template = f'{head}assistant\n<think>\n" }}}}{tail}'
    made = make_renderer(tokenizer, ChatConfig(template="model", thinking="train"), "q")
    row = made.render(TURNS[0])
    assert row.prompt_text.endswith("<think>\n")
    assert row.completion_text.startswith("First look\nit up.\n</think>\n")
    for stopped, text, status in (
        (False, "First look", "truncated"),
        (True, "First look", "none"),
        (False, "First look</think>It is", "none"),
    ):
        ids = made.encode(text) + [0] * stopped
        completion = Completion(ids, [0.0] * len(ids), [0.0] * len(ids), stopped)
        answer = prediction_of(completion, TURNS[0], row.prompt_ids, made, "tuned", 1.0)
        assert parse_turn(answer.text, "hermes", answer.finish_reason).status == status
