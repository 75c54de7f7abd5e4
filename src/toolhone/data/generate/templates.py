"""Templates to training rows: a YAML file of phrasings with slots goes in, filled Conversations come out.

A template is one conversation in short hand. `user` is what the user writes, `calls` what the assistant calls,
`answer` what it says; a longer one lists them under `turns`, with `tool` for what a call gave back:

    templates:
      - id: order-en-01
        language: en
        user: "where is {order_id}?"
        calls:
          - query_order: {order_id: "{order_id}"}

A slot is filled by the caller's filler of that name, once a row; `{order_id_2}` is a second value of the same filler.
An `answer` may be a list of texts, of which a row takes one.
A value that is one slot and nothing else keeps the filler's type. Unquoted values have the types that they would have
in JSON: `9:00`, `yes` and `2026-01-31` are texts.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from toolhone.data.check import refuse_faults
from toolhone.data.generate.generator import build_conversation
from toolhone.data.generate.json_yaml import Entries, YamlFile
from toolhone.errors import UserError
from toolhone.records import Conversation, Tool

Filler = Callable[[Random, str, bool], str | int]
"""Makes a slot's value: from random numbers, the row's language, and whether the user types it (rather than a tool
giving it back)."""

MASK = "□"
"""Stands for every slot in `Template.masked_question`."""

_SLOT = re.compile(r"\{([a-z_]+?)(?:_[2-9])?\}")
_SINGLE_KEYS = ({"id", "language", "user", "calls"}, {"id", "language", "user", "answer"})
_KEYS = {"id", "language", "user", "calls", "answer", "turns"}
_TURN_KEYS = ("user", "calls", "tool", "answer")


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """One phrasing. `turns` are pairs: "user" with a text, "answer" with one or a list of them, "calls" with a list of
    {tool: arguments}, "tool" with what the call gave back."""

    id: str
    language: str
    turns: tuple[tuple[str, Any], ...]
    where: str

    @property
    def calls(self) -> list[tuple[str, dict[str, Any]]]:
        """Every call of every turn, in order, slots unfilled."""
        return [pair for key, value in self.turns if key == "calls" for call in value for pair in call.items()]

    @property
    def kind(self) -> str:
        """ "no call", "several calls" (in one turn), "several turns", or the name of the one tool that is called."""
        if any(key == "tool" for key, _ in self.turns):
            return "several turns"
        names = [name for name, _ in self.calls]
        return "several calls" if len(names) > 1 else names[0] if names else "no call"

    @property
    def slots(self) -> list[str]:
        """The slots with their suffixes, each once, in the order in which they come up."""
        return list(dict.fromkeys(slot for _, value in self.turns for slot in _slots(value)))

    @property
    def masked_question(self) -> str:
        """What the user writes, all turns of it, in lower case and with each slot replaced by `MASK`."""
        texts = [value for key, value in self.turns if key == "user"]
        return _SLOT.sub(MASK, "\n".join(texts)).lower()


def load_templates(path: Path, tools: tuple[Tool, ...], fillers: Mapping[str, Filler]) -> tuple[Template, ...]:
    """Read a template file, and try every template once: what it makes must be a conversation that fits the tools.

    Raises:
        UserError: naming the file, the line and the template, for broken YAML, an unknown key, slot, tool or argument,
            an id given twice, or a slot in a call or answer that no message before it holds.
    """
    return parse_templates(_read_entries(path), tools, fillers)


def parse_templates(entries: Entries, tools: tuple[Tool, ...], fillers: Mapping[str, Filler]) -> tuple[Template, ...]:
    """Read the entries of a list of templates, as `load_templates` does those of a file."""
    templates = tuple(_parse_template(entry, where, fillers) for where, entry in entries)
    for id, count in Counter(template.id for template in templates).items():
        if count > 1:
            places = [template.where for template in templates if template.id == id]
            raise UserError(f'{places[1]}: the id "{id}" stands at {places[0]} already; ids must differ')
    refuse_faults([_conversation(template, Random(0), fillers, "", tools, template.id) for template in templates])
    return templates


def spread(templates: Sequence[Template], rows: int, rng: Random) -> list[Template]:
    """Choose a template for each of so many rows, in a random order and as evenly as can be.

    A template without slots makes one row alone, for a second would be its copy.

    Raises:
        UserError: where the templates do not make that many different rows.
    """
    chosen: list[Template] = []
    left = list(templates)
    while len(chosen) < rows:
        if not left:
            raise UserError(f"{rows} rows asked for, but the {len(templates)} templates make {len(chosen)}; write more")
        chosen += rng.sample(left, min(len(left), rows - len(chosen)))
        left = [template for template in left if template.slots]
    return chosen


def expand(
    chosen: Sequence[Template],
    *,
    seed: int,
    fillers: Mapping[str, Filler],
    system_prompt: str,
    tools: tuple[Tool, ...],
    prefix: str,
) -> list[Conversation]:
    """Make one row of each chosen template, in their order, and check the rows against the tools.

    The same arguments give the same rows. What fills a template depends on the seed, the template's id and how often
    it came before, so that a reworded template changes its own rows alone. Ids are `prefix`-0001 and so on; `meta`
    holds the language and the template's id.
    """
    uses: Counter[str] = Counter()
    rows: list[Conversation] = []
    for number, template in enumerate(chosen, 1):
        uses[template.id] += 1
        rng = Random(f"{seed}/{template.id}/{uses[template.id]}")
        rows.append(_conversation(template, rng, fillers, system_prompt, tools, f"{prefix}-{number:04}"))
    refuse_faults(rows)
    return rows


def _conversation(
    template: Template,
    rng: Random,
    fillers: Mapping[str, Filler],
    system_prompt: str,
    tools: tuple[Tool, ...],
    id: str,
) -> Conversation:
    values = _draw(template, rng, fillers)
    messages: list[dict[str, Any]] = [{"role": "system", "content": system_prompt}] if system_prompt else []
    for key, unfilled in template.turns:
        value = _fill(unfilled, values)
        if key == "answer" and isinstance(value, list):
            value = rng.choice(value)
        if key == "calls":
            calls = [{"function": {"name": name, "arguments": args}} for call in value for name, args in call.items()]
            messages.append({"role": "assistant", "content": None, "tool_calls": calls})
        else:
            messages.append({"role": "assistant" if key == "answer" else key, "content": value})
    meta = {"language": template.language, "template": template.id}
    return build_conversation({"id": id, "messages": messages, "meta": meta}, template.where, tools)


def _draw(template: Template, rng: Random, fillers: Mapping[str, Filler]) -> dict[str, str | int]:
    """A value for each slot; the values of one row differ, so that `{order_id}` is not `{order_id_2}`."""
    typed = {slot for key, value in template.turns if key == "user" for slot in _slots(value)}
    values: dict[str, str | int] = {}
    for slot in template.slots:
        filler = fillers[_base(slot)]
        drawn = (filler(rng, template.language, slot in typed) for _ in range(100))
        fresh = next((value for value in drawn if value not in values.values()), None)
        if fresh is None:
            raise UserError(f"{template.where}: a hundred draws for {{{slot}}} gave no new value; widen its filler")
        values[slot] = fresh
    return values


def _fill(value: Any, values: Mapping[str, str | int]) -> Any:
    if isinstance(value, dict):
        return {key: _fill(entry, values) for key, entry in value.items()}
    if isinstance(value, list):
        return [_fill(entry, values) for entry in value]
    if not isinstance(value, str):
        return value
    if _SLOT.fullmatch(value):
        return values[value[1:-1]]
    return _SLOT.sub(lambda match: str(values[match[0][1:-1]]), value)


def _slots(value: Any) -> Iterator[str]:
    for text in _texts(value):
        yield from (match[0][1:-1] for match in _SLOT.finditer(text))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _texts(entry)


def _base(slot: str) -> str:
    return re.sub(r"_[2-9]$", "", slot)


def _read_entries(path: Path) -> Entries:
    """The entries under `templates`, each with its `file:line`."""
    file = YamlFile(path, "template")
    entries = file.entries("templates")
    if entries is None or len(file.value) != 1:
        raise UserError(f'{path}: expected the one key "templates" with a list')
    return entries


def _parse_template(entry: Any, where: str, fillers: Mapping[str, Filler]) -> Template:
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
        raise UserError(f"{where}: expected a template with an id, found {entry!r}")
    where = f'{where}: template "{entry["id"]}"'
    for key in entry:
        if key not in _KEYS:
            raise UserError(f'{where}: unknown key "{key}"{_nearest(key, _KEYS)}')
    if not isinstance(entry.get("language"), str):
        raise UserError(f"{where}: expected a language such as zh or en, found {entry.get('language')!r}")
    if set(entry) in _SINGLE_KEYS:
        pairs = tuple((key, entry[key]) for key in ("user", "calls", "answer") if key in entry)
    elif set(entry) == {"id", "language", "turns"}:
        pairs = tuple(_parse_turns(entry["turns"], where))
    else:
        raise UserError(f"{where}: expected user and calls, user and answer, or turns; found {', '.join(entry)}")
    for key, value in pairs:
        _check_turn(key, value, where, fillers)
    _check_slots_are_known_before_use(pairs, where)
    return Template(entry["id"], entry["language"], pairs, where)


def _parse_turns(turns: Any, where: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(turns, list):
        raise UserError(f"{where}: turns: expected a list, found {turns!r}")
    for turn in turns:
        if not isinstance(turn, dict) or len(turn) != 1 or next(iter(turn)) not in _TURN_KEYS:
            raise UserError(f"{where}: expected a turn with one key of {', '.join(_TURN_KEYS)}; found {turn!r}")
    if not any("tool" in turn for turn in turns):
        raise UserError(f"{where}: turns: none is a tool result; without one, write user and calls, or user and answer")
    for turn in turns:
        yield from turn.items()


def _check_turn(key: str, value: Any, where: str, fillers: Mapping[str, Filler]) -> None:
    worded = value if key == "answer" and isinstance(value, list) and value else [value]
    if key in ("user", "answer") and not all(isinstance(text, str) for text in worded):
        raise UserError(f"{where}: {key}: expected a text, found {value!r}; put it in quotes")
    if key == "calls":
        shaped = isinstance(value, list) and all(
            isinstance(call, dict) and len(call) == 1 and isinstance(next(iter(call.values())), dict) for call in value
        )
        if not shaped or not value:
            raise UserError(f"{where}: calls: expected a list of tool: {{arguments}}, found {value!r}")
    for text in _texts(value):
        for match in _SLOT.finditer(text):
            if _base(match[0][1:-1]) not in fillers:
                raise UserError(f"{where}: unknown slot {match[0]}{_nearest(match[1], fillers)}")
        if set(_SLOT.sub("", text)) & set("{}"):
            raise UserError(f"{where}: a brace that belongs to no slot, in {text!r}; known slots: {', '.join(fillers)}")


def _check_slots_are_known_before_use(pairs: Iterable[tuple[str, Any]], where: str) -> None:
    known: set[str] = set()
    for key, value in pairs:
        if key in ("user", "tool"):
            known.update(_slots(value))
        for slot in _slots(value):
            if slot not in known:
                raise UserError(f"{where}: {key} uses {{{slot}}}, which no message before it holds")


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f' (did you mean "{close[0]}"?)' if close else f"; known: {', '.join(sorted(known))}"
