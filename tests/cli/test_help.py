"""The help of the command line: what `toolhone` and `--help` print, and that every flag says what it takes."""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from toolhone.cli import _FIRST, _GROUPS, _parser, main

UNITS = r"""
    tokens | rows | turns | calls | examples | conversations | times | machines | tools | paraphrases | days | seconds |
    dollars | share | from\ 0\ to\ 1 | a\ number\ from | whole\ number | number\ of\ the\ port | AUROC"""
"""What a number may count. Every flag that takes a number names one of them."""

MEANINGS = {
    "--against": "rows to compare with",
    "--api-accuracy": "share of calls that the API gets right",
    "--base": "ask the base model",
    "--base-url": "address of the endpoint",
    "--calls-in-text": "read calls from the answer's text",
    "--calls-per-day": "calls a day",
    "--calls-per-second": "calls a second of one machine",
    "--chat-format": "how calls are written",
    "--completion-tokens": "tokens of a call's answer",
    "--config": "YAML file with the settings of the command",
    "--engineering-usd": "dollars paid once for engineering",
    "--error-usd": "dollars that a wrong call costs",
    "--escalation": "share of calls to escalate",
    "--fresh": "delete earlier results and start again",
    "--gguf": "weights as GGUF: the type that export writes, the file that verify loads",
    "--gpu-usd-per-hour": "dollars that a machine costs an hour",
    "--html": "page to write",
    "--json": "print JSON",
    "--label": "name of predictions",
    "--labelling-usd": "dollars paid once for labelling",
    "--max-rows": "take at most this many rows",
    "--max-tokens": "token limit of one answer",
    "--near": "find near duplicates too",
    "--out": "where the output goes",
    "--predictions": "files of predictions",
    "--prompt-tokens": "tokens of a call's prompt",
    "--rows": "the rows that were or will be predicted",
    "--run": "run folder",
    "--seed": "seed of random choices",
    "--engine": "the engine that serves the small model",
    "--tokenizer": "model whose tokenizer counts tokens",
    "--tools": "the tools",
    "--training-usd": "dollars paid once for training",
}
"""The one meaning of each flag whose help differs between commands. A new entry must be one meaning, not two."""


def actions(parser: argparse.ArgumentParser, command: str = "toolhone") -> Iterator[tuple[str, argparse.Action]]:
    """Every argument of every command, with the command."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from actions(inner, f"{command} {name}")
        elif not isinstance(action, argparse._HelpAction | argparse._VersionAction):
            yield command, action


def help_of(action: argparse.Action) -> str:
    """The help as shown, with its default filled in."""
    return (action.help or "") % vars(action)


def kind(action: argparse.Action) -> str:
    """What a flag takes: a switch, a choice, a path, a number or a text."""
    if action.nargs == 0:
        return "switch"
    if action.choices:
        return "choice"
    if action.type is Path:
        return "path"
    return "number" if takes_numbers(action) else "text"


def takes_numbers(action: argparse.Action) -> bool:
    if not callable(action.type) or action.type is Path or action.choices:
        return False
    try:
        return isinstance(action.type("1"), int | float)
    except (argparse.ArgumentTypeError, ValueError):
        return False


ALL = list(actions(_parser()))


def test_every_argument_of_every_command_has_a_help() -> None:
    assert len(ALL) > 150
    assert [f"{command} {action.dest}" for command, action in ALL if not action.help] == []


def test_every_flag_with_a_default_states_it() -> None:
    silent = []
    for command, action in ALL:
        default = action.default
        if action.option_strings and default not in (None, False, True, []):
            shown = "empty" if default == "" else f"{default:g}" if isinstance(default, float) else str(default)
            if not re.search(rf"default: (the )?{re.escape(shown)}", help_of(action)):
                silent.append(f"{command} {action.option_strings[0]}: {default!r} is not in: {help_of(action)}")
    assert silent == []


def test_every_flag_that_takes_a_number_names_its_unit() -> None:
    numeric = [(command, action) for command, action in ALL if takes_numbers(action)]
    assert len(numeric) > 50
    unit = re.compile(UNITS, re.VERBOSE)
    assert [f"{command}: {help_of(action)}" for command, action in numeric if not unit.search(help_of(action))] == []


def test_a_flag_means_the_same_in_every_command() -> None:
    helps: dict[str, set[str]] = defaultdict(set)
    kinds: dict[str, set[str]] = defaultdict(set)
    for command, action in ALL:
        for flag in action.option_strings:
            helps[flag].add(re.sub(r" *\(default: .*\)$", "", help_of(action)))
            # advise reads its inputs itself, as texts.
            kinds[flag].add(kind(action) if not (command == "toolhone advise" and action.metavar == "X") else "")
    assert {flag for flag, found in helps.items() if len(found) > 1} <= set(MEANINGS)
    # The type that `export` writes, and the file that `verify` loads.
    assert {flag for flag, found in kinds.items() if len(found - {""}) > 1} == {"--gguf"}


def test_the_declared_meanings_are_of_flags_that_there_are() -> None:
    assert set(MEANINGS) <= {flag for _, action in ALL for flag in action.option_strings}


def test_help_lists_every_command_once_in_its_group(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    commands = next(a.choices for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))
    grouped = [name for names in _GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(commands)
    places = [shown.index(f"\n  {name} ") for name in grouped]
    assert places == sorted(places)
    for group in _GROUPS:
        assert f"\n{group}:\n" in shown


@pytest.mark.parametrize("arguments", [["--help"], ["eval", "--help"], ["advise", "--help"], ["data", "--help"]])
def test_help_of_a_command_starts_with_its_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(" ".join(["usage: toolhone", *arguments[:-1]]))


def test_toolhone_alone_says_what_it_is_and_how_to_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "toolhone tunes a small model to call your tools, and measures how often it calls them right."
    assert [text.split()[0] for text in shown[2 : 2 + len(_FIRST)]] == list(_FIRST)
    example = next(text for text in shown if text.startswith("For example: "))
    assert "toolhone init shop" in example


def test_bare_toolhone_reads_the_command_line_of_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["toolhone"])
    assert main() == 0
    assert "toolhone init shop" in capsys.readouterr().out


def test_options_of_a_faulty_flag_name_what_was_expected(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["data", "preview", "--config", "x.yaml", "--max-rows", "0"])
    assert caught.value.code == 2
    assert "--max-rows: expected a whole number, 1 or more, found 0" in capsys.readouterr().err
