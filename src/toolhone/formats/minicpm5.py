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

from toolhone.formats.call_json import skip_space
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
_REFERENCE = re.compile(r"&(?:#([0-9]{1,7}+)|#x([0-9a-fA-F]{1,6}+)|(amp|lt|gt|quot|apos));")
_ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _read_block(text: str, start: int) -> tuple[WrittenCall | Fault | None, int]:
    """Return the call that opens here, and where it ends."""
    if not text.startswith(_FUNCTION, start):
        if begins(_FUNCTION, text, start):
            return Fault("the tag of a call is not finished", "unfinished"), len(text)
        return _broken(text, start + len("<function"), f'expected {_FUNCTION}name"> to open a call')
    name, at = _tag_name(text, start + len(_FUNCTION))
    if isinstance(name, Fault):
        return (name, at) if name.kind == "unfinished" else _broken(text, at, name.reason)
    values: list[tuple[WrittenValue, bool]] = []
    while True:
        at = skip_space(text, at)
        if text.startswith(_FUNCTION_END, at):
            end = at + len(_FUNCTION_END)
            return WrittenCall(name.group(), name.span(), _as_xml(values), start, end), end
        if not text.startswith(_PARAM, at):
            reason = f'expected {_PARAM}name"> or {_FUNCTION_END} in a call'
            if begins(_PARAM, text, at) or begins(_FUNCTION_END, text, at):
                return Fault(reason, "unfinished"), len(text)
            return _broken(text, at, reason)
        key, first = _tag_name(text, at + len(_PARAM))
        if isinstance(key, Fault):
            return (key, first) if key.kind == "unfinished" else _broken(text, first, key.reason)
        in_cdata = text.startswith(_CDATA, first)
        read = _cdata_end if in_cdata else _plain_end
        first += len(_CDATA) if in_cdata else 0
        last, at = read(text, first)
        if isinstance(last, Fault):
            return (last, at) if last.kind == "unfinished" else _broken(text, at, last.reason)
        values.append((WrittenValue(key.group(), text[first:last], (first, last)), in_cdata))


def _tag_name(text: str, start: int) -> tuple[re.Match[str] | Fault, int]:
    """Return the name in a tag, and the index after the tag."""
    name = _NAME.match(text, start)
    end = name.end() if name else start
    if name and text.startswith('">', end):
        return name, end + 2
    return Fault(
        'expected a name and "> in a tag of a call', "unfinished" if begins('">', text, end) else "broken"
    ), end


def _cdata_end(text: str, start: int) -> tuple[int | Fault, int]:
    """Return where the text in a CDATA section ends, and the index after its </param>."""
    end = text.find(_CDATA_END + _PARAM_END, start)
    if end < 0:
        return Fault("the CDATA section of a value is not closed", "unfinished"), len(text)
    # vLLM ends a call at the first </function>. A parser of XML ends the section at the first ]]>.
    is_cut = text.find(_FUNCTION_END, start, end) >= 0
    if is_cut or (text.find(_CDATA_END, start, end) >= 0 and text.find(_PARAM_END, start, end) >= 0):
        return Fault("a value contains the end of its CDATA section or of the call"), start
    return end, end + len(_CDATA_END + _PARAM_END)


def _plain_end(text: str, start: int) -> tuple[int | Fault, int]:
    """Return where a text without CDATA ends, and the index after its </param>."""
    end = text.find("<", start)
    if end < 0 or begins(_PARAM_END, text, end) or (end == start and begins(_CDATA, text, end)):
        return Fault(f"expected {_PARAM_END} after a value", "unfinished"), len(text)
    if not text.startswith(_PARAM_END, end):
        return Fault("a value with < needs a CDATA section"), end
    return end, end + len(_PARAM_END)


def _as_xml(values: list[tuple[WrittenValue, bool]]) -> tuple[WrittenValue, ...]:
    """Return the values as a parser of XML reads them: with references replaced, and every line end as a new line. If
    the call is not well-formed XML, the texts are taken as they are, without white space around them, as vLLM does."""
    is_xml = all(not _NOT_XML.search(value.text) and _CDATA_END not in value.text for value, _ in values)
    is_xml = is_xml and all(in_cdata or _has_only_references(value.text) for value, in_cdata in values)
    read = []
    for value, in_cdata in values:
        text = value.text
        if is_xml:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
            text = text if in_cdata else _REFERENCE.sub(_referred, text)
        elif not in_cdata:
            text = text.strip()
        read.append(WrittenValue(value.name, text, value.span))
    return tuple(read)


def _has_only_references(text: str) -> bool:
    """Whether every `&` begins a reference to a character of XML."""
    if "&" not in text:
        return True
    found = [_referred(reference) for reference in _REFERENCE.finditer(text)]
    return len(found) == text.count("&") and not any(_NOT_XML.search(each) or not each for each in found)


def _referred(reference: re.Match[str]) -> str:
    """Return the character of a reference; "" if there is none."""
    decimal, hexadecimal, entity = reference.groups()
    if entity:
        return _ENTITIES[entity]
    code = int(decimal) if decimal else int(hexadecimal, 16)
    return chr(code) if code < 0x110000 else ""


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
)
