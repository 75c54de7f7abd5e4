"""A sheet on which a person marks turns right, wrong or mended: an HTML page with keys, or a CSV file.

In: conversations, and where there are any, a model's predictions or scores of them. Out: review.html, which works
offline and keeps its marks in the browser until they are exported, or review.csv, whose column `mark` is filled in.
`marks.py` reads either back into the data.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolhone.data.read import examples
from toolhone.data.review.sample import Sampled, gold_calls, sample
from toolhone.data.sources import read_and_report
from toolhone.errors import UserError
from toolhone.jsonl import read_jsonl, write_text
from toolhone.records import Example, FormatName, Prediction, Score, Tool, ToolCall

if TYPE_CHECKING:
    from rich.console import Console

_FOLDER = Path(__file__).parents[2] / "report" / "templates"
COLUMNS = (
    "id",
    "reason",
    "probability",
    "hash",
    "doubts",
    "conversation",
    "gold",
    "predicted",
    "mark",
    "mended",
    "note",
)
"""Of the CSV sheet. The page's export has all but those that are for reading only."""


def write_sheet(
    sources: Sequence[str],
    out: Path,
    console: Console,
    *,
    tools: Sequence[Tool] = (),
    format: str = "auto",
    predictions: Path | None = None,
    chat_format: FormatName = "hermes",
    rows: int = 200,
    random_share: float = 0.5,
    seed: int = 7,
) -> list[Sampled]:
    """Choose the turns to look at (see `sample.py`) and write the sheet, as a page or as CSV by the name of `out`.

    The rows of the sources are read in `format`. `predictions` is a file of predictions, whose text is read in
    `chat_format`, or of scores.

    Raises:
        UserError: for files that cannot be read or do not belong together, and for a sheet of another kind.
    """
    if out.suffix not in (".html", ".csv"):
        raise UserError(f"--out {out}: expected review.html or review.csv")
    if rows < 1 or not 0 < random_share <= 1:
        raise UserError(f"expected --rows of 1 or more and a --random-share in (0, 1], found {rows}, {random_share}")
    source = ", ".join(sources)
    turns = [example for row in read_and_report(sources, tuple(tools), format, console) for example in examples(row)]
    twice = [id for id, count in Counter(example.id for example in turns).items() if count > 1]
    if twice:
        raise UserError(f'{source}: the id "{twice[0]}" stands twice; give each row its own, else marks are ambiguous')
    if not turns:
        raise UserError(f"{source}: no assistant turn to look at")
    answered = {} if predictions is None else read_answers(predictions, turns, chat_format)
    differing = {id: answer for id, (agrees, answer) in answered.items() if not agrees}
    chosen = sample(turns, differing, rows=rows, random_share=random_share, seed=seed)
    toolsets: list[tuple[Tool, ...]] = []  # each once: rows of one file mostly share theirs
    items = [item(one, answered.get(one.example.id, (True, ""))[1], toolsets) for one in chosen]
    write_text(
        out,
        page(", ".join(Path(one).name for one in sources), items, toolsets) if out.suffix == ".html" else sheet(items),
    )
    reasons = Counter(one.reason for one in chosen)
    shown = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    console.print(f"written: {out}: {len(chosen)} of {len(turns)} assistant turns ({shown})", markup=False)
    return chosen


def read_answers(path: Path, turns: Sequence[Example], format: FormatName) -> dict[str, tuple[bool, str]]:
    """Whether a model's answers agree with the gold, and what they are, by example id.

    Raises:
        UserError: for a line that is neither a prediction nor a score, or a file that answers none of the turns.
    """
    from toolhone.evaluate.match import score

    by_id = {turn.id: turn for turn in turns}
    answers: dict[str, tuple[bool, str]] = {}
    for where, row in read_jsonl(path):
        if row.get("id") not in by_id:
            continue
        try:
            if "exact" in row:
                judged = Score.from_json(row)
            else:
                judged = score(by_id[row["id"]], Prediction.from_json(row), format)
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{where}: neither a prediction nor a score ({error})") from None
        calls = _calls_text(judged.calls) if judged.calls else judged.text
        answers[judged.id] = (judged.exact, f"{judged.model}: {calls}")
    if not answers:
        raise UserError(f"{path}: answers no turn of the data; expected ids such as {turns[0].id}")
    return answers


def turn_hash(example: Example) -> str:
    """A hash of the turn and all before it: a mark holds for what the person saw."""
    seen = [message.to_json() for message in (*example.prompt, example.turn)]
    text = json.dumps([seen, example.gold.to_json()], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def item(one: Sampled, predicted: str, toolsets: list[tuple[Tool, ...]]) -> dict[str, Any]:
    """A turn as the page shows it. Its tools are added to `toolsets`, unless they are there."""
    example = one.example
    if example.tools not in toolsets:
        toolsets.append(example.tools)
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


def page(title: str, items: list[dict[str, Any]], toolsets: list[tuple[Tool, ...]]) -> str:
    """The page, with the sheet inside it."""
    name = hashlib.sha256(json.dumps([title, [one["hash"] for one in items]]).encode()).hexdigest()[:12]
    tools = [[tool.to_json()["function"] for tool in toolset] for toolset in toolsets]
    data = json.dumps({"title": title, "name": name, "items": items, "toolsets": tools}, ensure_ascii=False)
    script = (_FOLDER / "review.js").read_text(encoding="utf-8")
    parts = {
        # The page's content policy lets this one script run, by its hash, and loads nothing from anywhere.
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "script": script,
        # Inside a script element only "</" and "<!--" mean anything to a browser.
        "sheet": _encodable(data.replace("<", "\\u003c")),
    }
    html = (_FOLDER / "review.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], html)


def sheet(items: list[dict[str, Any]]) -> str:
    """The sheet as CSV, with a byte order mark: without it, Excel takes Chinese for something else."""
    out = io.StringIO()
    table = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    table.writeheader()
    for one in items:
        said = "\n".join(_message_text(message) for message in one["messages"])
        gold = json.dumps(one["gold"]["calls"], ensure_ascii=False) if one["gold"]["calls"] else one["gold"]["content"]
        kept = {key: one[key] for key in ("id", "reason", "probability", "hash", "predicted")}
        table.writerow({**kept, "doubts": "; ".join(one["doubts"]), "conversation": said, "gold": gold})
    return _encodable("\ufeff" + out.getvalue())


def _message_text(message: dict[str, Any]) -> str:
    calls = [call["function"] for call in message.get("tool_calls", ())]
    parts = [message["content"] or "", *(f"{call['name']}({call['arguments']})" for call in calls)]
    return f"{message['role']}: {' '.join(part for part in parts if part)}"


def _calls_text(calls: Sequence[ToolCall]) -> str:
    return json.dumps([{"name": call.name, "arguments": call.arguments} for call in calls], ensure_ascii=False)


def _encodable(text: str) -> str:
    """With a mark for what UTF-8 cannot hold: a model's text may have half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode("utf-8")
