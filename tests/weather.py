"""A scripted model that answers questions about the weather, for tests with real clients."""

from __future__ import annotations

import json
import re

from toolhone.formats import FORMATS
from toolhone.formats.chat_format import RawCall

HELLO = "Hello! How can I help you today?"
FORECAST = {"city": "Paris", "degrees": 21}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "The weather.", "parameters": SCHEMA}}
RESPONSES_TOOL = {"type": "function", "name": "get_weather", "description": "The weather.", "parameters": SCHEMA}

_TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", re.DOTALL)
_RESULT = re.compile(r"<tool_response>\n(.*?)\n</tool_response>", re.DOTALL)
_CITIES = re.compile(r"weather in (\w+)(?: and (\w+))?")


def answer_to(prompt: str) -> str:
    """Return the model's turn after a prompt in the hermes format.

    It calls `get_weather` for each city it is asked about, and repeats the results. Asked for a forecast, it calls the
    tool Forecast, or answers in JSON if there is no such tool.
    """
    turns = _TURN.findall(prompt)
    last = next(text for role, text in reversed(turns) if role == "user")
    if results := _RESULT.findall(last):
        return f"It is {' and '.join(results)}."
    if "forecast" in last:
        text = json.dumps(FORECAST)
        has_tool = any("Forecast(" in text for role, text in turns if role == "system")
        return FORMATS["hermes"].write("", [RawCall("Forecast", text)], "stop") if has_tool else text
    if cities := _CITIES.search(last):
        calls = [RawCall("get_weather", json.dumps({"city": city})) for city in cities.groups() if city]
        return FORMATS["hermes"].write("Let me look.", calls, "stop")
    return HELLO
