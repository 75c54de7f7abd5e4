"""OpenAI's limits, each at its edge: documented limits are errors, undocumented ones are warnings."""

from __future__ import annotations

from typing import Any

import pytest

from toolhone.data.check.openai_profile import MAX_DESCRIPTION, MAX_TOOLS, row_findings
from toolhone.data.files import SourceRow

MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


def tool(name: str = "look_up", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": "d", **more}}


def severities(**row: Any) -> list[str]:
    return [found.severity for found in row_findings(SourceRow("x:1", {"messages": MESSAGES, **row}))]


@pytest.mark.parametrize(
    ("tools", "found"),
    [
        ([tool("a" * 64)], []),
        ([tool("a" * 65)], ["error"]),
        ([tool("look.up")], ["error"]),
        ([tool(description="d" * MAX_DESCRIPTION)], []),
        ([tool(description="d" * (MAX_DESCRIPTION + 1))], ["warning"]),
        ([tool(description=None)], ["error"]),
        ([tool(f"t{n}") for n in range(MAX_TOOLS)], []),
        ([tool(f"t{n}") for n in range(MAX_TOOLS + 1)], ["warning"]),
    ],
)
def test_tools_at_their_limits(tools: list[dict[str, Any]], found: list[str]) -> None:
    assert severities(tools=tools) == found


@pytest.mark.parametrize(("count", "found"), [(0, ["error"]), (1, []), (MAX_TOOLS, []), (MAX_TOOLS + 1, ["error"])])
def test_the_legacy_format_takes_1_to_128_functions(count: int, found: list[str]) -> None:
    assert severities(functions=[tool(f"f{n}")["function"] for n in range(count)]) == found


@pytest.mark.parametrize(
    ("part", "found"),
    [
        ({"type": "text", "text": "hi"}, []),
        ({"type": "image_url", "image_url": {"url": "https://x.org/a.png"}}, []),
        ({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}, ["error"]),
        ({"type": "file", "file": {"file_id": "f"}}, ["error"]),
    ],
)
def test_messages_may_have_only_texts_and_images(part: dict[str, Any], found: list[str]) -> None:
    assert severities(messages=[{"role": "user", "content": [part]}, MESSAGES[1]]) == found
