"""The minicpm5 format: calls of MiniCPM5 as XML, `<function name="f"><param name="a">1</param></function>`.

A text with `<`, `&` or a new line is written in a CDATA section. Lists and objects are written as JSON; the model's own
template writes them as Python, and both are read.

vLLM's parser refuses a call of an unknown tool, or one without its required arguments, and drops arguments that the
tool does not list. Here such calls are read, and scored. The parser also replaces the letters U+0120 and U+010A by
spaces and new lines.
"""

from __future__ import annotations

import re
from functools import partial
from xml.etree import ElementTree

from toolhone.formats.call_json import skip_space
from toolhone.formats.call_syntax import CallSyntax, StringSyntax, TextForm
from toolhone.formats.chat_format import ChatFormat
from toolhone.formats.pieces import Fault
from toolhone.formats.tagged_calls import (
    TaggedSyntax,
    WrittenCall,
    WrittenValue,
    begins,
    marks_of,
    read_tagged,
    tagged_template,
    tagged_writer,
)
from toolhone.formats.typed_values import literal_value

_SYNTAXES = ("MiniCPM5 <function name=>",)
_FUNCTION, _FUNCTION_END, _PARAM, _PARAM_END = '<function name="', "</function>", '<param name="', "</param>"
_CDATA, _CDATA_END = "<![CDATA[", "]]>"
_NAME = re.compile(r"[^\s<>\"'&]++(?: [^\s<>\"'&]++)*+")
_CALL_END = re.compile(r"</function>|<function\s")
_TAG = re.compile(r"<(?:param|function|!\[CDATA\[)")
# vLLM ends a call at the first </function>, also inside a CDATA section.
_VALUE_STOPS = {False: re.compile(r"</param>|</function>"), True: re.compile(r"\]\]></param>|</function>")}


def _read_block(text: str, start: int) -> tuple[WrittenCall | Fault | None, int]:
    """Return the call that opens here, and where it ends."""
    if not text.startswith(_FUNCTION, start):
        if begins(_FUNCTION, text, start):
            return Fault("the tag of a call is not finished", "unfinished"), len(text)
        return _broken(text, start + len("<function"), f'expected {_FUNCTION}name"> to open a call')
    name, at = _tag_name(text, start + len(_FUNCTION))
    if isinstance(name, Fault):
        return (name, at) if name.kind == "unfinished" else _broken(text, at, name.reason)
    values: list[WrittenValue] = []
    while True:
        at = skip_space(text, at)
        if text.startswith(_FUNCTION_END, at):
            end = at + len(_FUNCTION_END)
            found = _as_xml(text, start, end, values)
            if isinstance(found, Fault):
                return found, end
            return WrittenCall(name.group(), name.span(), tuple(found), start, end), end
        if not text.startswith(_PARAM, at):
            reason = f'expected {_PARAM}name"> or {_FUNCTION_END} in a call'
            if begins(_PARAM, text, at) or begins(_FUNCTION_END, text, at):
                return Fault(reason, "unfinished"), len(text)
            return _broken(text, at, reason)
        key, first = _tag_name(text, at + len(_PARAM))
        if isinstance(key, Fault):
            return (key, first) if key.kind == "unfinished" else _broken(text, first, key.reason)
        in_cdata = text.startswith(_CDATA, first)
        first += len(_CDATA) if in_cdata else 0
        closing = _CDATA_END + _PARAM_END if in_cdata else _PARAM_END
        stop = _VALUE_STOPS[in_cdata].search(text, first)
        if stop is None:
            return Fault(f"expected {closing} after a value", "unfinished"), len(text)
        if stop.group() == _FUNCTION_END:
            return _broken(text, first, f"expected {closing} after a value")
        last, at = stop.start(), stop.end()
        values.append(WrittenValue(key.group(), text[first:last], (first, last)))


def _tag_name(text: str, start: int) -> tuple[re.Match[str] | Fault, int]:
    """Return the name in a tag, and the index after the tag."""
    name = _NAME.match(text, start)
    end = name.end() if name else start
    if name and text.startswith('">', end):
        return name, end + 2
    return Fault(
        'expected a name and "> in a tag of a call', "unfinished" if begins('">', text, end) else "broken"
    ), end


def _as_xml(text: str, start: int, end: int, values: list[WrittenValue]) -> list[WrittenValue] | Fault:
    """Return the values of the call between these indices as a parser of XML reads them: references are replaced, and
    line ends are new lines. If the call is not well-formed, its texts are taken as they are, without white space around
    them, as vLLM does."""
    in_cdata = [text.startswith(_CDATA, value.span[0] - len(_CDATA)) for value in values]
    pairs = list(zip(values, in_cdata, strict=True))
    try:
        params = ElementTree.fromstring(text[start:end]).findall("param")
    except (ElementTree.ParseError, ValueError):  # ValueError: half of a surrogate pair
        if any(_PARAM_END in value.text if inside else _TAG.search(value.text) for value, inside in pairs):
            return Fault("a value contains a tag of the call, and the call is not well-formed XML")
        return [
            value if inside else WrittenValue(value.name, value.text.strip(), value.span) for value, inside in pairs
        ]
    if any("<" in value.text and not inside for value, inside in pairs):
        return Fault("a value contains tags, and needs a CDATA section")
    if [param.get("name") for param in params] != [value.name for value in values]:
        return Fault("a value contains the end of its CDATA section")
    return [WrittenValue(value.name, param.text or "", value.span) for param, value in zip(params, values, strict=True)]


def _broken(text: str, at: int, reason: str) -> tuple[Fault, int]:
    """Return the fault, and where the broken call ends: after its end tag, or before the next call."""
    tag = _CALL_END.search(text, at)
    if tag is None:
        return Fault(reason), len(text)
    return Fault(reason), tag.end() if tag.group() == _FUNCTION_END else tag.start()


def _write_string(text: str) -> str:
    return f"{_CDATA}{text}{_CDATA_END}" if "<" in text or "&" in text or "\n" in text else text


def _write_json(text: str) -> str:
    # Both characters occur only inside texts, where JSON can escape them.
    return text.replace("<", "\\u003c").replace("&", "\\u0026")


_SYNTAX = TaggedSyntax(
    marks=marks_of(r"<function\s+name\s*=", rf"{_FUNCTION_END}|{_PARAM_END}", *_SYNTAXES),
    tags=(_FUNCTION,),
    name=_NAME,
    read_block=_read_block,
    typed=literal_value,
    opening='<function name="{name}">',
    value='<param name="{name}">{text}</param>',
    closing="</function>",
    write_string=_write_string,
    write_json=_write_json,
)

_NO_XML = "".join(map(chr, (*range(1, 9), *range(11, 32), 0xFFFE, 0xFFFF)))
"""Characters that XML does not allow, and the carriage return, which its parsers change."""
_WORD = rf"[^\s<>\"'&{_NO_XML}]+"
_XML_NAME = f"{_WORD}(?: {_WORD})*"
_TEXTS = (
    TextForm(rf"[<&{_NO_XML}]|{_CDATA_END}", guards=f"<&]{_NO_XML}"),
    TextForm(rf"[{_NO_XML}]|{_CDATA_END}|{_FUNCTION_END}", _CDATA, _CDATA_END, f"<]{_NO_XML}"),
)

MINICPM5 = ChatFormat(
    name="minicpm5",
    read=partial(read_tagged, syntax=_SYNTAX),
    write=tagged_writer(_SYNTAX),
    calls=tagged_template(
        _SYNTAX,
        string='"<![CDATA[" + value + "]]>" if "<" in value or "&" in value or "\\n" in value else value',
        other=r'value | tojson | replace("<", "\\u003c") | replace("&", "\\u0026")',
    ),
    instructions=(
        'To call a function, respond with <function name="function_name"><param name="parameter_name">value</param>'
        "</function>. Write numbers, true, false, null, lists and objects as JSON, and texts as they are; write a text "
        "that contains <, & or a new line as <![CDATA[text]]>. Write several calls one after another, each on a line "
        "of its own."
    ),
    call_tokens=(_FUNCTION_END,),
    syntaxes=_SYNTAXES,
    stray_call="a call outside <function> tags",
    serving_parsers={"vllm": "minicpm5", "sglang": "minicpm5"},
    call_syntax=CallSyntax(
        "tags",
        first=_FUNCTION,
        between=f"\n{_FUNCTION}",
        opens=(r"<function\s", _FUNCTION_END, _PARAM_END),
        after_name='">',
        after_arguments=_FUNCTION_END,
        argument=_SYNTAX.value,
        texts=_TEXTS,
        typed=literal_value,
        strings=StringSyntax(escaped="<&\ufffe\uffff", refused=(_CDATA_END,)),
        name=_XML_NAME,
        key=_XML_NAME,
        is_exact=True,
    ),
)
