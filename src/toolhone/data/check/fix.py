"""`toolhone data check --fix OUT`: writes a fixed copy of the files, and says what was done to each row.

A row in OpenAI's format is fixed if there is only one way to fix it and its meaning stays. Fixing the copy again
changes nothing. Each kind of fault and its fix:

legacy fields: `functions`, `function_call` and the role `function` become `tools`, `tool_calls` and `tool`;
arguments encoded twice or more: encoded once;
nulls that a table filled in: removed from schemas, if JSON Schema allows no null there, and from arguments, if the
    tool's schema refuses them and accepts the arguments without them;
an empty `tool_calls`: removed;
old versions of tools, with --map: mapped to the newest (`check/tool_map.py`);
missing ids: given to calls that a result follows, and to results if only one call is open.

Each row of the copy is one line of JSON. A row that cannot be read is copied byte for byte. The copy leaves out blank
lines, byte order marks, and rows that repeat an earlier row (the same tools and messages, whatever their ids). Nothing
else is lost: a row that can be neither read nor copied, as in a damaged compressed file, is reported.
"""

from __future__ import annotations

import gzip
import json
import zlib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolhone.data.check.across_rows import content_key
from toolhone.data.check.finding import Finding
from toolhone.data.check.schema import CompiledTool, ToolSets
from toolhone.data.files import SourceRow, expand_source, iter_file
from toolhone.data.importers import openai
from toolhone.data.importers.functions import arguments_key, read_tool, schema_key
from toolhone.data.importers.schemas import without_nulls
from toolhone.errors import RowError, UserError
from toolhone.jsonl import json_line, whole_file
from toolhone.records import Tool
from toolhone.strict_json import StrictJsonError, parse_line, parse_strict
from toolhone.tool_schema import without_paths, written_path

if TYPE_CHECKING:
    from toolhone.data.check.tool_map import ToolChange

Done = list[tuple[str, str]]  # rule, and what was done

_MAX_ENCODINGS = 8
_TOOL_SETS = ToolSets()


@dataclass(frozen=True, slots=True)
class Fixed:
    """One thing that was done to a row. `where` is the row's place in the original file."""

    where: str
    rule: str
    message: str


def plan_copies(sources: Sequence[str], out: Path) -> list[tuple[str, Path]]:
    """Each file of the sources and the path of its copy: `out` for one file, a file in the folder `out` for several.

    Raises:
        UserError: if two copies would have the same name, or a copy would overwrite its original.
    """
    files = [file for source in sources for file in expand_source(source)]
    if len(files) == 1 and not out.is_dir():
        copies = [(files[0], out)]
    else:
        copies = [(file, out / f"{Path(file.removeprefix('hub:')).name.partition('.')[0]}.jsonl") for file in files]
    originals: dict[Path, str] = {}
    for file, copy in copies:
        if Path(file).resolve() == copy.resolve():
            raise UserError(f"--fix: {copy} is the input file itself; choose another path")
        if copy in originals:
            raise UserError(
                f"--fix: the copies of {originals[copy]} and {file} would both be {copy}; fix the files one by one"
            )
        originals[copy] = file
    return copies


class Fixer:
    """Writes the fixed copies of files; finds repeated rows across all of them. With a map of tools, `not_mapped` has
    the rows that it cannot be applied to."""

    def __init__(self, default_tools: tuple[Tool, ...], tool_map: Mapping[str, ToolChange] | None = None) -> None:
        self.not_mapped: list[Finding] = []
        self._default_tools = default_tools
        self._tool_map = tool_map
        self._seen: dict[Any, str] = {}

    def write(self, file: str, copy: Path) -> Iterator[Fixed]:
        """Write the copy of one file, and yield what was done, row by row. The copy appears once it is complete."""
        with whole_file(copy) as out, closing(_numbered_lines(file)) as lines:
            for source in iter_file(file):
                line, done = self._row(source, lines)
                yield from (Fixed(source.where, rule, message) for rule, message in done)
                if line is not None:
                    out.write(line)

    def _row(self, source: SourceRow, lines: Iterator[tuple[int, bytes]]) -> tuple[bytes | None, Done]:
        bom = [("bom", "byte order mark removed") for rule, _ in source.notes if rule == "bom"]
        if source.row is None:
            line = _broken_line(source.where, lines)
            lost = [("left-out", "left out: can be neither read nor copied as a line")]
            return line, bom if line is not None else [*bom, *lost]
        row, done = fix_row(source.row, self._default_tools)
        if self._tool_map:
            row, mapped = self._mapped(row, source.where, self._tool_map)
            done = [*done, *mapped]
        place = self._seen.setdefault(self._key(row), source.where)
        if place != source.where:
            return None, [*bom, *done, ("duplicate", f"left out: the same row is at {place}")]
        return json_line(row), bom + done

    def _mapped(
        self, row: dict[str, Any], where: str, tool_map: Mapping[str, ToolChange]
    ) -> tuple[dict[str, Any], Done]:
        from toolhone.data.check.tool_map import MapConflict, map_row

        if not _has_messages(row):
            text = "the map was not applied: the row is not in OpenAI's format"
            remedy = "convert it first: toolhone data convert --to openai --keep-extra"
            self.not_mapped.append(Finding(where, "not-mapped", text, "warning", remedy))
            return row, []
        try:
            row, done = map_row(row, tool_map)
        except MapConflict as why:
            remedy = "fix the row or the map; the copy has the row unchanged"
            self.not_mapped.append(Finding(where, "not-mapped", f"the map was not applied: {why}", remedy=remedy))
            return row, []
        return row, [("mapped", "; ".join(done))] if done else []

    def _key(self, row: dict[str, Any]) -> Any:
        if openai.looks_like(row):
            try:
                return content_key(openai.read(row, "", self._default_tools))
            except RowError:
                pass  # the check of the copy reports it; such a row repeats only a row with the same text
        return hash(json.dumps({key: value for key, value in row.items() if key != "id"}, sort_keys=True))


def _numbered_lines(file: str) -> Generator[tuple[int, bytes]]:
    """The lines of a file with their numbers. A table has no lines; a damaged archive has those before the damage."""
    if file.startswith("hub:") or file.endswith((".parquet", ".zst")):
        return
    opener = gzip.open if file.endswith(".gz") else open
    with opener(file, "rb") as stream, suppress(OSError, EOFError, zlib.error):
        yield from enumerate(stream, 1)


def _broken_line(where: str, lines: Iterator[tuple[int, bytes]]) -> bytes | None:
    """The line at `where`, if it is a line that cannot be read as a row; None for a row of an array or a table."""
    number = int(where.rpartition(":")[2])
    text = next((line for n, line in lines if n == number), b"").rstrip(b"\r\n")
    # Part of an array or object over several lines, or of a file in another encoding, is not a line to copy.
    if len(text) < 2 or text.startswith((b"[", BOM_UTF16_LE, BOM_UTF16_BE)):
        return None
    try:
        value, _ = parse_line(text)
    except StrictJsonError:
        return text + b"\n"
    return None if isinstance(value, dict) else text + b"\n"


def fix_row(row: dict[str, Any], default_tools: Sequence[Tool] = ()) -> tuple[dict[str, Any], Done]:
    """The fixed row, and what was done. Returns the same object if there is nothing to fix, or if the row is not in
    OpenAI's format."""
    if not _has_messages(row):
        return row, []
    done: Done = []
    fixed = _without_null_schemas(_legacy_to_tools(row, done), done)
    kept = [dict(message) for message in row["messages"]]
    _legacy_to_calls(kept, done)
    for number, message in enumerate(kept):
        if "tool_calls" in message and message["tool_calls"] == []:
            del message["tool_calls"]
            done.append(("empty-tool-calls", f"message {number}: empty tool_calls removed"))
        if isinstance(message.get("tool_calls"), list):
            message["tool_calls"] = [
                _fixed_call(call, f"message {number}: call {n}", fixed.get("tools"), default_tools, done)
                for n, call in enumerate(message["tool_calls"])
            ]
    _link_results(kept, done)
    return ({**fixed, "messages": kept}, done) if done else (row, [])


def _has_messages(row: dict[str, Any]) -> bool:
    messages = row.get("messages")
    return isinstance(messages, list) and all(isinstance(message, dict) for message in messages)


def _legacy_to_tools(row: dict[str, Any], done: Done) -> dict[str, Any]:
    functions = row.get("functions")
    if not isinstance(functions, list) or row.get("tools") is not None:
        return row
    if not all(isinstance(function, dict) and isinstance(function.get("name"), str) for function in functions):
        return row
    done.append(("legacy", f"functions rewritten as tools ({len(functions)})"))
    tools = [{"type": "function", "function": function} for function in functions]
    kept = {key: value for key, value in row.items() if key not in ("functions", "tools", "function_call")}
    if row.get("function_call") not in (None, "auto"):  # a request's setting; it stays unless it is the default
        kept["function_call"] = row["function_call"]
    return {**kept, "tools": tools}


def _without_null_schemas(row: dict[str, Any], done: Done) -> dict[str, Any]:
    tools = row.get("tools")
    if not isinstance(tools, list):
        return row
    kept: list[Any] = []
    for number, tool in enumerate(tools):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        key = schema_key(function) if isinstance(function, dict) else "parameters"
        cleaned, places = without_nulls(function.get(key)) if isinstance(function, dict) else (None, [])
        if places and isinstance(function, dict):
            done.append(("null-filled-schema", f"tool {number}: {len(places)} null(s) removed from its parameters"))
            tool = _with_function(tool, {**function, key: cleaned})
        kept.append(tool)
    return {**row, "tools": kept}


def _with_function(outer: dict[str, Any], function: dict[str, Any]) -> dict[str, Any]:
    """A tool or call with another function: in its wrapper, or bare if it was bare."""
    return {**outer, "function": function} if "function" in outer else function


def _legacy_to_calls(messages: list[dict[str, Any]], done: Done) -> None:
    """Rewrite legacy calls and results, in place; a result only if it follows the call that it names."""
    for number, message in enumerate(messages):
        call = message.get("function_call")
        called = isinstance(call, dict) and isinstance(call.get("name"), str)
        if message.get("role") == "assistant" and called and not message.get("tool_calls"):
            del message["function_call"]
            message["tool_calls"] = [{"id": _fresh_id(messages), "type": "function", "function": call}]
            done.append(("legacy", f"message {number}: function_call rewritten as tool_calls"))
        if message.get("role") != "function" or not number:
            continue
        calls = messages[number - 1].get("tool_calls")
        only = calls[0] if isinstance(calls, list) and len(calls) == 1 and isinstance(calls[0], dict) else {}
        function = only.get("function", only)
        name = function.get("name") if isinstance(function, dict) else None
        if name is None or message.get("name") not in (None, name):
            continue
        if only.get("id") is None:
            only = {**only, "id": _fresh_id(messages)}
            messages[number - 1]["tool_calls"] = [only]
        if isinstance(only["id"], str):
            message.pop("name", None)
            message |= {"role": "tool", "tool_call_id": only["id"]}
            done.append(("legacy", f"message {number}: role function rewritten as tool"))


def _fixed_call(call: Any, place: str, tools: Any, default_tools: Sequence[Tool], done: Done) -> Any:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return call
    key = arguments_key(function)
    given = function.get(key)
    arguments = _encoded_once(given)
    if arguments is not given:
        done.append(("arguments-encoded-twice", f"{place}: arguments encoded once"))
    tool = _tool_named(str(function.get("name")), tools, default_tools)
    arguments = _without_null_arguments(arguments, tool, place, done)
    return call if arguments is given else _with_function(call, {**function, key: arguments})


def _encoded_once(arguments: Any) -> Any:
    """The innermost JSON string of the arguments, if it holds an object; otherwise the arguments unchanged."""
    text = arguments
    for _ in range(_MAX_ENCODINGS):
        decoded = _decoded(text)
        if isinstance(decoded, dict):
            return text
        if not isinstance(decoded, str):
            return arguments
        text = decoded
    return arguments


def _without_null_arguments(given: Any, tool: CompiledTool | None, place: str, done: Done) -> Any:
    arguments = _decoded(given) if isinstance(given, str) else given
    nulls = tool.filled_nulls(arguments) if tool is not None and isinstance(arguments, dict) else []
    if not nulls:
        return given
    named = ", ".join(map(written_path, nulls))
    done.append(("null-arguments", f"{place}: null arguments removed ({named})"))
    kept = without_paths(arguments, nulls)
    return json.dumps(kept, ensure_ascii=False) if isinstance(given, str) else kept


def _decoded(text: Any) -> Any:
    if not isinstance(text, str):
        return None
    try:
        return parse_strict(text)
    except (json.JSONDecodeError, StrictJsonError):
        return None


def _tool_named(name: str, tools: Any, default_tools: Sequence[Tool]) -> CompiledTool | None:
    """The tool that a call names: one of the row's own or, if the row has none, of the default tools."""
    offered = list(default_tools) if tools is None else []
    for row in _listed(tools):
        with suppress(RowError):  # the check of the copy reports it
            offered.append(read_tool(row, "tools"))
    return _TOOL_SETS.get(tuple(tool for tool in offered if tool.name == name)).by_name.get(name)


def _listed(tools: Any) -> list[Any]:
    """The row's list of tools, decoded if it is a JSON string."""
    found = _decoded(tools) if isinstance(tools, str) else tools
    return found if isinstance(found, list) else []


def _link_results(messages: list[dict[str, Any]], done: Done) -> None:
    """Add the ids that link results to their calls, in place."""
    for number, message in enumerate(messages):
        calls = message.get("tool_calls")
        if message.get("role") != "assistant" or not isinstance(calls, list):
            continue
        results = list(takewhile(lambda later: later.get("role") == "tool", messages[number + 1 :]))
        if not results or not all(isinstance(call, dict) for call in calls):
            continue
        given = [result.get("tool_call_id") for result in results]
        if len(calls) == len(results) == 1 and calls[0].get("id") is None and isinstance(given[0], str):
            calls[0] = {**calls[0], "id": given[0]}
            done.append(("missing-call-id", f"message {number}: call 0 got the id of its result"))
        elif all(id is None for id in given) or all(call.get("id") is not None for call in calls):
            # Otherwise a result with an unknown id may answer any call without an id, so those calls stay unchanged.
            for n, call in enumerate(calls):
                if call.get("id") is None:
                    calls[n] = {**call, "id": _fresh_id(messages)}
                    done.append(("missing-call-id", f'message {number}: call {n} got the id "{calls[n]["id"]}"'))
        without_id = [n for n, result in enumerate(results) if result.get("tool_call_id") is None]
        open_ids = [call["id"] for call in calls if call.get("id") is not None and call["id"] not in given]
        if len(without_id) == len(open_ids) == 1 and len(results) == len(calls):
            results[without_id[0]]["tool_call_id"] = open_ids[0]
            at = number + 1 + without_id[0]
            done.append(
                ("missing-call-id", f'message {at}: the result got the id of the only open call "{open_ids[0]}"')
            )


def _fresh_id(messages: list[dict[str, Any]]) -> str:
    """The first of call_1, call_2, ... that no call or result of the row uses."""
    used: set[Any] = set()
    for message in messages:
        used.add(str(message.get("tool_call_id")))
        calls = message.get("tool_calls")
        used |= {str(call.get("id")) for call in calls if isinstance(call, dict)} if isinstance(calls, list) else set()
    return next(id for n in count(1) if (id := f"call_{n}") not in used)
