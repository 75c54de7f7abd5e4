"""Calls held against the tools that the row offers, and `expected` held against both.

In: a conversation. Out: findings. Rows of one file mostly share their tools, so that these are compiled once for each
content and found again by it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import marshal
from collections.abc import Iterator

from toolhone.data.check.finding import Finding
from toolhone.data.check.invented import Vocabulary
from toolhone.data.check.schema import CompiledTool
from toolhone.records import Conversation, Gold, Message, Tool, ToolCall

_KEPT = 512
"""Tool lists held compiled: enough for a file whose rows draw from a catalogue, and bounded."""


class ToolSet:
    """The tools of a conversation, compiled. `key` identifies them all as they are written, `digests` each definition
    by its content; `vocabulary` is what `invented.py` need not find in the conversation."""

    __slots__ = ("by_name", "digests", "key", "tools", "unusable", "vocabulary")

    def __init__(self, key: bytes, tools: tuple[Tool, ...], compiled: dict[bytes, CompiledTool]) -> None:
        self.key = key
        self.tools = tools
        self.vocabulary = Vocabulary(tools)
        self.by_name: dict[str, CompiledTool] = {}
        self.digests: dict[str, bytes] = {}
        for tool in tools:
            digest = _digest(tool)
            if digest not in compiled:
                if len(compiled) >= 16 * _KEPT:
                    compiled.clear()
                compiled[digest] = CompiledTool(tool)
            self.by_name[tool.name] = compiled[digest]
            self.digests[tool.name] = digest
        self.unusable = any(tool.unusable for tool in self.by_name.values())

    def faults(self, call: ToolCall) -> Iterator[tuple[str, str]]:
        """Rule and message of each fault of a call."""
        if call.name in self.by_name:
            yield from self.by_name[call.name].faults(call.arguments)
            return
        near = difflib.get_close_matches(call.name, self.by_name, n=1)
        hint = f' (did you mean "{near[0]}"?)' if near else f"; known: {', '.join(self.by_name) or 'none'}"
        yield "unknown-tool", f'tool call "{call.name}" is not in tools{hint}'


class ToolSets:
    """Compiled tools, found again by their content."""

    def __init__(self) -> None:
        self._sets: dict[bytes, ToolSet] = {}
        self._compiled: dict[bytes, CompiledTool] = {}
        self._last: ToolSet | None = None

    def get(self, tools: tuple[Tool, ...]) -> ToolSet:
        last = self._last
        if last is not None and last.tools is tools:
            return last
        # marshal is many times as fast as JSON here, and keeps 1, 1.0 and true apart. Version 2 of its format depends
        # on the values alone, not on which of them are one object.
        written = marshal.dumps([(tool.name, tool.description, tool.parameters) for tool in tools], 2)
        key = hashlib.blake2b(written, digest_size=16).digest()
        if key not in self._sets:
            if len(self._sets) >= _KEPT:
                self._sets.clear()
            self._sets[key] = ToolSet(key, tools, self._compiled)
        self._last = self._sets[key]
        return self._last


def _digest(tool: Tool) -> bytes:
    text = json.dumps([tool.name, tool.description, tool.parameters], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def call_faults(row: Conversation, tools: ToolSet) -> Iterator[Finding]:
    """Unknown tools and arguments that break their tool's schema."""
    for number, turn in enumerate(row.messages):
        for call in turn.tool_calls:
            known = tools.by_name.get(call.name)
            if known is not None and known.accepts(call.arguments):
                continue
            for rule, text in tools.faults(call):
                yield Finding(row.where, rule, f"message {number}: {text}", remedy=_REMEDIES.get(rule, ""))


def schema_faults(where: str, tools: ToolSet) -> Iterator[Finding]:
    """Schemas that are none. To be told once for each set of tools."""
    for tool in tools.by_name.values():
        if tool.unusable:
            remedy = "--fix takes the nulls out" if tool.unusable_rule == "null-filled-schema" else ""
            yield Finding(where, tool.unusable_rule, tool.unusable, remedy=remedy)


def expected_findings(row: Conversation, tools: ToolSet) -> Iterator[Finding]:
    """`expected` held against the tools, and against the turn that it is the gold of."""
    gold = row.expected
    if gold is None:
        return
    for call in gold.calls:
        if call.name not in tools.by_name:
            text = f'expected: the call "{call.name}" is not in tools, so that no answer can be right'
            yield Finding(row.where, "expected", text, remedy="offer the tool, or mend the name")
            return
        canonical = {name: accepted[0] for name, accepted in call.arguments.items() if name not in call.optional}
        for _, text in tools.by_name[call.name].faults(canonical):
            yield Finding(row.where, "expected", f"expected: {text}", "warning", "mend the value or the schema")
    last = next((message for message in reversed(row.messages) if message.role == "assistant"), None)
    if last is not None and (fault := _against_turn(gold, last)):
        yield Finding(row.where, "expected", f"expected: {fault}", "warning", "mend the turn, or what is expected")


def _against_turn(gold: Gold, turn: Message) -> str:
    names = sorted(call.name for call in turn.tool_calls)
    wanted = sorted(call.name for call in gold.calls)
    if gold.status == "none" and names:
        return f"no call, but the last assistant turn calls {', '.join(names)}"
    if gold.status == "calls" and names != wanted:
        return f"calls of {', '.join(wanted)}, but the last assistant turn has {', '.join(names) or 'none'}"
    return ""


_REMEDIES = {
    "unknown-tool": "offer the tool, or mend the name",
    "schema": "mend the arguments, or the tool's schema",
}
