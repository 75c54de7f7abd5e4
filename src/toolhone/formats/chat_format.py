"""Defines `ChatFormat`, one object with everything that toolhone needs to know about a chat format.

A format says how turns are written (a Jinja template), how the calls of a turn are read (`read`) and written (`write`),
which tokens it needs, where generation stops, and which parsers of serving engines read it. `chat/parse.py` reads back
what the template writes, and `chat/render.py` checks this for every row.

To add a format, write one file that defines a `ChatFormat`, and add it to `FORMATS` in `formats/__init__.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolhone.formats.call_json import Undecodable, decode
from toolhone.formats.call_syntax import CallSyntax
from toolhone.formats.pieces import Piece
from toolhone.formats.repair import Repairer
from toolhone.records import FinishReason

Reader = Callable[[str, Repairer], Iterator[Piece]]
"""Reads the text of a turn without its end-of-turn token. Yields its prose, calls and faults in order."""


@dataclass(frozen=True, slots=True)
class RawCall:
    """A call as an endpoint returns it. `arguments` should be the JSON text of an object, but may be broken."""

    name: str
    arguments: str


Writer = Callable[[str, Sequence[RawCall], FinishReason], str]
"""Writes a turn from its prose and its calls. With "length" the last call may be cut off; it is written without its
end."""


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """A chat format.

    Attributes:
        name: its name in `chat.format` of a config.
        read: reads the calls of a turn.
        write: writes a turn whose calls are given as structures, for example by an endpoint.
        call_syntax: how its calls are written, for the grammar of an answer.
        calls: Jinja: the body of the macro `write_calls(content, calls)`, which writes what `write` does. `calls` are
            OpenAI's, with arguments as mappings.
        instructions: what a prompt says about how to call; plain text.
        call_tokens: the tokens that open and close calls. No text of a message may contain them.
        syntaxes: the names in `foreign_syntax.TAGGED` that are this format's own.
        template: the Jinja template of a conversation, for formats that have turn markers of their own; "" if the turns
            are always those of the model's template. It calls the macros `write_tool(tool)` and
            `write_calls(content, calls)`. If the variable `names_only` is true, it leaves out the instructions.
        special_tokens: tokens that the tokenizer must have for `template`.
        end_of_turn: the token that ends the model's turn in `template`.
        other_stops: further tokens at which generation stops.
        stray_call: the name, in failures, of a call in a place where the format does not read calls.
        begins_with_name: whether a call begins with the name of its tool, so that any text may begin one.
        template_kwargs: variables for every rendering.
        serving_parsers: for each serving engine, its tool-call parser that reads this format.
        is_detected: false if `chat.format: auto` never chooses the format.
    """

    name: str
    read: Reader
    write: Writer
    call_syntax: CallSyntax
    calls: str = ""
    instructions: str = ""
    call_tokens: tuple[str, ...] = ()
    syntaxes: tuple[str, ...] = ()
    template: str = ""
    special_tokens: tuple[str, ...] = ()
    end_of_turn: str = ""
    other_stops: tuple[str, ...] = ()
    stray_call: str = "a call inside a line of text"
    begins_with_name: bool = False
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    serving_parsers: Mapping[str, str] = field(default_factory=dict)
    is_detected: bool = True

    @property
    def stops(self) -> tuple[str, ...]:
        """The tokens at which generation stops, the end-of-turn token first."""
        return (*((self.end_of_turn,) if self.end_of_turn else ()), *self.other_stops)

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """The tokens with a meaning in the format. No text of a message may contain them."""
        return (*self.special_tokens, *self.other_stops, *self.call_tokens)

    def template_with(self, tools: str) -> str:
        """Return the Jinja template with its macros. `tools` is the value of `chat.tools`: "schema", "signatures" or
        "names"."""
        return TOOL_MACROS[tools] + self.calls_macro + self.template

    @property
    def calls_macro(self) -> str:
        """The Jinja macro `write_calls(content, calls)`, which writes the text of an assistant turn."""
        return f"{{%- macro write_calls(content, calls) -%}}\n{self.calls}{{%- endmacro -%}}\n"


def json_call_writer(arguments_key: str, *, opening: str = "", closing: str = "", separator: str = "\n") -> Writer:
    """Return a writer for formats whose calls are JSON objects with "name" and `arguments_key`.

    Args:
        opening, closing: the text before and after each object.
        separator: the text between two calls.
    """

    def write(content: str, calls: Sequence[RawCall], finish_reason: FinishReason) -> str:
        written = []
        for number, call in enumerate(calls, 1):
            may_be_cut = finish_reason == "length" and number == len(calls)
            body, is_whole = write_call_object(call, arguments_key, may_be_cut=may_be_cut)
            written.append(opening + body + (closing if is_whole else ""))
        joined = separator.join(written)
        return f"{content}\n{joined}" if content and written else content + joined

    return write


def write_call_object(call: RawCall, arguments_key: str, *, may_be_cut: bool) -> tuple[str, bool]:
    """Return the JSON of a call, and whether it is complete.

    Arguments that are not a JSON object are written as a JSON string. So they cannot be read as a call, and cannot end
    this call and begin another one.
    """
    raw = call.arguments.strip() or "{}"  # some endpoints send an empty text if there are no arguments
    opening = f'{{"name": {json.dumps(call.name, ensure_ascii=False)}, "{arguments_key}": '
    found = decode(raw, 0)
    if isinstance(found, Undecodable):
        if may_be_cut and found.cut and raw.startswith("{"):
            return opening + raw, False
    elif found.fault is None and isinstance(found.value, dict) and found.end == len(raw):
        return f"{opening}{raw}}}", True
    return f"{opening}{json.dumps(call.arguments, ensure_ascii=False)}}}", True


TOOL_MACROS = {
    "schema": r"""{#- A tool as the JSON that OpenAI's API takes. -#}
{%- macro write_tool(tool) -%}{{ tool | tojson }}{%- endmacro -%}
""",
    "signatures": r"""{#- A tool as one line, as in a language with types: `name(id: string, count?: integer = 1)  # what it does`. A `?` marks
    an optional argument. Bounds, patterns and the arguments' descriptions are left out: a tuned model knows them. -#}
{%- macro type_of(schema, definitions, depth=0) -%}
    {%- set choices = schema.anyOf or schema.oneOf or schema.allOf -%}
    {%- if schema is not mapping or depth > 8 -%}any
    {%- elif schema["$ref"] -%}{{ type_of(definitions.get(schema["$ref"].split("/") | last), definitions, depth + 1) }}
    {%- elif schema.enum -%}
        {%- for value in schema.enum -%}{{ "|" if not loop.first }}{{ value | tojson }}{%- endfor -%}
    {%- elif choices -%}
        {%- for choice in choices -%}{{ "|" if not loop.first }}{{ type_of(choice, definitions, depth + 1) }}{%- endfor -%}
    {%- elif schema.type == "array" -%}list[{{ type_of(schema["items"] if "items" in schema else {}, definitions, depth + 1) }}]
    {%- elif schema.type == "object" and schema.properties -%}{{ "{" + arguments_of(schema, definitions, depth + 1) + "}" }}
    {%- elif schema.type is string -%}{{ schema.type }}
    {%- elif schema.type -%}{{ schema.type | join("|") }}
    {%- else -%}any
    {%- endif -%}
{%- endmacro -%}
{%- macro arguments_of(schema, definitions, depth=0) -%}
    {%- for name, argument in (schema.properties or {}).items() -%}
        {{ ", " if not loop.first }}{{ name }}{{ "?" if name not in (schema.required or []) }}: {{ type_of(argument, definitions, depth) }}
        {%- if argument is mapping and "default" in argument %} = {{ argument.default | tojson }}{% endif -%}
    {%- endfor -%}
{%- endmacro -%}
{%- macro write_tool(tool) -%}
    {{ tool.function.name }}({{ arguments_of(tool.function.parameters, tool.function.parameters["$defs"] or tool.function.parameters.definitions or {}) }})
    {%- if tool.function.description %}  # {{ tool.function.description.split("\n") | join(" ") }}{% endif -%}
{%- endmacro -%}
""",
    "names": r"""{#- A tool as its name and its arguments' names: `name(id, count?)`, a `?` marking an optional one. A model tuned on its tools
    knows what they do and how calls are written; it needs to be told only which tools there are. -#}
{%- set names_only = true -%}
{%- macro write_tool(tool) -%}
    {%- set parameters = tool.function.parameters -%}
    {{ tool.function.name }}(
    {%- for name in parameters.properties or {} -%}
        {{ ", " if not loop.first }}{{ name }}{{ "?" if name not in (parameters.required or []) }}
    {%- endfor -%}
    )
{%- endmacro -%}
""",
}
"""The Jinja macros that write a tool into the prompt, by the value of `chat.tools`."""
