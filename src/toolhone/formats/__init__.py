"""The chat formats that toolhone supports. To add one, write its file and add it to `FORMATS`."""

from __future__ import annotations

from toolhone.formats.chat_format import ChatFormat
from toolhone.formats.gemma import GEMMA
from toolhone.formats.hermes import HERMES
from toolhone.formats.json import JSON
from toolhone.formats.llama3 import LLAMA3
from toolhone.formats.pythonic import PYTHONIC

FORMATS: dict[str, ChatFormat] = {format.name: format for format in (HERMES, LLAMA3, GEMMA, JSON, PYTHONIC)}
"""By name, in the order in which `chat.format: auto` tries them."""
