"""The chat formats that toolhone supports. To add one, write its file and add it to `FORMATS`."""

from __future__ import annotations

from toolhone.formats.chat_format import ChatFormat
from toolhone.formats.gemma import GEMMA
from toolhone.formats.gemma_calls import FUNCTIONGEMMA, GEMMA4
from toolhone.formats.harmony import HARMONY
from toolhone.formats.hermes import HERMES
from toolhone.formats.json import JSON
from toolhone.formats.llama3 import LLAMA3

FORMATS: dict[str, ChatFormat] = {
    format.name: format for format in (HERMES, LLAMA3, GEMMA, JSON, FUNCTIONGEMMA, GEMMA4, HARMONY)
}
"""By name, in the order in which `chat.format: auto` tries them."""
