"""Write training rows by hand: add samples one by one, and export JSONL in OpenAI's chat fine-tuning format.

A row has a question, an answer or call, a result for every call that is not in the last turn, and tool call ids that
count from "call_1". If tools are given, calls are checked against their JSON Schemas.
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

    With `tools` (records, or dictionaries in the shape of OpenAI's API), every row lists them, and every call is
    checked against them. Without tools, rows have only `messages`, and any call is accepted.
    """

    def __init__(self, *, tools: Sequence[Tool | dict[str, Any]] = ()) -> None:
        self._tools = [tool.to_json() if isinstance(tool, Tool) else tool for tool in tools]
        self._rows: list[dict[str, Any]] = []

    @property
    def samples(self) -> list[dict[str, Any]]:
        """Return a copy of the rows so far, as they will be exported."""
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

        Without `tool_args`, the call has no arguments. With an empty `system_prompt`, the row has no system message. A
        direct answer means that no call is right, so it excludes calls. Use `add_conversation` for text beside a call.

        Raises:
            UserError: starting with the sample's number. The sample is then not added.
        """
        where = f"sample {len(self._rows) + 1}"
        if tool_args and not tool_name:
            raise UserError(f"{where}: tool_args without a tool_name; name the tool, or leave out tool_args")
        if tool_name and calls:
            raise UserError(f"{where}: both tool_name and calls; put every call of the turn into calls")
        wanted = [(tool_name, {} if tool_args is None else tool_args)] if tool_name else calls
        if wanted and direct_answer:
            raise UserError(
                f"{where}: both a call and a direct_answer, which means that no call is right; leave out one, "
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
        """Add a conversation of any length, given as messages in OpenAI's shape (see `build_conversation`).

        Raises:
            UserError: starting with the sample's number and the message. The conversation is then not added.
        """
        where = f"sample {len(self._rows) + 1}"
        if id is not None and any(id == row.get("id") for row in self._rows):
            raise UserError(f'{where}: an earlier sample has the id "{id}"; ids must differ')
        row = {"messages": messages, "tools": self._tools or None, "id": id, "meta": meta}
        built = build_conversation({key: value for key, value in row.items() if value is not None}, where)
        # Without tools, only the order of turns can be checked, not the calls.
        skipped = () if self._tools else ("unknown-tool", "schema")
        for finding in check([built]):
            if finding.rule not in skipped:
                raise UserError(f"{finding.where}: {finding.message}")
        exported = built.to_json()
        if id is None:
            del exported["id"]
        self._rows.append(exported)

    def export_jsonl(self, filepath: str | Path | None = None) -> str:
        """Return the rows as JSONL without a newline after the last. Also write them to `filepath`, completely or not
        at all, and create its folders."""
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in self._rows)
        if filepath is not None:
            write_text(Path(filepath), text)
        return text

    def stats(self) -> dict[str, int]:
        """Return the numbers of samples: `total`, `tool_call_samples` (with at least one call) and
        `direct_answer_samples`."""
        total = len(self._rows)
        called = sum(any("tool_calls" in message for message in row["messages"]) for row in self._rows)
        return {"total": total, "tool_call_samples": called, "direct_answer_samples": total - called}


def build_conversation(row: dict[str, Any], where: str, default_tools: tuple[Tool, ...] = ()) -> Conversation:
    """Return a Conversation of a hand-written row, which may omit some of what OpenAI's format requires.

    Tool calls get ids, counted within the row. A tool message without a `tool_call_id` answers the first call that has
    no result yet. Its `content` is a text, or any other value, which is then written as JSON.

    Raises:
        UserError: starting with `where`, for a value that JSON cannot represent, a wrong shape, an empty user message,
            a call without a result before the next turn, or a row whose last message is not the assistant's.
    """
    try:  # a copy, so that later changes to the given objects do not change the row
        text = json.dumps(row, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: cannot be written as JSON ({error}); use plain JSON values") from None
    row = json.loads(text)
    if isinstance(row["messages"], list):
        _link_results_to_calls([message for message in row["messages"] if isinstance(message, dict)], where)
    built = conversation(row, where, default_tools)
    for number, message in enumerate(built.messages):
        if message.role == "user" and not message.content.strip():
            raise UserError(f"{where}: message {number}: an empty user message; write the question")
    if (last := built.messages[-1].role) != "assistant":
        raise UserError(f"{where}: the last message is of role {last}; add the assistant's turn to learn")
    return built


def _link_results_to_calls(messages: list[dict[str, Any]], where: str) -> None:
    """Number the calls of a row and give each result the id of its call, in place. The reader reports wrong shapes."""
    called = 0
    waiting: dict[str, str] = {}  # calls without a result: their id in the given row -> their new id
    for number, message in enumerate(messages):
        if message.get("role") != "tool" and waiting:
            raise UserError(f"{where}: message {number}: {len(waiting)} call(s) before it have no result; add results")
        if message.get("role") == "tool":
            if not waiting:
                raise UserError(f"{where}: message {number}: a tool result without an unanswered call before it")
            given = message.get("tool_call_id") or next(iter(waiting))
            if given not in waiting:
                known = ", ".join(waiting)
                raise UserError(f'{where}: message {number}: no unanswered call has the id "{given}"; known: {known}')
            message["tool_call_id"] = waiting.pop(given)
            if not isinstance(message.get("content"), str):
                message["content"] = json.dumps(message.get("content"), ensure_ascii=False)
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                called += 1
                given = str(call.get("id") or f"call_{called}")
                if given in waiting:
                    raise UserError(f'{where}: message {number}: two calls have the id "{given}"; ids must differ')
                waiting[given] = call["id"] = f"call_{called}"
