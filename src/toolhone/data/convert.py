"""`toolhone data convert`: conversations of any format into OpenAI's, Hermes' or xLAM's, and what that cost.

Every row is read back from what would be written, by the format's own importer. If it then asks, calls or answers
something else, it is left out (`Changed`); any other difference is a loss, counted by its name. Rows of OpenAI's format
are also compared with the file itself: a value there that the row as read does not hold is a loss of reading.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from rich.console import Console

from toolhone.data.files import SourceRow, iter_file
from toolhone.data.importers import IMPORTERS
from toolhone.data.importers.importer import RowFault
from toolhone.data.importers.openai import in_call_order
from toolhone.data.read import read_sources, read_tools
from toolhone.data.sources import refuse_to_overwrite
from toolhone.data.write_formats import WRITERS, DoesNotFit, with_ids
from toolhone.errors import RowError, UserError
from toolhone.jsonl import write_jsonl
from toolhone.records import Conversation, Message, Tool, ToolCall
from toolhone.strict_json import StrictJsonError, parse_strict

Kind = Literal["left out", "lost", "in reading"]

_PLACES = 3


class Changed(Exception):  # noqa: N818  (an outcome that is counted, not a fault)
    """What was read back says something else."""


@dataclass(slots=True)
class Loss:
    """What happened to `count` rows, and the first few of their places."""

    kind: Kind
    reason: str
    count: int = 0
    places: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Converted:
    """The report: conversations read, rows written, those written without any loss, and every loss."""

    read: int = 0
    written: int = 0
    lossless: int = 0
    losses: dict[tuple[Kind, str], Loss] = field(default_factory=dict)

    def note(self, kind: Kind, reason: str, where: str) -> None:
        loss = self.losses.setdefault((kind, reason), Loss(kind, reason))
        loss.count += 1
        if len(loss.places) < _PLACES:
            loss.places.append(where)

    def sorted(self) -> list[Loss]:
        """The losses in the order of `Kind`, the most frequent first."""
        kinds = get_args(Kind)
        return sorted(self.losses.values(), key=lambda loss: (kinds.index(loss.kind), -loss.count, loss.reason))


def convert(
    sources: Sequence[str],
    to: str,
    out: Path,
    *,
    tools: Path | None = None,
    format: str = "auto",
    keep_extra: bool = False,
    console: Console | None = None,
) -> Converted:
    """Write the sources' conversations to `out` as JSONL of a format of `WRITERS`. The file is whole or not there.

    Args:
        keep_extra: keep toolhone's own keys (id, expected, gold_source, meta) if the format has a place for them;
            OpenAI refuses rows that have them.

    Raises:
        UserError: if a source cannot be opened, `out` is one of them, or no row could be written.
    """
    refuse_to_overwrite(out, sources, "what the format cannot hold would be gone")
    report = Converted()
    formats: dict[str, str] = {}
    rows = read_sources(sources, read_tools(tools) if tools else (), format, formats)
    write_jsonl(out, _written(rows, _Originals(formats), to, keep_extra, report), console)
    return report


def _written(
    rows: Iterable[Conversation | RowFault], originals: _Originals, to: str, keep_extra: bool, report: Converted
) -> Iterator[dict[str, Any]]:
    for row in rows:
        if isinstance(row, RowFault):
            report.note("in reading", row.rule, row.where)
            continue
        report.read += 1
        try:
            written = WRITERS[to](row, keep_extra)
            lost = losses(row, IMPORTERS[to].read(written, row.where, ()), to)
            lost += [f"{path} in the file" for path in unread_values(originals.of(row), row)]
        except (DoesNotFit, Changed) as why:
            report.note("left out", str(why), row.where)
            continue
        except RowError as error:
            report.note("left out", f"what would be written could not be read ({error.rule})", row.where)
            continue
        report.written += 1
        report.lossless += not lost
        for reason in lost:
            report.note("lost", reason, row.where)
        yield written
    if not report.written:
        first = next(iter(report.sorted()), None)
        cause = f"; first reason: {first.reason} ({first.places[0]})" if first else ": there are none"
        raise UserError(f"not one row could be written as {to}{cause}; try `toolhone data check`")


class _Originals:
    """The rows of files as they are written there, found by the places of the conversations read from them."""

    def __init__(self, formats: dict[str, str]) -> None:
        self._formats = formats
        self._files: dict[str, Iterator[SourceRow]] = {}
        self._last: SourceRow | None = None

    def of(self, row: Conversation) -> dict[str, Any]:
        """The row that a conversation was read from; {} if its file is not of OpenAI's format. The conversations of a
        file must come in its order; one may come twice in a row."""
        file = row.where.rpartition(":")[0]
        if self._formats.get(file) != "openai":
            return {}
        if self._last is None or self._last.where != row.where:
            rows = self._files.setdefault(file, iter_file(file))
            self._last = next((found for found in rows if found.where == row.where), None)
        return (self._last.row if self._last else None) or {}


_Leaf = tuple[str, str]
"""A key and its value as JSON text, wherever in a row it is."""

# What the format says by itself, whether or not a row writes it.
_SAID_BY_THE_FORMAT: frozenset[_Leaf] = frozenset(
    {("weight", "1"), ("parallel_tool_calls", "true"), ("role", '"developer"'), ("role", '"function"')}
    | {("type", f'"{kind}"') for kind in ("text", "input_text", "output_text", "refusal", "function", "tool_call")}
)


def unread_values(original: dict[str, Any], row: Conversation) -> list[str]:
    """The paths in a row of a file, without the numbers of lists, whose values the conversation does not hold."""
    held = Counter(_leaves(row.to_json()))
    missing: list[tuple[str, _Leaf]] = []
    for place in _leaves(original):
        missing += [] if held[place] > 0 else [place]
        held[place] -= held[place] > 0
    elsewhere = Counter(leaf for _, leaf in held.elements())  # such as a schema under another key
    said = "\n".join(message.content for message in row.messages)
    lost: dict[str, None] = {}
    for path, leaf in missing:
        if elsewhere[leaf] > 0:
            elsewhere[leaf] -= 1
        elif path != "id" and leaf not in _SAID_BY_THE_FORMAT and str(json.loads(leaf[1])) not in said:
            lost[path] = None
    return list(lost)


def _leaves(value: Any, path: str = "", key: str = "") -> Iterator[tuple[str, _Leaf]]:
    """The path of each value that is neither object, list nor null, and the value with its key; texts that are JSON
    objects or lists are entered."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        with suppress(StrictJsonError):
            value = parse_strict(value)
    if isinstance(value, dict):
        for name, inside in value.items():
            yield from _leaves(inside, f"{path}.{name}" if path else name, name)
    elif isinstance(value, list):
        for inside in value:
            yield from _leaves(inside, path, key)
    elif value is not None:
        number = int(value) if isinstance(value, float) and value.is_integer() else value
        yield path, (key, json.dumps(number, ensure_ascii=False))


def losses(before: Conversation, after: Conversation, format: str) -> list[str]:
    """What `after`, read from a row of the format, has lost of `before`, in the same words for all such rows. Raises
    Changed if the two differ in more than a format may lose."""
    found = [*_key_losses(before, after), *_tool_losses(before, after), *_message_losses(before, after, format)]
    return list(dict.fromkeys(found))


def _key_losses(before: Conversation, after: Conversation) -> Iterator[str]:
    # A row without an id is named by its content's hash, which a new call id changes.
    if after.id != before.id and before.id != before.content_hash():
        yield "id"
    if after.parallel_tool_calls != before.parallel_tool_calls:
        yield "parallel_tool_calls: false"
    if before.expected is not None and after.expected != before.expected:
        yield "expected (accepted alternatives)"
    if after.gold_source != before.gold_source:
        yield "gold_source (whose answers the gold is)"
    lacking = sorted(key for key, value in before.meta.items() if key not in after.meta or after.meta[key] != value)
    if lacking:
        yield f"meta: {', '.join(lacking)}"


def _tool_losses(before: Conversation, after: Conversation) -> Iterator[str]:
    if [tool.name for tool in before.tools] != [tool.name for tool in after.tools]:
        raise Changed("the tools are others when it is read back")
    for old, new in zip(before.tools, after.tools, strict=True):
        if old.description != new.description:
            yield "tools: description"
        if _plain_schema(old) != _plain_schema(new):
            changed = sorted(_differing(_plain_schema(old), _plain_schema(new)))
            yield f"tools: {', '.join(changed)} in the schema"


def _plain_schema(tool: Tool) -> dict[str, Any]:
    """The parameters with `required` sorted, and without it if it is empty."""
    schema = {"type": "object", "properties": {}, **tool.parameters}
    required = schema.pop("required", None)
    return {**schema, "required": sorted(required)} if required else schema


def _differing(old: Any, new: Any, key: str = "schema") -> set[str]:
    """The keywords whose values differ."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return {key}
    found = old.keys() ^ new.keys()
    for name in old.keys() & new.keys():
        if old[name] != new[name]:
            found |= _differing(old[name], new[name], "schema" if key == "properties" else name)
    return found


def _message_losses(before: Conversation, after: Conversation, format: str) -> Iterator[str]:
    old, new = with_ids(before.messages), with_ids(after.messages)
    if format == "xlam" and old and old[0].role == "system":
        yield "system message"
        old = tuple(message for message in old if message.role != "system")
    old = in_call_order(old)
    if [message.role for message in old] != [message.role for message in new]:
        raise Changed("the messages are others when it is read back")
    for one, other, old_tie, new_tie in zip(old, new, _ties(old), _ties(new), strict=True):
        if _calls_text(one.tool_calls) != _calls_text(other.tool_calls):
            raise Changed("a call is another when it is read back")
        if old_tie != new_tie:
            raise Changed("a result would be another call's when it is read back")
        if one.weight != other.weight:
            yield "weight 0: the turn would be learned"
        if one.content != other.content:
            yield _lost_text(one, other, format)
    old_ids, new_ids = ([call.id for m in row.messages for call in m.tool_calls] for row in (before, after))
    if any(old is not None and old != new for old, new in zip(old_ids, new_ids, strict=True)):
        yield "call ids, which are others now"


def _lost_text(one: Message, other: Message, format: str) -> str:
    if one.content.strip() == other.content.strip():
        return "white space at the ends of a text"
    if one.role == "system":
        return "words of the system message that the format says itself"
    if one.role == "assistant" and format == "xlam" and not other.content:
        return "text beside a call" if one.tool_calls else "text of a turn without a call"
    raise Changed(f"a text of role {one.role} is another when it is read back")


def _calls_text(calls: Sequence[ToolCall]) -> str:
    # As JSON text, since in Python True == 1 and 1 == 1.0.
    return json.dumps([[call.name, call.arguments] for call in calls], ensure_ascii=False, sort_keys=True)


def _ties(messages: Sequence[Message]) -> list[int | None]:
    """For each message, which call of the turn before it answers; None for other messages."""
    ties: list[int | None] = []
    order: dict[str | None, int] = {}
    for message in messages:
        if message.role == "tool":
            ties.append(order.get(message.tool_call_id))
            continue
        order = {call.id: n for n, call in enumerate(message.tool_calls)}
        ties.append(None)
    return ties
