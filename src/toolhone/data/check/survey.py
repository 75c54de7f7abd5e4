"""`toolhone data check FILES`: finds all faults in one pass over conversations in any format.

`check` finds what training refuses, `Survey` finds everything, and `check_files` surveys whole files. Only hashes of
rows are kept. `RenderChecks` renders every turn as training does. With a tokenizer it counts tokens; without one it
renders toolhone's own template of a format as plain text. Tokenizers are slow to import, so that happens only if one
is named.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolhone.data.check import one_row
from toolhone.data.check.across_rows import Balance, SeenRows
from toolhone.data.check.drift import SeenTools
from toolhone.data.check.finding import Finding, finding_of, refuse_findings
from toolhone.data.check.fix import Fixed, Fixer, plan_copies
from toolhone.data.check.invented import invented_values
from toolhone.data.check.openai_profile import openai_findings
from toolhone.data.check.schema import ToolSets
from toolhone.data.check.secrets import private_findings
from toolhone.data.files import expand_source
from toolhone.data.importers.importer import RowFault
from toolhone.data.read import examples, new_joins, read_source, read_tools, unpaired, with_distinct_ids
from toolhone.errors import UserError
from toolhone.jsonl import counted
from toolhone.records import Conversation, Tool

if TYPE_CHECKING:
    from rich.console import Console

    from toolhone.data.check.tool_map import ToolChange
    from toolhone.formats.chat_format import ChatFormat

PROFILES = ("openai",)


def check(conversations: Iterable[Conversation]) -> Iterator[Finding]:
    """Yield every error (what a model must not learn), in the order of the rows."""
    survey = Survey()
    for row in conversations:
        yield from (finding for finding in survey.faults(row) if finding.severity == "error")


def refuse_faults(conversations: list[Conversation]) -> None:
    """Raise one `UserError` with all errors, if there are any. Ignores warnings and advice."""
    refuse_findings(check(conversations))


class Survey:
    """Finds everything in one pass: call `row` for each conversation, then `end`.

    `balance` has the counts, `tools` the versions of the tools. With `near`, the users' texts are kept, so memory grows
    with the data.
    """

    def __init__(self, *, near: bool = False) -> None:
        self.balance = Balance()
        self._tool_sets = ToolSets()
        self._places: dict[str, str] = {}  # of the rows so far, by id
        self._schemas_reported: set[bytes] = set()
        self._tools_searched: set[bytes] = set()
        self._rows = SeenRows(near=near)
        self.tools = SeenTools()

    def faults(self, row: Conversation) -> Iterator[Finding]:
        """Findings on a row's id, turns, schemas, calls and `expected`."""
        tools = self._tool_sets.get(row.tools)
        place = self._places.setdefault(row.id, row.where)
        if place is not row.where:
            text = f'the id "{row.id}" is already at {place}; ids must differ'
            yield Finding(row.where, "duplicate-id", text, remedy="give the row its own id, or delete the row")
        yield from one_row.turn_faults(row)
        if tools.unusable and tools.key not in self._schemas_reported:
            self._schemas_reported.add(tools.key)
            yield from one_row.schema_faults(row.where, tools)
        yield from one_row.call_faults(row, tools)
        yield from one_row.expected_findings(row, tools)

    def row(self, row: Conversation) -> Iterator[Finding]:
        """All findings on a row, by itself and compared with the rows before it."""
        self.balance.add(row)
        yield from self.faults(row)
        tools = self._tool_sets.get(row.tools)
        yield from one_row.turn_warnings(row)
        yield from one_row.control_tokens(row)
        if tools.key not in self._tools_searched:
            self._tools_searched.add(tools.key)
            yield from one_row.control_tokens_in_tools(row.where, tools)
        yield from invented_values(row, tools.vocabulary)
        yield from private_findings(row)
        self.tools.add(row, tools)
        yield from self._rows.findings(row, tools)

    def end(self, where: str) -> Iterator[Finding]:
        """Findings on all rows together, with `where` as their place."""
        yield from self.tools.findings()
        yield from self._rows.near_findings()
        yield from self.balance.findings(where)


@dataclass(frozen=True, slots=True)
class FileCheck:
    """A check of files, which runs while `found` is read. `found` has first what was fixed, then the findings. After
    that `balance` and `tools`, the versions of the tools, are complete. `copies` are the files that --fix writes."""

    found: Iterator[Fixed | Finding]
    balance: Balance
    tools: SeenTools
    copies: list[str]


def check_files(
    files: Sequence[str],
    tools: Path | None = None,
    *,
    format: str = "auto",
    profile: str | None = None,
    tokenizer: str | None = None,
    chat_format: str | None = None,
    max_tokens: int | None = None,
    near: bool = False,
    fix: Path | None = None,
    tool_map: Path | None = None,
    console: Console | None = None,
) -> FileCheck:
    """Prepare a check of files, folders, globs or `hub:` names. It runs while its `found` is read.

    Args:
        tools: a file with a JSON list of tools, for rows without tools.
        profile: "openai" also applies OpenAI's own rules.
        tokenizer, chat_format, max_tokens: with any of them, each turn is rendered, read back, and its tokens counted.
        near: also search for near duplicates, which keeps texts in memory.
        fix: write a fixed copy there, and check the copy.
        tool_map: with `fix`, map the rows to the newest versions of their tools.

    Raises:
        UserError: if a file cannot be opened, or an argument is wrong.
    """
    if profile is not None and profile not in PROFILES:
        raise UserError(f'--profile: unknown profile "{profile}"; known: {", ".join(PROFILES)}')
    default_tools = read_tools(tools) if tools else ()
    wants_rendering = tokenizer is not None or chat_format is not None or max_tokens is not None
    render = RenderChecks(tokenizer, chat_format or "auto", max_tokens) if wants_rendering else None
    copies = plan_copies(files, fix) if fix is not None else []
    for file in files:  # so that a wrong name is an error before anything is printed
        expand_source(file)
    sources = [str(copy) for _, copy in copies] or list(files)
    where = ", ".join(sources)
    changes = _read_tool_map(tool_map, files, default_tools, format, fix, console)
    survey = Survey(near=near)

    def found() -> Iterator[Fixed | Finding]:
        fixer = Fixer(default_tools, changes)
        for file, copy in copies:
            yield from fixer.write(file, copy)
        yield from fixer.not_mapped
        seen: dict[str, int] = {}
        joins = new_joins()
        for source in (*sources, None):
            rows = unpaired(joins) if source is None else read_source(source, default_tools, format, joins=joins)
            for row in counted(with_distinct_ids(rows, seen), console, "checking"):
                if isinstance(row, RowFault):
                    yield finding_of(row)
                    continue
                yield from survey.row(row)
                if render is not None:
                    yield from render.findings(row)
        if profile == "openai":
            yield from openai_findings((file for source in sources for file in expand_source(source)), where)
        yield from survey.end(where)
        if not survey.balance.rows:
            yield Finding(where, "no-rows", "no row could be read", remedy="choose files that have rows")

    return FileCheck(found(), survey.balance, survey.tools, [str(copy) for _, copy in copies])


def _read_tool_map(
    path: Path | None,
    files: Sequence[str],
    default_tools: tuple[Tool, ...],
    format: str,
    fix: Path | None,
    console: Console | None,
) -> dict[str, ToolChange]:
    """The map of --map; empty without one. The rows are read once more, to find the newest versions of their tools."""
    if path is None:
        return {}
    if fix is None:
        raise UserError("--map: the mapped rows are written to a copy; name it with --fix OUT")
    from toolhone.data.check.tool_map import read_map

    seen, tool_sets = SeenTools(), ToolSets()
    for file in files:
        for row in counted(read_source(file, default_tools, format), console, "reading the tools"):
            if isinstance(row, Conversation):
                seen.add(row, tool_sets.get(row.tools))
    return read_map(path, seen, default_tools)


MAX_TOKENS = 2048
"""The default limit, the same as that of `chat.max_tokens`."""


class RenderChecks:
    """Renders every assistant turn as training does, and counts the tokens of prompt and turn together.

    `tokenizer` is a name on the hub or a folder, or None to check only the rendered text. The `chat_format` "auto"
    needs a tokenizer.

    Raises:
        UserError: if the tokenizer cannot be loaded, or the format does not fit it.
    """

    def __init__(self, tokenizer: str | None, chat_format: str, max_tokens: int | None) -> None:
        from toolhone.chat.probe import make_renderer
        from toolhone.config import ChatConfig
        from toolhone.formats import FORMATS

        known = ("auto", *FORMATS)
        if chat_format not in known:
            raise UserError(f'--chat-format: unknown format "{chat_format}"; known: {", ".join(known)}')
        if tokenizer is None and chat_format == "auto":
            raise UserError("--chat-format: auto is detected from a tokenizer; give --tokenizer, or name the format")
        if tokenizer is None and max_tokens is not None:
            raise UserError("--max-example-tokens: tokens are counted with a tokenizer; give --tokenizer")
        self._max_tokens = None if tokenizer is None else max_tokens or MAX_TOKENS
        loaded = _load_tokenizer(tokenizer) if tokenizer else _Characters(FORMATS[chat_format])
        config = ChatConfig.model_validate({"format": chat_format})
        self._renderer = make_renderer(loaded, config, tokenizer or chat_format)

    def findings(self, row: Conversation) -> Iterator[Finding]:
        """One finding for each turn that cannot be rendered and read back unchanged, or that is too long."""
        from toolhone.chat.render import RenderError

        for example in examples(row):
            turn = f"turn {len(example.prompt)}"
            try:
                rendered = self._renderer.render(example)
            except RenderError as error:
                text = str(error).removeprefix(f"{example.where}: ")
                text = text if text.startswith(turn) else f"{turn}: {text}"
                remedy = "fix the row, or choose another chat format"
                yield Finding(row.where, "round-trip", text, remedy=remedy)
                continue
            if self._max_tokens is not None and len(rendered) > self._max_tokens:
                text = f"{turn}: {len(rendered):,} tokens including the prompt, more than {self._max_tokens:,}"
                remedy = "raise chat.max_tokens, shorten the row, or set chat.over_long: drop"
                yield Finding(row.where, "over-long", text, "warning", remedy)


def _load_tokenizer(name: str) -> Any:
    from toolhone.hub import reach_hub_or_cache

    reach_hub_or_cache(name, None, key="--tokenizer")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"--tokenizer: {name} cannot be loaded ({reason}); give a folder or a name on the hub"
        ) from None


class _Characters:
    """A tokenizer with one token per character and no template. Its vocabulary lists the special tokens that one format
    needs; they are encoded as plain text."""

    chat_template = eos_token = unk_token = unk_token_id = None

    def __init__(self, chat_format: ChatFormat) -> None:
        self.token_bytes = _CharacterBytes()
        self._needed = chat_format.special_tokens
        self.added_tokens_decoder: dict[int, Any] = {}

    def get_vocab(self) -> dict[str, int]:
        return {token: n for n, token in enumerate(self._needed)}

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(character) for character in text]}

    def convert_tokens_to_ids(self, token: str) -> None:
        """Return None: no token is more than a character."""

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return "".join(map(chr, ids))

    def apply_chat_template(self, messages: list[Any], *, tools: Any, chat_template: str, **variables: Any) -> str:
        rendered: str = _template(chat_template).render(messages=messages, tools=tools, **variables)
        return rendered


class _CharacterBytes:
    """The bytes of the tokens of `_Characters`, as `chat/token_bytes.py` gives them."""

    adds_space = False

    def of(self, ids: Sequence[int], before: int | None = None) -> list[bytes]:
        return [chr(id_).encode("utf-8", "surrogatepass") for id_ in ids]

    def text(self, ids: Sequence[int], before: int | None = None) -> str:
        return "".join(map(chr, ids))

    def absorbed(self, text: str) -> list[tuple[int, int]]:
        return []


@cache
def _template(source: str) -> Any:
    """A template that renders as in transformers: blocks are trimmed, and JSON has no escapes."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = partial(json.dumps, ensure_ascii=False)
    environment.globals["raise_exception"] = refuse
    return environment.from_string(source)
