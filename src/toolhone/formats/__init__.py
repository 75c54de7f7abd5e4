"""The chat formats that toolhone supports. To add one, write its file and add it to `FORMATS`."""

from __future__ import annotations

from toolhone.formats.chat_format import ChatFormat
from toolhone.formats.gemma import GEMMA
from toolhone.formats.hermes import HERMES
from toolhone.formats.json import JSON
from toolhone.formats.lfm2 import LFM2
from toolhone.formats.llama3 import LLAMA3
from toolhone.formats.llama3_ipython import LLAMA3_IPYTHON
from toolhone.formats.olmo3 import OLMO3
from toolhone.formats.pythonic import PYTHONIC
from toolhone.formats.tool_code import TOOL_CODE

_PYTHON = (PYTHONIC, LFM2, OLMO3, LLAMA3_IPYTHON, TOOL_CODE)

FORMATS: dict[str, ChatFormat] = {format.name: format for format in (HERMES, LLAMA3, GEMMA, JSON, *_PYTHON)}
"""By name, in the order in which `chat.format: auto` tries them."""
