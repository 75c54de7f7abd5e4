"""The page of a scored run: it shows the numbers of metrics.json, filters by what occurs, and stays small."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_page import page_of
from rich.console import Console

from toolhone.errors import UserError
from toolhone.jsonl import write_json, write_jsonl
from toolhone.rates import rate
from toolhone.report import failures, wording
from toolhone.report.failures import KINDS
from toolhone.report.numbers import p_value, points
from toolhone.report.report import write_report
from toolhone.report.tables import summary_table
from toolhone.report.wording import legible

ScoredRun = Callable[..., Path]


def _call(order_id: str, name: str = "query_order") -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {{"order_id": "{order_id}"}}}}\n</tool_call>'


ANSWERS = {
    "base": ["我不知道", "right", '<tool_call>\n{"name": "query_or', "right", _call("1"), "right", "right"],
    "tuned": ["right", _call("ORD-010"), _call("ORD-002", "no_tool"), "right", "right", "right", _call("x")],
}


REPAIRABLE = """<tool_call>
{'name': 'query_order', 'arguments': {'order_id': 'ORD-000'}}
</tool_call>"""


def _rates(value: Any, model: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every rate with a count and an interval in a model's part of metrics.json."""
    if isinstance(value, dict) and {"numerator", "denominator", "low"} <= set(value):
        yield model, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            # Precision is text beside the number of calls. Repairs are shown only if some fired.
            if key != "name_precision" and not (key == "repaired" and not inner["rows"]):
                yield from _rates(inner, model)


def _label(model: str, rate: dict[str, Any]) -> str:
    """Return the label that a rate's bar must have, computed from its counts."""
    numerator, denominator = rate["numerator"], rate["denominator"]
    if denominator == 0:
        return f"{model}: – (0/0)"
    share = f"{100 * numerator / denominator:.1f}%"
    interval = f"[{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"
    return f"{model}: {share} ({numerator}/{denominator}), 95% interval {interval}"


@pytest.mark.parametrize("repaired", [False, True])
def test_the_page_shows_every_rate_of_metrics_json_and_no_other(
    tmp_path: Path, scored_run: ScoredRun, repaired: bool
) -> None:
    answers = {**ANSWERS, **({"base": [REPAIRABLE, *ANSWERS["base"][1:]]} if repaired else {})}
    run = scored_run(tmp_path, answers, last_is_chat=True)
    page = page_of(run)
    models = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["models"]
    if repaired:
        models["tuned"]["repaired"]["rows"] = 1  # shown beside the model with a repaired text
    expected = Counter(_label(*rate) for model, found in models.items() for rate in _rates(found, model))
    bars = Counter(a["aria-label"] for tag, a in page.tags if tag == "svg" and a.get("class") == "bar")
    for model, found in models.items():
        for entry in found["per_tool"].values():
            precision = entry["name_precision"]["value"]
            share = "" if precision is None else f" ({100 * precision:.1f}% correctly)"
            assert f"{model} {entry['called']}{share}" in page.text
    f1 = Counter({label: n for label, n in bars.items() if "/" not in (label or "")})
    assert bars - f1 == expected
    shares = [found[key]["value"] for found in models.values() for key in ("argument_f1", "argument_f1_given_name")]
    assert sum(f1.values()) == len(shares)
    assert {label.split(": ")[1] for label in f1 if label} == {f"{100 * share:.1f}%" for share in shares}


def test_the_length_of_a_bar_is_its_rate(tmp_path: Path, scored_run: ScoredRun) -> None:
    page = page_of(scored_run(tmp_path, {"tuned": ["right", "right", "right", "我不知道"]}))
    places = [place for place, (_, a) in enumerate(page.tags) if "75.0% (3/4)" in (a.get("aria-label") or "")]
    assert places
    for place in places:
        value = next(a for _, a in page.tags[place:] if a.get("class") == "value")
        assert value["width"] == "75.0%"


def test_counts_in_the_matrix_add_up_to_the_confusion_in_metrics_json(tmp_path: Path, scored_run: ScoredRun) -> None:
    run = scored_run(tmp_path, ANSWERS, last_is_chat=True)
    page = page_of(run)
    titles = [a["title"] or "" for tag, a in page.tags if tag == "td" and (a.get("title") or "").startswith("exp")]
    models = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["models"]
    total = sum(sum(map(sum, found["confusion"]["matrix"])) for found in models.values())
    assert sum(int(title.rsplit(": ", 1)[1]) for title in titles) == total


def test_the_page_shows_the_differences_of_metrics_json(tmp_path: Path, scored_run: ScoredRun) -> None:
    run = scored_run(tmp_path, ANSWERS, last_is_chat=True)
    page = page_of(run)
    compare = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["compare"]
    for entry in compare:
        if entry["value"] is not None:
            text = f"{100 * entry['value']:+.1f} points [{100 * entry['low']:.1f}, {100 * entry['high']:.1f}]"
            assert text in page.text
            assert text in (run / "report.md").read_text(encoding="utf-8")
    test = next(entry["mcnemar"] for entry in compare if entry["measure"] == "exact_match")
    assert (test["first_only"], test["second_only"]) == (2, 2)
    assert "Of the rows that base got wrong, tuned gets 2 right." in page.text
    assert "Of the rows that base got right, tuned gets 2 wrong." in page.text


def test_the_filters_list_the_tools_and_kinds_of_the_rows(tmp_path: Path, scored_run: ScoredRun) -> None:
    page = page_of(scored_run(tmp_path, ANSWERS, last_is_chat=True))
    rows = page.of_class("row")
    kinds = [json.loads(row["data-kinds"] or "") for row in rows]
    assert kinds == [["wrong value"], ["wrong tool", "invented tool"], ["over-call"]]
    tools = [json.loads(row["data-tools"] or "") for row in rows]
    assert tools == [["query_order"], ["query_order", "no_tool"], ["query_order"]]
    assert [row.get("data-broken") for row in rows] == ["yes", None, "yes"]
    offered = {a["value"] for tag, a in page.tags if tag == "option"} - {""}
    assert offered == {"query_order", "no_tool"} | {kind for row in kinds for kind in row}
    assert {kind for row in kinds for kind in row} <= set(KINDS)


def test_filters_are_plain_form_controls(tmp_path: Path, scored_run: ScoredRun) -> None:
    """Every browser supports such controls with the keyboard alone."""
    page = page_of(scored_run(tmp_path, ANSWERS, last_is_chat=True))
    controls = {a.get("id"): tag for tag, a in page.tags if (a.get("id") or "").startswith("filter-")}
    kinds = {"tool": "select", "kind": "select", "broken": "input", "shown": "output", "none": "p", "reset": "button"}
    assert controls == {f"filter-{name}": tag for name, tag in kinds.items()}
    assert not [a for _, a in page.tags if int(a.get("tabindex") or 0) > 0]


def test_the_characters_that_differ_are_marked_within_a_wrong_value(tmp_path: Path, scored_run: ScoredRun) -> None:
    run = scored_run(tmp_path, {"tuned": ["right", _call("ORD-091")]})
    write_report(run)
    html = (run / "report.html").read_text(encoding="utf-8")
    assert '&#34;ORD-0<b class="differs">9</b>' in html.replace("&quot;", "&#34;")


def test_rows_that_do_not_fit_in_full_are_listed_and_the_rest_are_counted(
    tmp_path: Path, scored_run: ScoredRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = scored_run(tmp_path, {"tuned": ["我不知道"] * 30})
    write_report(run)
    html = (run / "report.html").read_text(encoding="utf-8")
    article = max(map(len, re.findall(r"<article.*?</article>", html, flags=re.DOTALL))) * 2
    monkeypatch.setattr(failures, "_ARTICLE_BYTES", article * 5)
    monkeypatch.setattr(failures, "_LISTED_BYTES", 4_000)
    page = page_of(run)
    full = [a["id"] for tag, a in page.tags if tag == "article"]
    listed = [a["id"] for tag, a in page.tags if tag == "tr" and a.get("class") == "row"]
    assert 5 <= len(full) < 30
    assert listed
    assert [*full, *listed] == [f"row-{n}" for n in range(1, len(full) + len(listed) + 1)]
    assert f"{len(listed)} more failed rows, in short" in page.text
    assert f"{30 - len(full) - len(listed)} more failed rows do not fit on this page" in page.text
    assert "30 rows are not an exact match" in page.text
    assert all(json.loads(a["data-kinds"] or "") == ["under-call"] for a in page.of_class("row"))


def test_a_very_long_answer_is_cut_and_gives_the_number_of_characters_left_out(
    tmp_path: Path, scored_run: ScoredRun
) -> None:
    page = page_of(scored_run(tmp_path, {"tuned": ["好" * 300_000]}))
    assert len(page.text) < 30_000
    assert "(294,000 more characters)" in page.text


def test_control_characters_in_a_text_are_shown_as_escapes(tmp_path: Path, scored_run: ScoredRun) -> None:
    text = "a\u202eb\x07c\u2066d 家\u200d人\n第二行"
    page = page_of(scored_run(tmp_path, {"tuned": [text]}))
    assert "a\\u202eb\\u0007c\\u2066d 家\u200d人\n第二行" in page.text


def test_exact_match_on_validation_rows_is_shown_as_a_curve(tmp_path: Path, scored_run: ScoredRun) -> None:
    run = scored_run(tmp_path, ANSWERS)
    log = [{"step": 10, "loss": 1.0}, {"step": 10, "eval_exact_match": 0.25}, {"step": 20, "eval_exact_match": 0.5}]
    write_jsonl(run / "train_log.jsonl", log)
    page = page_of(run)
    assert "step 10: 25.0%" in page.text
    assert "step 20: 50.0%" in page.text
    assert (
        len([a for _, a in page.tags if "exact match on validation rows" in (a.get("aria-label") or "").lower()]) == 1
    )


def test_a_single_model_without_failed_rows_has_no_filters(tmp_path: Path, scored_run: ScoredRun) -> None:
    page = page_of(scored_run(tmp_path, {"tuned": ["right", "right"]}))
    assert "Every row is an exact match." in page.text
    assert not [tag for tag, _ in page.tags if tag in ("select", "article")]
    assert "points" not in page.text


@pytest.mark.parametrize("group", ["HEADLINE", "ARGUMENTS", "ARGUMENT_ERRORS", "BEHAVIOUR_ERRORS", "VALIDITY"])
def test_a_new_rate_needs_only_a_measure_to_be_shown_everywhere(
    tmp_path: Path, scored_run: ScoredRun, monkeypatch: pytest.MonkeyPatch, group: str
) -> None:
    run = scored_run(tmp_path, ANSWERS, adapter=True)
    measure = wording.Measure("made_up", "Made-up accuracy", "Made up for a test.")
    monkeypatch.setattr(wording, group, (*getattr(wording, group), measure))
    monkeypatch.setattr(wording, "MEASURES", (*wording.MEASURES, measure))
    with pytest.raises(UserError, match="made_up missing"):
        write_report(run)
    found = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    for model in found["models"].values():
        model["made_up"] = rate(3, 11)
    write_json(run / "metrics.json", found)
    page = page_of(run)
    labels = [a["aria-label"] for tag, a in page.tags if tag == "svg" and a.get("class") == "bar"]
    assert [label.split(":")[0] for label in labels if label and "27.3% (3/11)" in label].count("tuned") == 1
    assert "Made up for a test." in page.text
    in_markdown = group in ("HEADLINE", "ARGUMENT_ERRORS", "BEHAVIOUR_ERRORS")
    assert ("Made-up accuracy" in (run / "report.md").read_text(encoding="utf-8")) == in_markdown
    out = StringIO()
    Console(file=out, width=200).print(summary_table(found))
    assert ("Made-up accuracy" in out.getvalue()) == in_markdown
    card = (run / "adapter" / "README.md").read_text(encoding="utf-8")
    assert ("type: made_up_accuracy" in card) == (group == "HEADLINE")


@given(st.text())
def test_legible_text_has_no_control_characters_except_line_breaks_tabs_and_joiners(text: str) -> None:
    shown = legible(text)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]", shown)
    if text.isalnum() and text.isascii():
        assert shown == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.865, "+86.5 points [-1.0, 91.0]"), (-0.02, "-2.0 points [-1.0, 91.0]"), (None, "")],
)
def test_a_difference_is_in_points_with_its_sign(value: float | None, text: str) -> None:
    assert points({"value": value, "low": -0.01, "high": 0.91}) == text


@pytest.mark.parametrize(("value", "text"), [(1e-9, "<0.0001"), (0.0312, "0.031"), (0.5, "0.50"), (1.0, "1.00")])
def test_a_p_value_has_two_significant_digits(value: float, text: str) -> None:
    assert p_value(value) == text


def test_no_line_breaks_inside_an_interval(tmp_path: Path, scored_run: ScoredRun) -> None:
    run = scored_run(tmp_path, {"<b>[x]": ["right", "right", "我不知道"]})
    write_report(run)
    html = (run / "report.html").read_text(encoding="utf-8")
    verdict = re.search(r'<p class="verdict">(.*)</p>', html)
    assert verdict is not None
    assert '<span class="unbroken">[20.8, 93.9]</span>, 3 rows' in verdict[1]
    assert "<b>" not in html


def test_figures_of_thousands_of_rows_get_their_own_line(tmp_path: Path, scored_run: ScoredRun) -> None:
    run = scored_run(tmp_path, {"tuned": ["right"] * 3})
    for rows, kind in ((3, "headline"), (10_000, "headline long")):
        metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        metrics["models"]["tuned"]["exact_match"] |= {"numerator": rows, "denominator": rows}
        (run / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
        assert [a["class"] for a in page_of(run).of_class("headline")] == [kind]
