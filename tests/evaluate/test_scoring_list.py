"""Cases that scoring must get right in every format, from the model's text to its score."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import pytest

from toolhone.evaluate.match import score
from toolhone.records import Example, FormatName, Gold, GoldCall, Message, Prediction, Score, Tool

FORMATS: tuple[FormatName, ...] = ("hermes", "llama3", "gemma", "json")
EACH = pytest.mark.parametrize("format", FORMATS)
KEY: dict[FormatName, str] = {
    "hermes": "arguments",
    "llama3": "parameters",
    "gemma": "parameters",
    "json": "arguments",
}

TOOLS = (
    Tool("f", "", {"type": "object", "properties": {"x": {}, "y": {}}}),
    Tool("g", "", {"type": "object", "properties": {"x": {}, "y": {}}}),
    Tool("stop", "", {"type": "object", "properties": {}}),
    Tool("geo.find_place", "", {"type": "object", "properties": {"x": {}}}),
    Tool(
        "typed",
        "",
        {
            "type": "object",
            "properties": {
                "nested": {"type": "object", "properties": {"a": {"type": "object"}}},
                "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
                "nullable": {"type": ["string", "null"]},
                "listed": {"enum": ["warm", "cold", 3]},
            },
        },
    ),
)
NONE = Gold("none")


def gold(*calls: tuple[str, dict[str, list[Any]]]) -> Gold:
    return Gold("calls", tuple(GoldCall(name, arguments) for name, arguments in calls))


def body(format: FormatName, name: str, arguments: str) -> str:
    return f'{{"name": "{name}", "{KEY[format]}": {arguments}}}'


def text(format: FormatName, *calls: tuple[str, str]) -> str:
    """Writes a turn of calls; each call is a name and the JSON text of its arguments."""
    written = [body(format, *call) for call in calls]
    if format == "hermes":
        return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in written)
    return ("; " if format == "llama3" else "\n").join(written)


def scored(expected: Gold, format: FormatName, said: str, finish_reason: Any = "stop") -> Score:
    example = Example("c/1", "c", (Message("user", "?"),), Message("assistant", ""), expected, TOOLS, "t:1", None, {})
    return score(example, Prediction("c/1", "m", said, finish_reason, 1, 1, 1.0), format)


def right(expected: Gold, format: FormatName, said: str) -> bool:
    return scored(expected, format, said).exact


ONE = gold(("f", {"x": [1]}))


@EACH
def test_arguments_match_in_any_order(format: FormatName) -> None:
    expected = gold(("f", {"x": [1], "y": [2]}))
    assert right(expected, format, text(format, ("f", '{"x": 1, "y": 2}')))
    assert right(expected, format, text(format, ("f", '{"y": 2, "x": 1}')))
    assert not right(expected, format, text(format, ("f", '{"x": 2, "y": 1}')))


@EACH
def test_parallel_calls_match_in_any_order(format: FormatName) -> None:
    expected = gold(("f", {"x": [1]}), ("g", {"x": [2]}))
    for calls in ([("f", '{"x": 1}'), ("g", '{"x": 2}')], [("g", '{"x": 2}'), ("f", '{"x": 1}')]):
        assert right(expected, format, text(format, *calls))


@EACH
def test_a_gold_call_is_paired_with_the_only_call_that_fits_it(format: FormatName) -> None:
    a, b = ("f", {"y": [1, 2]}), ("f", {"y": [1]})
    for expected in (gold(a, b), gold(b, a)):
        assert right(expected, format, text(format, ("f", '{"y": 1}'), ("f", '{"y": 2}')))
        assert right(expected, format, text(format, ("f", '{"y": 2}'), ("f", '{"y": 1}')))
        assert right(expected, format, text(format, ("f", '{"y": 1}'), ("f", '{"y": 1}')))
        assert not right(expected, format, text(format, ("f", '{"y": 2}'), ("f", '{"y": 2}')))


@EACH
def test_two_identical_calls_match_only_two_identical_calls(format: FormatName) -> None:
    once, twice = text(format, ("f", '{"x": 1}')), text(format, ("f", '{"x": 1}'), ("f", '{"x": 1}'))
    both = gold(("f", {"x": [1]}), ("f", {"x": [1]}))
    assert [right(both, format, twice), right(both, format, once)] == [True, False]
    assert [right(ONE, format, twice), right(ONE, format, once)] == [False, True]


@EACH
def test_an_extra_or_missing_call_is_wrong(format: FormatName) -> None:
    extra = scored(ONE, format, text(format, ("f", '{"x": 1}'), ("g", '{"x": 1}')))
    assert (extra.exact, extra.names_right, extra.extra_calls, extra.missing_calls) == (False, False, (1,), ())
    missing = scored(gold(("f", {"x": [1]}), ("g", {"x": [1]})), format, text(format, ("f", '{"x": 1}')))
    assert (missing.exact, missing.names_right, missing.extra_calls, missing.missing_calls) == (False, False, (), (1,))


@EACH
def test_prose_is_right_if_gold_is_no_call(format: FormatName) -> None:
    said = scored(NONE, format, "Which order do you mean?")
    assert (said.status, said.exact) == ("none", True)


@EACH
@pytest.mark.parametrize(
    "arguments", ['{"x": }', '{"x": 1', "[1]", '"{}"', "{'x': 1}", '{"x": NaN}', '{"x": 1, "x": 2}']
)
def test_a_malformed_call_is_wrong_if_gold_is_no_call(format: FormatName, arguments: str) -> None:
    said = scored(NONE, format, text(format, ("f", arguments)))
    assert (said.status, said.calls, said.exact, said.names_right) == ("malformed", (), False, False)


@EACH
def test_a_call_as_a_python_dictionary_is_wrong_if_gold_is_no_call(format: FormatName) -> None:
    said = scored(NONE, format, f"{{'name': 'f', '{KEY[format]}': {{'x': 1}}}}")
    assert (said.status, said.exact) == ("malformed", False)


@EACH
def test_an_empty_list_counts_as_no_call(format: FormatName) -> None:
    said = scored(NONE, format, "[]")
    assert (said.status, said.exact) == ("none", True)
    assert not right(ONE, format, "[]")


@EACH
def test_a_good_call_followed_by_a_broken_one_is_wrong(format: FormatName) -> None:
    said = scored(ONE, format, text(format, ("f", '{"x": 1}'), ("g", '{"x": oops}')))
    assert (said.status, said.exact, said.names_right, len(said.calls)) == ("partial", False, False, 1)


@EACH
def test_right_arguments_under_a_wrong_name_are_wrong(format: FormatName) -> None:
    said = scored(ONE, format, text(format, ("g", '{"x": 1}')))
    assert (said.exact, said.names_right, said.missing_calls, said.extra_calls) == (False, False, (0,), (0,))


@EACH
@pytest.mark.parametrize(
    ("expected", "found"),
    [("5", "5.5"), ('"5"', "5"), ("5", '"5"'), ("5", "-5"), ("-5", "5"), ("1.5", "15"), ("15", "1.5"), ("true", "1"),
     ('"-5"', '"5"'), ('"1.5"', '"15"')],
)  # fmt: skip
def test_values_that_differ_in_type_sign_or_point_do_not_match(format: FormatName, expected: str, found: str) -> None:
    wanted = gold(("f", {"x": [json.loads(expected)]}))
    assert right(wanted, format, text(format, ("f", f'{{"x": {expected}}}')))
    assert not right(wanted, format, text(format, ("f", f'{{"x": {found}}}')))


@EACH
def test_nfd_and_nfc_match(format: FormatName) -> None:
    nfc, nfd = (unicodedata.normalize(form, "Café Zoë") for form in ("NFC", "NFD"))
    assert nfc != nfd
    for wanted, found in ((nfc, nfd), (nfd, nfc)):
        assert right(gold(("f", {"x": [wanted]})), format, text(format, ("f", f'{{"x": "{found}"}}')))


@EACH
def test_an_escaped_letter_matches_the_letter(format: FormatName) -> None:
    expected = gold(("f", {"x": ["é"]}))
    assert right(expected, format, text(format, ("f", r'{"x": "\u00e9"}')))
    assert right(expected, format, text(format, ("f", '{"x": "é"}')))


@EACH
@pytest.mark.parametrize(
    "inside", ["}", "]}}", "</tool_call>", "<tool_call>", ";", '; {"name": "g"}', "```", "<think>"]
)
def test_markup_inside_a_string_is_part_of_the_value(format: FormatName, inside: str) -> None:
    value = f"a{inside}b"
    expected = gold(("f", {"x": [value]}), ("g", {"x": [1]}))
    assert right(expected, format, text(format, ("f", json.dumps({"x": value})), ("g", '{"x": 1}')))


@EACH
def test_prose_before_and_after_a_call_does_not_matter(format: FormatName) -> None:
    said = text(format, ("f", '{"x": 1}'))
    assert right(ONE, format, f"Let me look; one moment.\n{said}\nAnything else?")


def test_a_call_in_a_code_fence_is_read_only_in_gemma_and_json() -> None:
    for opening in ("```", "```json", "```JSON\n"):
        for format in FORMATS:
            call = body(format, "f", '{"x": 1}')
            said = scored(ONE, format, f"Here:\n{opening}\n{call}\n```")
            assert (said.status, said.exact) == (
                ("calls", True) if format in ("gemma", "json") else ("malformed", False)
            )


@EACH
def test_a_call_inside_think_is_ignored(format: FormatName) -> None:
    fake, real = text(format, ("g", '{"x": 9}')), text(format, ("f", '{"x": 1}'))
    assert right(ONE, format, f"<think>\nPerhaps\n{fake}\n</think>\n\n{real}")
    assert right(NONE, format, f"<think>\n{fake}\n</think>\n\nWhich one?")


@EACH
def test_arguments_and_parameters_are_both_read_except_in_hermes(format: FormatName) -> None:
    said = text(format, ("f", '{"x": 1}'))
    other = said.replace(KEY[format], "arguments" if KEY[format] == "parameters" else "parameters")
    assert right(ONE, format, said)
    # hermes has only `arguments`: another key would be a guess.
    assert right(ONE, format, other) == (format != "hermes")


@EACH
def test_a_list_of_calls_is_read_except_in_hermes(format: FormatName) -> None:
    expected = gold(("f", {"x": [1]}), ("g", {"x": [2]}))
    first, second = body(format, "f", '{"x": 1}'), body(format, "g", '{"x": 2}')
    listed = f"[{first}, {second}]"
    assert scored(expected, format, listed).status == ("malformed" if format == "hermes" else "calls")
    assert right(expected, format, listed) == (format != "hermes")
    assert right(expected, "json", f"```json\n{listed}\n```")


def test_llama3_calls_may_be_separated_by_a_semicolon() -> None:
    expected = gold(("f", {"x": [1]}), ("g", {"x": [2]}))
    first, second = body("llama3", "f", '{"x": 1}'), body("llama3", "g", '{"x": 2}')
    for between in (";", "; ", " ;\n"):
        assert right(expected, "llama3", f"{first}{between}{second}")


def test_the_python_tag_is_read_only_in_llama3() -> None:
    said = body("llama3", "f", '{"x": 1}')
    assert right(ONE, "llama3", f"<|python_tag|>{said}")
    for format in ("hermes", "json"):
        assert scored(ONE, format, f"<|python_tag|>{said}").status in ("malformed", "partial")  # type: ignore[arg-type]


@EACH
@pytest.mark.parametrize("end", ["<|eom_id|>", "<|eot_id|>"])
def test_end_tokens_after_a_call_are_ignored(format: FormatName, end: str) -> None:
    assert right(ONE, format, text(format, ("f", '{"x": 1}')) + end)


@EACH
def test_a_call_without_arguments_may_have_an_empty_object_or_no_key(format: FormatName) -> None:
    expected = gold(("stop", {}))
    without = '{"name": "stop"}'
    assert right(expected, format, text(format, ("stop", "{}")))
    assert right(expected, format, f"<tool_call>{without}</tool_call>" if format == "hermes" else without)
    assert not right(expected, format, text(format, ("stop", '{"x": 1}')))


TYPED = {"nested": {"a": {"b": [1, {"c": None}]}}, "either": 5, "nullable": None, "listed": "warm"}


@EACH
@pytest.mark.parametrize(
    ("argument", "wrong"),
    [("nested", {"a": {"b": [{"c": None}, 1]}}), ("either", "5"), ("nullable", ""), ("nullable", "null"),
     ("listed", "Warm"), ("listed", 3)],
)  # fmt: skip
def test_nested_any_of_nullable_and_enum_values_match_exactly(format: FormatName, argument: str, wrong: Any) -> None:
    expected = gold(("typed", {name: [value] for name, value in TYPED.items()}))
    assert right(expected, format, text(format, ("typed", json.dumps(TYPED))))
    said = scored(expected, format, text(format, ("typed", json.dumps({**TYPED, argument: wrong}))))
    assert [(error.argument, error.fault) for error in said.matches[0].errors] == [(argument, "wrong")]


@EACH
def test_dotted_tool_names_match_exactly(format: FormatName) -> None:
    expected = gold(("geo.find_place", {"x": ["Köln"]}))
    assert right(expected, format, text(format, ("geo.find_place", '{"x": "Köln"}')))
    assert not right(expected, format, text(format, ("geo_find_place", '{"x": "Köln"}')))


@EACH
@pytest.mark.parametrize("finish_reason", ["length", "stop"])
def test_a_call_cut_off_inside_a_string_is_wrong(format: FormatName, finish_reason: str) -> None:
    whole = text(format, ("f", '{"x": "a long } text </tool_call>; with more"}'))
    cut = whole[: whole.index(" with more")]
    for expected in (gold(("f", {"x": ["a long } text </tool_call>; with more"]})), NONE):
        said = scored(expected, format, cut, finish_reason)
        assert said.status == ("truncated" if finish_reason == "length" else "malformed")
        assert (said.exact, said.names_right, said.calls) == (False, False, ())
