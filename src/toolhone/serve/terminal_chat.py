"""A conversation with a model in the terminal: its answers, its calls, and the results that the user types for them.

In: lines of text and a function that asks the model. Out: printed answers, and rows that `/save` writes. Without a
terminal, the same conversation is read from a file or a pipe and printed without colours.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from toolhone.chat.parse import ParsedTurn, parse_turn
from toolhone.data.check.survey import Survey
from toolhone.errors import UserError
from toolhone.jsonl import conversation_line, read_json
from toolhone.records import Conversation, Example, FormatName, Gold, Message, Prediction, Tool, ToolCall
from toolhone.report.wording import legible, visible
from toolhone.serve.details import HIGH, MIDDLE, answer_details, level
from toolhone.serve.reply import Reply, read_reply
from toolhone.serve.start import ChatStart

Ask = Callable[[Example, Callable[[str], None]], Prediction]
"""Asks the model. The function that it gets is called with each piece of the answer's text, as it is made."""

COMMANDS = {
    "/tools": "list the tools",
    "/system [TEXT]": "show the system prompt, or set it and start again",
    "/results FILE": 'take results from a JSON file: {"tool name": result}',
    "/skip": "leave a call, and those after it, without a result",
    "/reset": "start the conversation again",
    "/save FILE": "append the conversation to a JSONL file, as a row to train on",
    "/quit": "end (or Ctrl-D)",
}
_COLOURS = {"high": "green", "middle": "yellow", "low": "bold red"}
_MAX_ROUNDS = 8
"""Answers to one message of the user: a model may call the same tool again and again."""


class TerminalChat:
    """A conversation. `messages` has no system message, and ends with an answer or is empty while the user types."""

    def __init__(self, ask: Ask, format: FormatName, start: ChatStart, model: str, console: Console) -> None:
        self.messages: list[Message] = []
        self._ask, self._format, self._model, self._console = ask, format, model, console
        self._system, self._tools = start.system, start.tools
        self._results: dict[str, Any] = {}
        self._calls = 0
        self._is_interactive = sys.stdin.isatty()
        self._legend_is_due = True

    def run(self) -> None:
        """Talk until the input ends or the user quits."""
        if self._is_interactive:
            import readline  # noqa: F401  # gives `input` its history and line editing
        count = len(self._tools)
        self._note(f"{self._model}, {count} tool{'s' * (count != 1)}. /help lists the commands.")
        while (line := self._read("> ")) is not None:
            said = line.strip()
            if said == "/quit":
                break
            if said.startswith("/"):
                self._command(said)
            elif said:
                self._exchange(line)

    def _exchange(self, said: str) -> None:
        """Have a message of the user answered, with the results of the calls between."""
        before = len(self.messages)
        self.messages.append(Message("user", said))
        try:
            for _ in range(_MAX_ROUNDS):
                calls = self._answer()
                if not calls or not self._take_results(calls):
                    return
        except KeyboardInterrupt:
            del self.messages[before:]
            self._note("\nstopped; your message is taken back")
            return
        self._note(f"{_MAX_ROUNDS} answers with calls to one message; write the next message")
        del self.messages[-len(calls) :]  # a message of the user comes after an answer, not after results

    def _answer(self) -> tuple[ToolCall, ...]:
        """Ask the model, print its answer and keep it. Returns its calls."""
        example = self._example()
        prediction = self._streamed(example)
        tools = example.tools_by_name
        turn = parse_turn(prediction.text, self._format, prediction.finish_reason, tools=tools)
        reply = read_reply(prediction.text, prediction.finish_reason, self._format, tools, callable_names=tools)
        self._print_answer(prediction, turn, reply)
        calls = tuple(replace(call, id=f"call_{self._calls + n}") for n, call in enumerate(reply.calls, 1))
        self._calls += len(calls)
        self.messages.append(Message("assistant", reply.content or "", calls, thinking=reply.thinking))
        return calls

    def _streamed(self, example: Example) -> Prediction:
        """Ask the model. A terminal shows the raw text while it grows, until the whole answer takes its place."""
        shown = Text(style="dim")
        live = Live(shown, console=self._console, transient=True) if self._console.is_terminal else None

        def show(piece: str) -> None:
            shown.append(legible(piece))

        with live or nullcontext():
            return self._ask(example, show)

    def _example(self) -> Example:
        system = (Message("system", self._system),) if self._system else ()
        turn, gold = Message("assistant", ""), Gold("any")
        return Example("chat", "chat", (*system, *self.messages), turn, gold, self._tools, "chat", None, {})

    def _print_answer(self, prediction: Prediction, turn: ParsedTurn, reply: Reply) -> None:
        if reply.thinking:
            self._note(reply.thinking)
        if reply.content:
            self._print(Text(legible(reply.content)))
        if reply.calls:
            self._print_legend()
            details = answer_details(prediction, turn)["calls"]
            for call, found in zip(reply.calls, details, strict=True):
                self._print(call_text(call, found))
        elif turn.status == "calls":
            undeclared = sorted({call.name for call in turn.calls} - {tool.name for tool in self._tools})
            self._fault(f"calls a tool that is not offered: {', '.join(undeclared)}")
        elif turn.failure is not None:
            self._fault(f"{turn.status}: {turn.failure}")
        elif not reply.content:
            self._fault("the answer is empty")

    def _print_legend(self) -> None:
        if self._legend_is_due:
            self._legend_is_due = False
            legend = Text("probability of a name or value: ", style="dim")
            legend.append(f"{HIGH:.0%} or more", style=_COLOURS["high"]).append(", ")
            legend.append(f"{MIDDLE:.0%} or more", style=_COLOURS["middle"]).append(", ")
            legend.append("less", style=_COLOURS["low"])
            self._print(legend)

    def _take_results(self, calls: Iterable[ToolCall]) -> bool:
        """Read a result for each call. False if the user leaves one without."""
        for call in calls:
            while True:
                if call.name in self._results:
                    given = _as_text(self._results[call.name])
                    self._note(f"result of {call.name}: {given}")
                    break
                line = self._read(f"result of {call.name}: ")
                if line is None or (said := line.strip()) == "/skip":
                    return False
                if said.startswith("/results"):
                    self._command(said)
                elif said.startswith("/"):
                    self._note("type the result, /skip or /results FILE")
                elif said:
                    given = said
                    break
            self.messages.append(Message("tool", given, tool_call_id=call.id))
        return True

    def _command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        if name == "/tools":
            for tool in self._tools:
                self._print(_tool_text(tool))
        elif name == "/system" and not rest:
            self._note(self._system or "there is no system prompt")
        elif name == "/system":
            self._system = rest
            self._reset()
        elif name == "/reset":
            self._reset()
        elif name in ("/save", "/results") and not rest:
            self._note(f"name a file: {name} FILE")
        elif name == "/save":
            self._save(Path(rest))
        elif name == "/results":
            self._read_results(Path(rest))
        else:
            if name != "/help":
                self._note(f"unknown command {name}")
            for command, about in COMMANDS.items():
                self._print(Text.assemble((f"  {command:<18}", "bold"), about))

    def _reset(self) -> None:
        self.messages.clear()
        self._calls = 0
        self._note("the conversation starts again")

    def _read_results(self, path: Path) -> None:
        try:
            found = read_json(path, "name a JSON file with results by tool name")
        except UserError as error:
            self._fault(str(error))
            return
        if not isinstance(found, dict):
            self._fault(f'{path}: expected an object with results by tool name, such as {{"query_order": "shipped"}}')
            return
        self._results = found
        self._note(f"results of {', '.join(found) or 'no tool'} come from {path}")

    def _save(self, path: Path) -> None:
        """Append the conversation up to its last answer, if `toolhone data check` finds no error in it."""
        messages = self._example().prompt
        while messages and messages[-1].role != "assistant":
            messages = messages[:-1]
        if not messages:
            self._note("there is no answer to save yet")
            return
        row = Conversation("", messages, self._tools, str(path), gold_source=self._model)
        row = replace(row, id=f"chat-{row.content_hash()}")
        errors = [finding.message for finding in Survey().faults(row) if finding.severity == "error"]
        if errors:
            self._fault(f"not saved: {errors[0]}")
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as out:
                out.write(conversation_line(row))
        except OSError as error:
            self._fault(f"{path}: cannot be written ({error.strerror}); name another file")
            return
        self._note(f"{path}: {row.id} is saved; check the answers before you train on them")

    def _read(self, prompt: str) -> str | None:
        """Read a line; None at the end of the input. Ctrl-C empties the line."""
        while True:
            try:
                line = input(prompt)
            except KeyboardInterrupt:
                print()
                self._note("Ctrl-D or /quit ends the conversation")
                continue
            except EOFError:
                print()
                return None
            if not self._is_interactive:
                print(line)  # a pipe shows no typing
            return line

    def _print(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)

    def _note(self, text: str) -> None:
        self._print(Text(legible(text), style="dim"))

    def _fault(self, text: str) -> None:
        self._print(Text(legible(text), style="red"))


def call_text(call: ToolCall, details: dict[str, Any]) -> Text:
    """Return a call as lines: its name, then each argument with its value and the probability of it.

    Args:
        details: the call's entry in `answer_details`.
    """
    text = _with_probability(Text(visible(call.name), style="bold"), details["name_confidence"])
    width = max(map(len, call.arguments), default=0)
    for name, value in call.arguments.items():
        written = visible(json.dumps(value, ensure_ascii=False))
        probability = details["arguments"][name]
        style = "" if probability is None else _COLOURS[level(probability)]
        line = Text.assemble("\n  ", (f"{visible(name):<{width}}", "dim"), "  ", (written, style))
        text = Text.assemble(text, _with_probability(line, probability))
    return text


def _with_probability(text: Text, probability: float | None) -> Text:
    if probability is None:
        return text
    return Text.assemble(text, (f"  {probability:.0%}", _COLOURS[level(probability)]))


def _tool_text(tool: Tool) -> Text:
    properties, required = tool.parameters.get("properties") or {}, tool.parameters.get("required") or ()
    names = ", ".join(name if name in required else f"{name}?" for name in properties)
    about = " ".join(tool.description.split())
    return Text.assemble((visible(tool.name), "bold"), visible(f"({names})"), (visible(f"  {about}"), "dim"))


def _as_text(result: Any) -> str:
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
