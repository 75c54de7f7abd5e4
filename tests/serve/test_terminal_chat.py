"""`toolhone chat`: a conversation with a scripted model, with its calls, its results and the row that it saves."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from toolhone.cli import main
from toolhone.data.check.survey import Survey
from toolhone.data.read import read_conversations
from toolhone.records import Example, FinishReason, Prediction, Token, Tool
from toolhone.serve.start import ChatStart
from toolhone.serve.terminal_chat import TerminalChat

ORDER = Tool(
    "query_order", "Find an order", {"type": "object", "properties": {"order_id": {"type": "string"}, "n": {}}}
)
START = ChatStart("Be kind.", (ORDER,), ())
Script = Sequence[str | list[tuple[str, float]]]


def call(order_id: str) -> str:
    return f'<tool_call>\n{{"name": "query_order", "arguments": {{"order_id": "{order_id}"}}}}\n</tool_call>'


def prediction(answer: str | list[tuple[str, float]], finish: FinishReason = "stop") -> Prediction:
    """Return an answer of these pieces, each a token with its probability."""
    pieces = [(answer, 1.0)] if isinstance(answer, str) else answer
    tokens = tuple(Token(n, piece.encode(), math.log(chance)) for n, (piece, chance) in enumerate(pieces))
    text = "".join(piece for piece, _ in pieces)
    return Prediction("chat", "m", text, finish, 1, len(tokens), 1.0, tokens)


class Talk:
    """A conversation of scripted lines and answers, and what it printed. An answer may be an exception."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        lines: Sequence[str | type[BaseException]],
        answers: Script,
        **console: bool,
    ) -> None:
        self.asked: list[Example] = []
        self.out = io.StringIO()
        waiting, script = list(lines), list(answers)

        def read(prompt: str = "") -> str:
            self.out.write(prompt)
            line = waiting.pop(0) if waiting else EOFError
            if isinstance(line, str):
                return line
            raise line

        def ask(example: Example, show: Callable[[str], None]) -> Prediction:
            self.asked.append(example)
            answer = script.pop(0)
            if answer == "Ctrl-C":
                show("half of an ans")
                raise KeyboardInterrupt
            found = prediction(answer)
            show(found.text)
            return found

        monkeypatch.setattr("builtins.input", read)
        self.chat = TerminalChat(ask, "hermes", START, "run (tuned)", Console(file=self.out, width=100, **console))  # type: ignore[arg-type]
        self.chat.run()
        self.shown = self.out.getvalue()

    def roles(self, number: int) -> list[str]:
        return [message.role for message in self.asked[number].prompt]


def test_a_call_is_shown_and_its_typed_result_goes_to_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    talk = Talk(monkeypatch, ["where is 7?", '{"status": "shipped"}'], [call("7"), "It is on its way."])
    assert talk.roles(1) == ["system", "user", "assistant", "tool"]
    [asked, result] = talk.asked[1].prompt[-2:]
    assert asked.tool_calls[0].arguments == {"order_id": "7"}
    assert (result.content, result.tool_call_id) == ('{"status": "shipped"}', asked.tool_calls[0].id)
    assert 'order_id  "7"' in talk.shown
    assert "result of query_order: " in talk.shown
    assert "It is on its way." in talk.shown


def test_each_argument_has_the_probability_of_its_own_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = [
        ('<tool_call>\n{"name": "', 1.0),
        ("query_order", 0.8),
        ('", "arguments": {"order_id": "', 0.97),
        ("7", 0.5),
        ('", "n": ', 1.0),
        ("12", 0.95),
        ("}}\n</tool_call>", 1.0),
    ]
    talk = Talk(monkeypatch, ["where is 7?"], [pieces], force_terminal=True)
    green, yellow, red = "\x1b[32m", "\x1b[33m", "\x1b[1;31m"
    assert f"{yellow}  78%" in talk.shown  # 0.8 x 0.97, because the token after the name ends it
    assert f'{red}"7"' in talk.shown
    assert f"{red}  50%" in talk.shown
    assert f"{green}12" in talk.shown
    assert f"{green}  95%" in talk.shown


def test_the_legend_is_shown_once_and_without_a_terminal_nothing_has_a_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    talk = Talk(monkeypatch, ["a", "/skip", "b", "/skip"], [call("1"), call("2")])
    assert talk.shown.count("90% or more") == 1
    assert "100%" in talk.shown
    assert "\x1b" not in talk.shown


def test_a_skipped_call_has_no_result_and_the_conversation_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    talk = Talk(monkeypatch, ["where is 7?", "/skip", "thanks"], [call("7"), "Bye."])
    assert talk.roles(1) == ["system", "user", "assistant", "user"]


def test_results_of_a_file_are_used_for_every_later_call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text('{"query_order": {"status": "shipped"}}', encoding="utf-8")
    talk = Talk(monkeypatch, ["a", f"/results {file}", "b"], [call("1"), "one", call("2"), "two"])
    assert [message.content for message in talk.asked[-1].prompt if message.role == "tool"] == [
        '{"status": "shipped"}'
    ] * 2


def test_a_model_that_calls_on_and_on_is_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text('{"query_order": "nothing"}', encoding="utf-8")
    talk = Talk(monkeypatch, [f"/results {file}", "a", "b"], [*[call("1")] * 8, "done"])
    assert "8 answers with calls to one message" in talk.shown
    assert talk.roles(8)[-2:] == ["assistant", "user"]


@pytest.mark.parametrize("content", ["[1]", "{", None])
def test_a_results_file_that_cannot_be_used_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "results.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    talk = Talk(monkeypatch, [f"/results {file}", "a"], ["fine"])
    assert f"{file}:" in talk.shown.replace("\n", "")
    assert "fine" in talk.shown


def test_ctrl_c_stops_the_answer_and_takes_the_message_back(monkeypatch: pytest.MonkeyPatch) -> None:
    talk = Talk(monkeypatch, ["a", KeyboardInterrupt, "b"], ["Ctrl-C", "fine"])
    assert [message.content for message in talk.asked[1].prompt] == ["Be kind.", "b"]
    assert "stopped; your message is taken back" in talk.shown
    assert "Ctrl-D or /quit ends the conversation" in talk.shown


def test_a_reset_and_a_new_system_prompt_start_again(monkeypatch: pytest.MonkeyPatch) -> None:
    talk = Talk(monkeypatch, ["a", "/reset", "b", "/system Be brief.", "c", "/system"], ["1", "2", "3"])
    assert talk.roles(1) == ["system", "user"]
    assert [message.content for message in talk.asked[2].prompt] == ["Be brief.", "c"]
    assert talk.shown.rstrip().endswith("Be brief.\n>")


def test_the_tools_and_the_commands_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    talk = Talk(monkeypatch, ["/tools", "/nothing", "/save"], [])
    assert "query_order(order_id?, n?)  Find an order" in talk.shown
    assert "unknown command /nothing" in talk.shown
    assert "/results FILE" in talk.shown
    assert "name a file: /save FILE" in talk.shown


def test_a_saved_conversation_is_a_row_that_the_check_accepts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "rows" / "chat.jsonl"
    lines = ["/save x", "where is 7?", "shipped", f"/save {file}", "and 8?", "/skip", f"/save {file}"]
    talk = Talk(monkeypatch, lines, [call("7"), "It is on its way.", call("8")])
    assert "there is no answer to save yet" in talk.shown
    rows = list(read_conversations(file))
    survey = Survey()
    assert [finding.message for row in rows for finding in survey.row(row) if finding.severity == "error"] == []
    assert [message.role for message in rows[0].messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert rows[1].messages[-1].tool_calls[0].arguments == {"order_id": "8"}
    assert rows[0].tools == START.tools
    assert rows[0].gold_source == "run (tuned)"


def test_an_answer_that_must_not_be_learned_is_not_saved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    talk = Talk(monkeypatch, ["a", f"/save {file}"], ['<tool_call>\n{"name": "query_order", "argu'])
    assert "malformed: " in talk.shown
    assert "not saved: message 2: a call is in the text" in talk.shown
    assert not file.exists()


def test_a_call_of_a_tool_that_is_not_offered_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = '<tool_call>\n{"name": "pay", "arguments": {}}\n</tool_call>'
    talk = Talk(monkeypatch, ["a", "b"], [unknown, "fine"])
    assert "calls a tool that is not offered: pay" in talk.shown
    assert talk.asked[1].prompt[2].tool_calls == ()


def test_control_characters_of_a_model_do_not_reach_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    talk = Talk(monkeypatch, ["a", "/skip"], ["\x1b]0;title\x07hello"], force_terminal=True)
    assert "\x1b]0" not in talk.shown
    assert "\\u001b]0;title\\u0007hello" in talk.shown


def test_a_piped_conversation_with_a_run_is_answered_and_saved(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, tools = tmp_path / "chat.jsonl", tmp_path / "tools.json"
    typed = f"Where is ORD-1?\n/skip\n/reset\n谢谢\n/save {file}\n/tools\n/quit\nnever read\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    assert main(["chat", str(run_folder), "--engine", "transformers"]) == 0
    shown = capsys.readouterr().out
    assert "> Where is ORD-1?\nprobability of a name or value" in shown
    assert '  order_id  "ORD-1"  ' in shown
    assert "不客气" in shown
    assert "never read" not in shown
    [row] = read_conversations(file)
    assert [message.content for message in row.messages] == ["你是客服。", "谢谢", "不客气"]
    tools.write_text(json.dumps([ORDER.to_json()]), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO("/tools\n"))
    assert main(["chat", str(run_folder), "--base", "--tools", str(tools)]) == 0
    shown = capsys.readouterr().out
    assert "small (base) in transformers, 1 tool." in shown
    assert "Find an order" in shown
