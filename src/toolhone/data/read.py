"""Read rows of any format as `Conversation`s, and report each fault with file and line.

`read_source` reads every format in the table `importers.IMPORTERS`, detected or named. Each row gives a conversation or
a fault. `read_conversations`, for training, reads only toolhone's own format (OpenAI's) and stops at the first fault.
"""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from toolhone.data.files import SourceRow, expand_source, iter_file
from toolhone.data.importers import IMPORTERS
from toolhone.data.importers.functions import looks_like_tool
from toolhone.data.importers.importer import Fold, Importer, Join, Row, RowFault
from toolhone.data.importers.openai import conversation, read_tool_list, refuse_unwritable
from toolhone.data.importers.openapi import is_openapi, openapi_tools, parse_yaml
from toolhone.data.importers.unread import RULE as UNREAD
from toolhone.data.importers.unread import refusal, unread_format
from toolhone.errors import RowError, UserError
from toolhone.jsonl import read_json, read_jsonl
from toolhone.records import Conversation, Example, Gold, Tool

ReadRow = Conversation | RowFault
_SAMPLE = 100


def read_source(
    source: str | Path,
    default_tools: tuple[Tool, ...] = (),
    format: str = "auto",
    file_formats: dict[str, str] | None = None,
    joins: dict[str, Join] | None = None,
) -> Iterator[ReadRow]:
    """Yield a conversation or a fault for each row of a file, folder, glob or `hub:` name, in any format.

    With "auto", each file has the format of most of its first rows. A row that is clearly of another format is read in
    that format. Log lines that are steps of one conversation become one conversation. Such conversations come after all
    files of the source and stay in memory until then. All other rows are read one at a time.

    Args:
        file_formats: filled with the format of each file, by the file's name, when its reading starts.
        joins: from `new_joins`, to pair requests and responses across several sources. The caller then yields the
            faults of `unpaired`.

    Raises:
        UserError: if a file cannot be opened, or the format is neither "auto" nor in the table of importers.
    """
    known = ("auto", *IMPORTERS)
    if format not in known:
        near = difflib.get_close_matches(format, known, n=1)
        meant = f'; did you mean "{near[0]}"?' if near else ";"
        raise UserError(f'data.format: unknown format "{format}"{meant} expected one of {", ".join(known)}')
    importer = IMPORTERS.get(format)
    if importer is not None and importer.read_folder is not None and Path(source).is_dir():
        if file_formats is not None:
            file_formats[str(source)] = format
        yield from importer.read_folder(Path(source))
        return
    own_joins = new_joins() if joins is None else joins
    folds = {name: each.fold(default_tools) for name, each in IMPORTERS.items() if each.fold is not None}
    open_ = _Open(default_tools, folds, own_joins)
    for file in expand_source(source):
        name, rows = _with_format(iter_file(file), format)
        if file_formats is not None:
            file_formats[file] = name
        if name == "tools":
            message = "a list of tools, not of conversations; it is left out: give it with --tools or data.tools"
            yield RowFault(f"{file}:1", "tools-file", message)
            yield from (RowFault(row.where, *row.fault) for row in rows if row.fault is not None)
            continue
        for row in rows:
            yield from (RowFault(row.where, *note) for note in row.notes)
            if row.fault is not None:
                yield _with_known_formats(RowFault(row.where, *row.fault))
            elif row.row is not None:
                yield from _read_row(row.row, row.where, IMPORTERS[name], format == "auto", open_)
    for fold in folds.values():
        yield from fold.conversations()
    if joins is None:
        yield from unpaired(own_joins)


class _Open(NamedTuple):
    """What stays open while a source is read. The folds and joins are by the importer's name."""

    default_tools: tuple[Tool, ...]
    folds: dict[str, Fold]
    joins: dict[str, Join]


def new_joins() -> dict[str, Join]:
    """Return the joins that pair requests and responses, by the importer's name."""
    return {name: each.join() for name, each in IMPORTERS.items() if each.join is not None}


def unpaired(joins: dict[str, Join]) -> Iterator[RowFault]:
    """Yield a fault for each row whose other half is in no source that was read with these joins."""
    for join in joins.values():
        yield from join.unpaired()


def read_sources(
    sources: Sequence[str],
    default_tools: tuple[Tool, ...] = (),
    format: str = "auto",
    file_formats: dict[str, str] | None = None,
) -> Iterator[ReadRow]:
    """Yield the rows of several sources, each `path` or `path=weight`, as `read_source` does.

    The weight 0.5 keeps half of the rows, chosen by a hash of their content, whatever other rows there are. The weight
    2 yields each row twice, the second time with "#2" after its id. The weight 1.5 does both. A fault is yielded once.

    Raises:
        UserError: as `read_source`, and if a weight is not a number above 0.
    """
    seen: dict[str, int] = {}
    joins = new_joins()
    for source in sources:
        path, weight = split_weight(source)
        for row in with_distinct_ids(read_source(path, default_tools, format, file_formats, joins), seen):
            if weight == 1 or isinstance(row, RowFault):
                yield row
                continue
            for copy in range(1, _copies(row, weight) + 1):
                yield row if copy == 1 else replace(row, id=f"{row.id}#{copy}")
    yield from unpaired(joins)


def with_distinct_ids(rows: Iterable[ReadRow], seen: dict[str, int]) -> Iterator[ReadRow]:
    """Yield the rows. A row without an id of its own has its content hash as its id; if that occurred before, "-2",
    "-3", ... is added, so that ids differ. `seen` counts the ids so far, across calls."""
    for row in rows:
        if isinstance(row, RowFault):
            yield row
            continue
        count = seen[row.id] = seen.get(row.id, 0) + 1
        yield row if count == 1 or row.id != row.content_hash() else replace(row, id=f"{row.id}-{count}")


def split_weight(source: str) -> tuple[str, float]:
    """Return path and weight of `path=weight`. A path alone has the weight 1. A path that exists keeps its "=". Raises
    UserError if the weight is not above 0 and finite."""
    path, equals, text = source.rpartition("=")
    if not equals or Path(source).exists():
        return source, 1.0
    try:
        weight = float(text)
    except ValueError:
        return source, 1.0
    if not 0 < weight < float("inf"):
        raise UserError(
            f"{source}: expected a weight above 0, found {text}; to use none of its rows, remove the source"
        )
    return path, weight


def detect_format(rows: Iterable[Row]) -> str:
    """Return the format that most rows look like, "tools" if all are tools, or "openai" if they look like none, because
    its faults say what a row should have."""
    votes = Counter(map(_looks_like, rows))
    if set(votes) == {"tools"}:
        return "tools"
    known = [name for name, _ in votes.most_common() if name not in (None, "tools")]
    return str(known[0]) if known else "openai"


def detected_formats(source: str | Path) -> dict[str, str]:
    """Return the format of each file of a source, detected from its first rows. Raises UserError if one cannot be
    opened."""
    return {file: _with_format(iter_file(file), "auto")[0] for file in expand_source(source)}


def _with_format(rows: Iterator[SourceRow], format: str) -> tuple[str, Iterator[SourceRow]]:
    if format != "auto":
        return format, rows
    sample = list(islice(rows, _SAMPLE))
    return detect_format(row.row for row in sample if row.row is not None), chain(sample, rows)


def _looks_like(row: Row, other_than: Collection[str] = ()) -> str | None:
    for importer in IMPORTERS.values():
        if importer.name not in other_than and importer.looks_like(row):
            return importer.name
    return "tools" if _has_only_tools(row) else None


def _has_only_tools(row: Row) -> bool:
    """Whether the row is a tool, or a document with tools that `read_tools` reads."""
    if looks_like_tool(row) or is_openapi(row):
        return True
    tools = _listed_tools(row)
    if not isinstance(tools, list) or not tools or not all(map(looks_like_tool, tools)):
        return False
    return not any(isinstance(value, list) for key, value in row.items() if key != "tools")  # such as misspelt messages


def _listed_tools(value: Any) -> Any:
    """The list of tools in MCP's JSON-RPC response or in its result; any other value unchanged."""
    for key in ("result", "tools"):
        value = value[key] if isinstance(value, dict) and key in value else value
    return value


def _read_row(
    row: Row,
    where: str,
    importer: Importer,
    detect: bool,
    open_: _Open,
    rewriters: tuple[str, ...] = (),
) -> Sequence[ReadRow]:
    """Return the conversations and faults of a row. `rewriters` are the importers that rewrote it so far."""
    try:
        rewrite = open_.joins[importer.name].rewrite if importer.join is not None else importer.rewrite
        if rewrite is not None:
            rewritten = list(rewrite(row, where))  # as a whole, so that an error leaves no half of it behind
            rewriters = (*rewriters, importer.name)
            found: list[ReadRow] = []
            for each in rewritten:
                if isinstance(each, RowFault):
                    found.append(each)
                    continue
                if importer.to_openai:
                    name = "logs" if "request" in each else "openai"
                else:
                    name = _looks_like(each, rewriters) or "openai"
                inner = IMPORTERS["openai" if name == "tools" else name]
                found += _read_row(each, where, inner, False, open_, rewriters)
            return found
        if importer.name in open_.folds:
            return list(open_.folds[importer.name].add(row, where))
        assert importer.read is not None
        return (importer.read(row, where, open_.default_tools),)
    except RowError as error:
        other = _looks_like(row) if detect else None
        if other in (None, "tools", importer.name):
            unread = unread_format(row) if importer.name == "openai" else ""  # read as it for want of a better one
            fault = RowFault(where, UNREAD, refusal(unread)) if unread else RowFault.of_error(where, error)
            return (_with_known_formats(fault),)
        return _read_row(row, where, IMPORTERS[str(other)], False, open_)


def _with_known_formats(fault: RowFault) -> RowFault:
    """The fault; one of an unread format also lists the formats that are read."""
    if fault.rule != UNREAD:
        return fault
    return replace(fault, message=f"{fault.message} (formats that are read: {', '.join(IMPORTERS)})")


def _copies(row: Conversation, weight: float) -> int:
    whole, part = divmod(weight, 1)
    if not part:
        return int(whole)
    # Do not use the plain content hash: a later split also uses it, and would put all the kept rows on one side.
    digest = hashlib.sha256(f"weight:{row.content_hash()}".encode()).digest()
    return int(whole) + (int.from_bytes(digest[:8], "big") / 2**64 < part)


def _next_page(value: Any) -> Any:
    """The cursor of the next page of MCP's `tools/list`; None on the last page."""
    found = value.get("result", value) if isinstance(value, dict) else None
    return (found.get("nextCursor") or found.get("next_cursor")) if isinstance(found, dict) else None


# toolhone's own format, for training


def read_tools(path: Path) -> tuple[Tool, ...]:
    """Return the tools of a file: a list in any shape that `importers/functions.py` reads, MCP's `tools/list`, or an
    OpenAPI document, as JSON or YAML. Raises UserError, naming the file and the tool that cannot be read."""
    if path.suffix in (".yaml", ".yml") and path.is_file():
        rows = parse_yaml(path.read_bytes(), str(path))
    else:
        rows = read_json(path, "give the file with the list of tools as data.tools or --tools")
    refuse_unwritable(rows, str(path))
    if is_openapi(rows):
        return read_tool_list(openapi_tools(rows, str(path)), str(path))
    if _next_page(rows):
        raise UserError(f"{path}: the list of tools goes on (nextCursor); request all pages and join their tools")
    return read_tool_list(_listed_tools(rows), str(path))


def read_conversations(path: Path, default_tools: Sequence[Tool] = ()) -> Iterator[Conversation]:
    """Yield the conversations of a JSONL file. Rows without `tools` get `default_tools`. Raises RowError at the first
    row that is not a conversation, with file and line."""
    for where, row in read_jsonl(path):
        yield conversation(row, where, tuple(default_tools))


def examples(conversation: Conversation) -> list[Example]:
    """Return one `Example` for each assistant turn to learn (weight above 0)."""
    last = max((n for n, m in enumerate(conversation.messages) if m.role == "assistant"), default=-1)
    return [
        Example(
            id=f"{conversation.id}/{n}",
            conversation_id=conversation.id,
            prompt=conversation.messages[:n],
            turn=turn,
            gold=conversation.expected if conversation.expected and n == last else Gold.of_message(turn),
            tools=conversation.tools,
            where=conversation.where,
            gold_source=conversation.gold_source,
            meta=conversation.meta,
        )
        for n, turn in enumerate(conversation.messages)
        if turn.role == "assistant" and turn.weight > 0
    ]


def turns(rows: Iterable[Conversation]) -> list[Example]:
    """Return the examples of all conversations, in order."""
    return [example for row in rows for example in examples(row)]
