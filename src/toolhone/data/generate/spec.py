"""Read the spec of a data set from YAML into typed, frozen models, report each fault with line and key, and fill slots.

    tools: tools.json
    system_prompt: You are the agent of a web shop.
    slots:
      order_id: {codes: [{of: [ORD-###]}]}
    outputs:
      train:
        rows: 100
        templates:
          - {id: order, language: en, user: "where is {order_id}?", calls: [{query_order: {order_id: "{order_id}"}}]}

`Spec` lists every key. File names are relative to the spec's folder. Outputs (train, test, ...) share no value of a
slot, unless the slot says `shared: true`. So a model cannot answer a test row from memory.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from toolhone.config_file import lines_of_keys, parse_yaml
from toolhone.errors import UserError

Entries = list[tuple[str, Any]]  # the members of a list, each with its `file:line`


class Section(BaseModel):
    """A section of a spec: frozen, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Shapes(Section):
    """Shapes of codes, drawn equally often. "#" is a digit, "^" a digit that is not 0, "@" a letter."""

    of: tuple[str, ...] = Field(min_length=1)
    weight: float = Field(1.0, gt=0.0)
    """How often to draw one of these, relative to the other groups of shapes."""


class SlotSpec(Section):
    """How to fill one slot: with one of `codes`, `integers` and `lists`."""

    codes: tuple[Shapes, ...] | None = None
    """Groups of shapes such as ORD-###. No code is drawn twice in the whole spec, ignoring case."""
    lower_case: float = Field(0.0, ge=0.0, le=1.0)
    """The share of codes that users type in lower case. Tool results keep the case of the shape."""
    integers: tuple[int, int] | None = None
    """The smallest and the largest number."""
    lists: str | dict[str, Any] | None = None
    """Values by language, or by output and then language, or a YAML file with either. Values by language are divided
    among the outputs."""
    shared: bool = False
    """Whether several outputs may use the same value."""

    @model_validator(mode="after")
    def _one_kind(self) -> SlotSpec:
        given = [name for name in ("codes", "integers", "lists") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected one of codes, integers and lists, found {' and '.join(given) or 'none'}")
        if self.lower_case and self.codes is None:
            raise ValueError("lower_case needs codes")
        if self.integers is not None and self.integers[0] > self.integers[1]:
            raise ValueError(f"integers: the smallest, {self.integers[0]}, is above the largest, {self.integers[1]}")
        return self


class OutputSpec(Section):
    """One file of rows."""

    rows: int = Field(ge=1)
    """The number of rows."""
    templates: str | list[Any]
    """The phrasings: a YAML file with a list under `templates`, or the list itself (see templates.py)."""
    ids: str | None = None
    """The prefix of the rows' ids. The default is the output's name."""
    repeat_templates: bool = True
    """Whether a template may make several rows, each with other values."""
    mix: dict[str, int | float | str] | None = None
    """Overrides the spec's mix for this output. It counts requests."""
    requests: int = Field(1, ge=1)
    """The number of consecutive requests in a row. Each takes a template."""


class Spec(Section):
    """A whole spec."""

    tools: str
    """A JSON file with the list of tools."""
    tools_in_rows: bool = True
    """Whether rows list the tools. If not, a config's `data.tools` must name the file."""
    system_prompt: str = ""
    """The system message of every row. If empty, rows have none."""
    seed: int = 0
    """Another seed makes other rows with the same mix."""
    slots: dict[str, SlotSpec] = {}
    """How to fill the slots of the templates, by name."""
    mix: dict[str, int | float | str] = {}
    """Rows by kind of template: "no call", "several calls" (in one turn), "several turns", or a tool's name for single
    calls of it. A whole number is a count; 0.1 or 1/6 is a share of the rows, rounded down. The other kinds share the
    rest evenly."""
    evenly_by: dict[str, str] = {}
    """For a tool, the argument whose values get equally many rows of single calls."""
    languages: dict[str, float] = {}
    """The languages' shares of the rows. If empty, the templates decide."""
    results: str | None = None
    """A YAML file of call results, for outputs with several requests per row."""
    outputs: dict[str, OutputSpec] = Field(min_length=1)
    """The files to make, by name: <name>.jsonl."""
    max_similarity: float = Field(1.0, ge=0.0, le=1.0)
    """The highest allowed similarity of two outputs' phrasings: Jaccard similarity of character 5-grams of what the
    user writes, in lower case, slots masked."""
    checks: tuple[Literal["own_argument", "said_before"], ...] = ()
    """own_argument: a slot in a call fills the argument with its own name. said_before: a text argument occurs word for
    word in a message before the call, unless the schema lists its values."""

    @field_validator("slots")
    @classmethod
    def _slot_names(cls, slots: dict[str, SlotSpec]) -> dict[str, SlotSpec]:
        for name in slots:
            if not all(c == "_" or "a" <= c <= "z" for c in name):
                raise ValueError(f'the slot "{name}": expected a name of lower-case letters and underscores')
        return slots


def load_spec(path: Path) -> tuple[Spec, YamlFile]:
    """Return a spec with the lists of values from its files, and its YAML file. Raises UserError with every fault, its
    line and its key."""
    file = YamlFile(path, "spec")
    if not isinstance(file.value, dict):
        raise UserError(f"{path}: expected keys such as tools, slots and outputs, found {type(file.value).__name__}")
    try:
        spec = Spec.model_validate(file.value)
    except ValidationError as error:
        raise UserError("\n".join(dict.fromkeys(_describe(fault, file) for fault in error.errors()))) from None
    slots = dict(spec.slots)
    for name, slot in slots.items():
        if isinstance(slot.lists, str):
            values = YamlFile(path.parent / slot.lists, "list").value
            if not isinstance(values, dict):
                raise UserError(f"{path.parent / slot.lists}: expected lists of values by language, found {values!r}")
            slots[name] = slot.model_copy(update={"lists": values})
    return spec.model_copy(update={"slots": slots}), file


def _describe(fault: Any, file: YamlFile) -> str:
    names = [str(name) for name in fault["loc"]]
    where = f"{file.place(names)}: {'.'.join(names)}"
    if fault["type"] == "extra_forbidden":
        known = [*Spec.model_fields, *OutputSpec.model_fields, *SlotSpec.model_fields]
        near = difflib.get_close_matches(names[-1], known, n=1)
        return f"{where}: unknown key" + (f' (did you mean "{near[0]}"?)' if near else "")
    if fault["type"] == "missing":
        return f"{where}: is required"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{where}: {message[0].lower()}{message[1:]}, found {fault['input']!r}"


class _JsonTypesLoader(yaml.SafeLoader):
    """Gives unquoted values JSON's types and refuses duplicate keys.

    YAML 1.1 reads `9:00` as the number 540, `no` as a boolean and `2026-01-31` as a date. In phrasings, they are texts.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own way)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        for index, name in enumerate(names):
            if name in names[:index]:
                mark = node.value[index][0].start_mark
                raise yaml.constructor.ConstructorError(None, None, f'the key "{name}" occurs twice', mark)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("bool", r"true|false", "tf"),
    ("null", r"null|~|", "n~"),
    ("int", r"-?(?:0|[1-9][0-9]*)", "-0123456789"),
    ("float", r"-?(?:0|[1-9][0-9]*)\.[0-9]+", "-0123456789"),
):
    _JsonTypesLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})$"), [*_first, *([""] if _tag == "null" else [])]
    )


class YamlFile:
    """A YAML file: its `value`, with JSON's types for unquoted values, and the lines of its keys and list members."""

    def __init__(self, path: Path, what: str) -> None:
        """Read the file. `what` names its kind in the UserError for a file that cannot be read."""
        self.path = path
        try:
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise UserError(f"{path}: no such {what} file") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
        except OSError as error:
            raise UserError(f"{path}: cannot be read as a {what} file ({error.strerror})") from None
        self.value: Any = parse_yaml(text, str(path), _JsonTypesLoader)
        self._root: yaml.Node | None = yaml.compose(text, Loader=_JsonTypesLoader)

    def entries(self, *keys: str) -> Entries | None:
        """Return the members of the list under these keys, or None if there is no list."""
        node: Any = self._root
        value = self.value
        for key in keys:
            if not isinstance(value, dict) or key not in value:
                return None
            node = next(below for name, below in node.value if name.value == key)
            value = value[key]
        if not isinstance(value, list):
            return None
        lines = (member.start_mark.line + 1 for member in node.value)
        return [(f"{self.path}:{line}", member) for line, member in zip(lines, value, strict=True)]

    def place(self, keys: list[str]) -> str:
        """Return the `file:line` of the key, or of the nearest section around it, or only the file."""
        written = dict(lines_of_keys(self._root))
        lines = (written.get(".".join(keys[:depth])) for depth in range(len(keys), 0, -1))
        line = next((line for line in lines if line is not None), None)
        return str(self.path) if line is None else f"{self.path}:{line}"


# Filling slots

Filler = Callable[[Random, str, bool], str | int]
"""Returns a slot's value, given random numbers, the row's language, and whether the user types it (or a tool returns
it)."""

_SYMBOLS = {"#": "0123456789", "^": "123456789", "@": "ABCDEFGHJKLMNPQRSTUVWXYZ"}  # no I and O, which look like 1 and 0
_MAX_DRAWS = 10_000
_DIGITS = re.compile(r"\d{4,}")

_T = TypeVar("_T")

Lists = dict[str, tuple[str | int, ...]]  # values by language


def fillers(
    slots: Mapping[str, SlotSpec], output: str, rows: Mapping[str, int], seed: int, drawn: set[str], where: str
) -> dict[str, Filler]:
    """Return a filler for each slot of one output.

    Args:
        rows: the number of rows of every output. Values are divided in proportion to it.
        drawn: the codes drawn so far for all outputs. Fillers add to it.

    Raises:
        UserError: starting with `where` and the slot, if an output gets no value or two outputs get the same one.
    """
    made: dict[str, Filler] = {}
    for name, slot in slots.items():
        place = f"{where}: slots.{name}"
        if slot.codes is not None:
            made[name] = code_filler(slot, drawn, place)
        elif slot.integers is not None:
            whole = range(slot.integers[0], slot.integers[1] + 1)
            numbers = whole if slot.shared else divide(whole, rows, f"{seed}/{name}", place)[output]
            made[name] = _integer_filler(numbers)
        else:
            made[name] = _list_filler(_lists(slot, rows, f"{seed}/{name}", place)[output], place)
    return made


def code_filler(slot: SlotSpec, drawn: set[str], where: str) -> Filler:
    """Return a filler whose codes are not in `drawn`, ignoring case, and share no run of four or more digits with it.

    The filler raises UserError if the shapes give no new code.
    """
    assert slot.codes is not None
    groups, weights = slot.codes, [group.weight for group in slot.codes]

    def draw(rng: Random, language: str, typed: bool) -> str:
        for _ in range(_MAX_DRAWS):
            shape = rng.choice(rng.choices(groups, weights)[0].of)
            code = "".join(rng.choice(_SYMBOLS[s]) if s in _SYMBOLS else s for s in shape)
            parts = {code.lower(), *_DIGITS.findall(code)}
            if slot.shared or drawn.isdisjoint(parts):
                drawn.update(parts)
                return code.lower() if typed and slot.lower_case and rng.random() < slot.lower_case else code
        raise UserError(f"{where}: {_MAX_DRAWS:,} draws gave no new code; add shapes, or make them longer")

    return draw


def _integer_filler(numbers: Sequence[int]) -> Filler:
    return lambda rng, language, typed: rng.choice(numbers)


def _list_filler(by_language: Lists, where: str) -> Filler:
    def draw(rng: Random, language: str, typed: bool) -> str | int:
        if language not in by_language:
            raise UserError(f'{where}: lists has no values for the language "{language}" of a template; add some')
        return rng.choice(by_language[language])

    return draw


def _lists(slot: SlotSpec, rows: Mapping[str, int], seed: str, where: str) -> dict[str, Lists]:
    """Return the values of every output, by language."""
    assert isinstance(slot.lists, dict), "load_spec reads the file of values"
    if not any(isinstance(values, dict) for values in slot.lists.values()):
        by_language = _by_language(slot.lists, where)
        if slot.shared:
            return dict.fromkeys(rows, by_language)
        divided = {lang: divide(values, rows, f"{seed}/{lang}", where) for lang, values in by_language.items()}
        return {output: {language: divided[language][output] for language in divided} for output in rows}
    missing = [output for output in rows if output not in slot.lists]
    if missing:
        raise UserError(f'{where}: lists has no values for the output "{missing[0]}"; it has {", ".join(slot.lists)}')
    lists = {output: _by_language(values, f"{where}.{output}") for output, values in slot.lists.items()}
    owner: dict[str | int, str] = {}
    for output in lists:
        for value in {value for values in lists[output].values() for value in values}:
            if value in owner and not slot.shared:
                both = f"{owner[value]} and {output}"
                raise UserError(f'{where}: "{value}" is listed for {both}; remove it from one, or set shared: true')
            owner[value] = output
    return lists


def _by_language(values: Any, where: str) -> Lists:
    lists = values.values() if isinstance(values, dict) else [None]
    if not all(isinstance(one, list) and one and all(isinstance(v, str | int) for v in one) for one in lists):
        raise UserError(
            f"{where}: lists: expected a list of texts or whole numbers for each language, found {values!r}"
        )
    return {str(language): tuple(one) for language, one in values.items()}


def divide(values: Sequence[_T], rows: Mapping[str, int], seed: str, where: str) -> dict[str, tuple[_T, ...]]:
    """Divide shuffled values among outputs: one for each, and the rest in proportion to their rows."""
    if len(values) < len(rows):
        raise UserError(f"{where}: {len(values)} values for {len(rows)} outputs; list more, or set shared: true")
    shuffled = Random(seed).sample(list(values), len(values))
    spare = len(values) - len(rows)
    divided: dict[str, tuple[_T, ...]] = {}
    start = before = 0
    for number, (output, count) in enumerate(rows.items(), 1):
        before += count
        end = number + spare * before // sum(rows.values())
        divided[output] = tuple(shuffled[start:end])
        start = end
    return divided
