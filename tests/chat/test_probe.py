"""Choosing format and template by what a model's own template writes. The templates imitate those of families."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from conftest import byte_tokenizer

from toolhone.chat.parse import parse_turn
from toolhone.chat.probe import make_base_renderer, make_renderer, needs_of
from toolhone.chat.render import ChatRenderer
from toolhone.config import ChatConfig
from toolhone.errors import UserError
from toolhone.records import Example, Gold, Message, Tool, ToolCall

LOOK_UP = Tool("look_up", "find", {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]})
WAIT = Tool("wait", "", {"type": "object", "properties": {}})
TOOLS = (LOOK_UP, WAIT)
SYSTEM, USER, ANSWER = Message("system", "Be brief."), Message("user", "Where is A1?"), Message("assistant", "Gone.")
CALL = Message("assistant", "", (ToolCall("look_up", {"id": "A1"}, "call_1"),))
PARALLEL = Message("assistant", "", (ToolCall("look_up", {"id": "A1"}, "call_1"), ToolCall("wait", {}, "call_2")))
RESULTS = (Message("tool", "sent", tool_call_id="call_1"), Message("tool", "ok", tool_call_id="call_2"))
CALLS = """{% for c in m.tool_calls or [] %}<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
</tool_call>{{ '\n' if not loop.last }}{% endfor %}"""

ROLES = (
    "{% if tools %}<|start_of_role|>available_tools<|end_of_role|>{{ tools | tojson }}<|end_of_text|>\n{% endif %}"
    "{% for m in messages %}<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content }}" + CALLS + "<|end_of_text|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"
)
"""Roles in tags and Hermes calls, as Granite 4 has them."""

ZEPHYR = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""Turns without tools, as TinyLlama has them."""

ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}"
    "{% endif %}<turn>{{ m.role }}\n{{ m.content }}</turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)
"""Turns of a user and an assistant in alternation, without a system turn, as Gemma 2 has them."""


def tokenizer(template: str | None, *tokens: str, eos: str = "</s>") -> Any:
    made = byte_tokenizer([*tokens, eos, "<bos>"], eos_token=eos, bos_token="<bos>")
    made.chat_template = template
    return made


def roles(template: str = ROLES) -> Any:
    return tokenizer(template, "<|start_of_role|>", "<|end_of_role|>", eos="<|end_of_text|>")


def example(*messages: Message) -> Example:
    prompt, turn = messages[:-1], messages[-1]
    return Example("a/1", "a", prompt, turn, Gold.of_message(turn), TOOLS, "rows.jsonl:1", None, {})


def saved(renderer: ChatRenderer) -> Any:
    """Return the tokenizer with the template as it is saved, for engines that know no variable."""
    found = copy.deepcopy(renderer.tokenizer)
    found.chat_template = renderer.template
    return found


def test_the_format_is_the_one_that_reads_what_the_models_template_writes() -> None:
    renderer = make_renderer(roles(), ChatConfig(), "granite")
    assert (renderer.source, renderer.format.name, renderer.note) == ("model", "hermes", "")
    assert renderer.render(example(USER, CALL)).end == "<|end_of_text|>"
    assert renderer.stops[0] == "<|end_of_text|>"


def test_turns_without_tools_get_toolhones_tools_and_calls() -> None:
    renderer = make_renderer(tokenizer(ZEPHYR), ChatConfig(), "tiny")
    assert (renderer.source, renderer.format.name) == ("both", "hermes")
    assert renderer.parts == ("tools", "calls")
    row = renderer.render(example(SYSTEM, USER, PARALLEL, *RESULTS, ANSWER))
    assert "<|system|>\nBe brief.\n\nYou may call these functions.\n<tools>\n{" in row.prompt_text
    assert '<tool_call>\n{"name": "wait", "arguments": {}}\n</tool_call></s>\n' in row.prompt_text
    assert "<|tool|>\nsent</s>\n<|tool|>\nok</s>" in row.prompt_text
    assert row.completion_text == "Gone.</s>"


def test_a_system_message_opens_the_first_turn_if_the_template_has_no_system_turn() -> None:
    renderer = make_renderer(tokenizer(ALTERNATING, "<turn>", "</turn>"), ChatConfig(tools="names"), "tiny")
    row = renderer.render(example(SYSTEM, USER, CALL, RESULTS[0], ANSWER))
    assert row.prompt_text.startswith(
        "<turn>user\nBe brief.\n\n<tools>\nlook_up(id)\nwait()\n</tools>\n\nWhere is A1?</turn>"
    )
    assert row.prompt_text.count("Be brief.") == 1
    assert row.completion_text == "Gone.</turn>"
    opening = renderer.text((SYSTEM, ANSWER), TOOLS, ask=False)
    assert opening.startswith("<turn>user\nBe brief.")


def test_the_vocabulary_alone_decides_nothing_if_the_model_has_a_template() -> None:
    # OLMo-2's vocabulary has ChatML's tokens, which its chat never uses.
    renderer = make_renderer(tokenizer(ZEPHYR, "<|im_start|>", "<|im_end|>"), ChatConfig(), "olmo")
    assert "<|im_end|>" not in renderer.render(example(USER, CALL)).completion_text
    assert renderer.source == "both"


def test_only_what_the_data_has_is_probed() -> None:
    one_call = ROLES.replace(
        "<|start_of_role|>{{ m.role",
        "{{ raise_exception('one call!') if m.tool_calls and m.tool_calls | length > 1 }}<|start_of_role|>{{ m.role",
    )
    everything = make_renderer(roles(one_call), ChatConfig(), "llama")
    assert (everything.source, everything.parts) == ("both", ("calls",))
    assert "parallel calls cannot be read back" in everything.note
    needs = needs_of([example(SYSTEM, USER, CALL), example(USER, CALL, RESULTS[0], ANSWER)])
    assert needs == {"a system message", "tool results"}
    assert make_renderer(roles(one_call), ChatConfig(), "llama", needs=needs).source == "model"


def test_text_after_the_end_of_the_last_turn_is_not_learned() -> None:
    # Phi ends a conversation with <|endoftext|> after the <|end|> of its last turn.
    phi = ZEPHYR.replace("</s>", "<|end|>").replace(
        "{% if add_gen", "{% if not add_generation_prompt %}<|endoftext|>{% endif %}{% if add_gen"
    )
    renderer = make_renderer(tokenizer(phi, "<|end|>", eos="<|endoftext|>"), ChatConfig(), "phi")
    assert renderer.render(example(USER, CALL)).completion_text.endswith("</tool_call><|end|>")
    assert {"<|end|>", "<|endoftext|>"} <= set(renderer.stops)


def test_a_turn_without_an_end_token_ends_with_the_opening_of_the_next_one() -> None:
    # GLM ends a turn only by opening the next one.
    glm = "".join(
        (
            "{% if tools %}<|system|>\n{{ tools | tojson }}{% endif %}",
            "{% for m in messages %}<|{{ 'observation' if m.role == 'tool' else m.role }}|>\n{{ m.content }}",
            CALLS,
            "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        )
    )
    made = tokenizer(glm, "<|user|>", "<|assistant|>", "<|observation|>", "<|system|>", eos="<|endoftext|>")
    renderer = make_renderer(made, ChatConfig(), "glm")
    assert renderer.source == "model"
    assert renderer.render(example(USER, ANSWER)).completion_text == "Gone.<|user|>"
    assert renderer.render(example(USER, CALL)).completion_text.endswith("</tool_call><|observation|>")
    assert {"<|user|>", "<|observation|>", "<|endoftext|>"} <= set(renderer.stops)


THINKER = ROLES.replace(
    "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}",
    "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|><think>\n{% endif %}",
)


def test_a_thought_that_only_the_opening_has_is_closed_in_the_prompt_and_not_learned() -> None:
    # R1 opens a thought when it asks, and drops the thoughts of earlier turns.
    renderer = make_renderer(roles(THINKER), ChatConfig(), "r1")
    row = renderer.render(example(USER, CALL))
    assert row.prompt_text.endswith("<think>\n\n</think>\n\n")
    assert row.completion_text.startswith("<tool_call>")
    asked = saved(renderer).apply_chat_template(
        [{"role": "user", "content": USER.content}],
        tools=[tool.to_json() for tool in TOOLS],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert asked == row.prompt_text


def test_an_empty_thought_that_the_turn_opens_with_moves_into_the_prompt() -> None:
    empty = ROLES.replace(
        "<|end_of_role|>{{ m.content }}",
        "<|end_of_role|>{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}",
    )
    row = make_renderer(roles(empty), ChatConfig(), "qwen").render(example(USER, ANSWER))
    assert row.prompt_text.endswith("<|end_of_role|><think>\n\n</think>\n\n")
    assert row.completion_text == "Gone.<|end_of_text|>"


def test_variables_are_set_in_the_saved_template() -> None:
    switch = ROLES.replace(
        "<|end_of_role|>{% endif %}",
        "<|end_of_role|>{{ '' if enable_thinking else '<think>\n\n</think>\n\n' }}{% endif %}",
    )
    switch = switch.replace(
        "{{ m.content }}",
        "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}",
    )
    renderer = make_renderer(roles(switch), ChatConfig(template_kwargs={"words": ["a", None, True]}), "qwen")
    assert renderer.template_kwargs == {"enable_thinking": False, "words": ["a", None, True]}
    row = renderer.render(example(USER, ANSWER))
    messages = [{"role": "user", "content": USER.content}]
    tools = [tool.to_json() for tool in TOOLS]
    asked = saved(renderer).apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True)
    assert asked == row.prompt_text
    assert row.completion_text == "Gone.<|end_of_text|>"


@pytest.mark.parametrize(
    ("template", "trait"),
    [
        (
            ROLES.replace(
                "{{ m.content }}",
                "{{ m.content if not m.tool_calls }}{{ raise_exception('') if m.tool_calls and m.content == '' }}",
            ),
            "null_content",
        ),
        (ROLES.replace("c.function.arguments | tojson", "'' + c.function.arguments"), "text_arguments"),
        (
            ROLES.replace(
                "{{ c.function.name }}", "{{ c.function.name }}{{ raise_exception('nine') if c.id | length != 9 }}"
            ),
            "short_ids",
        ),
    ],
)
def test_a_template_gets_messages_in_the_way_that_it_takes_them(template: str, trait: str) -> None:
    needs = needs_of([example(USER, PARALLEL, *RESULTS, ANSWER)])
    renderer = make_renderer(roles(template), ChatConfig(), "m", needs=needs)
    assert (renderer.source, getattr(renderer.traits, trait)) == ("model", True)
    row = renderer.render(example(USER, PARALLEL, *RESULTS, ANSWER))
    assert '{"name": "look_up", "arguments": {"id": "A1"}}' in row.prompt_text


def test_results_name_their_tool_and_their_call() -> None:
    template = ROLES.replace(
        "{{ m.content }}", "{{ m.name ~ ' ' ~ m.tool_call_id ~ ':' if m.role == 'tool' }}{{ m.content }}"
    )
    text = make_renderer(roles(template), ChatConfig(), "m").text((USER, PARALLEL, *RESULTS), TOOLS, ask=False)
    assert "look_up call_1:sent" in text
    assert "wait call_2:ok" in text


def test_results_without_ids_belong_to_the_calls_in_their_order() -> None:
    bare = Message("assistant", "", (ToolCall("look_up", {"id": "A1"}), ToolCall("wait", {})))
    template = ROLES.replace("{{ m.content }}", "{{ m.name ~ ':' if m.role == 'tool' }}{{ m.content }}")
    results = (Message("tool", "sent"), Message("tool", "ok"))
    text = make_renderer(roles(template), ChatConfig(), "m").text((USER, bare, *results), TOOLS, ask=False)
    assert "look_up:sent" in text
    assert "wait:ok" in text


def test_a_template_whose_calls_no_format_reads_keeps_its_turns() -> None:
    odd = ROLES.replace('{"name"', '%%{"tool"')
    renderer = make_renderer(roles(odd), ChatConfig(), "odd")
    assert (renderer.source, renderer.parts, renderer.format.name) == ("both", ("calls",), "hermes")
    assert "in a syntax that no chat format reads" in renderer.note
    assert renderer.render(example(SYSTEM, USER, CALL)).completion_text.endswith("</tool_call><|end_of_text|>")


def test_chat_template_toolhone_writes_tools_and_calls_in_the_models_turns() -> None:
    renderer = make_renderer(roles(), ChatConfig(template="toolhone"), "granite")
    assert (renderer.source, renderer.parts) == ("both", ("tools", "calls", "results"))
    assert "available_tools" not in renderer.text((USER,), TOOLS, ask=True)


def test_a_template_that_shows_no_turn_is_refused_with_its_faults() -> None:
    with pytest.raises(
        UserError, match=r"^chat\.format: no chat format fits m: it refuses tools \(no\); .*use a model"
    ):
        make_renderer(tokenizer("{{ raise_exception('no') }}"), ChatConfig(), "m")


def test_a_base_model_is_asked_in_its_own_syntax_unless_the_config_says_otherwise() -> None:
    config = ChatConfig(template="toolhone", tools="names")
    native = make_base_renderer(roles(), config, "granite", "native")
    assert (native.source, "available_tools" in native.text((USER,), TOOLS, ask=True)) == ("model", True)
    tuned = make_base_renderer(roles(), config, "granite", "tuned")
    assert tuned.source == "both"
    assert '"description": "find"' in tuned.text((USER,), TOOLS, ask=True)  # schemas, not names


@pytest.mark.parametrize("template", [ROLES, ZEPHYR, ALTERNATING])
@pytest.mark.parametrize("tools", ["schema", "signatures", "names"])
def test_conversations_are_read_back_from_every_kind_of_template(template: str, tools: Any) -> None:
    made = tokenizer(template, "<turn>", "</turn>", "<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>")
    renderer = make_renderer(made, ChatConfig(tools=tools), "m")
    both = Message("assistant", "Let me look.", CALL.tool_calls)
    rows = [
        example(SYSTEM, USER, turn)
        for turn in (CALL, PARALLEL, both, ANSWER, Message("assistant", 'A <b> & {c} 查 \\ "d"'))
    ]
    rows += [example(USER, PARALLEL, *RESULTS, ANSWER), example(SYSTEM, USER, ANSWER, USER, CALL)]
    for row in rows:
        rendered = renderer.render(row)
        read = parse_turn(rendered.turn_text, renderer.format.name, tools=row.tools_by_name)
        assert [(c.name, c.arguments) for c in read.calls] == [(c.name, c.arguments) for c in row.turn.tool_calls]
        assert rendered.tokens.ids == renderer.encode(rendered.prompt_text + rendered.completion_text)


LFM = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.tool_calls %}<|tool_call_start|>["
    "{% for c in m.tool_calls %}{{ c.function.name }}("
    "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v | tojson }}"
    "{{ ', ' if not loop.last }}{% endfor %}){{ ', ' if not loop.last }}{% endfor %}]<|tool_call_end|>{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Calls as LFM2 writes them, before the text."""


def test_names_that_a_syntax_cannot_write_choose_another_one() -> None:
    tokens = ("<|im_start|>", "<|im_end|>", "<|tool_call_start|>", "<|tool_call_end|>")
    made = tokenizer(LFM, *tokens, eos="<|im_end|>")
    plain = needs_of([example(USER, CALL), example(USER, ANSWER)])
    assert plain == frozenset()
    own = make_renderer(made, ChatConfig(), "lfm2", needs=plain)
    assert (own.format.name, own.source) == ("lfm2", "model")
    odd = Message("assistant", "", (ToolCall("look_up", {"order-id": "A1"}, "call_1"),))
    needs = needs_of([example(USER, odd)])
    assert needs == {"names that are no identifiers"}
    other = make_renderer(made, ChatConfig(), "lfm2", needs=needs)
    assert (other.format.name, other.source, other.parts) == ("hermes", "both", ("calls",))
    assert '"order-id": "A1"' in other.render(example(USER, odd)).turn_text
