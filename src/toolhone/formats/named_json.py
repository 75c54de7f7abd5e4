"""Reads and writes calls whose name is outside the JSON of their arguments, for example `[TOOL_CALLS]f[ARGS]{"a": 1}`.

In: the text behind a marker of `marked_json.MarkedSyntax`. Out: its calls, with the spans of names and values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from toolhone.formats.call_json import CallSpans, Decoded, Span, Undecodable, decode, member_spans, skip_space
from toolhone.formats.chat_format import RawCall, Writer
from toolhone.formats.marked_json import Marker, cut_within, jinja_constants
from toolhone.formats.pieces import Fault, Piece, PlacedCall
from toolhone.formats.repair import Repairer
from toolhone.records import FinishReason

NAME = re.compile(r"(?P<name>[^\s\[\]{}<>|｜]{1,200})")

Part = str | re.Pattern[str]
"""A part of a call before its arguments: a text, or a pattern. The pattern NAME finds the name of the call."""


@dataclass(frozen=True, slots=True)
class NamedCall:
    """How a call with its name outside the JSON is written.

    Attributes:
        before_name, after_name, after_arguments: the texts around the name and the arguments. `{index}` is the number
            of the call in its turn, from 0.
        between: the text between two calls.
        headers: the sequences of parts that may come before the arguments.
        ends_turn: whether only other calls may follow a call.
    """

    before_name: str
    after_name: str
    after_arguments: str
    between: str
    headers: tuple[tuple[Part, ...], ...]
    ends_turn: bool = False


def read_named_block(
    text: str, at: int, marker: Marker, repairer: Repairer, *, form: NamedCall
) -> tuple[list[Piece], int]:
    """Return the calls of a block, and where it ends. If the marker has no closing, the block has one call."""
    pieces: list[Piece] = []
    while True:
        at = skip_space(text, at)
        if marker.closing and text.startswith(marker.closing, at):
            return pieces or [Fault(f"no call before {marker.closing}")], at + len(marker.closing)
        if pieces and cut_within(text, at, marker.closing):
            return [*pieces, Fault(f"expected {marker.closing} after the calls", "unfinished")], len(text)
        piece, at = _read_call(text, at, repairer, form)
        pieces.append(piece)
        if isinstance(piece, Fault):
            return pieces, at
        if not marker.closing:
            end = skip_space(text, at)
            opening = marker.opening[0]
            if form.ends_turn and not text.startswith(opening, end) and not cut_within(text, end, opening):
                return [Fault("text after the arguments of a call")], end
            return pieces, at


def _read_call(text: str, start: int, repairer: Repairer, form: NamedCall) -> tuple[PlacedCall | Fault, int]:
    """Return the call that starts here, or its fault, and where it ends."""
    name, at, is_cut = _read_header(text, start, form)
    if name is None:
        return Fault("expected the name of a call and its arguments", "unfinished" if is_cut else "broken"), at
    at = skip_space(text, at)
    found = repairer.decode(text, at)
    if isinstance(found, Undecodable):
        return Fault(found.reason, "unfinished" if found.cut else "broken"), max(found.end, at)
    end = skip_space(text, found.end)
    closing = form.after_arguments.strip()
    if not text.startswith(closing, end):
        is_cut = cut_within(text, end, closing)
        return Fault(f"expected {closing} after the arguments", "unfinished" if is_cut else "broken"), end
    call = _call(text, name, at, found, repairer)
    return call, end + len(closing) if closing else found.end


def _read_header(text: str, start: int, form: NamedCall) -> tuple[Span | None, int, bool]:
    """Return the span of the name and where the arguments start; or None, `start` and whether the text may be cut."""
    is_cut = False
    for parts in form.headers:
        name, at = None, start
        for part in parts:
            if isinstance(part, str):
                fits, is_cut = text.startswith(part, at), is_cut or cut_within(text, at, part)
                at += len(part)
            else:
                found = part.match(text, at)
                fits, is_cut = found is not None, is_cut or at == len(text)
                name = found.span("name") if found and "name" in part.groupindex else name
                at = found.end() if found else at
            if not fits:
                break
        else:
            return name, at, False
    return None, start, is_cut


def _call(text: str, name: Span, at: int, found: Decoded, repairer: Repairer) -> PlacedCall | Fault:
    """Return the call with decoded arguments that start at `at`, or why they are not the arguments of a call."""
    named = {"name": text[slice(*name)], "arguments": found.value}
    call = repairer.read_call(replace(found, value=named), ("arguments",))
    if isinstance(call, str):
        return Fault(call)
    is_strict = isinstance(found.value, dict) and not found.repairs
    spans = CallSpans(name, dict(member_spans(text, at))) if is_strict else None
    return PlacedCall(call, name[0], found.end, spans)


def named_call_writer(form: NamedCall, marker: Marker) -> Writer:
    """Return a writer of calls in this form. With a closing, the marker opens one block of all calls."""
    opening = marker.opening[0] if marker.closing else ""

    def write(content: str, calls: Sequence[RawCall], finish_reason: FinishReason) -> str:
        written, is_whole = [], True
        for index, call in enumerate(calls):
            may_be_cut = finish_reason == "length" and index == len(calls) - 1
            arguments, is_whole = _written_arguments(call.arguments, may_be_cut=may_be_cut)
            after_name = form.after_name.replace("{index}", str(index))
            body = form.before_name + call.name + after_name + arguments
            written.append(body + (form.after_arguments if is_whole else ""))
        if not written:
            return content
        return content + opening + form.between.join(written) + (marker.closing if is_whole else "")

    return write


def _written_arguments(arguments: str, *, may_be_cut: bool) -> tuple[str, bool]:
    """Return the text of a call's arguments, and whether it is complete. If they are not a JSON object, it is a JSON
    string, which is not read as arguments and cannot end the call."""
    raw = arguments.strip() or "{}"
    found = decode(raw, 0)
    if isinstance(found, Undecodable):
        if may_be_cut and found.cut and raw.startswith("{"):
            return raw, False
    elif found.fault is None and isinstance(found.value, dict) and found.end == len(raw):
        return raw, True
    return json.dumps(arguments, ensure_ascii=False), True


def named_call_template(form: NamedCall, marker: Marker) -> str:
    """Return the Jinja text that writes what `named_call_writer` writes."""
    before_index, has_index, after_name = form.after_name.rpartition("{index}")
    constants = jinja_constants(
        opening=marker.opening[0] if marker.closing else "",
        closing=marker.closing,
        between=form.between,
        before_name=form.before_name,
        before_index=before_index,
        after_name=after_name,
        after_arguments=form.after_arguments,
    )
    return constants + _NAMED_CALLS.replace("INDEX", "loop.index0 | string" if has_index else '""')


_NAMED_CALLS = """
{{- content }}
{%- for call in calls %}
    {{- opening if loop.first else between }}
    {{- before_name + call.function.name + before_index + (INDEX) + after_name }}
    {{- (call.function.arguments | tojson) + after_arguments }}
{%- endfor %}
{{- closing if calls }}"""
