"""Where a conversation with a run's model begins: the system prompt and the tools of the run's rows, and examples of
what users say.

In: the run folder. Out: a `ChatStart`, for `toolhone chat` and the playground.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from toolhone.data.escalation import ESCALATE
from toolhone.data.read import read_conversations
from toolhone.errors import UserError
from toolhone.records import Tool
from toolhone.run_folder import RunFolder

_EXAMPLES = 6
_LONGEST_EXAMPLE = 160


@dataclass(frozen=True, slots=True)
class ChatStart:
    """`system` is "" if the rows have no system prompt. `examples` are first messages of users."""

    system: str
    tools: tuple[Tool, ...]
    examples: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it for the playground, without the reserved tool, which a gateway with a cascade adds itself."""
        tools = [tool.to_json() for tool in self.tools if tool.name != ESCALATE]
        return {"tools": tools, "system": self.system, "examples": list(self.examples)}


def chat_start(run: RunFolder) -> ChatStart:
    """Return the system prompt and the tools of a run's first test row, as `toolhone ask` uses them. The examples are
    short messages of rows with the same tools, spread over the file.

    Raises:
        UserError: if the run has no test rows.
    """
    path = run.split("test")
    rows = list(read_conversations(path))
    if not rows:
        raise UserError(f"{path}: no rows; `toolhone train` writes them")
    first = rows[0]
    system = first.messages[0].content if first.messages[0].role == "system" else ""
    said = dict.fromkeys(
        next((message.content for message in row.messages if message.role == "user"), "")
        for row in rows
        if row.tools == first.tools
    )
    short = [text for text in said if text.strip() and len(text) <= _LONGEST_EXAMPLE and "\n" not in text.strip()]
    step = max(1, len(short) // _EXAMPLES)
    return ChatStart(system, first.tools, tuple(short[::step][:_EXAMPLES]))
