"""`toolhone data review`: write a sheet on which a person marks turns as right, wrong or fixed.

In: conversations, and optionally a model's predictions or scores on them. Out: review.html or review.csv. The page
works offline and keeps its marks in the browser until they are exported. In the CSV, a person fills in the column
`mark`. `data/review.py` applies the marks to the data.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolhone.data.read import examples
from toolhone.data.review_sample import Sampled, gold_calls, sample, turn_hash
from toolhone.data.sources import read_and_report
from toolhone.errors import UserError
from toolhone.evaluate.doubts import read_doubts
from toolhone.evaluate.match import score
from toolhone.jsonl import read_jsonl, write_text
from toolhone.records import Example, FormatName, Prediction, Score, Tool
from toolhone.report.pages import page_environment, page_script

if TYPE_CHECKING:
    from rich.console import Console

_READ_ONLY = ("doubts", "conversation", "gold", "predicted")
_COLUMNS = ("id", "reason", "probability", "hash", *_READ_ONLY, "mark", "fixed", "note")
"""Columns of the CSV sheet. The page exports all except the read-only ones."""


def write_sheet(
    sources: Sequence[str],
    out: Path,
    console: Console,
    *,
    tools: Sequence[Tool] = (),
    format: str = "auto",
    predictions: Path | None = None,
    doubts: Path | None = None,
    disagreements: Mapping[str, str] | None = None,
    chat_format: FormatName = "hermes",
    rows: int = 200,
    random_share: float = 0.5,
    seed: int = 7,
) -> list[Sampled]:
    """Choose the turns to review (see `sample`), write them as a page or as CSV, and return them.

    Args:
        out: the sheet; its name ends in .html or .csv.
        format: the format of the sources' rows.
        predictions: a file of predictions, whose texts are in `chat_format`, or a file of scores.
        doubts: a file of `toolhone data doubt`. The sheet then begins with the most doubtful turns.
        disagreements: how another model's answer differs, by example id. The sheet then begins with the doubtful turns.

    Raises:
        UserError: if a file cannot be read, if the predictions are of other data, or if `out` has another ending.
    """
    if out.suffix not in (".html", ".csv"):
        raise UserError(f"--out {out}: expected review.html or review.csv")
    if rows < 1 or not 0 < random_share <= 1:
        raise UserError(f"expected --rows of 1 or more and a --random-share in (0, 1], found {rows}, {random_share}")
    source = ", ".join(sources)
    turns = [example for row in read_and_report(sources, tuple(tools), format, console) for example in examples(row)]
    twice = [id for id, count in Counter(example.id for example in turns).items() if count > 1]
    if twice:
        raise UserError(
            f'{source}: the id "{twice[0]}" occurs twice, so marks would be ambiguous; give each row its own id'
        )
    if not turns:
        raise UserError(f"{source}: no assistant turn to review")
    answers = {} if predictions is None else read_answers(predictions, turns, chat_format)
    differing = {id: answer for id, (agrees, answer) in answers.items() if not agrees} | dict(disagreements or {})
    ranking = None if doubts is None and disagreements is None else _read_ranking(doubts, turns)
    chosen = sample(turns, differing, rows=rows, random_share=random_share, seed=seed, ranking=ranking)
    toolsets: list[tuple[Tool, ...]] = []  # most rows of a file share one
    for one in chosen:
        if one.example.tools not in toolsets:
            toolsets.append(one.example.tools)
    items = [_item(one, answers.get(one.example.id, (True, ""))[1], toolsets) for one in chosen]
    title = ", ".join(Path(one).name for one in sources)
    text = _page(title, items, toolsets) if out.suffix == ".html" else _csv(items)
    write_text(out, text.encode("utf-8", "replace").decode("utf-8"))  # a model's text may have a lone surrogate
    reasons = ", ".join(f"{count} {name}" for name, count in Counter(one.reason for one in chosen).most_common())
    console.print(f"written: {out}: {len(chosen)} of {len(turns)} assistant turns ({reasons})", markup=False)
    return chosen


def _read_ranking(path: Path | None, turns: Sequence[Example]) -> dict[str, str]:
    """Return what a file of doubts says about these turns, by example id, the most doubtful first; nothing without a
    file."""
    ids = {turn.id for turn in turns}
    found = {} if path is None else {id: str(doubt) for id, doubt in read_doubts(path).items() if id in ids}
    if path is not None and not found:
        raise UserError(f"{path}: has no turn of the data; expected ids such as {turns[0].id}")
    return found


def read_answers(path: Path, turns: Sequence[Example], format: FormatName) -> dict[str, tuple[bool, str]]:
    """Return whether a model's answer agrees with the gold, and the answer itself, by example id.

    Raises:
        UserError: if a line is neither a prediction nor a score, or if the file answers none of the turns.
    """
    by_id = {turn.id: turn for turn in turns}
    answers: dict[str, tuple[bool, str]] = {}
    for where, row in read_jsonl(path):
        if row.get("id") not in by_id:
            continue
        try:
            if "exact" in row:
                scored = Score.from_json(row)
            else:
                scored = score(by_id[row["id"]], Prediction.from_json(row), format)
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{where}: neither a prediction nor a score ({error})") from None
        calls = [{"name": call.name, "arguments": call.arguments} for call in scored.calls]
        answer = json.dumps(calls, ensure_ascii=False) if calls else scored.text
        answers[scored.id] = (scored.exact, f"{scored.model}: {answer}")
    if not answers:
        raise UserError(f"{path}: answers no turn of the data; expected ids such as {turns[0].id}")
    return answers


def _item(one: Sampled, predicted: str, toolsets: Sequence[tuple[Tool, ...]]) -> dict[str, Any]:
    """Return a turn as the page shows it."""
    example = one.example
    return {
        "id": example.id,
        "reason": one.reason,
        "probability": round(one.probability, 6),
        "hash": turn_hash(example),
        "doubts": [f"{kind}: {text}" for kind, text in one.doubts.items()],
        "messages": [message.to_json() for message in example.prompt],
        "gold": {
            "status": example.gold.status,
            "calls": [{"name": call.name, "arguments": call.arguments} for call in gold_calls(example)],
            "content": example.turn.content,
        },
        "predicted": predicted,
        "toolset": toolsets.index(example.tools),
        "source": example.gold_source,
    }


def _page(title: str, items: list[dict[str, Any]], toolsets: Sequence[tuple[Tool, ...]]) -> str:
    """Return the page with the sheet embedded as JSON."""
    name = hashlib.sha256(json.dumps([title, [one["hash"] for one in items]]).encode()).hexdigest()[:12]
    tools = [[tool.to_json()["function"] for tool in toolset] for toolset in toolsets]
    data = json.dumps({"title": title, "name": name, "items": items, "toolsets": tools}, ensure_ascii=False)
    # A browser gives a meaning only to "</" and "<!--" inside a script element.
    sheet = data.replace("<", "\\u003c")
    return page_environment().get_template("review.html").render(sheet=sheet, **page_script("review"))


def _csv(items: list[dict[str, Any]]) -> str:
    """Return the sheet as CSV. It starts with a byte order mark, because Excel misreads Chinese without it."""
    out = io.StringIO()
    table = csv.DictWriter(out, _COLUMNS, lineterminator="\n")
    table.writeheader()
    for one in items:
        calls, content = one["gold"]["calls"], one["gold"]["content"]
        table.writerow(
            {
                **{key: one[key] for key in ("id", "reason", "probability", "hash", "predicted")},
                "doubts": "; ".join(one["doubts"]),
                "conversation": "\n".join(_message_text(message) for message in one["messages"]),
                "gold": json.dumps(calls, ensure_ascii=False) if calls else content,
            }
        )
    return "\ufeff" + out.getvalue()


def _message_text(message: dict[str, Any]) -> str:
    calls = [call["function"] for call in message.get("tool_calls", ())]
    parts = [message["content"] or "", *(f"{call['name']}({call['arguments']})" for call in calls)]
    return f"{message['role']}: {' '.join(part for part in parts if part)}"
