"""The committed customer_service data set follows its README and is exactly what its spec makes."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from toolhone.data.check import check
from toolhone.data.generate.rows import Made, make
from toolhone.data.generate.spec import load_spec
from toolhone.data.generate.templates import Template
from toolhone.data.read import read_conversations, read_tools
from toolhone.records import Conversation

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "data" / "customer_service"
TOOLS = read_tools(FOLDER / "tools.json")
SPLITS = ("train", "test")

COMPOSITION = {
    "train": {"no call": 385, "several calls": 185, "several turns": 320, "single call": 910},
    "test": {"no call": 33, "several calls": 20, "several turns": 20, "single call": 127},
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
def made() -> dict[str, Made]:
    return make(*load_spec(FOLDER / "spec.yaml"))


@pytest.fixture(scope="module")
def committed() -> dict[str, list[Conversation]]:
    return {split: list(read_conversations(FOLDER / f"{split}.jsonl", TOOLS)) for split in SPLITS}


def kind(template: Template) -> str:
    return template.kind if template.kind in COMPOSITION["test"] else "single call"


def calls_of(row: Conversation) -> list[Any]:
    return [call for message in row.messages for call in message.tool_calls]


def question(row: Conversation) -> str:
    return "\n".join(message.content for message in row.messages if message.role == "user")


def test_the_files_are_what_the_spec_makes(made: dict[str, Made]) -> None:
    assert set(made) == set(SPLITS)
    for split, output in made.items():
        assert (FOLDER / f"{split}.jsonl").read_bytes() == output.text().encode()


@pytest.mark.parametrize("split", SPLITS)
def test_the_kinds_of_requests_have_the_counts_of_the_readme(made: dict[str, Made], split: str) -> None:
    assert Counter(kind(template) for template in made[split].chosen) == COMPOSITION[split]


@pytest.mark.parametrize("split", SPLITS)
def test_rows_pass_the_check(committed: Any, split: str) -> None:
    assert list(check(committed[split])) == []


@pytest.mark.parametrize("split", SPLITS)
def test_every_row_has_the_system_prompt_and_ends_with_the_assistant(committed: Any, split: str) -> None:
    for row in committed[split]:
        assert (row.messages[0].role, row.messages[0].content) == ("system", "你是客服 Agent,负责查询订单和物流。")
        assert row.messages[1].role == "user"
        assert row.messages[-1].role == "assistant"


@pytest.mark.parametrize("split", SPLITS)
def test_rows_have_only_id_messages_and_meta(split: str) -> None:
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


def test_every_tool_has_75_training_phrasings_of_its_own(made: dict[str, Made]) -> None:
    phrasings = Counter(template.kind for template in made["train"].chosen)
    assert {tool.name: phrasings[tool.name] for tool in TOOLS if phrasings[tool.name] < 75} == {}


def test_every_test_row_has_a_template_of_its_own(committed: Any) -> None:
    assert len({row.meta["template"] for row in committed["test"]}) == 200


def test_every_training_row_has_three_requests_and_every_request_its_own_template(committed: Any) -> None:
    parts = [row.meta["template"].split("+") for row in committed["train"]]
    assert {len(part) for part in parts} == {3}
    assert len({id for part in parts for id in part}) == 1800


@pytest.mark.parametrize("split", SPLITS)
def test_three_rows_in_five_are_chinese(committed: Any, split: str) -> None:
    languages = Counter(row.meta["language"] for row in committed[split])
    assert set(languages) == {"zh", "en"}
    assert 0.55 <= languages["zh"] / len(committed[split]) <= 0.65


@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_in_the_users_language(committed: Any, split: str) -> None:
    in_two = [row for row in committed[split] if len(set(re.findall("-(zh|en)-", row.meta["template"]))) > 1]
    assert len(in_two) <= 1  # at most one row mixes the languages
    for row in committed[split]:
        if row in in_two:
            continue
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
ENGLISH = (
    *("", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty")
IDIOMS = {2: "两|俩|兩|couple|pair", 3: "仨", 6: "半打|half a dozen", 20: "score", 100: "一百|hundred"}


def spoken(number: int) -> str:
    """Return a regular expression of the ways to write a number."""
    tens, ones = divmod(number, 10)
    chinese = (DIGITS[tens] if 1 < tens < 10 else "") + ("十" if tens else "") + (DIGITS[ones] if ones else "")
    ways = [rf"(?<!\d){number}(?!\d)", chinese, IDIOMS.get(number, "$^")]
    if number < len(ENGLISH):
        ways.append(ENGLISH[number])
    elif tens < len(TENS):
        ways.append(f"{TENS[tens]}-{ENGLISH[ones]}" if ones else TENS[tens])
    if number % 12 == 0:
        ways += [f"{'一两三四五'[number // 12 - 1]}打", "dozen" if number == 12 else f"{ENGLISH[number // 12]} dozen"]
    return "|".join(ways)


@pytest.mark.parametrize("split", SPLITS)
def test_a_quantity_is_given_only_if_the_user_names_a_number(made: dict[str, Made], split: str) -> None:
    for template in made[split].chosen:
        if template.kind == "query_stock":
            ((_, arguments),) = template.calls
            asked = template.masked_question
            quantity = arguments.get("quantity")
            if quantity == "{quantity}":
                assert any("{quantity}" in text for key, text in template.turns if key == "user"), asked
            elif quantity is not None:
                assert re.search(spoken(quantity), asked, re.IGNORECASE), asked
            else:
                assert not re.search(r"\d", asked), asked


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
    """Return the highest Jaccard similarity of two texts' 5-grams. This implementation is independent of the
    package's."""
    grams = [five_grams(text) for text in train]
    return max(len(a & b) / len(a | b) for a in map(five_grams, test) for b in grams)


def test_no_test_phrasing_is_near_a_training_phrasing(made: dict[str, Made]) -> None:
    texts = {split: {template.masked_question for template in made[split].chosen} for split in SPLITS}
    assert 0 < closest(texts["test"], texts["train"]) <= 0.5


def test_no_test_message_of_a_conversation_is_near_any_training_message(committed: Any) -> None:
    """Messages are compared one by one, so that a long conversation cannot hide a wording of a test row. Codes are
    masked. Messages of fewer than eight characters after that, such as a bare code, may be similar."""
    messages = {
        split: {
            re.sub(r"[A-Za-z-]*\d[\dA-Za-z-]*", "\N{WHITE SQUARE}", message.content).lower()
            for row in committed[split]
            for message in row.messages
            if message.role == "user"
        }
        for split in SPLITS
    }
    assert 0 < closest({text for text in messages["test"] if len(text) >= 8}, messages["train"]) <= 0.5


def test_no_test_message_is_near_a_training_message_as_written(committed: Any) -> None:
    texts = {split: {question(row).lower() for row in committed[split]} for split in SPLITS}
    assert 0 < closest(texts["test"], texts["train"]) <= 0.5


def test_no_row_occurs_twice(committed: Any) -> None:
    hashes = [row.content_hash() for split in SPLITS for row in committed[split]]
    assert len(set(hashes)) == len(hashes) == 800


def test_held_out_phrasings_are_not_similar_to_test_or_training_phrasings(made: dict[str, Made]) -> None:
    held_out = make(*load_spec(FOLDER / "held_out.yaml"))["held_out"]
    assert len(held_out.rows) == 400
    texts = {template.masked_question for template in held_out.chosen}
    for split in SPLITS:
        assert 0 < closest(texts, {template.masked_question for template in made[split].chosen}) <= 0.5


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *flags: str) -> int:
    monkeypatch.setattr(sys, "argv", ["make_customer_service.py", *flags])
    code: int = script.main()
    return code


@pytest.mark.slow
def test_check_reports_a_file_that_differs_and_does_not_change_it(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = shutil.copytree(FOLDER, tmp_path / "customer_service")
    monkeypatch.setattr(script, "SPEC", copied / "spec.yaml")
    stale = (copied / "test.jsonl").read_bytes()[:-1]
    (copied / "test.jsonl").write_bytes(stale)
    assert run(script, monkeypatch, "--check") == 1
    assert "test.jsonl differs" in capsys.readouterr().out
    assert (copied / "test.jsonl").read_bytes() == stale
    assert run(script, monkeypatch) == 0
    assert run(script, monkeypatch, "--check") == 0
    assert (copied / "test.jsonl").read_bytes() == (FOLDER / "test.jsonl").read_bytes()
