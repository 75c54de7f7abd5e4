"""The walkthrough of docs/migrate-from-openai.md: how it reads the page, the endpoint that plays OpenAI, and what the
page says about files and requests. `make migration-check` runs the page's commands."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from openai.types.fine_tuning import FineTuningJob
from pydantic import TypeAdapter

from toolhone.data.check import Finding
from toolhone.data.check.survey import check_files
from toolhone.data.importers.importer import RowFault
from toolhone.data.read import read_source, turns
from toolhone.jsonl import read_jsonl, write_jsonl
from toolhone.records import Conversation, Message
from toolhone.serve.request import ApiError, read_request

SCRIPT = Path(__file__).parent.parent / "scripts" / "migration_walkthrough.py"
walkthrough = SimpleNamespace(**runpy.run_path(str(SCRIPT)))
FIXTURES: Path = walkthrough.FIXTURES
PAGE: str = walkthrough.PAGE.read_text(encoding="utf-8")


def rows(name: str) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(FIXTURES / name)]


def conversations(path: Path) -> list[Conversation]:
    found = list(read_source(path))
    assert not any(isinstance(row, RowFault) for row in found)
    return found  # type: ignore[return-value]


def findings(path: Path, profile: str | None = None) -> list[Finding]:
    return [found for found in check_files([str(path)], profile=profile).found if isinstance(found, Finding)]


# Reading the page


def test_the_blocks_of_a_page_are_read_in_order_with_their_lines() -> None:
    page = "# Title\n```\nls\n```\ntext\n```python\nprint(1)\n\nprint(2)\n```\n"
    found = [(block.language, block.text, block.line) for block in walkthrough.read_blocks(page)]
    assert found == [("", "ls\n", 2), ("python", "print(1)\n\nprint(2)\n", 6)]


def test_a_block_without_an_end_is_an_error() -> None:
    with pytest.raises(SystemExit, match="line 2: the code block has no end"):
        walkthrough.read_blocks("text\n```\nls\n")


def test_continued_lines_are_one_command_and_comment_lines_are_dropped() -> None:
    text = "# first\ntoolhone a --b \\\n    c     # why\n\nls\n"
    commands = walkthrough.shell_commands(text)
    assert commands == ["toolhone a --b c     # why", "ls"]
    assert walkthrough.without_comment(commands[0]) == "toolhone a --b c"


def test_the_walkthrough_finds_every_command_of_the_page() -> None:
    blocks = walkthrough.read_blocks(PAGE)
    commands = [line for block in blocks if not block.language for line in walkthrough.shell_commands(block.text)]
    named = [" ".join(command.split()[1:3]) if " data " in command else command.split()[1] for command in commands]
    assert named == ["data check", "data split", "train", "predict", "score", "compare", "serve"]
    assert [block.language for block in blocks if block.language] == ["python", "yaml", "python"]
    fenced = "".join(re.findall(r"^```.*?^```", PAGE, re.M | re.S))
    assert sum(line.startswith("toolhone ") for line in fenced.splitlines()) == len(commands)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (("", "echo found; exit 3\n"), r"line 9: echo found; exit 3 ended with 3:\nfound"),
        (("python", "raise SystemExit('no key')\n"), r"line 9: a Python script ended with 1:\nno key"),
        (("yaml", "name: desk\n"), r"line 9: expected the file's name as the first line.*found name: desk"),
        (("ruby", "puts 1\n"), r"line 9: expected a block of shell .*, found ruby"),
    ],
)
def test_a_block_that_fails_ends_the_walkthrough_with_its_line(
    tmp_path: Path, block: tuple[str, str], message: str
) -> None:
    walk = walkthrough.Walk(tmp_path, "http://127.0.0.1:1/v1")
    with pytest.raises(SystemExit, match=rf"^Error: docs/migrate-from-openai\.md: {message}"):
        walk.run_block(walkthrough.Block(*block, 9))


def test_commands_reach_the_local_endpoint_and_server_instead_of_openai(tmp_path: Path) -> None:
    walk = walkthrough.Walk(tmp_path, "http://127.0.0.1:1/v1")
    text = "--base-url https://api.openai.com/v1 http://127.0.0.1:8000/v1"
    assert walk.adapted(text) == f"--base-url http://127.0.0.1:1/v1 http://127.0.0.1:{walk.port}/v1"
    walk.run_block(walkthrough.Block("", 'test "$OPENAI_BASE_URL" = http://127.0.0.1:1/v1\n', 1))
    assert walk.commands == 1


# The endpoint


def test_openais_client_gets_the_job_its_files_and_answers_of_which_some_are_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with walkthrough.playing_openai() as endpoint:
        client = OpenAI(base_url=endpoint.url, api_key="sk-test", max_retries=0)
        job = client.fine_tuning.jobs.retrieve("ftjob-abc123")
        assert job.validation_file is not None
        client.files.content(job.validation_file).write_to_file(tmp_path / "validation.jsonl")
        examples = turns(conversations(tmp_path / "validation.jsonl"))
        right = 0
        for example in examples:
            asked = [{"role": one.role, "content": one.content} for one in example.prompt]
            reply = client.chat.completions.create(model=str(job.fine_tuned_model), messages=asked)  # type: ignore[arg-type]
            message = reply.choices[0].message
            found = [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or ()]  # type: ignore[union-attr]
            gold = [(call.name, call.arguments) for call in example.turn.tool_calls]
            right += (found, message.content or "") == (gold, example.turn.content)
        assert 0 < right == len(endpoint.right) < len(examples) == len(endpoint.asked)


# The files


@pytest.mark.parametrize("name", ["train.jsonl", "validation.jsonl", "legacy.jsonl"])
def test_the_fixtures_are_valid_by_openais_types_and_by_the_check(name: str) -> None:
    messages, tool = TypeAdapter(list[ChatCompletionMessageParam]), TypeAdapter(ChatCompletionToolParam)
    for row in rows(name):
        messages.validate_python(row["messages"])
        for function in row.get("tools", [{"type": "function", "function": one} for one in row.get("functions", ())]):
            tool.validate_python(function)
    assert [one for one in findings(FIXTURES / name, "openai") if one.severity != "advice"] == []


def test_the_job_is_valid_by_openais_types() -> None:
    job = FineTuningJob.model_validate_json((FIXTURES / "job.json").read_text(encoding="utf-8"))
    assert job.fine_tuned_model is not None
    assert job.fine_tuned_model in PAGE
    assert job.id in PAGE


def test_legacy_rows_are_read_like_the_current_ones() -> None:
    def without_ids(messages: tuple[Message, ...]) -> list[Any]:
        return [
            (one.role, one.content, one.weight, [(c.name, c.arguments) for c in one.tool_calls]) for one in messages
        ]

    current = {json.dumps(without_ids(row.messages)): row for row in conversations(FIXTURES / "train.jsonl")}
    for row in conversations(FIXTURES / "legacy.jsonl"):
        twin = current[json.dumps(without_ids(row.messages))]
        assert row.tools == twin.tools


def test_a_turn_with_weight_0_is_context_and_not_scored() -> None:
    found = conversations(FIXTURES / "validation.jsonl")
    weights = {f"{row.id}/{n}": one.weight for row in found for n, one in enumerate(row.messages)}
    scored = {example.id for example in turns(found)}
    answers = {f"{row.id}/{n}" for row in found for n, one in enumerate(row.messages) if one.role == "assistant"}
    assert {id_ for id_ in answers if weights[id_] == 0} == answers - scored != set()


USER = {"role": "user", "content": "Which one?"}
IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]}
ANSWER = {"role": "assistant", "content": "This one."}


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ({"messages": [IMAGE, ANSWER]}, "content-not-text"),
        (
            {"input": {"messages": [USER]}, "preferred_output": [ANSWER], "non_preferred_output": [ANSWER]},
            "unread-format",
        ),
        ({"messages": [USER], "reference_answer": "this one"}, "unknown-key"),
        ({"messages": [USER]}, "no-assistant"),
        ({"prompt": "Which one?", "completion": "This one."}, "unread-format"),
    ],
    ids=["image", "preference", "reinforcement", "reinforcement without more keys", "completion"],
)
def test_rows_of_other_methods_are_refused_or_left_out_under_the_rule_that_the_page_names(
    tmp_path: Path, row: dict[str, Any], rule: str
) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [row])
    assert rule in {one.rule for one in findings(tmp_path / "rows.jsonl") if one.severity != "advice"}
    assert f"`{rule}`" in PAGE


# What the server does not support

REFUSED = re.findall(r"`(\w+): ([^`]+)`", PAGE[PAGE.index("status 400") : PAGE.index("Unknown keys are ignored")])


def test_the_page_lists_refused_options() -> None:
    assert len(REFUSED) >= 5


@pytest.mark.parametrize(("key", "value"), REFUSED, ids=[key for key, _ in REFUSED])
def test_the_server_refuses_the_options_that_the_page_lists(key: str, value: str) -> None:
    body = {"model": "desk", "messages": [USER], "logprobs": True}
    read_request(json.dumps(body).encode(), "r", ["desk"])
    with pytest.raises(ApiError) as refused:
        read_request(json.dumps({**body, key: json.loads(value)}).encode(), "r", ["desk"])
    assert (refused.value.status, refused.value.param) == (400, key)
