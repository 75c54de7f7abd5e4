"""Figures over a handful of scores, each counted by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from scored_run import ScoredRun

from toolhone.data.escalation import ESCALATE
from toolhone.errors import UserError
from toolhone.evaluate.match import score
from toolhone.evaluate.metrics import RATES, aggregate, metrics
from toolhone.jsonl import read_jsonl
from toolhone.rates import rate_of
from toolhone.records import Example, Gold, GoldCall, Message, Prediction, Score, Tool, ToolCall
from toolhone.report import wording
from toolhone.report.report import write_report
from toolhone.report.tables import summary_table

CONTRACTS = Path(__file__).parent.parent / "fixtures" / "contracts"
ANYTHING = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOLS = tuple(Tool(name, "", ANYTHING) for name in ("find", "send", "stop"))


def row(number: int, gold: list[GoldCall] | Gold, text: str, finish_reason: Any = "stop", **meta: Any) -> Score:
    if isinstance(gold, list):
        gold = Gold("calls", tuple(gold)) if gold else Gold("none")
    asked = (Message("user", "Hello"),)
    example = Example(
        f"c{number}/1", f"c{number}", asked, Message("assistant", ""), gold, TOOLS, "t.jsonl:1", None, meta
    )
    prediction = Prediction(example.id, "tuned", text, finish_reason, 100 + number, number, 10.0 * number)
    return score(example, prediction, "hermes")


def expect(name: str, *, optional: tuple[str, ...] = (), **arguments: Any) -> GoldCall:
    return GoldCall(name, {key: [value] for key, value in arguments.items()}, frozenset(optional))


def say(name: str, **arguments: Any) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


BROKEN = "<tool_call>{</tool_call>"

SCORES = [
    row(0, [expect("find", a=1, b=2)], say("find", a=1, b=2)),  # right
    row(1, [expect("find", a=1, b=2)], say("find", a=9, c=3)),  # one wrong, one missing, one invented
    row(2, [expect("find", a=1)], say("send", a=1)),  # the wrong tool
    row(3, [expect("find", a=1), expect("send", b=2)], say("send", b=2)),  # a missing call
    row(4, [expect("stop")], say("stop") + say("shout", x=1)),  # an extra call, of an invented tool
    row(5, [], "No."),  # no call, as expected
    row(6, [], say("find", a=1)),  # over-call
    row(7, [], BROKEN),  # malformed where no call is expected
    row(8, [expect("send", b=1)], "Sure."),  # under-call
    row(9, [expect("send", b=1)], '<tool_call>{"name"', "length"),  # truncated
    row(10, [expect("send", b=1), expect("stop")], say("stop") + BROKEN),  # partial
    row(11, Gold("any"), say("find", a=5)),  # any call
    row(12, Gold("any"), "Which?"),  # under-call
    row(
        13, [expect("find", optional=("b", "c"), a=1, b=2, c=3)], say("find", a=1, c="x")
    ),  # one optional argument omitted, one wrong
]


def counts(rate: dict[str, Any]) -> tuple[int, int]:
    assert rate["value"] == (rate["numerator"] / rate["denominator"] if rate["denominator"] else None)
    return rate["numerator"], rate["denominator"]


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    return aggregate(SCORES)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("exact_match", (3, 14)),  # rows 0, 5, 11
        ("tool_name_accuracy", (5, 14)),  # rows 0, 1, 5, 11, 13
        ("argument_accuracy", (4, 6)),  # matched: 0, 1, 3 (send), 4 (stop), 10 (stop), 13; wrong in 1 and 13
        # Right: 2 (row 0), 1 (row 3), 1 (row 13). Given: 2, 2, 1 (row 2), 1, 1 (row 4), 1 (row 6), 2 (row 13).
        ("argument_precision", (4, 10)),
        # Expected: 2, 2, 1 (row 2), 2 (row 3), 1 (row 8), 1 (row 9), 1 (row 10), and of row 13 the two given.
        ("argument_recall", (4, 12)),
        ("argument_precision_given_name", (4, 7)),
        ("argument_recall_given_name", (4, 7)),
        ("missing_argument_rate", (1, 7)),
        ("wrong_argument_rate", (2, 7)),
        ("invented_argument_rate", (1, 7)),
        ("schema_valid", (8, 9)),  # a call was read in rows 0-4, 6, 10, 11, 13; in row 4 one is invented
        ("malformed", (1, 14)),
        ("truncated", (1, 14)),
        ("partial", (1, 14)),
        ("over_call", (1, 3)),
        ("under_call", (2, 11)),
        ("invented_tool", (1, 10)),
        ("missing_calls", (5, 9)),  # rows 2, 3, 8, 9, 10
        ("extra_calls", (2, 9)),  # rows 2, 4
    ],
)
def test_each_rate_has_its_own_numerator_and_denominator(
    figures: dict[str, Any], name: str, expected: tuple[int, int]
) -> None:
    assert counts(figures[name]) == expected


def test_f1_includes_its_counts(figures: dict[str, Any]) -> None:
    assert figures["argument_f1"] == {"value": 8 / 22, "right": 4, "predicted": 10, "gold": 12}
    assert figures["argument_f1_given_name"] == {"value": 8 / 14, "right": 4, "predicted": 7, "gold": 7}


def test_a_missing_call_does_not_count_its_optional_arguments_as_missing() -> None:
    figures = aggregate([row(0, [expect("find", optional=("b",), a=1, b=2)], "Sure.")])
    assert counts(figures["argument_recall"]) == (0, 1)


def test_right_wrong_and_missing_add_up_to_all_arguments_of_matched_gold_calls(figures: dict[str, Any]) -> None:
    shares = ("argument_recall_given_name", "wrong_argument_rate", "missing_argument_rate")
    assert sum(figures[share]["numerator"] for share in shares) == figures["missing_argument_rate"]["denominator"]


def test_per_tool_counts_gold_calls_and_predicted_calls(figures: dict[str, Any]) -> None:
    found = {
        tool: (
            *(entry["support"], entry["called"]),
            *(counts(entry[key]) for key in ("name_recall", "name_precision", "exact")),
        )
        for tool, entry in figures["per_tool"].items()
    }
    assert found == {
        "find": (5, 4, (3, 5), (3, 4), (1, 5)),
        "send": (4, 2, (1, 4), (1, 2), (1, 4)),
        "stop": (2, 2, (2, 2), (2, 2), (2, 2)),
    }


def test_the_confusion_matrix_pairs_each_gold_call_with_the_tool_that_was_called(figures: dict[str, Any]) -> None:
    confusion = figures["confusion"]
    assert confusion["labels"] == ["find", "send", "stop", "<none>", "<malformed>", "<unknown>"]
    assert confusion["matrix"] == [
        [3, 1, 0, 1, 0, 0],  # rows 0, 1, 13; 2; 3
        [0, 1, 0, 1, 2, 0],  # row 3; 8; 9 and 10
        [0, 0, 2, 0, 0, 0],  # rows 4, 10
        [1, 0, 0, 1, 1, 1],  # row 6; 5; 7; 4
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    assert sum(map(sum, confusion["matrix"][:3])) == sum(len(score.gold.calls) for score in SCORES)


def test_groups_come_from_the_rows_and_add_up_to_all_rows() -> None:
    scores = [
        row(0, [expect("stop")], say("stop"), language="en"),
        row(1, [expect("stop")] * 2, say("stop"), language="zh"),
        row(2, [], "No.", language="zh"),
        row(3, Gold("any"), say("find")),
    ]
    by = aggregate(scores)["by"]
    exact = {
        name: {value: counts(entry["exact_match"]) for value, entry in group.items()} for name, group in by.items()
    }
    assert exact == {
        "language": {"en": (1, 1), "unstated": (1, 1), "zh": (1, 2)},
        "calls": {"0": (1, 1), "1": (1, 1), "2": (0, 1), "any": (1, 1)},
        "turns": {"first": (3, 4)},
        "tools": {"3": (3, 4)},
    }
    assert counts(by["language"]["zh"]["tool_name_accuracy"]) == (1, 2)


def test_tools_that_training_never_called_form_a_separate_group() -> None:
    scores = [row(0, [expect("stop")], say("stop")), row(1, [expect("find")], ""), row(2, [], "")]
    seen = aggregate(scores, seen_tools={"stop"})["by"]["seen"]
    assert {value: counts(entry["exact_match"]) for value, entry in seen.items()} == {
        "seen": (1, 1),
        "unseen": (0, 1),
        "unstated": (1, 1),
    }


def test_groups_are_in_numerical_order() -> None:
    scores = [row(n, [expect("stop")] * n, "") for n in (10, 2, 1, 0)]
    assert list(aggregate(scores)["by"]["calls"]) == ["0", "1", "2", "10"]


def test_tokens_and_latency_are_given_as_median_95th_percentile_and_sum(figures: dict[str, Any]) -> None:
    assert figures["completion_tokens"] == {"p50": 6.5, "p95": pytest.approx(12.35), "total": 91}
    assert figures["prompt_tokens"]["total"] == 1491
    assert figures["latency_ms"]["p50"] == 65.0


def test_no_scores_give_rates_without_a_value() -> None:
    figures = aggregate([])
    assert figures["rows"] == 0
    assert figures["exact_match"]["value"] is None
    assert figures["latency_ms"]["p50"] is None
    assert figures["confusion"]["labels"] == ["<none>", "<malformed>", "<unknown>"]


def test_metrics_name_the_models_that_wrote_the_gold() -> None:
    borrowed = [replace(SCORES[0], gold_source="gpt-4"), replace(SCORES[5], gold_source="claude"), SCORES[6]]
    assert aggregate(borrowed)["agreement_with"] == "claude, gpt-4"
    assert aggregate(SCORES)["agreement_with"] is None


def test_models_scored_on_different_examples_are_refused() -> None:
    with pytest.raises(UserError, match=r"^base and tuned cannot be compared: they were not scored on the same rows"):
        metrics({"base": SCORES[:3], "tuned": SCORES[1:4]}, {})
    with pytest.raises(UserError, match=r"^base: c0/1 is scored twice"):
        metrics({"base": [SCORES[0], SCORES[0]]}, {})


def test_models_keep_their_order_and_the_order_of_scores_changes_nothing() -> None:
    found = metrics({"base": SCORES[::-1], "again": SCORES}, {"seed": 1})
    assert list(found["models"]) == ["base", "again"]
    assert found["provenance"] == {"seed": 1}
    assert json.dumps(found["models"]["base"]) == json.dumps(found["models"]["again"])


def test_rows_are_counted_under_each_rule_that_excused_them() -> None:
    scores = [replace(SCORES[0], rules=("b", "a", "b")), replace(SCORES[1], rules=("b",)), SCORES[2]]
    assert aggregate(scores)["rules"] == {"a": 1, "b": 2}
    assert aggregate(SCORES)["rules"] == {}


def test_repaired_figures_cover_all_rows_and_count_each_repair() -> None:
    repairable = "<tool_call>{'name': 'find', 'arguments': {'a': 1}}</tool_call>"
    text = """<tool_call>{"name": "find", "arguments": "{'a': 1}"}</tool_call>"""
    scores = [
        row(0, [expect("find", a=1)], repairable),  # right with repairs
        row(1, [expect("find", a=2)], text),  # repaired twice, and wrong
        row(2, [], repairable),  # an over-call that can be read only with repairs
        row(3, [], BROKEN),
        row(4, [expect("find", a=1)], say("find", a=1)),
        row(5, [], "No."),
    ]
    figures = aggregate(scores)
    assert counts(figures["exact_match"]) == (2, 6)
    assert counts(figures["tool_name_accuracy"]) == (2, 6)
    assert counts(figures["repaired"]["exact_match"]) == (3, 6)
    assert counts(figures["repaired"]["tool_name_accuracy"]) == (4, 6)
    assert figures["repaired"]["rows"] == 3
    assert figures["repaired"]["repairs"] == {"arguments_as_text": 1, "python_literals": 3}


def test_scores_that_do_not_record_repairs_have_no_repaired_figures() -> None:
    assert aggregate([replace(score, repaired=None) for score in SCORES])["repaired"] is None
    assert aggregate([replace(score, repaired=None) for score in SCORES if score.failure is None])["repaired"]


def test_models_are_compared_only_if_there_are_two() -> None:
    found = metrics({"base": SCORES, "tuned": SCORES}, {})["compare"]
    assert [entry["measure"] for entry in found] == ["exact_match", "tool_name_accuracy", "argument_accuracy"]
    assert metrics({"base": SCORES}, {})["compare"] == []


def test_a_new_rate_with_its_wording_appears_in_every_output(
    tmp_path: Path, scored_run: ScoredRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = wording.Measure("silent", "Silent", "Rows with an empty text.")
    monkeypatch.setitem(RATES, "silent", lambda rows: rate_of(row.text == "" for row in rows))
    monkeypatch.setattr(wording, "BEHAVIOUR_ERRORS", (*wording.BEHAVIOUR_ERRORS, words))
    monkeypatch.setattr(wording, "MEASURES", (*wording.MEASURES, words))
    run = scored_run(tmp_path, {"base": ["", "", "right", "right"], "tuned": ["right"] * 4})
    found = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert counts(found["models"]["base"]["silent"]) == (2, 4)
    write_report(run)
    page, markdown = ((run / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    assert "Rows with an empty text." in page
    assert "| Silent | 50.0% 2/4 | 0.0% 0/4 |" in markdown
    console = Console(width=200, record=True)
    console.print(summary_table(found))
    assert "Silent" in console.export_text()


def contract_metrics() -> dict[str, Any]:
    scores = [Score.from_json(line) for _, line in read_jsonl(CONTRACTS / "score.jsonl")]
    return metrics({"tuned": scores}, {"toolhone": "0.1.0", "run": "contract", "quarantined": {}})


def test_the_contracts_score_gives_the_contracts_metrics() -> None:
    text = json.dumps(contract_metrics(), ensure_ascii=False, indent=2) + "\n"
    assert text == (CONTRACTS / "metrics.json").read_text(encoding="utf-8")


def test_calls_of_a_partial_turn_count_as_predicted() -> None:
    partial = row(0, [expect("find", a=1)], say("find", a=1) + BROKEN)
    assert partial.calls == (ToolCall("find", {"a": 1}),)
    figures = aggregate([partial])
    assert counts(figures["argument_accuracy"]) == (1, 1)
    assert counts(figures["exact_match"]) == (0, 1)
    # The call that could not be read is not paired with a gold call that has a partner.
    assert figures["confusion"]["matrix"][1] == [0, 0, 1, 0]


def test_escalations_have_figures_of_their_own() -> None:
    escalate = expect(ESCALATE)
    figures = aggregate(
        [
            row(0, [escalate], say(ESCALATE)),  # rightly escalated
            row(1, [escalate], say("find", a=1)),  # kept, and wrong
            row(2, [escalate], "Sorry."),  # kept, and wrong
            row(3, [escalate], BROKEN),  # no escalation could be read
            row(4, [expect("find", a=1)], say(ESCALATE)),  # needless
            row(5, [], say("stop") + say(ESCALATE)),  # needless, beside another call
            row(6, [expect("find", a=1)], say("find", a=1)),
            row(7, [], "No."),
            row(8, Gold("any"), say("find", a=5)),
        ]
    )["escalation"]
    assert {name: counts(rate) for name, rate in figures.items()} == {
        "handed_over": (1, 4),
        "needless": (2, 5),
        "kept_exact_match": (3, 6),
    }
    assert figures["handed_over"]["low"] == pytest.approx(0.0456, abs=1e-4)  # Wilson's


def test_escalation_figures_need_rows_that_offer_the_escalation_tool(figures: dict[str, Any]) -> None:
    assert figures["escalation"] is None
    offered = aggregate([replace(SCORES[0], tools=(*SCORES[0].tools, ESCALATE))])["escalation"]
    assert counts(offered["handed_over"]) == (0, 0)
    assert counts(offered["needless"]) == (0, 1)
    assert counts(offered["kept_exact_match"]) == (1, 1)
