"""The report: its contents, that hostile text does no harm, and that it needs only files."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_page import page_of
from rich.console import Console
from scored_run import made_score

from toolhone.errors import UserError
from toolhone.evaluate.metrics import metrics
from toolhone.jsonl import write_json, write_jsonl
from toolhone.records import ArgumentError, CallMatch, Gold, GoldCall, Score, ToolCall
from toolhone.report.facts import verdict
from toolhone.report.report import write_report
from toolhone.report.tables import summary_table

CONTRACTS = Path(__file__).parents[1] / "fixtures" / "contracts"
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7*7 }}|`</pre></style>"
ORDER = Gold("calls", (GoldCall("query_order", {"order_id": ["ORD-001"]}),))


def _score(number: int, model: str, **fields: Any) -> Score:
    row: dict[str, Any] = {
        "id": f"order-{number}/2",
        "conversation_id": f"order-{number}",
        "model": model,
        "question": f"帮我查订单 {number}",
        "text": "好的",
        "meta": {"language": "zh", "turn": "first"},
    }
    return made_score(**{**row, **fields})


def right(number: int, model: str, **fields: Any) -> Score:
    call = (ToolCall("query_order", {"order_id": "ORD-001"}),)
    found = {"matches": (CallMatch(0, 0, 1, ()),), "names_right": True, "exact": True, "schema_valid": True}
    return _score(number, model, **{"status": "calls", "gold": ORDER, "calls": call, **found, **fields})


def wrong_value(number: int, model: str, value: str = "ORD-002", **fields: Any) -> Score:
    error = ArgumentError("query_order", "order_id", "wrong", ["ORD-001"], value)
    found = {"calls": (ToolCall("query_order", {"order_id": value}),), "matches": (CallMatch(0, 0, 0, (error,)),)}
    return right(number, model, **{**found, "exact": False, **fields})


def malformed(number: int, model: str, **fields: Any) -> Score:
    cut = '<tool_call>\n{"name": "query_order", "argum'
    found = {"status": "malformed", "failure": "no closing tag", "gold": ORDER, "missing_calls": (0,), "text": cut}
    return _score(number, model, **{**found, **fields})


def abstained(number: int, model: str, **fields: Any) -> Score:
    return _score(number, model, **{"names_right": True, "exact": True, **fields})


def over_call(number: int, model: str, **fields: Any) -> Score:
    call = (ToolCall("query_order", {"order_id": "ORD-001"}),)
    return _score(
        number, model, **{"status": "calls", "calls": call, "extra_calls": (0,), "schema_valid": True, **fields}
    )


BASE = [malformed(1, "base"), right(2, "base"), malformed(3, "base"), over_call(4, "base")]
TUNED = [right(1, "tuned"), wrong_value(2, "tuned"), wrong_value(3, "tuned"), abstained(4, "tuned")]

TRAIN_LOG = [
    {"step": 1, "loss": 1.9, "tokens_per_second": 310.0},
    {"step": 2, "loss": 0.7, "tokens_per_second": 330.0},
    {"step": 2, "eval_loss": 0.6},
]
MANIFEST = {
    "toolhone": "0.1.0",
    "created": "2025-11-02T10:21:07+00:00",
    "hardware": "CPU, 4 threads, float32",
    "git_commit": "abc123-dirty",
    "model": {"name": "HuggingFaceTB/SmolLM2-135M-Instruct"},
    "data": {"train": {"rows": 100, "examples": 112, "sha256": "9f2b" * 16}},
    "stages": {"train": {"finished": "2025-11-02T10:34:40+00:00", "seconds": 812.0, "peak_memory_gb": 6.1,
                         "trainable_parameters": 5, "total_parameters": 200}},
}  # fmt: skip


def make_run(folder: Path, scores: dict[str, list[Score]], provenance: dict[str, Any] | None = None) -> Path:
    """Write a run folder as `toolhone score` does, without a training log, manifest or config."""
    for model, rows in scores.items():
        write_jsonl(folder / "scores" / f"{model}.jsonl", (row.to_json() for row in rows))
    write_json(folder / "metrics.json", metrics(scores, provenance or {}))
    return folder


def trained_run(folder: Path, scores: dict[str, list[Score]]) -> Path:
    make_run(folder, scores)
    write_jsonl(folder / "train_log.jsonl", TRAIN_LOG)
    write_json(folder / "manifest.json", MANIFEST)
    (folder / "config.yaml").write_text("name: cpu\n", encoding="utf-8")
    return folder


def markdown_of(folder: Path) -> str:
    write_report(folder)
    return (folder / "report.md").read_text(encoding="utf-8")


def markdown_tables(text: str) -> list[list[list[str]]]:
    """Return the tables outside code blocks, as rows of cells."""
    prose = re.sub(r"^(`{3,})\w*\n.*?\n\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    blocks = re.findall(r"(?:^\|.*\n)+", prose, flags=re.MULTILINE)
    return [[re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()] for block in blocks]


def test_the_page_is_one_file_that_loads_nothing(tmp_path: Path) -> None:
    page = page_of(trained_run(tmp_path, {"base": BASE, "tuned": TUNED}))
    targets = [value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "href")]
    assert targets
    assert all(target == "data:," or (target or "").startswith("#") for target in targets)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import|https?://", html)


def test_every_link_within_the_page_has_a_target(tmp_path: Path) -> None:
    page = page_of(trained_run(tmp_path, {"base": BASE, "tuned": TUNED}))
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    links = {(attributes["href"] or "")[1:] for tag, attributes in page.tags if tag == "a"}
    assert links <= ids


def test_the_content_policy_allows_only_the_page_s_own_script(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path, {"base": BASE, "tuned": TUNED}))
    [script] = page.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    [policy] = [a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a]
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_hostile_text_is_shown_and_never_run(tmp_path: Path) -> None:
    hostile = {"id": HOSTILE, "question": HOSTILE, "text": HOSTILE, "meta": {"language": HOSTILE}, "tools": (HOSTILE,)}
    gold = Gold("calls", (GoldCall(HOSTILE, {HOSTILE: [HOSTILE]}),))
    error = ArgumentError(HOSTILE, HOSTILE, "wrong", [HOSTILE], HOSTILE)
    match = CallMatch(0, 0, 0, (error,))
    tuned = wrong_value(1, "tuned", gold=gold, calls=(ToolCall(HOSTILE, {HOSTILE: "x"}),), matches=(match,), **hostile)
    base = malformed(1, "base", gold=gold, failure=HOSTILE, **hostile)
    run = make_run(tmp_path, {"base": [base], "tuned": [tuned]}, {"quarantined": {HOSTILE: HOSTILE}})
    write_json(run / "manifest.json", {"toolhone": HOSTILE, "model": {"name": HOSTILE}, "dropped": [HOSTILE]})
    (run / "config.yaml").write_text(HOSTILE, encoding="utf-8")

    page = page_of(run)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == 1
    assert "img" not in tags
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]
    assert page.text.count(HOSTILE) >= 10
    [row] = page.of_tag("article")
    assert json.loads(row["data-tools"] or "") == [HOSTILE]


def test_hostile_text_stays_inside_its_markdown_cell_or_code_block(tmp_path: Path) -> None:
    text = "````\n# not a heading\n| not | a table |\n```"
    gold = Gold("calls", (GoldCall("a|b<img>", {"x": ["1"]}),))
    scores = [malformed(1, "tuned", gold=gold, text=text, question=text, failure="| # `", tools=("a|b<img>",))]
    markdown = markdown_of(make_run(tmp_path, {"tuned": scores}))
    assert f"`````text\n{text}\n`````" in markdown
    assert "a\\|b\\<img\\>" in markdown
    for table in markdown_tables(markdown):
        assert len({len(row) for row in table}) == 1


def test_a_lone_surrogate_in_a_model_s_text_does_not_stop_the_report(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"tuned": [malformed(1, "tuned", text="before")]})
    scores = run / "scores" / "tuned.jsonl"
    scores.write_text(scores.read_text(encoding="utf-8").replace("before", "\\ud800"), encoding="utf-8")
    assert "\\ud800" in page_of(run).text


def test_every_failed_row_of_the_last_model_is_on_the_page(tmp_path: Path) -> None:
    tuned = [wrong_value(i, "tuned") if i % 3 else right(i, "tuned") for i in range(60)]
    base = [malformed(i, "base") for i in range(60)]
    page = page_of(make_run(tmp_path, {"base": base, "tuned": tuned}))
    assert len(page.of_tag("article")) == sum(not score.exact for score in tuned) == 40
    assert "The first 20 of 60" in " ".join(page.text.split())


def test_rows_that_the_base_model_got_right_are_flagged(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path, {"base": BASE, "tuned": TUNED}))
    assert [row.get("data-broken") for row in page.of_tag("article")] == ["yes", None]
    assert page.text.count("base got it right") == 1
    assert "Answer of base (right)" in page.text
    assert "2 rows are not an exact match. base got 1 of them right." in page.text


def test_the_filter_lists_the_tools_and_kinds_that_occur_with_their_counts(tmp_path: Path) -> None:
    tuned = [wrong_value(1, "tuned"), wrong_value(2, "tuned"), malformed(3, "tuned"), over_call(4, "tuned")]
    page = page_of(make_run(tmp_path, {"tuned": tuned}))
    options = [attributes["value"] for tag, attributes in page.tags if tag == "option"]
    assert options == ["", "query_order", "", "malformed", "over-call", "wrong value"]
    assert "query_order (4)" in page.text
    assert "wrong value (2)" in page.text
    assert [json.loads(row["data-kinds"] or "") for row in page.of_tag("article")][2:] == [["malformed"], ["over-call"]]


def test_page_and_markdown_show_the_figures_of_metrics_json(tmp_path: Path) -> None:
    run = trained_run(tmp_path, {"base": BASE, "tuned": TUNED})
    page, markdown = page_of(run), markdown_of(run)
    found = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["models"]
    for model in found.values():
        for key in ("exact_match", "tool_name_accuracy", "argument_accuracy", "malformed", "over_call"):
            rate = model[key]
            share = "–" if rate["value"] is None else f"{100 * rate['value']:.1f}%"
            assert share in page.text
            assert f"{rate['numerator']}/{rate['denominator']}" in page.text
            assert share in markdown
    sentence = "base 25.0% to tuned 50.0% exact match, +25.0 points"
    assert sentence in page.text
    assert sentence in markdown


def test_a_rate_over_nothing_is_a_dash(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"base": [abstained(1, "base")], "tuned": [abstained(1, "tuned")]})
    page, markdown = page_of(run), markdown_of(run)
    assert "Argument accuracy" in page.text
    assert "| – " in markdown
    for text in (page.text, markdown):
        assert not re.search(r"\bNone\b|\bnan\b|\bnull\b", text)


def test_a_run_that_only_evaluates_has_a_report(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path, {"tuned": TUNED}))
    assert "No loss was logged" in page.text
    assert "the commands that reproduce it are unknown" in page.text
    assert not [tag for tag, _ in page.tags if tag == "polyline"]


def test_a_trained_run_shows_its_loss_cost_data_and_how_to_reproduce_it(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "cpu", {"base": BASE, "tuned": TUNED})
    page = page_of(run)
    assert "step 2: validation loss 0.6000" in page.text
    for text in ("13 min 32 s", "6.1 GB", "5 of 200 (2.50%)", "1.900 to 0.700", "9f2b9f2b9f2b9f2b", "112"):
        assert text in page.text
    assert "git checkout abc123 " in page.text
    assert "make train CONFIG=runs/cpu/config.yaml" in page.text
    assert "make train CONFIG=runs/cpu/config.yaml" in markdown_of(run)


def test_excluded_rows_are_counted_and_listed(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"tuned": TUNED}, {"quarantined": {"order-9/2": "its gold calls no known tool"}})
    write_json(run / "manifest.json", {"dropped": ["order-7/2", "order-8/2"]})
    page, markdown = page_of(run), markdown_of(run)
    assert "order-9/2: its gold calls no known tool" in page.text
    assert "order-7/2\norder-8/2" in page.text
    for text in (page.text, markdown):
        assert "1 test row is excluded from the figures of every model: the gold answer itself" in text
        assert "2 turns were left out of training: longer than chat.max_tokens." in text


def test_every_row_of_a_markdown_table_has_the_same_number_of_cells(tmp_path: Path) -> None:
    tables = markdown_tables(markdown_of(trained_run(tmp_path, {"base": BASE, "tuned": TUNED})))
    assert len(tables) == 4
    for table in tables:
        assert len({len(row) for row in table}) == 1
        assert all(re.fullmatch(r" -{3}:? ", cell) for cell in table[1])
        assert len(table) > 2


def test_markdown_shows_ten_failed_rows_and_gives_their_total(tmp_path: Path) -> None:
    markdown = markdown_of(make_run(tmp_path, {"tuned": [malformed(i, "tuned") for i in range(12)]}))
    assert len(re.findall(r"^### \d+\. ", markdown, flags=re.MULTILINE)) == 10
    assert "The first 10 of 12" in markdown


def test_the_same_files_give_the_same_report(tmp_path: Path) -> None:
    run = trained_run(tmp_path, {"base": BASE, "tuned": TUNED})
    write_report(run)
    first = [(run / name).read_bytes() for name in ("report.html", "report.md")]
    write_report(run)
    assert [(run / name).read_bytes() for name in ("report.html", "report.md")] == first


def test_figures_on_gold_from_another_model_are_called_agreement_and_never_accuracy(tmp_path: Path) -> None:
    scores = {
        name: [wrong_value(1, name, gold_source="gpt-4o"), right(2, name, gold_source="gpt-4o")]
        for name in ("base", "tuned")
    }
    run = trained_run(tmp_path, scores)
    found = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    printed = _printed(found)
    for text in (page_of(run).text, markdown_of(run), printed, verdict(found)):
        assert "agreement with gpt-4o" in text
        assert "accuracy" not in text.lower()
        assert "exact match" not in text.lower().replace("not an exact match", "")


def test_three_models_are_shown_side_by_side_in_order(tmp_path: Path) -> None:
    scores = {name: [right(1, name), wrong_value(2, name)] for name in ("base", "large", "tuned")}
    run = make_run(tmp_path, scores)
    page = page_of(run)
    assert "base 50.0% to large 50.0% to tuned 50.0% exact match, +0.0 points" in page.text
    assert {"Answer of base (wrong)", "Answer of large (wrong)"} <= set(
        re.findall(r"Answer of \w+ \(wrong\)", page.text)
    )
    assert markdown_tables(markdown_of(run))[0][0] == [" Measure ", " base ", " large ", " tuned ", " Difference "]


def test_a_confusion_matrix_too_large_to_read_is_replaced_by_a_list_of_mistakes(tmp_path: Path) -> None:
    scores = []
    for i in range(40):
        gold = Gold("calls", (GoldCall(f"tool_{i}", {}),))
        call = (ToolCall("tool_0", {}),)
        exact = i == 0
        found = (
            {"matches": (CallMatch(0, 0, 0, ()),)}
            if exact
            else {"missing_calls": (0,), "extra_calls": (0,), "matches": ()}
        )
        tools = tuple(f"tool_{n}" for n in range(40))
        scores.append(right(i, "tuned", gold=gold, calls=call, tools=tools, exact=exact, names_right=exact, **found))
    page = page_of(make_run(tmp_path, {"tuned": scores}))
    assert "matrix" not in [attributes.get("class") for tag, attributes in page.tags if tag == "table"]
    assert "most common mistakes" in page.text


RATES = st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def _headline(right_rows: int, rows: int) -> dict[str, Any]:
    share = right_rows / rows
    rate = {"value": share, "numerator": right_rows, "denominator": rows, "low": share * 0.9, "high": share}
    return {"rows": rows, "exact_match": rate}


@given(RATES, RATES)
def test_the_verdict_s_numbers_are_those_of_the_metrics(base: tuple[int, int], tuned: tuple[int, int]) -> None:
    tuned = (min(tuned[0], base[1]), base[1])
    found = {"models": {"base": _headline(*base), "tuned": _headline(*tuned)}}
    numbers = re.findall(r"\d+(?:\.\d+)?", verdict(found))
    rate = found["models"]["tuned"]["exact_match"]
    expected = [100 * base[0] / base[1], 100 * rate["value"], 100 * rate["low"], 100 * rate["high"], base[1]]
    assert [float(number) for number in numbers] == pytest.approx(expected, abs=0.1)


def test_the_verdict_is_one_sentence() -> None:
    tuned = {"value": 0.96, "numerator": 192, "denominator": 200, "low": 0.9234, "high": 0.9796}
    base = {"value": 0.095, "numerator": 19, "denominator": 200, "low": 0.06, "high": 0.14}
    models = {"base": {"rows": 200, "exact_match": base}, "tuned": {"rows": 200, "exact_match": tuned}}
    assert verdict({"models": models}) == "base 9.5% to tuned 96.0% exact match [92.3, 98.0], 200 rows"
    del models["base"]
    assert verdict({"models": models}) == "tuned 96.0% exact match [92.3, 98.0], 200 rows"


def test_the_verdict_of_no_rows_is_a_dash() -> None:
    rate = {"value": None, "numerator": 0, "denominator": 0, "low": None, "high": None}
    assert verdict({"models": {"tuned": {"rows": 0, "exact_match": rate}}}) == "tuned – exact match, 0 rows"


def _printed(found: dict[str, Any]) -> str:
    out = StringIO()
    Console(file=out, width=140, highlight=False).print(summary_table(found))
    return out.getvalue()


def test_the_terminal_table_has_headline_figures_and_the_errors_that_occur() -> None:
    printed = _printed(metrics({"base": BASE, "tuned": TUNED}, {}))
    assert re.search(r"Exact match .*25\.0% \[4\.6, 69\.9\] 1/4 .*50\.0% \[15\.0, 85\.0\] 2/4", printed)
    assert re.search(r"Malformed .*50\.0% 2/4 .*0\.0% 0/4", printed)
    assert "Truncated" not in printed


def test_the_terminal_table_shows_markup_in_a_model_s_name_as_text() -> None:
    assert "[red]x[/nope]" in _printed(metrics({"[red]x[/nope]": TUNED}, {}))


def _with_metrics(run: Path, change: Any) -> Path:
    found = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    change(found)
    write_json(run / "metrics.json", found)
    return run


def test_a_run_without_metrics_names_the_command_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.json: no such file; run `toolhone score --run"):
        write_report(tmp_path)


def test_scores_that_are_missing_or_from_another_run_are_rejected(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"base": BASE, "tuned": TUNED})
    write_jsonl(run / "scores" / "tuned.jsonl", [score.to_json() for score in TUNED[:3]])
    with pytest.raises(UserError, match=r"models\.tuned\.rows is 4, but .*tuned\.jsonl has 3 lines"):
        write_report(run)
    (run / "scores" / "tuned.jsonl").unlink()
    with pytest.raises(UserError, match=r"tuned\.jsonl: no such file"):
        write_report(run)
    assert not (run / "report.html").exists()


def test_metrics_without_a_measure_are_rejected_and_the_measure_is_named(tmp_path: Path) -> None:
    run = _with_metrics(make_run(tmp_path, {"tuned": TUNED}), lambda found: found["models"]["tuned"].pop("over_call"))
    with pytest.raises(UserError, match=r"metrics\.json: models\.tuned: over_call missing"):
        write_report(run)


@pytest.mark.parametrize(
    ("text", "message"), [("{", r"metrics\.json:1: broken JSON"), ("[]", "expected a JSON object")]
)
def test_broken_metrics_are_rejected_with_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "metrics.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        write_report(tmp_path)


def test_a_score_line_without_a_field_is_rejected_with_file_and_line(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"tuned": TUNED})
    rows: Iterable[dict[str, Any]] = [{**score.to_json()} for score in TUNED]
    broken = [{k: v for k, v in row.items() if k != "gold"} if i == 1 else row for i, row in enumerate(rows)]
    write_jsonl(run / "scores" / "tuned.jsonl", broken)
    with pytest.raises(UserError, match=r"tuned\.jsonl:2: not a score \('gold'\)"):
        write_report(run)


def test_the_contract_s_golden_files_give_a_report(tmp_path: Path) -> None:
    found = json.loads((CONTRACTS / "metrics.json").read_text(encoding="utf-8"))
    [model] = found["models"]
    scores = (CONTRACTS / "score.jsonl").read_text(encoding="utf-8")
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / f"{model}.jsonl").write_text(scores, encoding="utf-8")
    write_json(tmp_path / "metrics.json", found)
    page = page_of(tmp_path)
    assert verdict(found) in page.text
    assert len(page.of_tag("article")) == sum(not json.loads(line)["exact"] for line in scores.splitlines()) == 1
