"""Write training rows by hand: samples go in one by one, JSONL in OpenAI's chat fine-tuning format comes out.

A row has a question, an answer or call to it, a result for every call that is followed by more, and tool call ids that
count from "call_1". If tools are given, its calls keep to their JSON Schemas.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolhone.data.check import check
from toolhone.data.importers.openai import conversation
from toolhone.errors import UserError
from toolhone.jsonl import write_text
from toolhone.records import Conversation, Tool


class FineTuneDataGenerator:
    """Collects samples and writes them as JSONL.

    With `tools` (records, or dictionaries as OpenAI's API takes them) every row lists them, and every call is checked
    against them. Without, rows have `messages` alone and any call is accepted.
    """

    def __init__(self, *, tools: Sequence[Tool | dict[str, Any]] = ()) -> None:
        self._tools = [tool.to_json() if isinstance(tool, Tool) else tool for tool in tools]
        self._rows: list[dict[str, Any]] = []

    @property
    def samples(self) -> list[dict[str, Any]]:
        """A copy of the rows so far, as they are exported."""
        return copy.deepcopy(self._rows)

    def add_sample(
        self,
        system_prompt: str,
        user_msg: str,
        tool_name: str | None = None,
        tool_args: dict[str, Any] | None = None,
        direct_answer: str | None = None,
        *,
        calls: Sequence[tuple[str, dict[str, Any]]] = (),
        id: str | None = None,
        meta: dict[str, Any] | None = None,
    ) -> None:
        """Add one question and what the assistant does: one call, several `calls` at once, or a direct answer.

        Without `tool_args` the call has no arguments. With an empty `system_prompt` the row has no system message. A
        call excludes a direct answer, which says that no call is wanted; `add_conversation` writes text beside a call.

        Raises:
            UserError: naming the sample's number; the generator is then as it was before.
        """
        where = f"sample {len(self._rows) + 1}"
        if tool_args and not tool_name:
            raise UserError(f"{where}: tool_args without a tool_name; name the tool, or leave out tool_args")
        if tool_name and calls:
            raise UserError(f"{where}: both tool_name and calls; put every call of the turn into calls")
        wanted = [(tool_name, {} if tool_args is None else tool_args)] if tool_name else calls
        if wanted and direct_answer:
            raise UserError(
                f"{where}: both a call and a direct_answer, which says that no call is wanted; leave out one, "
                "or write text beside a call with add_conversation"
            )
        if not wanted and not direct_answer:
            raise UserError(f"{where}: neither a call nor an answer; give tool_name, calls or direct_answer")
        turn: dict[str, Any] = {"role": "assistant", "content": direct_answer}
        if wanted:
            turn["tool_calls"] = [{"function": {"name": name, "arguments": args}} for name, args in wanted]
        system = [{"role": "system", "content": system_prompt}] if system_prompt else []
        self.add_conversation([*system, {"role": "user", "content": user_msg}, turn], id=id, meta=meta)

    def add_conversation(
        self, messages: Sequence[dict[str, Any]], *, id: str | None = None, meta: dict[str, Any] | None = None
    ) -> None:
        """Add a conversation of any length, as OpenAI-shaped messages: see `build_conversation`.

        Raises:
            UserError: naming the sample's number and the message; the generator is then as it was before.
        """
        where = f"sample {len(self._rows) + 1}"
        if id is not None and any(id == row.get("id") for row in self._rows):
            raise UserError(f'{where}: the id "{id}" is taken by an earlier sample; ids must differ')
        row = {"messages": messages, "tools": self._tools or None, "id": id, "meta": meta}
        built = build_conversation({key: value for key, value in row.items() if value is not None}, where)
        # Without tools, calls cannot be checked; the order of turns can.
        skipped = () if self._tools else ("unknown-tool", "schema")
        for finding in check([built]):
            if finding.rule not in skipped:
                raise UserError(f"{finding.where}: {finding.message}")
        exported = built.to_json()
        if id is None:
            del exported["id"]
        self._rows.append(exported)

    def export_jsonl(self, filepath: str | Path | None = None) -> str:
        """Return the rows as JSONL, one a line and no newline after the last, and write that text to `filepath`, whole
        or not at all, with the folders on the way."""
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in self._rows)
        if filepath is not None:
            write_text(Path(filepath), text)
        return text

    def stats(self) -> dict[str, int]:
        """Count the samples: `total`, `tool_call_samples` (with at least one call), `direct_answer_samples`."""
        total = len(self._rows)
        called = sum(any("tool_calls" in message for message in row["messages"]) for row in self._rows)
        return {"total": total, "tool_call_samples": called, "direct_answer_samples": total - called}


def build_conversation(row: dict[str, Any], where: str, default_tools: tuple[Tool, ...] = ()) -> Conversation:
    """Return a Conversation of a hand-written row, which may say less than OpenAI's format asks for.

    Tool calls get ids, counted within the row. A tool message without a `tool_call_id` answers the first call that is
    still open; its `content` is text, or any other value, which is then written as JSON.

    Raises:
        UserError: starting with `where`, for a value that JSON cannot hold, a wrong shape, an empty user message, a
            call that the row goes on without answering, or a row whose last message is not the assistant's.
    """
    try:  # a copy, so that later changes to what was given do not reach the row
        text = json.dumps(row, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: cannot be written as JSON ({error}); use plain JSON values") from None
    row = json.loads(text)
    if isinstance(row["messages"], list):
        _tie_results_to_calls([message for message in row["messages"] if isinstance(message, dict)], where)
    built = conversation(row, where, default_tools)
    for number, message in enumerate(built.messages):
        if message.role == "user" and not message.content.strip():
            raise UserError(f"{where}: message {number}: an empty user message; write the question")
    if (last := built.messages[-1].role) != "assistant":
        raise UserError(
            f"{where}: the last message is of role {last}; add the assistant's turn, which is to be learned"
        )
    return built


def _tie_results_to_calls(messages: list[dict[str, Any]], where: str) -> None:
    """Number the calls of a row and point each result at its call, in place. The reader reports wrong shapes."""
    called = 0
    waiting: dict[str, str] = {}  # calls without a result: the id that the row gives them -> their id here
    for number, message in enumerate(messages):
        if message.get("role") != "tool" and waiting:
            raise UserError(f"{where}: message {number}: {len(waiting)} call(s) before it have no result; add them")
        if message.get("role") == "tool":
            if not waiting:
                raise UserError(f"{where}: message {number}: a tool result without an open call before it")
            given = message.get("tool_call_id") or next(iter(waiting))
            if given not in waiting:
                raise UserError(f'{where}: message {number}: no open call has the id "{given}" ({", ".join(waiting)})')
            message["tool_call_id"] = waiting.pop(given)
            if not isinstance(message.get("content"), str):
                message["content"] = json.dumps(message.get("content"), ensure_ascii=False)
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                called += 1
                given = str(call.get("id") or f"call_{called}")
                if given in waiting:
                    raise UserError(f'{where}: message {number}: two calls have the id "{given}"; give each its own')
                waiting[given] = call["id"] = f"call_{called}"
