"""The chat formats that toolhone supports. To add one, write its file and add it to `FORMATS`."""

from __future__ import annotations

from toolhone.formats.chat_format import ChatFormat
from toolhone.formats.deepseek import DEEPSEEK, DEEPSEEK_V31
from toolhone.formats.gemma import GEMMA
from toolhone.formats.gemma_calls import FUNCTIONGEMMA, GEMMA4
from toolhone.formats.glm import GLM4, GLM45
from toolhone.formats.granite3 import GRANITE3
from toolhone.formats.harmony import HARMONY
from toolhone.formats.hermes import HERMES
from toolhone.formats.hunyuan import HUNYUAN
from toolhone.formats.internlm import INTERNLM
from toolhone.formats.json import JSON
from toolhone.formats.kimi import KIMI
from toolhone.formats.lfm2 import LFM2
from toolhone.formats.llama3 import LLAMA3
from toolhone.formats.llama3_ipython import LLAMA3_IPYTHON
from toolhone.formats.minicpm5 import MINICPM5
from toolhone.formats.mistral import MISTRAL, MISTRAL_ARGS
from toolhone.formats.olmo3 import OLMO3
from toolhone.formats.phi4 import PHI4
from toolhone.formats.pythonic import PYTHONIC
from toolhone.formats.qwen_xml import QWEN_XML
from toolhone.formats.tool_code import TOOL_CODE
from toolhone.formats.xlam import XLAM

_JSON = (HERMES, XLAM, LLAMA3, GEMMA, JSON)
_MARKED = (MISTRAL, MISTRAL_ARGS, PHI4, GRANITE3, HUNYUAN, INTERNLM, DEEPSEEK, DEEPSEEK_V31, KIMI, HARMONY)
_TYPED = (QWEN_XML, MINICPM5, GLM45, GLM4, FUNCTIONGEMMA, GEMMA4)
_PYTHON = (PYTHONIC, LFM2, OLMO3, LLAMA3_IPYTHON, TOOL_CODE)

FORMATS: dict[str, ChatFormat] = {
    # llama3, gemma and json also read the lists of xlam. llama3_ipython also reads the JSON of llama3.
    chat_format.name: chat_format
    for chat_format in (*_JSON, *_MARKED, *_TYPED, *_PYTHON)
}
"""By name, in the order in which `chat.format: auto` tries them."""
