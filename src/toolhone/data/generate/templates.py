"""Turn templates, a YAML file of phrasings with slots, into training rows.

A template is one conversation in a short form. `user` is what the user writes, `calls` what the assistant calls, and
`answer` what it says. A longer conversation lists them under `turns`, with `tool` for the result of a call:

    templates:
      - id: order-en-01
        language: en
        user: "where is {order_id}?"
        calls:
          - query_order: {order_id: "{order_id}"}

The filler with the slot's name fills it, once per row. `{order_id_2}` is a second value of the same filler. An `answer`
may be a list of texts, from which a row takes one. A value that is only a slot keeps the filler's type.

Rows may be joined into rows of several requests. A second YAML file then has, for each tool, a call's result and what
the assistant says about it, by language. A `{slot}` there is an argument of the call:

    results:
      query_order:
        - tool: {status: shipped}
          answer: {en: "Order {order_id} has been shipped.", zh: "订单 {order_id} 已发货。"}
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from pydantic import TypeAdapter, ValidationError

from toolhone.data.check import refuse_faults
from toolhone.data.generate import build_conversation
from toolhone.data.generate.spec import Entries, Filler, Section, YamlFile
from toolhone.data.values import leaves
from toolhone.errors import UserError
from toolhone.records import Conversation, Tool, ToolCall

MASK = "□"

_SLOT = re.compile(r"\{([a-z_]+?)(?:_[2-9])?\}")
_KEYS = {"id", "language", "user", "calls", "answer", "turns"}
_TURN_KEYS = ("user", "calls", "tool", "answer")


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """One phrasing. `turns` are pairs: "user" with a text, "answer" with a text or a list of texts, "calls" with a list
    of {tool: arguments}, "tool" with the result of a call."""

    id: str
    language: str
    turns: tuple[tuple[str, Any], ...]
    where: str

    @property
    def calls(self) -> list[tuple[str, dict[str, Any]]]:
        """Return all calls of all turns in order, with their slots unfilled."""
        return [pair for key, value in self.turns if key == "calls" for call in value for pair in call.items()]

    @property
    def kind(self) -> str:
        """Return "no call", "several calls" (in one turn), "several turns", or the name of the one tool called."""
        if any(key == "tool" for key, _ in self.turns):
            return "several turns"
        names = [name for name, _ in self.calls]
        return "several calls" if len(names) > 1 else names[0] if names else "no call"

    @property
    def slots(self) -> list[str]:
        """Return the distinct slots with their suffixes, in order of appearance."""
        return list(dict.fromkeys(slot for _, value in self.turns for slot in _slots(value)))

    @property
    def masked_question(self) -> str:
        """Return all that the user writes, in lower case and with each slot replaced by `MASK`."""
        texts = [value for key, value in self.turns if key == "user"]
        return _SLOT.sub(MASK, "\n".join(texts)).lower()


def load_templates(path: Path, tools: tuple[Tool, ...], fillers: Mapping[str, Filler]) -> tuple[Template, ...]:
    """Return the templates of a file. Raises UserError as `parse_templates` does, and for broken YAML or other keys."""
    file = YamlFile(path, "template")
    entries = file.entries("templates")
    if entries is None or len(file.value) != 1:
        raise UserError(f'{path}: expected the one key "templates" with a list')
    return parse_templates(entries, tools, fillers)


def parse_templates(entries: Entries, tools: tuple[Tool, ...], fillers: Mapping[str, Filler]) -> tuple[Template, ...]:
    """Return the templates of a list. Each is filled once, to check that its row is a conversation that fits the tools.

    Raises:
        UserError: names the line and the template, for an unknown key, slot, tool or argument, a duplicate id, or a
            slot in a call or answer that is in no message before it.
    """
    templates = tuple(_parse_template(entry, where, fillers) for where, entry in entries)
    for id, count in Counter(template.id for template in templates).items():
        if count > 1:
            places = [template.where for template in templates if template.id == id]
            raise UserError(f'{places[1]}: the id "{id}" is already used at {places[0]}; ids must differ')
    refuse_faults([_conversation(template, Random(0), fillers, "", tools, template.id) for template in templates])
    return templates


def _parse_template(entry: Any, where: str, fillers: Mapping[str, Filler]) -> Template:
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
        raise UserError(f"{where}: expected a template with an id, found {entry!r}")
    where = f'{where}: template "{entry["id"]}"'
    for key in entry:
        if key not in _KEYS:
            raise UserError(f'{where}: unknown key "{key}"{_nearest(key, _KEYS)}')
    if not isinstance(entry.get("language"), str):
        raise UserError(f"{where}: expected a language such as zh or en, found {entry.get('language')!r}")
    keys = set(entry) - {"id", "language"}
    if keys in ({"user", "calls"}, {"user", "answer"}):
        pairs = tuple((key, entry[key]) for key in ("user", "calls", "answer") if key in entry)
    elif keys == {"turns"}:
        pairs = tuple(_parse_turns(entry["turns"], where))
    else:
        raise UserError(f"{where}: expected user and calls, user and answer, or turns; found {', '.join(entry)}")
    known: set[str] = set()
    for key, value in pairs:
        _check_turn(key, value, where, fillers)
        if key in ("user", "tool"):
            known.update(_slots(value))
        for slot in _slots(value):
            if slot not in known:
                raise UserError(f"{where}: {key} uses {{{slot}}}, which is in no message before it")
    return Template(entry["id"], entry["language"], pairs, where)


def _parse_turns(turns: Any, where: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(turns, list):
        raise UserError(f"{where}: turns: expected a list, found {turns!r}")
    for turn in turns:
        if not isinstance(turn, dict) or len(turn) != 1 or next(iter(turn)) not in _TURN_KEYS:
            raise UserError(f"{where}: expected a turn with one key of {', '.join(_TURN_KEYS)}; found {turn!r}")
    if not any("tool" in turn for turn in turns):
        raise UserError(f"{where}: turns: none is a tool result; then write user and calls, or user and answer")
    for turn in turns:
        yield from turn.items()


def _check_turn(key: str, value: Any, where: str, fillers: Mapping[str, Filler]) -> None:
    texts = value if key == "answer" and isinstance(value, list) and value else [value]
    if key in ("user", "answer") and not all(isinstance(text, str) for text in texts):
        raise UserError(f"{where}: {key}: expected a text, found {value!r}; put it in quotes")
    if key == "calls":
        well_formed = isinstance(value, list) and all(
            isinstance(call, dict) and len(call) == 1 and isinstance(next(iter(call.values())), dict) for call in value
        )
        if not well_formed or not value:
            raise UserError(f"{where}: calls: expected a list of tool: {{arguments}}, found {value!r}")
    for text in _texts(value):
        for match in _SLOT.finditer(text):
            if match[1] not in fillers:
                raise UserError(f"{where}: unknown slot {match[0]}{_nearest(match[1], fillers)}")
        if set(_SLOT.sub("", text)) & set("{}"):
            raise UserError(f"{where}: a brace outside a slot in {text!r}; known slots: {', '.join(fillers)}")


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f' (did you mean "{close[0]}"?)' if close else f"; known: {', '.join(sorted(known))}"


def expand(
    chosen: Sequence[Template],
    *,
    seed: int,
    fillers: Mapping[str, Filler],
    system_prompt: str,
    tools: tuple[Tool, ...],
    prefix: str,
) -> list[Conversation]:
    """Return one row for each chosen template, in their order, checked against the tools.

    The same arguments give the same rows. Values depend on the seed, the template's id and how often it occurred
    before, so that rewording a template changes only its own rows. Ids are `prefix`-0001 and so on. `meta` has the
    language and the template's id.
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
    template: Template, rng: Random, fillers: Mapping[str, Filler], system_prompt: str, tools: tuple[Tool, ...], id: str
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
    """Return a value for each slot. The values of a row differ, so that `{order_id}` is not `{order_id_2}`."""
    typed = {slot for key, value in template.turns if key == "user" for slot in _slots(value)}
    values: dict[str, str | int] = {}
    for slot in template.slots:
        filler = fillers[re.sub(r"_[2-9]$", "", slot)]
        drawn = (filler(rng, template.language, slot in typed) for _ in range(100))
        fresh = next((value for value in drawn if value not in values.values()), None)
        if fresh is None:
            raise UserError(f"{template.where}: 100 draws for {{{slot}}} gave no new value; give the slot more values")
        values[slot] = fresh
    return values


def _fill(value: Any, values: Mapping[str, Any], *, keep_types: bool = True) -> Any:
    """Return `value` with its slots filled, at any depth."""
    if isinstance(value, dict):
        return {key: _fill(entry, values, keep_types=keep_types) for key, entry in value.items()}
    if isinstance(value, list):
        return [_fill(entry, values, keep_types=keep_types) for entry in value]
    if not isinstance(value, str):
        return value
    if keep_types and _SLOT.fullmatch(value):
        return values[value[1:-1]]
    return _SLOT.sub(lambda match: str(values[match[0][1:-1]]), value)


def _slots(value: Any) -> Iterator[str]:
    for text in _texts(value):
        yield from (match[0][1:-1] for match in _SLOT.finditer(text))


def _texts(value: Any) -> Iterator[str]:
    return (found for _, found in leaves(value) if isinstance(found, str))


class Result(Section):
    """The result of a call, and what the assistant then says in each language."""

    tool: Any
    answer: dict[str, str]


def load_results(path: Path) -> dict[str, list[Result]]:
    """Return the results of calls, by tool. Raises UserError for broken YAML or another shape."""
    value = YamlFile(path, "result").value
    if not isinstance(value, dict) or set(value) != {"results"}:
        raise UserError(f'{path}: expected the one key "results", with a list for each tool')
    try:
        return TypeAdapter(dict[str, list[Result]]).validate_python(value["results"])
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise UserError(f"{path}: results.{place}: {fault['msg'].lower()}, found {fault['input']!r}") from None


def join_requests(
    rows: Sequence[Conversation],
    size: int,
    results: Mapping[str, Sequence[Result]],
    *,
    rng: Random,
    tools: tuple[Tool, ...],
    prefix: str,
) -> list[Conversation]:
    """Join groups of `size` rows, in the same language if possible, into rows of consecutive requests.

    The answers between requests are not learned (weight 0). `meta` has the first row's language, and the templates' ids
    joined by "+". Ids are `prefix`-0001 and so on.

    Raises:
        UserError: if `results` has nothing for a called tool in the row's language.
    """
    by_language = sorted(rows, key=lambda row: str(row.meta["language"]))
    groups = [by_language[start : start + size] for start in range(0, len(rows), size)]
    rng.shuffle(groups)
    joined = [_join(group, results, rng, tools, f"{prefix}-{number:04}") for number, group in enumerate(groups, 1)]
    refuse_faults(joined)
    return joined


def _join(
    rows: Sequence[Conversation], results: Mapping[str, Sequence[Result]], rng: Random, tools: tuple[Tool, ...], id: str
) -> Conversation:
    messages: list[dict[str, Any]] = []
    for number, row in enumerate(rows):
        # Only the first row keeps its system message.
        messages += [message.to_json() for message in row.messages if number == 0 or message.role != "system"]
        calls = row.messages[-1].tool_calls
        if number + 1 < len(rows) and calls:
            messages += _answer_calls(calls, str(row.meta["language"]), results, rng, row.where)
    for message in messages:
        message.pop("tool_call_id", None)  # calls get new numbers, and results follow in their order
    meta = {**rows[0].meta, "template": "+".join(str(row.meta["template"]) for row in rows)}
    return build_conversation({"id": id, "messages": messages, "meta": meta}, rows[0].where, tools)


def _answer_calls(
    calls: Sequence[ToolCall], language: str, results: Mapping[str, Sequence[Result]], rng: Random, where: str
) -> list[dict[str, Any]]:
    """Return the results of the calls, and one answer to all of them."""
    given, answers = [], []
    for call in calls:
        fitting = [result for result in results.get(call.name, ()) if language in result.answer]
        if not fitting:
            raise UserError(f'{where}: results: nothing for {call.name} in "{language}"; add a result of a call')
        result = rng.choice(fitting)
        for slot in _slots([result.tool, result.answer[language]]):
            if slot not in call.arguments:
                raise UserError(f"{where}: results: {call.name}: {{{slot}}} is not an argument of the call")
        given.append({"role": "tool", "content": _fill(result.tool, call.arguments, keep_types=False)})
        answers.append(_fill(result.answer[language], call.arguments, keep_types=False))
    return [*given, {"role": "assistant", "content": " ".join(answers), "weight": 0}]
