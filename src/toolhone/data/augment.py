"""`toolhone data augment`: read training rows and write the same rows with other tool lists.

Four changes remove clues that a model should not rely on. Tools are shuffled. Tools that a row does not need are added
(distractors). Tools and parameters get meaningless names (function masking: Lin and others 2024, arXiv 2410.04587).
Some rows get a copy without the right tool, whose answer says that no tool fits. A fifth change teaches something new:
marked rows are answered with the call `escalate` (`escalation.py`). The changes to a row depend only on the seed and
its content, and are recorded in its `meta.augment`. Test rows are refused, because other tools would make another test.
So augment rows to escalate before you split them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from toolhone.data.check.finding import sound_rows
from toolhone.data.escalation import ESCALATE, escalated, escalates, should_escalate, with_escalate_tool
from toolhone.data.files import expand_source
from toolhone.data.groups import called_tools
from toolhone.data.read import read_sources, split_weight
from toolhone.data.sources import read_and_report, refuse_to_overwrite
from toolhone.errors import UserError
from toolhone.jsonl import write_jsonl
from toolhone.records import Conversation, Gold, GoldCall, Message, Tool, ToolCall

if TYPE_CHECKING:
    from rich.console import Console

_HAN = re.compile(r"[\u3400-\u9fff]")
_DECLINES = {
    "zh": (
        "抱歉，我目前没有能处理这个请求的工具。",
        "不好意思，这件事我现在办不了：没有合适的工具。",
        "很抱歉，我手头的工具做不了这件事。",
    ),
    "en": (
        "I'm sorry, none of the tools I have can do that.",
        "Sorry, I can't do that with the tools available to me.",
        "I'm afraid I have no tool for this request.",
    ),
}


@dataclass(frozen=True, slots=True)
class Augmentation:
    """`mask_names` is the share of rows that get meaningless names, `irrelevance` the share that get
    a copy without the right tool. `distractors` is the number of tools to add to each row that lists any. `escalate` is
    the meta key that marks rows to escalate."""

    shuffle_tools: bool = False
    distractors: int = 0
    mask_names: float = 0.0
    irrelevance: float = 0.0
    escalate: str | None = None
    seed: int = 7

    def __post_init__(self) -> None:
        for flag, share in (("--mask-names", self.mask_names), ("--irrelevance", self.irrelevance)):
            if not 0 <= share <= 1:
                raise UserError(f"{flag}: expected a share from 0 to 1, found {share}")
        if self.distractors < 0:
            raise UserError(f"--distractors: expected 0 or more, found {self.distractors}")
        if self.escalate == "":
            raise UserError("--escalate: expected a key of meta, found an empty text")
        if not (self.shuffle_tools or self.distractors or self.mask_names or self.irrelevance or self.escalate):
            raise UserError(
                "nothing to do; give --shuffle-tools, --distractors, --mask-names, --irrelevance or --escalate"
            )


def augment_files(
    sources: Sequence[str],
    out: Path,
    augmentation: Augmentation,
    *,
    default_tools: tuple[Tool, ...] = (),
    format: str = "auto",
    pool: Sequence[Tool] = (),
    console: Console,
) -> Counter[str]:
    """Augment the rows of sources in any format, write them to `out` (completely or not at all) and return counts of
    the changes. Distractors come from `pool` or, if it is empty, from all tools of the sources.

    Raises:
        UserError: if a file or a row is for testing, or a row cannot be read.
    """
    for file in (file for source in sources for file in expand_source(split_weight(source)[0])):
        _refuse_test_file(Path(file))
    refuse_to_overwrite(out, sources, "augmented rows go into a file of their own")
    known: dict[str, Tool] = {}
    if augmentation.distractors:
        others = sound_rows(read_sources(sources, default_tools, format), {})
        known = {tool.name: tool for tool in pool or (tool for row in others for tool in row.tools)}
    rows = read_and_report(sources, default_tools, format, console)
    done: Counter[str] = Counter()
    write_jsonl(out, (row.to_json() for row in augment(rows, augmentation, known, done)))
    return done


def augment(
    rows: Iterable[Conversation], augmentation: Augmentation, pool: Mapping[str, Tool], done: Counter[str]
) -> Iterator[Conversation]:
    """Yield each row augmented, followed by its copy without the right tool if it gets one. `done` counts the rows and
    the changes.

    Raises:
        UserError: if a row's meta says that it is for testing, or if `augmentation.escalate` is set and no row
            escalates.
    """
    ordered = [pool[name] for name in sorted(pool)]
    for row in rows:
        if row.meta.get("split") == "test":
            raise UserError(f"{row.where}: is marked as a test row (meta.split); augment only training rows")
        rng = Random(f"{augmentation.seed}/{row.content_hash()}")
        changed = escalated(row) if augmentation.escalate and should_escalate(row, augmentation.escalate) else row
        irrelevant = _without_the_right_tool(changed, rng) if rng.random() < augmentation.irrelevance else None
        done["rows"] += 1
        done["irrelevance rows"] += irrelevant is not None
        done["rows escalated"] += escalates(changed)
        yield _with_other_tools(changed, row, augmentation, ordered, rng, done)
        if irrelevant is not None:
            dropped = {tool.name for tool in row.tools} - {tool.name for tool in irrelevant.tools}
            yield _with_other_tools(irrelevant, irrelevant, augmentation, ordered, rng, done, tuple(sorted(dropped)))
    if augmentation.escalate and not done["rows escalated"]:
        raise UserError(
            f'no row escalates: expected some with true as meta "{augmentation.escalate}" or with a call of '
            f'"{ESCALATE}"; mark rows to escalate, or leave --escalate out'
        )


def _with_other_tools(
    row: Conversation,
    before: Conversation,
    augmentation: Augmentation,
    pool: Sequence[Tool],
    rng: Random,
    done: Counter[str],
    dropped: tuple[str, ...] = (),
) -> Conversation:
    """Return the row with its tools changed: distractors added, shuffled and renamed, as `augmentation` says. `before`
    is the original row. The tools in `dropped` are never added as distractors."""
    record: dict[str, Any] = {"seed": augmentation.seed, "of": before.content_hash()}
    if augmentation.escalate:
        record |= {"handed_over": True} if row is not before else {}
        offered = with_escalate_tool(row)
        record |= {"offers": ESCALATE} if offered is not row else {}
        row = offered
    if dropped:
        record["dropped"] = list(dropped)
    tools = list(row.tools)
    if tools and augmentation.distractors:
        excluded = {tool.name for tool in tools} | {*dropped, ESCALATE} | called_tools(row)
        free = [tool for tool in pool if tool.name not in excluded]
        added = rng.sample(free, min(augmentation.distractors, len(free)))
        tools += added
        record["distractors"] = [tool.name for tool in added]
        done["distractors"] += len(added)
        done["rows short of distractors"] += len(added) < augmentation.distractors
    if tools and augmentation.shuffle_tools:
        rng.shuffle(tools)
        record["shuffled"] = True
        done["rows shuffled"] += 1
    changed = replace(row, tools=tuple(tools))
    if tools and rng.random() < augmentation.mask_names:
        if mentions_a_tool(changed):
            done["rows not renamed, since a message names a tool"] += 1
        else:
            changed, record["masked"] = rename_tools(changed, rng)
            done["rows renamed"] += 1
    return replace(changed, meta={**row.meta, "augment": record}) if len(record) > 2 else changed


def _without_the_right_tool(row: Conversation, rng: Random) -> Conversation | None:
    """Return the row up to its first call, without the tools called there; its last turn says that no tool fits. Return
    None if the row calls nothing, or if no other tool would be left."""
    first = next((n for n, message in enumerate(row.messages) if message.tool_calls), None)
    if first is None or escalates(row):
        return None
    right = {call.name for call in row.messages[first].tool_calls}
    if row.expected is not None and not any(message.tool_calls for message in row.messages[first + 1 :]):
        right |= {call.name for call in row.expected.calls}
    left = tuple(tool for tool in row.tools if tool.name not in right)
    if not any(tool.name != ESCALATE for tool in left) or len(left) == len(row.tools):
        return None
    asked = next((m.content for m in reversed(row.messages[:first]) if m.role == "user"), "")
    answer = Message("assistant", rng.choice(_DECLINES["zh" if _HAN.search(asked) else "en"]))
    messages = (*row.messages[:first], answer)
    return replace(row, id=f"{row.id}-irrelevant", messages=messages, tools=left, expected=None)


def _refuse_test_file(path: Path) -> None:
    """Refuse a file that split.json in its folder lists as the test rows."""
    listing = path.parent / "split.json"
    if not listing.is_file():
        return
    try:
        files = json.loads(listing.read_text(encoding="utf-8")).get("files", {})
    except (ValueError, AttributeError):
        return  # some other tool's split.json
    if isinstance(files, dict) and path.name == "test.jsonl" and path.name in files:
        raise UserError(f"{path}: {listing} lists it as the test rows; augment only training rows")


# Meaningless names

Names = dict[str, list[Any]]
"""A property's name -> [its new name, the `Names` of the properties inside its value]. A list has the `Names` of its
items."""

_LETTERS = "bcdfghjklmnpqrstvwxz"  # no vowels, so that no name is a word
# fmt: off
_CANNOT_RENAME = frozenset((
    "patternProperties", "propertyNames", "dependentRequired", "dependentSchemas", "dependencies", "allOf", "anyOf",
    "oneOf", "not", "if", "then", "else", "prefixItems", "contains", "unevaluatedProperties", "unevaluatedItems",
))
# fmt: on
"""Keywords that let a schema name properties outside `properties`. A schema with one of them keeps its names."""
_REFERENCE = re.compile(r'"\$(?:ref|dynamicRef|recursiveRef)"')


def rename_tools(row: Conversation, rng: Random) -> tuple[Conversation, Names]:
    """Return the row with its tools and their parameters renamed, and the names with which `with_names` undoes it: a
    tool's new name -> [its own name, the `Names` of its parameters]. The reserved tool `escalate` keeps its name."""
    taken = {tool.name for tool in row.tools}

    def fresh(prefix: str) -> str:
        while (name := prefix + "".join(rng.choices(_LETTERS, k=6))) in taken:
            pass
        taken.add(name)
        return name

    def parameters(tool: Tool) -> Names:
        # The path of a reference can contain property names.
        return {} if _REFERENCE.search(json.dumps(tool.parameters)) else _draw(tool.parameters, fresh)

    names: Names = {tool.name: [fresh("func_"), parameters(tool)] for tool in row.tools if tool.name != ESCALATE}
    return with_names(row, names), _inverse(names)


def mentions_a_tool(row: Conversation) -> bool:
    """Return whether a message contains a tool's name, so that renaming would make the message wrong. A name that may
    be a plain word, such as "search", does not count."""
    names = [tool.name for tool in row.tools if re.search(r"[_.\-]|[a-z][A-Z]", tool.name)]
    texts = [f"{message.thinking}\n{message.content}" for message in row.messages if message.role != "tool"]
    return any(name in text for name in names for text in texts)


def _draw(schema: Any, fresh: Callable[[str], str]) -> Names:
    if not isinstance(schema, dict) or not _CANNOT_RENAME.isdisjoint(schema):
        return {}
    properties, items = schema.get("properties"), schema.get("items")
    if isinstance(properties, dict) and isinstance(items, dict):
        return {}  # the value may be an object or a list, and `Names` cannot distinguish their properties
    if isinstance(properties, dict):
        return {name: [fresh("arg_"), _draw(inner, fresh)] for name, inner in properties.items()}
    return _draw(items, fresh) if isinstance(items, dict) else {}


def with_names(row: Conversation, names: Names) -> Conversation:
    """Return the row with its tools and their parameters renamed."""

    def call(one: ToolCall) -> ToolCall:
        name, inner = names.get(one.name, [one.name, {}])
        return ToolCall(name, _value(one.arguments, inner), one.id)

    def message(one: Message) -> Message:
        return replace(one, tool_calls=tuple(map(call, one.tool_calls))) if one.tool_calls else one

    def tool(one: Tool) -> Tool:
        name, inner = names.get(one.name, [one.name, {}])
        return Tool(name, one.description, _schema(one.parameters, inner))

    def gold(one: GoldCall) -> GoldCall:
        name, inner = names.get(one.name, [one.name, {}])
        optional = frozenset(inner[key][0] if key in inner else key for key in one.optional)
        return GoldCall(name, _value(one.arguments, inner), optional, frozenset(_path(key, inner) for key in one.blank))

    expected = row.expected
    return replace(
        row,
        messages=tuple(map(message, row.messages)),
        tools=tuple(map(tool, row.tools)),
        expected=None if expected is None else Gold(expected.status, tuple(map(gold, expected.calls))),
    )


def _path(path: str, names: Names) -> str:
    """Return a path of keys such as "body/unit" with each key renamed."""
    key, slash, rest = path.partition("/")
    new, inner = names.get(key, [key, {}])
    return f"{new}{slash}{_path(rest, inner) if slash else ''}"


def _value(value: Any, names: Names) -> Any:
    """Return a value with the keys of its objects renamed. A key that is not in `names` stays."""
    if not names:
        return value
    if isinstance(value, list):
        return [_value(entry, names) for entry in value]
    if isinstance(value, dict):
        pairs = ((key, names.get(key, [key, {}]), entry) for key, entry in value.items())
        return {new: _value(entry, inner) for _, (new, inner), entry in pairs}
    return value


def _schema(schema: Any, names: Names) -> Any:
    if not names or not isinstance(schema, dict):
        return schema
    return {keyword: _keyword(keyword, value, names) for keyword, value in schema.items()}


def _keyword(keyword: str, value: Any, names: Names) -> Any:
    if keyword == "properties":
        return {names[key][0]: _schema(inner, names[key][1]) for key, inner in value.items()}
    if keyword == "items":
        return _schema(value, names)
    if keyword == "required" and isinstance(value, list):
        return [names[key][0] if key in names else key for key in value]
    if keyword in ("default", "const", "enum", "examples"):
        return _value(value, names)
    return value


def _inverse(names: Names) -> Names:
    return {new: [old, _inverse(inner)] for old, (new, inner) in names.items()}
