"""Reading conversations: foreign rows become `Conversation`s here, once, and what is wrong is said with file and line.

`read_source` takes any of the formats in `formats/`, detected or told; each row gives a conversation or a fault.
`read_conversations` takes toolhone's own format (OpenAI's) and stops at the first fault, as a training run should.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from itertools import chain, islice
from pathlib import Path
from typing import Any, get_args

from toolhone.data.files import SourceRow, expand_source, iter_file
from toolhone.data.importers.openai import conversation, refuse_unwritable
from toolhone.data.importers.tool_list import read_tool_list
from toolhone.errors import RowError, UserError
from toolhone.jsonl import read_json, read_jsonl
from toolhone.records import Conversation, Example, Gold, RowFormat, Tool

__all__ = [
    "RowError",
    "RowFault",
    "conversation",
    "detect_format",
    "examples",
    "read_conversations",
    "read_source",
    "read_sources",
    "read_tools",
]

_FORMATS = {
    "openai": ("openai", "looks_like", "read"),
    "hermes": ("sharegpt", "looks_like_hermes", "read_hermes"),
    "glaive": ("sharegpt", "looks_like_glaive", "read_glaive"),
    "toolace": ("sharegpt", "looks_like_toolace", "read_toolace"),
    "llamafactory": ("sharegpt", "looks_like_llamafactory", "read_llamafactory"),
    "xlam": ("xlam", "looks_like", "read"),
    "bfcl": ("bfcl", "looks_like", "read"),
}
"""A format's module in `formats/`, and its two functions, in the order in which they are tried. Logs come before them:
they are no format of single rows, since one conversation spans many."""

FORMAT_NAMES = get_args(RowFormat)
_SAMPLE = 100

RowReader = Callable[[dict[str, Any], str, tuple[Tool, ...]], Conversation]


@dataclass(frozen=True, slots=True)
class RowFault:
    """A row that gave no conversation, or a fault beside one: `rule` tells which. `message` does not repeat `where`."""

    where: str
    rule: str
    message: str


def read_source(
    source: str | Path,
    default_tools: tuple[Tool, ...] = (),
    format: str = "auto",
    taken_for: dict[str, str] | None = None,
) -> Iterator[Conversation | RowFault]:
    """Yield a conversation or a fault for each row of a file, folder, glob or `hub:` name, in any format.

    With "auto", each file's format is what most of its first rows look like, and a row that is plainly of another is
    read as that. Log lines that are steps of one conversation give one; they come last, for all files of the source,
    and are held in memory until then. All else is read row by row.

    Args:
        taken_for: takes the format of each file, by the file's name, as reading comes to it.

    Raises:
        UserError: where a file cannot be opened, or the format's name is not known.
    """
    if format not in FORMAT_NAMES:
        raise UserError(f'format: unknown name "{format}"; expected one of {", ".join(FORMAT_NAMES)}')
    from toolhone.data.importers import logs

    if format == "bfcl" and Path(source).is_dir():  # its questions and their gold are in different files
        from toolhone.data.importers.bfcl import read_bfcl_folder

        if taken_for is not None:
            taken_for[str(source)] = format
        yield from read_bfcl_folder(Path(source))
        return
    fold = logs.Fold(default_tools)
    for file in expand_source(source):
        name, rows = _with_format(iter_file(file), format)
        if taken_for is not None:
            taken_for[file] = name
        if name == "tools":
            message = "a list of tools, not of conversations: it is left out here; name it as the tools' file"
            yield RowFault(f"{file}:1", "tools-file", message)
            continue
        for row in rows:
            if row.notes:
                yield from (RowFault(row.where, rule, message) for rule, message in row.notes)
            if row.fault is not None:
                yield RowFault(row.where, *row.fault)
            elif row.row is not None:
                yield from _read_row(row.row, row.where, name, format == "auto", default_tools, fold)
    yield from fold.conversations()


def read_sources(
    sources: Sequence[str],
    default_tools: tuple[Tool, ...] = (),
    format: str = "auto",
    taken_for: dict[str, str] | None = None,
) -> Iterator[Conversation | RowFault]:
    """Yield the rows of several sources, each `path` or `path=weight`.

    A weight of 0.5 keeps the half of the rows whose content's hash is in the lower half, so the same rows whatever
    else is in the file; 2 gives each row twice, the second with "#2" on its id; 1.5 is both. Faults come once.
    `taken_for` takes the formats, as in `read_source`.

    Raises:
        UserError: as `read_source`, and for a weight that is no number above 0.
    """
    for source in sources:
        path, weight = split_weight(source)
        for row in read_source(path, default_tools, format, taken_for):
            if weight == 1 or isinstance(row, RowFault):
                yield row
                continue
            for copy in range(1, _copies(row, weight) + 1):
                yield row if copy == 1 else replace(row, id=f"{row.id}#{copy}")


def split_weight(source: str) -> tuple[str, float]:
    """`path=weight` as both; a path alone weighs 1, and a path that exists as it stands is one, "=" and all.

    Raises:
        UserError: for a weight that is not above 0 and finite.
    """
    path, equals, text = source.rpartition("=")
    if not equals or Path(source).exists():
        return source, 1.0
    try:
        weight = float(text)
    except ValueError:
        return source, 1.0
    if not 0 < weight < float("inf"):
        raise UserError(f"{source}: expected a weight above 0, found {text}; leave the source out instead of 0")
    return path, weight


def detect_format(rows: Iterable[dict[str, Any]]) -> str:
    """The name of the format that most of the rows look like; "tools" where all are tools; "openai", whose faults tell
    what a row should have, where they look like none."""
    votes = Counter(map(_looks_like, rows))
    if set(votes) == {"tools"}:
        return "tools"
    known = [name for name, _ in votes.most_common() if name not in (None, "tools")]
    return str(known[0]) if known else "openai"


def detected_formats(source: str | Path) -> dict[str, str]:
    """The format of each file of a source, by its first rows: for a command to say what it takes them for.

    Raises:
        UserError: where a file cannot be opened.
    """
    return {file: _with_format(iter_file(file), "auto")[0] for file in expand_source(source)}


def _with_format(rows: Iterator[SourceRow], format: str) -> tuple[str, Iterator[SourceRow]]:
    if format != "auto":
        return format, rows
    sample = list(islice(rows, _SAMPLE))
    return detect_format(row.row for row in sample if row.row is not None), chain(sample, rows)


def _looks_like(row: dict[str, Any]) -> str | None:
    from toolhone.data.importers import logs

    if logs.looks_like(row):
        return "logs"
    for name in _FORMATS:
        if _function(name, 1)(row):
            return name
    function = row.get("function") if row.get("type") == "function" else row
    is_tool = isinstance(function, dict) and "parameters" in function and isinstance(function.get("name"), str)
    return "tools" if is_tool else None


def _read_row(
    row: dict[str, Any], where: str, name: str, detect: bool, default_tools: tuple[Tool, ...], fold: Any
) -> Sequence[Conversation | RowFault]:
    try:
        if name == "logs":
            return list(fold.add(row, where))
        return (_reader(name)(row, where, default_tools),)
    except RowError as error:
        other = _looks_like(row) if detect else None
        if other in (None, "tools", name):
            return (RowFault(where, error.rule, str(error).removeprefix(f"{where}: ")),)
        return _read_row(row, where, str(other), False, default_tools, fold)


@cache
def _function(name: str, which: int) -> Callable[..., Any]:
    """A format's function; its module is imported when it is first needed, so that none waits for the others."""
    names = _FORMATS[name]
    found: Callable[..., Any] = getattr(import_module(f"toolhone.data.importers.{names[0]}"), names[which])
    return found


@cache
def _reader(name: str) -> RowReader:
    return _function(name, 2)


def _copies(row: Conversation, weight: float) -> int:
    whole, part = divmod(weight, 1)
    if not part:
        return int(whole)
    # Not the plain content hash: a split by it would then fall on one side of what is kept.
    digest = hashlib.sha256(f"weight:{row.content_hash()}".encode()).digest()
    return int(whole) + (int.from_bytes(digest[:8], "big") / 2**64 < part)


# toolhone's own format, for training


def read_tools(path: Path) -> tuple[Tool, ...]:
    """Read a JSON file with a list of tools, each in OpenAI's shape or as the bare function.

    Raises:
        UserError: naming the file and the tool.
    """
    rows = read_json(path, "data.tools names the list of tools")
    refuse_unwritable(rows, str(path))
    return read_tool_list(rows, str(path))


def read_conversations(path: Path, default_tools: Sequence[Tool] = ()) -> Iterator[Conversation]:
    """Yield the conversations of a JSONL file. Rows without `tools` take `default_tools`.

    Raises:
        RowError: at the first row that is not a conversation, naming file and line.
    """
    for where, row in read_jsonl(path):
        yield conversation(row, where, tuple(default_tools))


def examples(conversation: Conversation) -> list[Example]:
    """One `Example` for each assistant turn that is to be learned (weight above 0)."""
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
