"""Data sets from a spec: a YAML file of tools, slots, templates and a mix goes in, JSONL comes out.

    tools: tools.json
    system_prompt: You are the agent of a web shop.
    slots:
      order_id: {codes: [{of: [ORD-###]}]}
    outputs:
      train:
        rows: 100
        templates:
          - {id: order, language: en, user: "where is {order_id}?", calls: [{query_order: {order_id: "{order_id}"}}]}

`Spec` and `fillers.SlotSpec` list every key. Names of files are seen from the spec's folder. The same spec gives the
same bytes. Nothing is written where a row breaks the tools or a check, or where the phrasings of two outputs are too
alike.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from toolhone.data.generate.fillers import Codes, SlotSpec, fillers
from toolhone.data.generate.json_yaml import YamlFile
from toolhone.data.generate.phrasings import choose, nearest_pairs
from toolhone.data.generate.requests import join_requests, load_results
from toolhone.data.generate.templates import Template, expand, load_templates, parse_templates
from toolhone.data.read import read_tools
from toolhone.errors import UserError
from toolhone.jsonl import write_text
from toolhone.records import Conversation

if TYPE_CHECKING:
    from rich.console import Console

_SHOWN_PAIRS = 5


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class OutputSpec(_Section):
    """One file of rows."""

    rows: int = Field(ge=1)
    """How many."""
    templates: str | list[Any]
    """The phrasings: a YAML file with a list under `templates`, or the list itself (see data/templates.py)."""
    ids: str | None = None
    """What the rows' ids begin with; the output's name, where left out."""
    repeat_templates: bool = True
    """Whether a template may make several rows, each with other values."""
    mix: dict[str, int | float | str] | None = None
    """As the spec's own mix, for this output alone; counts are of requests."""
    requests: int = Field(1, ge=1)
    """How many requests a row holds, one after another; each takes a template (see data/generate/requests.py)."""


class Spec(_Section):
    """A whole spec."""

    tools: str
    """A JSON file with the list of tools."""
    tools_in_rows: bool = True
    """Whether every row carries the tools; without them, a config's `data.tools` must name the file."""
    system_prompt: str = ""
    """The system message of every row; empty: none."""
    seed: int = 0
    """Another seed makes other rows of the same mix."""
    slots: dict[str, SlotSpec] = {}
    """What fills the slots of the templates, by name."""
    mix: dict[str, int | float | str] = {}
    """Rows by kind of template: "no call", "several calls" (in one turn), "several turns", or a tool's name for single
    calls of it. A whole number counts rows; 0.1 or 1/6 is a share of them, rounded down. The kinds that are not named
    share what is left, evenly."""
    evenly_by: dict[str, str] = {}
    """For a tool: the argument over whose values the rows of single calls are shared evenly."""
    languages: dict[str, float] = {}
    """The languages' shares of the rows; empty: as the templates have it."""
    results: str | None = None
    """A YAML file of what calls give back, for outputs of several requests a row."""
    outputs: dict[str, OutputSpec] = Field(min_length=1)
    """The files to make, by name: <name>.jsonl."""
    max_similarity: float = Field(1.0, ge=0.0, le=1.0)
    """How alike a phrasing of one output may be to one of another: Jaccard similarity of character 5-grams of what the
    user writes, in lower case, slots masked."""
    checks: tuple[Literal["own_argument", "said_before"], ...] = ()
    """own_argument: a slot in a call stands for the argument of its own name. said_before: a text argument, unless the
    schema lists its values, stands word for word in a message before the call."""

    @field_validator("slots")
    @classmethod
    def _slot_names(cls, slots: dict[str, SlotSpec]) -> dict[str, SlotSpec]:
        for name in slots:
            if not all(c == "_" or "a" <= c <= "z" for c in name):
                raise ValueError(f'the slot "{name}": expected a name of small letters and underscores')
        return slots


@dataclass(frozen=True, slots=True)
class Made:
    """What an output is made of: its rows, and the template of each."""

    chosen: list[Template]
    rows: list[Conversation]

    def text(self) -> str:
        """The rows as JSONL."""
        return "".join(json.dumps(row.to_json(), ensure_ascii=False) + "\n" for row in self.rows)


def load_spec(path: Path) -> tuple[Spec, YamlFile]:
    """Read a spec, and the lists of values that it names by file.

    Raises:
        UserError: one message with every fault, each with its line and key.
    """
    file = YamlFile(path, "spec")
    if not isinstance(file.value, dict):
        raise UserError(f"{path}: expected keys such as tools, slots and outputs, found {type(file.value).__name__}")
    try:
        spec = Spec.model_validate(file.value)
    except ValidationError as error:
        raise UserError("\n".join(dict.fromkeys(_describe(fault, file) for fault in error.errors()))) from None
    slots = {name: _with_lists(slot, path.parent) for name, slot in spec.slots.items()}
    return spec.model_copy(update={"slots": slots}), file


def _with_lists(slot: SlotSpec, folder: Path) -> SlotSpec:
    """The slot with its values in the place of the file's name that holds them."""
    if not isinstance(slot.lists, str):
        return slot
    values = YamlFile(folder / slot.lists, "list").value
    if not isinstance(values, dict):
        raise UserError(f"{folder / slot.lists}: expected lists of values by language, found {values!r}")
    return slot.model_copy(update={"lists": values})


def _describe(fault: Any, file: YamlFile) -> str:
    names = [str(part) for part in fault["loc"]]
    where = f"{file.place(names)}: {'.'.join(names)}"
    if fault["type"] == "extra_forbidden":
        known = [*Spec.model_fields, *OutputSpec.model_fields, *SlotSpec.model_fields]
        near = difflib.get_close_matches(names[-1], known, n=1)
        return f"{where}: unknown key" + (f' (did you mean "{near[0]}"?)' if near else "")
    if fault["type"] == "missing":
        return f"{where}: is required"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{where}: {message[0].lower()}{message[1:]}, found {fault['input']!r}"


def make(spec: Spec, file: YamlFile) -> dict[str, Made]:
    """Make the rows of every output.

    Raises:
        UserError: for templates that are faulty, too few or too alike, and for rows that break the tools or a check.
    """
    folder, seed = file.path.parent, spec.seed
    tools = read_tools(folder / spec.tools)
    counts = {name: output.rows for name, output in spec.outputs.items()}
    codes = Codes()
    made: dict[str, Made] = {}
    for name, output in spec.outputs.items():
        # The try-out of the templates draws codes of its own, so that those of the rows are not used up by it.
        tried = fillers(spec.slots, name, counts, seed, Codes(), str(file.path))
        if isinstance(output.templates, str):
            templates = load_templates(folder / output.templates, tools, tried)
        else:
            templates = parse_templates(file.entries("outputs", name, "templates") or [], tools, tried)
        if "own_argument" in spec.checks:
            for template in templates:
                refuse_slot_in_other_argument(template)
        mix = spec.mix if output.mix is None else output.mix
        try:
            chosen = choose(
                templates,
                output.rows * output.requests,
                mix={kind: _part(kind, part) for kind, part in mix.items()},
                evenly_by=spec.evenly_by,
                languages=spec.languages,
                repeat=output.repeat_templates,
                rng=Random(f"{seed}/{name}"),
            )
        except UserError as error:
            raise UserError(f"{file.place(['outputs', name])}: outputs.{name}: {error}") from None
        rows = expand(
            chosen,
            seed=seed,
            fillers=fillers(spec.slots, name, counts, seed, codes, str(file.path)),
            system_prompt=spec.system_prompt,
            tools=tools,
            prefix=output.ids or name,
        )
        if output.requests > 1:
            if spec.results is None:
                place = file.place(["outputs", name])
                raise UserError(f"{place}: outputs.{name}: requests needs the spec's `results`, a YAML file")
            results, rng = load_results(folder / spec.results), Random(f"{seed}/{name}/requests")
            rows = join_requests(rows, output.requests, results, rng=rng, tools=tools, prefix=output.ids or name)
        if "said_before" in spec.checks:
            for row in rows:
                refuse_made_up_text(row)
        made[name] = Made(chosen, rows if spec.tools_in_rows else [replace(row, tools=()) for row in rows])
    return made


def _part(kind: str, part: int | float | str) -> int | Fraction:
    """A count of rows as it is; a share as an exact fraction, so that 600 times 1/6 is 100."""
    if isinstance(part, int):
        read: int | Fraction = part
    else:
        try:
            read = Fraction(str(part))
        except (ValueError, ZeroDivisionError):
            raise UserError(f'mix: {kind}: expected a count or a share such as 0.1 or 1/6, found "{part}"') from None
    if read < 0 or (isinstance(read, Fraction) and read > 1):
        raise UserError(f"mix: {kind}: expected a count, or a share of 0 to 1, found {part}")
    return read


def refuse_slot_in_other_argument(template: Template) -> None:
    """An argument that is a slot is one of its own kind: no parcel's number as an order's."""
    for name, arguments in template.calls:
        for argument, value in arguments.items():
            if isinstance(value, str) and value.startswith("{") and not value.startswith("{" + argument):
                raise UserError(f"{template.where}: {name}: {argument} is {value}; expected the slot {{{argument}}}")


def refuse_made_up_text(row: Conversation) -> None:
    """A text argument, unless the schema lists its values, stands word for word in a message before the call."""
    listed = {
        (tool.name, name)
        for tool in row.tools
        for name, schema in tool.parameters.get("properties", {}).items()
        if "enum" in schema
    }
    said = ""
    for message in row.messages:
        said += message.content if message.role in ("user", "tool") else ""
        for call in message.tool_calls:
            for name, value in call.arguments.items():
                if isinstance(value, str) and (call.name, name) not in listed and value not in said:
                    raise UserError(f'{row.where}: {call.name}: {name} "{value}" stands in no message before the call')


def refuse_alike(made: dict[str, Made], limit: float, console: Console) -> None:
    """Print the nearest phrasings of each two outputs.

    Raises:
        UserError: naming every pair whose similarity is over the limit.
    """
    for one, other in combinations(made, 2):
        pairs = nearest_pairs(made[other].chosen, made[one].chosen)
        close = [pair for pair in pairs if pair[0] > limit]
        shown = [f"  {value:.3f} {_said(a)} | {_said(b)}" for value, a, b in (close[:20] or pairs[:_SHOWN_PAIRS])]
        if close:
            listed = "\n".join(shown)
            raise UserError(f"max_similarity: {len(close)} pairs are over {limit}; reword one of each:\n{listed}")
        console.print(f"nearest phrasings of {other} and {one} (Jaccard similarity of 5-grams, slots masked):")
        console.print("\n".join(shown), markup=False)


def _said(template: Template) -> str:
    return f"{template.id} {template.masked_question!r}"


def counts_of(spec: Spec, name: str, made: Made) -> str:
    """What an output is made of, in a few lines."""
    calls = [call for row in made.rows for message in row.messages for call in message.tool_calls]
    counts = {
        "kind": Counter(template.kind for template in made.chosen),
        "calls of": Counter(call.name for call in calls),
        "language": Counter(template.language for template in made.chosen),
    }
    for tool, argument in spec.evenly_by.items():
        values = (str(call.arguments[argument]) for call in calls if call.name == tool and argument in call.arguments)
        counts[argument] = Counter(values)
    lines = [f"{name}: {len(made.rows)} rows of {len(set(made.chosen))} templates"]
    for title, counter in counts.items():
        lines.append(f"  {title}: " + ", ".join(f"{key} {count}" for key, count in counter.most_common()))
    return "\n".join(lines)


def generate(path: Path, console: Console, *, out: Path | None = None, compare: bool = False) -> bool:
    """Make the rows of a spec and write them, or with `compare` hold them against the files that are there.

    `out` is the file to write where the spec has one output, and otherwise the folder of <output>.jsonl; left out, the
    files go beside the spec. Returns whether the files are now what the spec makes.

    Raises:
        UserError: for anything that is wrong with the spec; nothing is then written.
    """
    spec, file = load_spec(path)
    made = make(spec, file)
    for name in made:
        console.print(counts_of(spec, name, made[name]), markup=False)
    refuse_alike(made, spec.max_similarity, console)
    stale: Sequence[Path] = []
    for target, text in ((_target(path, spec, name, out), one.text()) for name, one in made.items()):
        if not compare:
            write_text(target, text)
            console.print(f"written: {target}", markup=False)
        elif not target.is_file() or target.read_bytes() != text.encode():
            stale = [*stale, target]
    for target in stale:
        console.print(f"{target} differs from what {path} makes", markup=False)
    return not stale


def _target(path: Path, spec: Spec, name: str, out: Path | None) -> Path:
    if out is not None and len(spec.outputs) == 1:
        return out
    if out is not None and out.suffix in (".jsonl", ".json"):
        many = ", ".join(spec.outputs)
        raise UserError(f"--out {out}: {path} has the outputs {many}, so expected a folder, found the name of a file")
    return (path.parent if out is None else out) / f"{name}.jsonl"
