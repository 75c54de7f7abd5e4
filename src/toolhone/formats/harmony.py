"""The harmony format of gpt-oss: messages with a header, such as a thought, an answer and a call.

    <|channel|>analysis<|message|>a thought<|end|><|start|>assistant<|channel|>final<|message|>an answer<|return|>
    <|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": 1}<|call|>

The prompt ends with `<|start|>assistant`, so the first message has no start. The channel analysis has thoughts; final
and commentary have prose. A message with a recipient is a call, in any channel and with the recipient before or after
it, as in OpenAI's parser, which vLLM uses. Text without any header is prose.

Generation stops at `<|call|>`, and gpt-oss's own template writes only the first call of a turn. So a model cannot make
parallel calls, and a row that has them fails its round trip. The reader reads them, as vLLM does. The call syntax needs
message headers, so toolhone cannot write it into another template's turns (`calls` is "").
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from toolhone.formats.call_json import CallSpans, Span, Undecodable, decode, member_spans, short
from toolhone.formats.call_syntax import CallSyntax, StringSyntax
from toolhone.formats.chat_format import ChatFormat, RawCall
from toolhone.formats.foreign_syntax import call_syntax, openings
from toolhone.formats.pieces import Fault, Piece, PlacedCall, Thought, foreign_block, read_thought
from toolhone.formats.repair import Repairer
from toolhone.records import FinishReason, ToolCall

HARMONY_SYNTAX = "gpt-oss (harmony) to=functions"
_START, _CHANNEL, _MESSAGE, _CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
_END, _CALL = "<|end|>", "<|call|>"
_ENDS = (_END, _CALL, "<|return|>")
_NAMESPACE = "functions."
_ASSISTANT = f"{_START}assistant"
_TO_FUNCTION, _AS_JSON = f"{_CHANNEL}commentary to={_NAMESPACE}", f" {_CONSTRAIN}json{_MESSAGE}"
_BUILT_IN = ("python", "browser", "container")

# What ends a header, and what ends the text of a message.
_HEADER_END = re.compile(r"<\|(?:message|start|end|call|return)\|>")
_MESSAGE_END = re.compile(r"<\|(?:end|call|return)\|>")
_TOKENS = r"<\|(?:start|channel|message|constrain|end|call|return)\|>"
_LOOKS_LIKE_HEADER = re.compile(r"\s*(?:assistant\b\s*)?(?:<\|channel\|>|to=)")
_ROLE = re.compile(r"\s*assistant(?![\w:])")
_CHANNEL_NAME = re.compile(r"<\|channel\|>([^\s<]*)")
_NAME = re.compile(r"[^\s<\ud800-\udfff]++")
_TYPE = r"\s*+(?:<\|constrain\|>\s*+)?[\w.+/-]*+\s*+"
_ADDRESSED = re.compile(rf"\s*+to=({_NAME.pattern}){_TYPE}")
_UNADDRESSED = re.compile(r"\s*+(?:<\|constrain\|>\s*+[\w.+/-]*+\s*+)?")
_MARK = re.compile(rf"</?think>|(?P<foreign>{openings(HARMONY_SYNTAX)})", re.MULTILINE)


def _read(text: str, repairer: Repairer) -> Iterator[Piece]:
    """Yield the prose, thoughts, calls and faults of a turn, in order."""
    at = 0
    begins = True  # whether the assistant's message begins here: the prompt has the start and the role of the first
    while at < len(text):
        stop = _HEADER_END.search(text, at)
        end = len(text) if stop is None else stop.start()
        if stop is None or stop.group() != _MESSAGE:
            yield from _without_message(text, at, end, is_cut=stop is None, repairer=repairer)
            after_end = text.endswith(_ENDS, 0, at) and not text[at:end].strip()
            at = end if stop is None else stop.end()
            begins = after_end and stop is not None and stop.group() == _START and _ROLE.match(text, at) is not None
            continue
        close = _MESSAGE_END.search(text, stop.end())
        body = (stop.end(), len(text) if close is None else close.start())
        yield from _read_message(text, (at, end), body, begins=begins, is_cut=close is None, repairer=repairer)
        at = body[1] if close is None else close.end()
        begins = False


def _without_message(text: str, start: int, end: int, *, is_cut: bool, repairer: Repairer) -> Iterator[Piece]:
    """Yield the pieces of a text that no `<|message|>` follows: prose without a header, or a header alone."""
    header = text[start:end]
    if not _LOOKS_LIKE_HEADER.match(header):
        yield from _prose(text, start, end, repairer)
    elif is_cut:
        yield Fault("the header of a message is not finished", "unfinished" if "to=" in header else "begun", header)
    else:
        yield Fault(f"expected {_MESSAGE} after the header of a message")


def _read_message(
    text: str, header: Span, body: Span, *, begins: bool, is_cut: bool, repairer: Repairer
) -> Iterator[Piece]:
    """Yield the pieces of a message.

    Args:
        begins: whether the start of a message of the assistant is before it.
        is_cut: whether its end is missing.
    """
    written = text[slice(*header)]
    # The role and the channel are blanked, so that places stay the same.
    rest = _ROLE.sub(_blank, written, count=1) if _ROLE.match(written) else written
    channel = _CHANNEL_NAME.search(rest)
    rest = _CHANNEL_NAME.sub(_blank, rest, count=1)
    addressed = _ADDRESSED.fullmatch(rest)
    if addressed is not None:
        recipient = addressed[1]
        name = recipient.removeprefix(_NAMESPACE)
        if not begins:
            yield Fault(f"expected {_END}{_START}assistant before the message of a call")
        elif not name or recipient == "assistant" or recipient.partition(".")[0] in _BUILT_IN:
            yield Fault(f"a call of {short(recipient)}, which is not a function")
        else:
            end = header[0] + addressed.end(1)
            yield _read_call(text, (end - len(name), end), body, is_cut=is_cut)
    elif _UNADDRESSED.fullmatch(rest) is None:
        yield Fault(f'a message with the header "{short(written)}"')
    elif channel is not None and channel[1] == "analysis":
        if is_cut:
            syntax = call_syntax(text[body[0] :], repairer.tools)
            yield Fault("the analysis is not finished", "unfinished" if syntax else "begun", text[header[0] :])
        else:
            yield Thought(*body)
    else:
        yield from _prose(text, *body, repairer)


def _blank(found: re.Match[str]) -> str:
    return " " * len(found.group())


def _read_call(text: str, name: Span, body: Span, *, is_cut: bool) -> Piece:
    """Return a call whose arguments are the text of a message, or its fault."""
    written = text[slice(*body)]
    start = len(written) - len(written.lstrip())
    found = decode(written, start)
    if isinstance(found, Undecodable):
        return Fault(found.reason, "unfinished" if found.cut and is_cut else "broken")
    if found.fault is not None:
        return Fault(found.fault)
    if not isinstance(found.value, dict):
        return Fault("expected the arguments of a call to be a JSON object")
    if after := written[found.end :].strip():
        begun = is_cut and _CALL.startswith(after)
        return Fault(f"expected {_CALL} after the arguments of a call", "unfinished" if begun else "broken")
    spans = CallSpans(name, dict(member_spans(text, body[0] + start)))
    return PlacedCall(ToolCall(text[slice(*name)], found.value), name[0], body[0] + found.end, spans)


def _prose(text: str, start: int, end: int, repairer: Repairer) -> Iterator[Piece]:
    """Yield the prose between two indices, with its `<think>` blocks and its calls in other syntaxes."""
    said = text[start:end]
    prose = at = 0
    while mark := _MARK.search(said, at):
        if mark["foreign"] is not None:
            pieces, at = foreign_block(said, mark.start())
        elif mark.group() == "<think>":
            pieces, at = read_thought(said, mark.start(), repairer.tools)
        else:
            pieces, at = [Thought(0, mark.start(), opened=False)], mark.end()
        yield said[prose : mark.start()]
        for piece in pieces:
            if isinstance(piece, Thought):
                yield Thought(piece.start + start, piece.end + start, piece.opened)
            else:
                yield piece
        prose = at
    yield said[prose:]


def _write(content: str, calls: Sequence[RawCall], finish_reason: FinishReason) -> str:
    """Write a turn: its prose without a header, then each call as a message."""
    cut = len(calls) if finish_reason == "length" else 0
    messages = [_written(call, may_be_cut=number == cut) for number, call in enumerate(calls, 1)]
    # Every message but the first needs a start, as does a first call after prose.
    preamble = f"{_CHANNEL}commentary{_MESSAGE}{content}{_END}"
    before = [preamble] if content and calls else [content] if content else []
    return _ASSISTANT.join([*before, *messages])


def _written(call: RawCall, *, may_be_cut: bool) -> str:
    """Return the message of a call. What cannot be carried is written so that it cannot be read as a call."""
    raw = call.arguments.strip() or "{}"  # some endpoints send an empty text if there are no arguments
    found = decode(raw, 0)
    if isinstance(found, Undecodable):
        is_whole, fits = False, may_be_cut and found.cut and raw.startswith("{")
    else:
        is_whole, fits = True, isinstance(found.value, dict) and found.end == len(raw)
    if fits and _NAME.fullmatch(call.name):
        # In JSON, `<` stands only in strings, where an escape keeps it from opening a special token.
        arguments = raw.replace("<|", "\\u003c|")
        return _header(call.name) + arguments + (_CALL if is_whole else "")
    unread = json.dumps(json.dumps({"name": call.name, "arguments": call.arguments}), ensure_ascii=False)
    return _header("f") + unread.replace("<|", "\\u003c|") + _CALL


def _header(name: str) -> str:
    return _TO_FUNCTION + name + _AS_JSON


HARMONY = ChatFormat(
    name="harmony",
    read=_read,
    write=_write,
    call_tokens=(_START, _CHANNEL, _MESSAGE, _CONSTRAIN, _END, _CALL),
    syntaxes=(HARMONY_SYNTAX,),
    other_stops=("<|return|>", _CALL, "<|endoftext|>"),
    stray_call="a call without the header of a message",
    serving_parsers={"vllm": "openai", "sglang": "gpt-oss"},
    call_syntax=CallSyntax(
        "named",
        first=_TO_FUNCTION,
        between=f"{_CALL}{_ASSISTANT}{_TO_FUNCTION}",
        last=_CALL,
        opens=(_TOKENS, rf"to={_NAMESPACE}"),
        line_opens=(r"(?:assistant\s*)?to=",),
        after_name=_AS_JSON,
        strings=StringSyntax(refused=("<|",)),
        name=r"[^\s<]+",
        is_exact=True,
        is_stopped=True,
        preamble=(f"{_CHANNEL}commentary{_MESSAGE}", f"{_END}{_ASSISTANT}"),
        headers=("", f"{_CHANNEL}final{_MESSAGE}"),
        thought=(f"{_CHANNEL}analysis{_MESSAGE}", f"{_END}{_ASSISTANT}"),
        in_thought=_TOKENS,
    ),
)
