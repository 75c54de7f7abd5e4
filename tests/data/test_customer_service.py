"""The committed customer_service data set keeps to its README, and is what its script makes."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from toolhone.data.check import check
from toolhone.data.read import read_conversations, read_tools
from toolhone.data.templates import Template
from toolhone.errors import UserError
from toolhone.records import Conversation

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "data" / "customer_service"
TOOLS = read_tools(FOLDER / "tools.json")
SPLITS = ("train", "test")

COMPOSITION = {
    "train": {"no call": 108, "two calls": 50, "several turns": 60, "single call": 382},
    "test": {"no call": 33, "two calls": 20, "several turns": 20, "single call": 127},
}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "make_customer_service", ROOT / "scripts" / "make_customer_service.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(script: ModuleType) -> tuple[dict[str, list[Template]], dict[str, list[Conversation]]]:
    made: tuple[dict[str, list[Template]], dict[str, list[Conversation]]] = script.make()
    return made


@pytest.fixture(scope="module")
def committed() -> dict[str, list[Conversation]]:
    return {split: list(read_conversations(FOLDER / f"{split}.jsonl", TOOLS)) for split in SPLITS}


def kind(row: Conversation) -> str:
    if any(message.role == "tool" for message in row.messages):
        return "several turns"
    calls = [len(message.tool_calls) for message in row.messages if message.role == "assistant"]
    assert len(calls) == 1
    return {0: "no call", 1: "single call", 2: "two calls"}[calls[0]]


def calls_of(row: Conversation) -> list[Any]:
    return [call for message in row.messages for call in message.tool_calls]


def question(row: Conversation) -> str:
    return "\n".join(message.content for message in row.messages if message.role == "user")


def test_the_files_are_what_the_script_makes(made: Any) -> None:
    for split, rows in made[1].items():
        lines = (FOLDER / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == [row.to_json() for row in rows]


@pytest.mark.parametrize("split", SPLITS)
def test_kinds_of_rows_are_as_the_readme_counts_them(committed: Any, split: str) -> None:
    assert Counter(kind(row) for row in committed[split]) == COMPOSITION[split]


@pytest.mark.parametrize("split", SPLITS)
def test_rows_pass_the_check_against_the_tools(committed: Any, split: str) -> None:
    assert list(check(committed[split])) == []


@pytest.mark.parametrize("split", SPLITS)
def test_every_row_has_the_system_prompt_and_ends_with_the_assistant(committed: Any, split: str) -> None:
    for row in committed[split]:
        assert (row.messages[0].role, row.messages[0].content) == ("system", "你是客服 Agent,负责查询订单和物流。")
        assert row.messages[1].role == "user"
        assert row.messages[-1].role == "assistant"


@pytest.mark.parametrize("split", SPLITS)
def test_rows_carry_id_messages_and_meta_alone(split: str) -> None:
    lines = (FOLDER / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    for number, row in enumerate(map(json.loads, lines), 1):
        assert list(row) == ["id", "messages", "meta"]
        assert row["id"] == f"cs-{split}-{number:04}"
        assert list(row["meta"]) == ["language", "template"]


@pytest.mark.parametrize("split", SPLITS)
def test_every_tool_and_every_reason_occurs(committed: Any, split: str) -> None:
    calls = [call for row in committed[split] for call in calls_of(row)]
    assert {call.name for call in calls} == {tool.name for tool in TOOLS}
    reasons = Counter(call.arguments["reason"] for call in calls if call.name == "request_refund")
    assert set(reasons) == {"damaged", "wrong_item", "late", "not_wanted"}
    assert min(reasons.values()) >= 5


def test_every_tool_has_25_training_phrasings_of_its_own(committed: Any) -> None:
    phrasings: dict[str, set[str]] = {tool.name: set() for tool in TOOLS}
    for row in committed["train"]:
        if kind(row) == "single call":
            phrasings[calls_of(row)[0].name].add(row.meta["template"])
    assert {name: len(ids) for name, ids in phrasings.items() if len(ids) < 25} == {}


def test_every_test_row_has_a_template_of_its_own(committed: Any) -> None:
    assert len({row.meta["template"] for row in committed["test"]}) == 200


@pytest.mark.parametrize("split", SPLITS)
def test_three_rows_in_five_are_chinese(committed: Any, split: str) -> None:
    languages = Counter(row.meta["language"] for row in committed[split])
    assert set(languages) == {"zh", "en"}
    assert 0.55 <= languages["zh"] / len(committed[split]) <= 0.65


@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_in_the_users_language(committed: Any, split: str) -> None:
    for row in committed[split]:
        for message in row.messages:
            if message.role == "assistant" and message.content:
                chinese = re.search(r"[\u4e00-\u9fff]", message.content) is not None
                assert chinese == (row.meta["language"] == "zh"), message.content


@pytest.mark.parametrize("split", SPLITS)
def test_codes_and_addresses_are_the_users_own_words(committed: Any, split: str) -> None:
    for row in committed[split]:
        said = ""
        for message in row.messages:
            said += message.content if message.role in ("user", "tool") else ""
            for call in message.tool_calls:
                for name, value in call.arguments.items():
                    if name in ("order_id", "tracking_no", "sku", "address"):
                        assert value in said, row.id
                        assert value == value.strip(" \t\n#,.;:!?，。；：！？、“”\"'()（）「」"), row.id


DIGITS = "零一二三四五六七八九"
ENGLISH = ("-", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
TENS = {15: "fifteen", 20: "twenty", 24: "twenty-four", 30: "thirty", 40: "forty", 50: "fifty", 100: "hundred"}
IDIOMS = {2: "两|俩|couple|pair", 6: "半打|half a dozen", 12: "一打|dozen", 100: "一百"}


def spoken(number: int) -> str:
    """What may stand for a number, as a regular expression."""
    tens, ones = divmod(number, 10)
    chinese = (DIGITS[tens] if 1 < tens < 10 else "") + ("十" if tens else "") + (DIGITS[ones] if ones else "")
    english = ENGLISH[number] if number < len(ENGLISH) else TENS.get(number, "$^")
    return "|".join([rf"\b{number}\b", rf"{number}\D", chinese, english, IDIOMS.get(number, "$^")])


@pytest.mark.parametrize("split", SPLITS)
def test_a_quantity_is_given_where_a_number_is_named_and_nowhere_else(committed: Any, split: str) -> None:
    for row in committed[split]:
        if kind(row) == "single call" and calls_of(row)[0].name == "query_stock":
            arguments = calls_of(row)[0].arguments
            rest = question(row).replace(arguments["sku"], "")
            if "quantity" in arguments:
                assert re.search(spoken(arguments["quantity"]), rest, re.IGNORECASE), rest
            else:
                assert not re.search(r"\d", rest), rest


def test_no_code_and_no_address_is_in_both_files(committed: Any) -> None:
    values: dict[str, set[str]] = {}
    for split in SPLITS:
        calls = [call for row in committed[split] for call in calls_of(row)]
        free = [v for call in calls for name, v in call.arguments.items() if name not in ("reason", "quantity")]
        values[split] = {value.lower() for value in free}
        values[split] |= set(re.findall(r"\w*\d{4,}\w*", " ".join(question(row).lower() for row in committed[split])))
    assert values["train"] & values["test"] == set()


def five_grams(text: str) -> set[str]:
    return {text[start : start + 5] for start in range(len(text) - 4)} or {text}


def closest(test: set[str], train: set[str]) -> float:
    """The highest Jaccard similarity of two texts' 5-grams: a second implementation, for its own sake."""
    grams = [five_grams(text) for text in train]
    return max(len(a & b) / len(a | b) for a in map(five_grams, test) for b in grams)


def test_no_test_phrasing_is_near_a_training_phrasing(made: Any) -> None:
    texts = {split: {template.masked_question for template in made[0][split]} for split in SPLITS}
    assert 0 < closest(texts["test"], texts["train"]) <= 0.5


def test_no_test_message_is_near_a_training_message_as_written(committed: Any) -> None:
    texts = {split: {question(row).lower() for row in committed[split]} for split in SPLITS}
    assert 0 < closest(texts["test"], texts["train"]) <= 0.5


def test_no_row_stands_twice(committed: Any) -> None:
    hashes = [row.content_hash() for split in SPLITS for row in committed[split]]
    assert len(set(hashes)) == len(hashes) == 800


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *flags: str) -> int:
    monkeypatch.setattr(sys, "argv", ["make_customer_service.py", *flags])
    code: int = script.main()
    return code


def test_check_tells_a_file_that_differs_and_leaves_it(
    script: ModuleType, made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "make", lambda: made)
    monkeypatch.setattr(script, "FOLDER", tmp_path)
    assert run(script, monkeypatch) == 0
    assert run(script, monkeypatch, "--check") == 0
    for split in SPLITS:
        assert (tmp_path / f"{split}.jsonl").read_bytes() == (FOLDER / f"{split}.jsonl").read_bytes()
    stale = (tmp_path / "test.jsonl").read_bytes()[:-1]
    (tmp_path / "test.jsonl").write_bytes(stale)
    assert run(script, monkeypatch, "--check") == 1
    assert "test.jsonl differ" in capsys.readouterr().err
    assert (tmp_path / "test.jsonl").read_bytes() == stale


def test_a_test_phrasing_too_near_a_training_phrasing_stops_the_writing(
    script: ModuleType, made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    value, test, train = script.nearest_pairs(made[0]["test"], made[0]["train"])[0]
    monkeypatch.setattr(script, "make", lambda: made)
    monkeypatch.setattr(script, "FOLDER", tmp_path)
    monkeypatch.setattr(script, "CLOSEST_ALLOWED", value - 0.001)
    assert run(script, monkeypatch) == 1
    output = capsys.readouterr()
    assert "pairs are over" in output.err
    assert f"{value:.3f} {test.id}" in output.out
    assert train.id in output.out
    assert list(tmp_path.iterdir()) == []


def template(id: str, *turns: tuple[str, Any]) -> Template:
    return Template(id, "en", turns, "spec.yaml:1")


def test_a_parcels_number_as_an_orders_is_refused(script: ModuleType) -> None:
    wrong = template("a", ("user", "{tracking_no}"), ("calls", [{"query_order": {"order_id": "{tracking_no}"}}]))
    with pytest.raises(UserError, match=r"order_id is \{tracking_no\}"):
        script.refuse_slot_in_other_argument(wrong)


def test_an_argument_that_nobody_said_is_refused(script: ModuleType, committed: Any) -> None:
    rows = (row for row in committed["test"] if calls_of(row) and "address" in calls_of(row)[0].arguments)
    row = copy.deepcopy(next(rows))
    script.refuse_made_up_text(row)
    calls_of(row)[0].arguments["address"] += " x"
    with pytest.raises(UserError, match="stands in no message before the call"):
        script.refuse_made_up_text(row)


def test_rows_are_shared_evenly_as_far_as_the_templates_reach(script: ModuleType) -> None:
    groups = {name: [template(str(n), ("user", "hello")) for n in range(size)] for name, size in (("a", 4), ("b", 2))}
    assert script.share(3, groups) == {"a": 2, "b": 1}
    assert script.share(5, groups) == {"a": 3, "b": 2}
    with pytest.raises(UserError, match="1 more than the templates make"):
        script.share(7, groups)


def test_each_kind_has_the_rows_that_the_mix_says_and_no_template_twice(script: ModuleType, made: Any) -> None:
    chosen = made[0]["train"]
    assert Counter(one.kind for one in chosen) == script.TRAINING_MIX
    assert len({one.id for one in chosen}) == len(chosen) == 600


def test_texts_shorter_than_five_characters_are_one_gram(script: ModuleType) -> None:
    assert script.grams("□ 取消") == frozenset({"□ 取消"})
    assert script.grams("abcdef") == frozenset({"abcde", "bcdef"})
