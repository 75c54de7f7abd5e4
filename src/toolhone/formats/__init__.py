"""The chat formats that toolhone supports. To add one, write its file and add it to `FORMATS`."""

from __future__ import annotations

from toolhone.formats.chat_format import ChatFormat
from toolhone.formats.gemma import GEMMA
from toolhone.formats.gemma_calls import FUNCTIONGEMMA, GEMMA4
from toolhone.formats.glm import GLM4, GLM45
from toolhone.formats.harmony import HARMONY
from toolhone.formats.hermes import HERMES
from toolhone.formats.json import JSON
from toolhone.formats.llama3 import LLAMA3
from toolhone.formats.minicpm5 import MINICPM5
from toolhone.formats.qwen_xml import QWEN_XML

_ALL = (HERMES, LLAMA3, GEMMA, JSON, QWEN_XML, MINICPM5, GLM45, GLM4, FUNCTIONGEMMA, GEMMA4, HARMONY)

FORMATS: dict[str, ChatFormat] = {chat_format.name: chat_format for chat_format in _ALL}
"""By name, in the order in which `chat.format: auto` tries them."""
