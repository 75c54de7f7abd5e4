"""Leakage: each way to be known from training is found, counted and reported with places."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from toolhone.data.leakage import Kind, Leakage, measure_leakage
from toolhone.data.read import read_conversations
from toolhone.errors import UserError
from toolhone.records import Conversation, Message, Tool, ToolCall

SHIPPED = Path(__file__).parents[2] / "data" / "customer_service"
TOOL = Tool("track", "Track a parcel.", {"type": "object", "properties": {"id": {"type": "string"}}})
LONG = "good morning, could you have a look where the parcel with my new walking boots is"


def row(name: str, *texts: str, call: str | None = None, **more: Any) -> Conversation:
    """Return a row of alternating user and assistant texts. The last turn calls `track` with `call`."""
    messages = [Message("user" if n % 2 == 0 else "assistant", text) for n, text in enumerate(texts)]
    if call is not None:
        messages.append(Message("assistant", "", (ToolCall("track", {"id": call}),)))
    return Conversation(name, tuple(messages), (TOOL,), f"{name}.jsonl:1", **more)


def found(leakage: Leakage) -> dict[Kind, int]:
    return {kind: len(pairs) for kind, pairs in leakage.pairs.items() if pairs}


def test_different_rows_leak_nothing() -> None:
    leakage = measure_leakage([row("a", LONG, call="1")], [row("b", "cancel my order, I am fed up", call="1")])
    assert (leakage.rows, leakage.known, leakage.share) == (1, 0, 0.0)
    assert found(leakage) == {}
    assert measure_leakage([row("a", LONG, call="1")], [], allow=False) == measure_leakage([], [])


def test_the_same_row_under_another_id_is_found_as_row_prompt_words_and_conversation() -> None:
    leakage = measure_leakage([row("a", LONG, call="1")], [row("b", LONG, call="1"), row("c", "hello", "hi")])
    assert found(leakage) == {"row": 1, "prompt": 1, "words": 1, "conversation": 1}
    assert (leakage.rows, leakage.known) == (2, 1)
    assert leakage.pairs["row"][0].where == "b.jsonl:1"
    assert leakage.pairs["row"][0].train_where == "a.jsonl:1"


def test_the_same_prompt_with_other_gold_is_found() -> None:
    assert found(measure_leakage([row("a", LONG, call="1")], [row("b", LONG, call="2")])) == {"prompt": 1, "words": 1}


def test_the_nearest_row_with_near_words_is_reported_whatever_its_case() -> None:
    train = [row("far", LONG + " right now", call="1"), row("near", LONG.upper() + "?", call="1")]
    leakage = measure_leakage(train, [row("b", LONG, call="2")])
    assert found(leakage) == {"words": 1}
    pair = leakage.pairs["words"][0]
    assert pair.train_where == "near.jsonl:1"
    assert 0.95 < pair.similarity < 1


def asks(text: str, name: str = "a", template: str = "t1", **more: Any) -> Conversation:
    return row(name, text, call="1", meta={"template": template, **more})


def test_a_template_counts_if_the_wording_is_similar_whatever_fills_its_slots() -> None:
    one, other = asks("where is the parcel 1 that I wait for?"), asks("WHERE is the parcel SF-22 that I wait for?", "b")
    assert found(measure_leakage([one], [other])) == {"template": 1}
    assert found(measure_leakage([one], [replace(other, meta={"template": "t2"})])) == {}
    assert found(measure_leakage([one], [other], group_by=None)) == {}


def test_one_similar_pair_shows_that_an_id_means_one_template_for_all_its_rows() -> None:
    train = [asks("please find the parcel 12"), asks("kindly look, it is lost")]
    others = [asks("please find the parcel 777", "b"), asks("cancel it all", "c"), asks("hello there", "d", "t9")]
    leakage = measure_leakage(train, others)
    assert found(leakage) == {"template": 2}
    assert {pair.train_where for pair in leakage.pairs["template"]} == {"a.jsonl:1"}
    assert leakage.same_id_alone == 0


def test_an_id_that_means_another_template_in_the_other_file_is_counted_separately() -> None:
    train = [asks("please find the parcel 12"), asks("stop the delivery", template="t2")]
    others = [asks("where on earth are my boots 9", "b"), asks("no more mails", "c", "t2"), asks("hi", "d", "t3")]
    leakage = measure_leakage(train, others)
    assert (leakage.known, leakage.same_id_alone) == (0, 2)
    assert "not counted: 2 that share only a template's id" in str(leakage)
    assert leakage.to_json()["same_id_alone"] == 2
    assert measure_leakage(train, others, allow=False).known == 0


def test_a_paraphrase_has_the_template_of_its_row_whatever_its_wording() -> None:
    source = asks("where on earth are my boots 9", "b")
    train = [asks("please find the parcel 12", "b-p1", paraphrase_of="b")]
    assert found(measure_leakage(train, [source])) == {"template": 1}
    assert found(measure_leakage([source], [replace(train[0], where="p.jsonl:1")])) == {"template": 1}
    assert found(measure_leakage(train, [replace(source, id="other")])) == {}


def test_another_key_of_meta_needs_no_evidence() -> None:
    train = [row("a", LONG, call="1", meta={"template": "t1", "source": "s"})]
    others = [row("b", "cancel it", call="1", meta={"template": "t1", "source": "s"})]
    assert found(measure_leakage(train, others)) == {}
    assert found(measure_leakage(train, others, group_by="source")) == {"template": 1}


def test_the_shipped_files_share_template_ids_but_no_template() -> None:
    train, test = (list(read_conversations(SHIPPED / f"{name}.jsonl")) for name in ("train", "test"))
    assert measure_leakage(train, test).known == 0
    renumbered = [replace(one, id=f"again-{one.id}", where=f"again:{n}") for n, one in enumerate(test)]
    assert len(measure_leakage(test, renumbered).pairs["template"]) == len(test)


@pytest.mark.parametrize(("train_id", "other_id", "shared"), [
    ("chat-12/0", "chat-12/3", True),
    ("chat#1", "chat#2", True),
    ("chat-turn-1", "chat-turn-2", True),
    ("chat-12/0", "chat-13/0", False),
    ("glaive/17", "glaive/18", False),
    ("logs-4:1001", "logs-4:1002", False),
    ("return-1", "return-2", False),
])  # fmt: skip
def test_parts_of_a_conversation_share_the_beginning_of_their_ids(train_id: str, other_id: str, shared: bool) -> None:
    leakage = measure_leakage([row(train_id, LONG, call="1")], [row(other_id, "cancel it", call="1")])
    assert found(leakage) == ({"conversation": 1} if shared else {})


def test_a_conversation_that_is_the_beginning_of_another_is_found_in_either_direction() -> None:
    short, long = row("a", LONG, "Which number?"), row("b", LONG, "Which number?", "it is 7, and do hurry up", call="7")
    for train, other in ((short, long), (long, short)):
        assert found(measure_leakage([train], [other])) == {"conversation": 1}


def test_call_ids_do_not_make_a_conversation_different() -> None:
    call = ToolCall("track", {"id": "1"}, "call_1")
    one = Conversation("a", (Message("user", LONG), Message("assistant", "", (call,))), (TOOL,), "a:1")
    other = replace(one, id="b", messages=(one.messages[0], Message("assistant", "", (replace(call, id="x"),))))
    assert "conversation" in found(measure_leakage([one], [other]))


def test_leakage_is_refused_with_counts_and_places_unless_allowed() -> None:
    train, others = [row("a", LONG, call="1")], [row("c", "hello there", "hi"), row("b", LONG, call="2")]
    with pytest.raises(UserError) as refusal:
        measure_leakage(train, others, allow=False)
    text = str(refusal.value)
    assert text.startswith("b.jsonl:1: leakage: 1 of 2 rows (50.0%)")
    assert "1 with the same prompt:\n    b.jsonl:1 and a.jsonl:1" in text
    assert "--allow-leakage" in text
    assert measure_leakage(train, others).known == 1


def test_many_pairs_are_counted_and_a_few_shown() -> None:
    others = [replace(row("b", LONG, call="1"), where=f"b.jsonl:{n}") for n in range(1, 9)]
    leakage = measure_leakage([row("a", LONG, call="1")], others)
    assert leakage.known == 8
    assert "... and 3 more" in str(leakage)
    assert leakage.to_json()["kinds"]["row"]["rows"] == 8  # type: ignore[index]
    assert len(leakage.to_json()["kinds"]["row"]["nearest"]) == 5  # type: ignore[index]
