"""Reading ShareGPT with tools: Hermes, Glaive, ToolACE and LLaMA-Factory, on rows of the data sets themselves.
tests/fixtures/formats/README.md has the source of each row; ToolACE's row is made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolhone.data.importers import IMPORTERS
from toolhone.data.importers.glaive import read as read_glaive
from toolhone.data.importers.hermes import read as read_hermes
from toolhone.data.importers.llamafactory import read as read_llamafactory
from toolhone.data.importers.toolace import read as read_toolace
from toolhone.errors import RowError
from toolhone.records import Conversation, Message, Tool, ToolCall

FIXTURES = Path(__file__).parents[2] / "fixtures" / "formats"
WHERE = "rows.jsonl:17"
PING = Tool("ping", "", {"type": "object", "properties": {}})


def rows(name: str) -> list[dict[str, Any]]:
    text = (FIXTURES / name).read_text(encoding="utf-8")
    found: list[dict[str, Any]] = (
        json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.splitlines()]
    )
    return found


ROWS = {
    "hermes": rows("hermes.json"),
    "glaive": rows("glaive.jsonl"),
    "toolace": rows("toolace_made.jsonl"),
    "llamafactory": rows("llamafactory.json"),
}
DIALECTS = [IMPORTERS[name] for name in ROWS]


def fault(dialect: str, row: dict[str, Any]) -> tuple[str, str]:
    """The rule and the message, without its place."""
    with pytest.raises(RowError) as caught:
        IMPORTERS[dialect].read(row, WHERE, ())
    assert str(caught.value).startswith(f"{WHERE}: ")
    return caught.value.rule, str(caught.value).removeprefix(f"{WHERE}: ")


def roles(found: Conversation) -> list[str]:
    return [message.role for message in found.messages]


@pytest.mark.parametrize("dialect", ROWS)
def test_a_dialect_is_detected_from_its_rows(dialect: str) -> None:
    for row in ROWS[dialect]:
        first = next(importer.name for importer in DIALECTS if importer.looks_like(row))
        assert first == dialect


@pytest.mark.parametrize("row", [{}, {"conversations": []}, {"conversations": "x"}, {"conversations": [{"from": "x"}]}])
def test_a_row_without_turns_matches_no_dialect(row: dict[str, Any]) -> None:
    assert not any(importer.looks_like(row) for importer in DIALECTS)


# Hermes


def test_a_hermes_row_is_read_with_tools_call_and_result() -> None:
    found = read_hermes(ROWS["hermes"][0], WHERE)
    assert found.id == "753d8365-0e54-43b1-9514-3f9b819fd31c"
    assert roles(found) == ["user", "assistant", "tool", "assistant"]  # the prompt is only about calling
    arguments = {
        "departure_city": "Los Angeles",
        "destination_city": "Auckland",
        "departure_date": "2023-07-10",
        "return_date": "2023-07-24",
        "class": "economy",
        "flexible_cancellation": True,
    }
    assert found.messages[1] == Message("assistant", "", (ToolCall("search_flights", arguments, "call_0"),))
    assert found.messages[2].tool_call_id == "call_0"
    assert json.loads(found.messages[2].content)["content"]["flights"][0]["flight_number"] == "AA118"
    (tool,) = found.tools
    assert tool.name == "search_flights"
    assert tool.parameters["properties"]["class"]["enum"] == ["economy", "business", "first"]
    expected = {"category": "E-commerce Platforms", "subcategory": "Kayak", "task": "Flight Search"}
    assert found.meta == {"source": "hermes", **expected}


def hermes(*turns: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"conversations": [{"from": name, "value": value} for name, value in turns], **more}


def hermes_turn(text: str) -> Message:
    return read_hermes(hermes(("human", "?"), ("gpt", text)), WHERE, (PING,)).messages[1]


def test_sentences_of_a_system_prompt_that_are_not_about_calling_stay() -> None:
    tools = '<tools>[{"name": "ping"}]</tools>'
    prompt = f"You are a pirate. You are a function calling AI model. Here are the available tools: {tools} Be brief."
    found = read_hermes(hermes(("system", prompt), ("human", "?"), ("gpt", "!")), WHERE)
    assert found.messages[0] == Message("system", "You are a pirate. Be brief.")
    assert found.tools == (PING,)


def test_the_prompt_of_the_dataset_card_is_removed_completely() -> None:
    # Printed on the data set's card under "Hermes-2 Pro Prompt Format for Function Calling".
    prompt = (
        "You are a function calling AI model. You are provided with function signatures within <tools></tools> XML "
        "tags. You may call one or more functions to assist with the user query. Don't make assumptions about what "
        "values to plug into functions. Here are the available tools: <tools> [{'type': 'function', 'function': "
        "{'name': 'get_stock_fundamentals', 'description': 'Get fundamental data for a given stock symbol using "
        "yfinance API.', 'parameters': {'type': 'object', 'properties': {'symbol': {'type': 'string'}}, 'required': "
        "['symbol']}}}] </tools> Use the following pydantic model json schema for each tool call you will make: "
        "{'title': 'FunctionCall', 'type': 'object', 'properties': {'arguments': {'title': 'Arguments', 'type': "
        "'object'}, 'name': {'title': 'Name', 'type': 'string'}}, 'required': ['arguments', 'name']} For each function "
        "call return a json object with function name and arguments within <tool_call></tool_call> XML tags as "
        "follows:\n<tool_call>\n{'arguments': <args-dict>, 'name': <function-name>}\n</tool_call>"
    )
    found = read_hermes(hermes(("system", prompt), ("human", "?"), ("gpt", "!")), WHERE)
    assert roles(found) == ["user", "assistant"]
    assert [tool.name for tool in found.tools] == ["get_stock_fundamentals"]


def test_tools_may_be_a_sequence_and_the_row_s_own_list_takes_precedence() -> None:
    prompt = '<tools>\n{"name": "ping"}\n{"name": "pong"}\n</tools>'
    row = hermes(("system", prompt), ("human", "?"), ("gpt", "!"))
    assert [tool.name for tool in read_hermes(row, WHERE).tools] == ["ping", "pong"]
    row["tools"] = '[{"type": "function", "function": {"name": "pang"}}]'
    assert [tool.name for tool in read_hermes(row, WHERE).tools] == ["pang"]


@pytest.mark.parametrize(
    "block",
    [
        '{"name": "ping", "arguments": {"a": [true, null], "b": "it\'s"}}',
        "{'name': 'ping', 'arguments': {'a': [True, None], 'b': \"it's\"}}",
        "{\"arguments\": {\"a\": (true, None), 'b': 'it\\'s'}, \"name\": 'ping'}",
        '\\n{"name": "ping", "arguments": {"a": [true, null], "b": "it\'s"}}\\n',  # as in about 700 rows
    ],
)
def test_a_call_may_be_json_or_python_or_both_at_once(block: str) -> None:
    call = ToolCall("ping", {"a": [True, None], "b": "it's"}, "call_0")
    assert hermes_turn(f"<tool_call>{block}</tool_call>") == Message("assistant", "", (call,))


def test_parallel_calls_and_their_results_are_linked_in_order() -> None:
    calls = "".join(f'<tool_call>\n{{"name": "ping", "arguments": {{"n": {n}}}}}\n</tool_call>\n' for n in (1, 2))
    results = "<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response>\n"
    turns = (("human", "?"), ("gpt", f"One moment.\n{calls}"), ("tool", results), ("gpt", calls), ("tool", "three"))
    found = read_hermes(hermes(*turns), WHERE, (PING,))
    assert roles(found) == ["user", "assistant", "tool", "tool", "assistant", "tool"]
    assert found.messages[1].content == "One moment."
    assert [call.id for call in found.messages[1].tool_calls] == ["call_0", "call_1"]
    assert [(m.content, m.tool_call_id) for m in found.messages[2:4]] == [("one", "call_0"), ("two", "call_1")]
    assert (found.messages[5].content, found.messages[5].tool_call_id) == ("three", "call_2")


# The call of row afba1f0c-3212-467d-8594-d72a06da4d05, as printed on the data set's card. Its name is inside the
# arguments; a lenient reader would read it as an argument.
NAME_INSIDE = (
    '<tool_call>\\n{"arguments": {"queries": [\'How can the concept of graph traversal be applied to real-world '
    "situations, such as project management workflows or social networks?', 'Can you think of any other real-world "
    "scenarios where understanding and effectively using spatial positioning in a graph would be important?', 'In what "
    'ways can the concept of marking nodes be useful in problem-solving or decision-making processes?\'], "name": '
    '"ExpertQAExtractor"}}\\n</tool_call>'
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NAME_INSIDE, 'the "name" is inside "arguments"'),
        ('<tool_call>{"name": "ping"', "a <tool_call> tag has no matching tag; the turn was cut off"),
        ('<tool_call>{"name": "ping"}', "a <tool_call> tag has no matching tag; the turn was cut off"),
        ('<tool_call>{"name": "ping", "arguments": {}</tool_call>', "the call cannot be read (broken JSON"),
        (
            "<tool_call>{'name': 'ping', 'name': 'pong'}</tool_call>",
            'the call cannot be read (the key "name" appears',
        ),
        ("<tool_call>{'name': 'ping', 'arguments': {1: 2}}</tool_call>", "the call cannot be read (a key that is"),
        ("<tool_call>{'name': open('x')}</tool_call>", "the call cannot be read (open('x') is not a JSON value"),
        ("<tool_call>{'name': 'ping', 'arguments': 1e999}</tool_call>", "the call cannot be read (a number that is"),
        ('<tool_call>{"name": "ping", "params": {}}</tool_call>', 'the call of "ping" has the unknown key "params"'),
        ('<tool_call>"ping"</tool_call>', 'expected a call with "name" and "arguments", found "ping"'),
    ],
    ids=lambda value: value[:40],
)
def test_a_call_that_cannot_be_read_is_an_error_with_its_turn(text: str, message: str) -> None:
    rule, found = fault("hermes", hermes(("human", "?"), ("gpt", text)))
    assert rule == "bad-call"
    assert found.startswith(f"turn 1: gpt: {message}")


def test_arguments_that_are_a_json_string_are_decoded_once() -> None:
    text = '<tool_call>{"name": "ping", "arguments": "{\\"a\\": 1}"}</tool_call>'
    assert hermes_turn(text).tool_calls[0].arguments == {"a": 1}
    twice = '<tool_call>{"name": "ping", "arguments": "\\"{}\\""}</tool_call>'
    assert fault("hermes", hermes(("gpt", twice)))[0] == "arguments-encoded-twice"


# Glaive


def test_a_glaive_row_with_a_call_is_read() -> None:
    found = read_glaive(ROWS["glaive"][1], WHERE)
    assert roles(found) == ["user", "assistant", "user", "assistant", "tool", "assistant"]
    assert found.messages[2].content == 'Here it is - "Je suis un étudiant"'
    call = ToolCall("detect_language", {"text": "Je suis un étudiant"}, "call_0")
    assert found.messages[3] == Message("assistant", "", (call,))
    assert found.messages[4] == Message("tool", '{"language": "French"}', tool_call_id="call_0")
    assert found.messages[5].content == "The text you provided is in French."
    (tool,) = found.tools
    assert (tool.name, tool.parameters["required"]) == ("detect_language", ["text"])
    assert found.meta == {"source": "glaive"}


def test_a_glaive_row_that_declines_is_read() -> None:
    found = read_glaive(ROWS["glaive"][0], WHERE)
    assert roles(found) == ["user", "assistant"]
    assert found.messages[1].content.endswith("feel free to ask!")
    assert [tool.name for tool in found.tools] == ["get_exchange_rate"]


def test_a_glaive_row_without_functions_keeps_its_prompt_and_takes_no_tools() -> None:
    found = read_glaive(ROWS["glaive"][2], WHERE, (PING,))
    assert [(message.role, message.content) for message in found.messages] == [
        ("system", "You are a helpful assistant, with no access to external functions."),
        ("user", "Assign this occupation to the appropriate category\nNurse"),
        ("assistant", "Healthcare"),
        ("user", "What about an electrician?"),
        ("assistant", "Skilled Trades"),
    ]
    assert found.tools == ()


def glaive(turn: str, system: str = 'SYSTEM: {"name": "ping", "parameters": {}}') -> dict[str, Any]:
    return {"system": system, "chat": f"USER: ?\n\n\nASSISTANT: {turn}\n\n\n"}


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        # rows 19583, 61004, 111754 and 128 of the data set
        (
            """{"name": "send_sms", "arguments": '{"phone_number": "1234567890", "message": "Hey, let's meet"}'}""",
            {"phone_number": "1234567890", "message": "Hey, let's meet"},
        ),
        (
            """{"name": "get_lyrics", "arguments": '{\n  "title": "Shape of You",\n  "artist": "Ed Sheeran"\n}'}""",
            {"title": "Shape of You", "artist": "Ed Sheeran"},
        ),
        ('{"name": "generate_random_id", "arguments": {}}', {}),
        (
            '{"name": "calculate_bmi", "arguments": {\n  "weight": 70,\n  "height": 1.75\n}}',
            {"weight": 70, "height": 1.75},
        ),
    ],
)
def test_glaive_s_ways_of_writing_arguments_are_read(call: str, arguments: dict[str, Any]) -> None:
    found = read_glaive(glaive(f"<functioncall> {call} <|endoftext|>"), WHERE)
    assert found.messages[1].tool_calls[0].arguments == arguments
    assert found.tools[0].parameters == {"type": "object", "properties": {}}


def test_text_before_a_call_stays_as_content() -> None:
    found = read_glaive(glaive('Of course. <functioncall> {"name": "ping"} <|endoftext|>'), WHERE)
    assert found.messages[1] == Message("assistant", "Of course.", (ToolCall("ping", {}, "call_0"),))


@pytest.mark.parametrize(
    ("turn", "rule", "message"),
    [
        # rows 71039, 26684 (shortened), 65421, 81297, 81082, 34221 and 57572 (shortened) of the data set
        (
            """<functioncall> {"name": "analyze_sentiment", "arguments": '{"text": "life\\'s full"}'} <|endoftext|>""",
            "bad-arguments",
            "the arguments are not JSON",
        ),
        (
            """<functioncall> {"name": "calculate_tax", "arguments": '{"range": [70001, Infinity]}'} <|endoftext|>""",
            "bad-arguments",
            "the arguments are not JSON",
        ),
        (
            """<functioncall> {"name": "generate_report", "arguments": """
            """'{"data": [User provided data]}'} <|endoftext|>""",
            "bad-arguments",
            "the arguments are not JSON",
        ),
        (
            """<functioncall> {"name": "calculate_average", "arguments": '[5, 10, 15, 20, 25]'} <|endoftext|>""",
            "bad-arguments",
            "expected arguments as a JSON object",
        ),
        (
            '<functioncall> {"name": "get_random_quote", "params": {}} <|endoftext|>',
            "bad-call",
            'the call of "get_random_quote" has the unknown key "params"',
        ),
        (
            """<functioncall> {"name": "get_song_lyrics", "arguments": '{"artist": "Ed Sheeran", """
            """"title": " <|endoftext|>""",
            "bad-call",
            'expected {"name": ..., "arguments": \'{...}\'} after <functioncall>',
        ),
        (
            """<functioncall> {"name": "send_email", "arguments": '{"subject": "Agenda"}'}} <|endoftext|>""",
            "bad-call",
            'expected {"name": ..., "arguments": \'{...}\'} after <functioncall>',
        ),
        ("Sure, I", "bad-turn", "the turn was cut off: it does not end with <|endoftext|>"),
        ("Sure. <|endoftext|> More. <|endoftext|>", "bad-turn", "the turn continues after <|endoftext|>"),
    ],
    ids=lambda value: value[:30],
)
def test_a_glaive_turn_that_cannot_be_read_is_an_error(turn: str, rule: str, message: str) -> None:
    found = fault("glaive", glaive(turn))
    assert found[0] == rule
    assert found[1].startswith(f"turn 1: ASSISTANT: {message}")


def test_a_function_that_is_defined_twice_is_refused() -> None:
    twice = 'SYSTEM: {"name": "ping", "parameters": {}}\n\n{"name": "ping", "parameters": {"type": "object"}}'
    assert fault("glaive", glaive("!<|endoftext|>", twice)) == (
        "tool-defined-twice",
        'the tool "ping" is defined twice',
    )


def test_a_chat_that_does_not_begin_with_a_turn_is_refused() -> None:
    assert fault("glaive", {"system": "", "chat": "Hello"})[0] == "bad-turn"
    assert fault("glaive", {"system": None, "chat": "USER: ?"})[0] == "bad-content"


# ToolACE


def test_a_toolace_row_is_read_with_tools_of_the_prompt_and_bracket_calls() -> None:
    found = read_toolace(ROWS["toolace"][0], WHERE)
    assert roles(found) == ["user", "assistant", "tool", "assistant", "user", "assistant", "tool", "tool", "assistant"]
    first = ToolCall("Market Trends API", {"trend_type": "MARKET_INDEXES", "country": "us"}, "call_0")
    assert found.messages[1] == Message("assistant", "", (first,))
    assert found.messages[3] == Message("assistant", "[1] Nothing moves.")  # a footnote is not a call
    arguments = {"metals": ["gold", "o'silver, (fine)"], "from": "2024-01-01", "least": -1.5}
    assert found.messages[5].tool_calls == (
        ToolCall("Get Prices (v2)", arguments, "call_1"),
        ToolCall("Market Trends API", {"trend_type": "CRYPTO"}, "call_2"),
    )
    results = [(message.content, message.tool_call_id) for message in found.messages[6:8]]
    assert results == [
        ('{"name": "Get Prices (v2)", "results": {"gold": 1}}', "call_1"),
        ('{"name": "Market Trends API", "results": {}}', "call_2"),
    ]
    prices = found.tools[1].parameters
    assert prices["type"] == "object"
    assert prices["properties"]["least"]["type"] == "number"


def toolace(turn: str, before: str = "", after: str = "") -> dict[str, Any]:
    turns = [{"from": "user", "value": "?"}, {"from": "assistant", "value": turn}]
    return {"system": f'{before}[{{"name": "ping"}}]{after}', "conversations": turns}


def test_sentences_of_a_toolace_prompt_that_are_not_about_calling_stay() -> None:
    found = read_toolace(toolace("!", "Today is Monday. ", " Speak Dutch."), WHERE)
    assert found.messages[0] == Message("system", "Today is Monday.\nSpeak Dutch.")


def test_calls_without_arguments_and_with_every_kind_of_value_are_read() -> None:
    text = '[ping(), pong(a=None, b=true, c={\'k\': [1, 2]}, user-id="a=b, c)\\"")]'
    found = read_toolace(toolace(text), WHERE).messages[-1].tool_calls
    arguments = {"a": None, "b": True, "c": {"k": [1, 2]}, "user-id": 'a=b, c)"'}
    assert found == (ToolCall("ping", {}, "call_0"), ToolCall("pong", arguments, "call_1"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[ping(a=1)", "a bracket that is never closed; the text was cut off"),
        ('[ping(a="x)]', "a bracket that is never closed; the text was cut off"),
        ("[ping(a=1)] Done.", "text after the list of calls: 'Done.'"),
        ("[ping(1)]", "an argument of 'ping' has no name: '1'"),
        ("[ping(a=1, a=2)]", "the argument 'a' of 'ping' appears twice"),
        ("[ping(a=b)]", "b is not a JSON value"),
        ("[ping(a=1) pong()]", "expected name(argument=value, ...), found 'ping(a=1) pong()'"),
        ("[ping(a=1}]", "a '}' without a matching bracket"),
    ],
)
def test_a_bracket_call_that_cannot_be_read_is_an_error(text: str, message: str) -> None:
    rule, found = fault("toolace", toolace(text))
    assert (rule, found) == ("bad-call", f"turn 1: assistant: the call cannot be read: {message}")


def test_a_type_without_a_counterpart_is_an_error() -> None:
    row = toolace("!")
    row["system"] = '[{"name": "ping", "parameters": {"type": "dict", "properties": {"x": {"type": "matrix"}}}}]'
    message = "tool 0: the type 'matrix' has no counterpart in JSON Schema"
    assert fault("toolace", row) == ("unknown-type", message)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
).filter(lambda value: "\ud800" not in json.dumps(value))


@given(arguments=st.dictionaries(st.from_regex(r"[a-z][a-z_-]{0,8}", fullmatch=True), values, max_size=4))
def test_any_arguments_written_as_calls_are_read_back(arguments: dict[str, Any]) -> None:
    written = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    assert read_toolace(toolace(f"[ping({written})]"), WHERE).messages[-1].tool_calls[0].arguments == arguments
    literal = repr({"name": "ping", "arguments": arguments})
    if "</tool_call>" not in literal:
        assert hermes_turn(f"<tool_call>\n{literal}\n</tool_call>").tool_calls[0].arguments == arguments


# LLaMA-Factory


def test_a_llamafactory_row_is_read() -> None:
    found = read_llamafactory(ROWS["llamafactory"][0], WHERE)
    assert roles(found) == ["user", "assistant", "tool", "assistant"] * 3
    calls = [message.tool_calls[0] for message in found.messages if message.tool_calls]
    assert calls[1] == ToolCall("calculate_area", {"shape": "circle", "dimensions": [4]}, "call_1")
    assert [message.tool_call_id for message in found.messages if message.role == "tool"] == [
        "call_0",
        "call_1",
        "call_2",
    ]
    assert [tool.name for tool in found.tools] == ["calculate_area", "calculate_discount"]


def test_a_list_of_calls_is_one_turn_and_the_system_prompt_may_have_its_own_key() -> None:
    text = '[{"name": "ping", "arguments": {}}, {"name": "ping", "arguments": {"n": 1}}]'
    row = hermes(("human", "?"), ("function_call", text), system="Be brief.", tools="")
    found = read_llamafactory(row, WHERE, (PING,))
    assert roles(found) == ["system", "user", "assistant"]
    assert [call.arguments for call in found.messages[2].tool_calls] == [{}, {"n": 1}]
    assert found.tools == (PING,)
    assert read_llamafactory({**row, "tools": "[]"}, WHERE, (PING,)).tools == ()


@pytest.mark.parametrize(
    ("row", "rule", "message"),
    [
        (hermes(("human", "?"), ("function_call", "ping")), "broken-json", "turn 1: function_call: broken JSON"),
        (hermes(("human", "?"), ("bot", "!")), "bad-role", 'turn 1: expected a "from" of system, human, gpt'),
        ({"conversations": [{"from": "human", "value": 1}]}, "bad-content", 'turn 0: expected "value" to be a string'),
        (hermes(("human", "?"), tools="{}"), "bad-tool", "tools: expected a list of tools, found {}"),
        (hermes(("human", "?"), tools="[1"), "broken-json", "tools: broken JSON"),
        (hermes(("human", "?"), chosen={"from": "gpt"}), "bad-row", 'has the key "chosen"; preference pairs'),
        (hermes(("human", "?"), images=["1.jpg"]), "bad-row", 'has the key "images"; preference pairs'),
        ({"conversations": []}, "no-messages", 'expected "conversations", a list of turns, found []'),
    ],
)
def test_a_llamafactory_row_that_cannot_be_read_is_an_error(row: dict[str, Any], rule: str, message: str) -> None:
    found = fault("llamafactory", row)
    assert found[0] == rule
    assert found[1].startswith(message)


# Any row


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A row of a data set with one value replaced or removed; a string may also be cut or spliced."""
    dialect = draw(st.sampled_from(sorted(ROWS)))
    row = json.loads(json.dumps(draw(st.sampled_from(ROWS[dialect]))))
    holder, key = row, draw(st.sampled_from(sorted(row)))
    while isinstance(holder[key], dict | list) and holder[key] and draw(st.booleans()):
        holder = holder[key]
        key = draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
    text = holder[key]
    if isinstance(text, str) and draw(st.booleans()):
        place = draw(st.integers(0, len(text)))
        splice = st.sampled_from(
            ["", '"', "'", "{", "}", "[", "]", "(", ")", "\\", "\n\n", "<tool_call>", "<tools>", "="]
        )
        holder[key] = text[:place] + draw(splice) + (text[place:] if draw(st.booleans()) else "")
    elif draw(st.booleans()):
        del holder[key]
    else:
        holder[key] = draw(values)
    return dialect, row


@given(mutated())
def test_a_mutated_row_gives_a_conversation_or_a_row_error(made: tuple[str, dict[str, Any]]) -> None:
    dialect, row = made
    for importer in DIALECTS:
        importer.looks_like(row)
    for name in (dialect, "hermes"):
        try:
            found = IMPORTERS[name].read(row, WHERE, ())
        except RowError as error:
            refused = error
        else:
            json.dumps(found.to_json(), ensure_ascii=False, allow_nan=False).encode()
            continue
        assert str(refused).startswith(WHERE)
        assert refused.rule != "row"
