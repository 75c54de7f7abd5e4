"""`toolhone data convert`: convert conversations of any format to OpenAI's, Hermes' or xLAM's, and report the losses.

The importer of the target format reads each converted row back. If the row then has other messages, calls or tools, it
is left out (`Changed`). Any other difference is a loss, counted by its name. Rows read from OpenAI's format are also
compared with the file: a value of the file that the conversation does not have is a loss too.
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
from toolhone.data.importers.importer import RowFault
from toolhone.data.importers.openai import in_call_order
from toolhone.data.importers.thinking import split_thought
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
    """The row that was read back says something else."""


@dataclass(slots=True)
class Loss:
    """What happened to `count` rows, with the places of the first few."""

    kind: Kind
    reason: str
    count: int = 0
    places: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Converted:
    """The report: how many conversations were read, written and written without loss, and all losses."""

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
        """Return the losses in the order of `Kind`; within a kind, the most frequent first."""
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
    """Write the sources' conversations to `out` as JSONL in a format of `WRITERS`, completely or not at all.

    Args:
        keep_extra: keep toolhone's own keys (id, expected, gold_source, meta) if the format has a place for them.
            OpenAI refuses rows that have them.

    Raises:
        UserError: if a source cannot be opened, `out` is one of them, or no row could be written.
    """
    refuse_to_overwrite(out, sources, "everything that the format has no place for would be lost")
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
            written = WRITERS[to].write(row, keep_extra)
            lost = losses(row, WRITERS[to].read(written, row.where, ()), to)
            lost += [f"{path} in the file" for path in unread_values(originals.of(row), row)]
        except (DoesNotFit, Changed) as why:
            report.note("left out", str(why), row.where)
            continue
        except RowError as error:
            report.note("left out", f"the converted row cannot be read back ({error.rule})", row.where)
            continue
        report.written += 1
        report.lossless += not lost
        for reason in lost:
            report.note("lost", reason, row.where)
        yield written
    if not report.written:
        first = next(iter(report.sorted()), None)
        cause = f"; first reason: {first.reason} ({first.places[0]})" if first else ": the sources have no rows"
        raise UserError(f"no row could be written as {to}{cause}; run `toolhone data check`")


class _Originals:
    """Finds the original row of a conversation in its file."""

    def __init__(self, formats: dict[str, str]) -> None:
        self._formats = formats
        self._files: dict[str, Iterator[SourceRow]] = {}
        self._last: SourceRow | None = None

    def of(self, row: Conversation) -> dict[str, Any]:
        """Return the row that a conversation was read from, or {} if its file is not in OpenAI's format. Ask for the
        conversations of a file in its order; the same one may come twice in a row."""
        file = row.where.rpartition(":")[0]
        if self._formats.get(file) != "openai":
            return {}
        if self._last is None or self._last.where != row.where:
            rows = self._files.setdefault(file, iter_file(file))
            self._last = next((found for found in rows if found.where == row.where), None)
        return (self._last.row if self._last else None) or {}


_Leaf = tuple[str, str]
"""A key and its value as JSON text, without its place in the row."""

# Values that the format implies: a row that omits them means the same.
_IMPLIED_BY_THE_FORMAT: frozenset[_Leaf] = frozenset(
    {("weight", "1"), ("parallel_tool_calls", "true"), ("role", '"developer"'), ("role", '"function"')}
    | {("type", f'"{kind}"') for kind in ("text", "input_text", "output_text", "refusal", "function", "tool_call")}
)


def unread_values(original: dict[str, Any], row: Conversation) -> list[str]:
    """Return the paths of values of the original that the conversation does not have. Paths omit list indices."""
    found = Counter(_leaves(row.to_json()))
    missing: list[tuple[str, _Leaf]] = []
    for place in _leaves(original):
        missing += [] if found[place] > 0 else [place]
        found[place] -= found[place] > 0
    elsewhere = Counter(leaf for _, leaf in found.elements())  # such as a schema under another key
    texts = "\n".join(text for message in row.messages for text in (message.content, message.thinking))
    lost: dict[str, None] = {}
    for path, leaf in missing:
        if elsewhere[leaf] > 0:
            elsewhere[leaf] -= 1
        elif path != "id" and leaf not in _IMPLIED_BY_THE_FORMAT:
            # A thought at the start of a text was read as thinking.
            is_read = all(text in texts for text in split_thought(str(json.loads(leaf[1]))))
            lost |= {} if is_read else {path: None}
    return list(lost)


def _leaves(value: Any, path: str = "", key: str = "") -> Iterator[tuple[str, _Leaf]]:
    """Yield the path, the key and the value of everything that is neither object, list nor null. Texts that contain a
    JSON object or list are parsed."""
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
    """Return what `after`, the row as read back, has lost of `before`, in words that can be counted. Raises Changed if
    the two differ in more than a format may lose."""
    found = [*_key_losses(before, after), *_tool_losses(before, after), *_message_losses(before, after, format)]
    return list(dict.fromkeys(found))


def _key_losses(before: Conversation, after: Conversation) -> Iterator[str]:
    # The id of a row that had none is its content hash, which changes with a new call id.
    if after.id != before.id and before.id != before.content_hash():
        yield "id"
    if after.parallel_tool_calls != before.parallel_tool_calls:
        yield "parallel_tool_calls: false"
    if before.expected is not None and after.expected != before.expected:
        yield "expected (accepted alternatives)"
    if after.gold_source != before.gold_source:
        yield "gold_source (whose answers the gold is)"
    lost = sorted(key for key, value in before.meta.items() if key not in after.meta or after.meta[key] != value)
    if lost:
        yield f"meta: {', '.join(lost)}"


def _tool_losses(before: Conversation, after: Conversation) -> Iterator[str]:
    if [tool.name for tool in before.tools] != [tool.name for tool in after.tools]:
        raise Changed("the tools differ when the row is read back")
    for old, new in zip(before.tools, after.tools, strict=True):
        if old.description != new.description:
            yield "tools: description"
        if _plain_schema(old) != _plain_schema(new):
            changed = sorted(_differing(_plain_schema(old), _plain_schema(new)))
            yield f"tools: {', '.join(changed)} in the schema"


def _plain_schema(tool: Tool) -> dict[str, Any]:
    """Return the parameters with `required` sorted, or without it if it is empty."""
    schema = {"type": "object", "properties": {}, **tool.parameters}
    required = schema.pop("required", None)
    return {**schema, "required": sorted(required)} if required else schema


def _differing(old: Any, new: Any, key: str = "schema") -> set[str]:
    """Return the keywords whose values differ."""
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
        raise Changed("the messages differ when the row is read back")
    answered = zip(old, new, _answered_calls(old), _answered_calls(new), strict=True)
    for one, other, old_answered, new_answered in answered:
        if _calls_text(one.tool_calls) != _calls_text(other.tool_calls):
            raise Changed("a call differs when the row is read back")
        if old_answered != new_answered:
            raise Changed("a result belongs to another call when the row is read back")
        if one.weight != other.weight:
            yield "weight 0: the turn would be learned"
        if one.thinking.strip() != other.thinking.strip():
            yield "thinking (reasoning_content)"
        if one.content != other.content:
            yield _lost_text(one, other, format)
    old_ids, new_ids = ([call.id for m in row.messages for call in m.tool_calls] for row in (before, after))
    if any(old is not None and old != new for old, new in zip(old_ids, new_ids, strict=True)):
        yield "call ids, which are new"


def _lost_text(one: Message, other: Message, format: str) -> str:
    if one.content.strip() == other.content.strip():
        return "white space at the ends of a text"
    if one.role == "system":
        return "words of the system message that the format adds itself"
    if one.role == "assistant" and format == "xlam" and not other.content:
        return "text beside a call" if one.tool_calls else "text of a turn without a call"
    raise Changed(f"a text of role {one.role} differs when the row is read back")


def _calls_text(calls: Sequence[ToolCall]) -> str:
    # Compare JSON texts, because True == 1 == 1.0 in Python.
    return json.dumps([[call.name, call.arguments] for call in calls], ensure_ascii=False, sort_keys=True)


def _answered_calls(messages: Sequence[Message]) -> list[int | None]:
    """Return for each tool result the index of the call that it answers in the turn before; None for other messages."""
    answered: list[int | None] = []
    order: dict[str | None, int] = {}
    for message in messages:
        if message.role == "tool":
            answered.append(order.get(message.tool_call_id))
            continue
        order = {call.id: n for n, call in enumerate(message.tool_calls)}
        answered.append(None)
    return answered
