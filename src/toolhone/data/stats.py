"""Count the turns, calls, tools, languages and tokens of a data set, in one pass over its rows.

In: conversations, and the faults of rows that cannot be read. Out: frozen `Stats`. Only calls of learned turns count,
because a turn of weight 0 teaches no call. Counting tokens needs a tokenizer: every learned turn is rendered as
training renders it. The gain of prefix-tree batches is exact, because it uses the same layout as training.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from toolhone.data.importers.importer import RowFault
from toolhone.data.read import examples, read_sources
from toolhone.errors import UserError
from toolhone.jsonl import counted
from toolhone.records import Conversation, Tool

if TYPE_CHECKING:
    from rich.console import Console

    from toolhone.chat.render import LabelledTokens

BATCH_SIZES = (8, 16, 32)
_MAX_TREE_ROWS = 4096  # examples to lay out as trees; a random sample if there are more
_PLACES = 3
_ROWS_A_SECOND = 200  # rendered and tokenised


@dataclass(frozen=True, slots=True)
class ToolCount:
    """How many rows offer a tool, and how many calls of learned turns are to it."""

    name: str
    offered: int
    called: int


@dataclass(frozen=True, slots=True)
class FaultCount:
    """A rule that rows break: how many rows, and the places of the first ones."""

    rule: str
    count: int
    places: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TokenSpread:
    """Token counts: how many there are, their median and 95th percentile (interpolated), the largest, and the sum."""

    count: int
    p50: float
    p95: float
    max: int
    total: int


@dataclass(frozen=True, slots=True)
class Gain:
    """Batches of one size as prefix trees: the tokens of all rows, and the tokens that are computed."""

    batch_size: int
    logical_tokens: int
    computed_tokens: int

    @property
    def gain(self) -> float:
        """The factor by which fewer tokens are computed."""
        return self.logical_tokens / self.computed_tokens


@dataclass(frozen=True, slots=True)
class TokenStats:
    """Token counts of a data set. `by_role` counts each message once, and the tools of a row once. `lengths` has one
    entry per example. `laid_out` examples are in prefix trees. `shared_share` is the share of all tokens that one tree
    of them saves: no batch saves more. `common_prefix` is the number of tokens that all of them begin with. `refused`
    counts the examples that cannot be rendered."""

    tokenizer: str
    format: str
    template: str
    examples: int
    by_role: dict[str, TokenSpread]
    example: TokenSpread | None
    lengths: tuple[int, ...]
    labelled_tokens: int
    laid_out: int
    common_prefix: int
    shared_share: float | None
    gains: tuple[Gain, ...]
    refused: int
    refused_places: tuple[str, ...]

    @property
    def labelled_share(self) -> float | None:
        return self.labelled_tokens / self.example.total if self.example else None

    def to_json(self) -> dict[str, Any]:
        row = {key: value for key, value in asdict(self).items() if key not in ("lengths", "gains")}
        row["labelled_share"] = self.labelled_share
        row["gains"] = [{**asdict(gain), "gain": round(gain.gain, 4)} for gain in self.gains]
        return row


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts of a data set. `turns` are the learned assistant turns (one example each), `unlearned_turns` those of
    weight 0. `turns_with_thinking` counts both kinds. `turns_per_row` and `calls_per_turn` map a number to how many
    rows or turns have it. `languages` are from meta.language, `guessed_languages` from the script of the rows without
    it."""

    rows: int
    faults: tuple[FaultCount, ...]
    messages: dict[str, int]
    turns: int
    unlearned_turns: int
    turns_per_row: dict[int, int]
    calls: int
    calls_per_turn: dict[int, int]
    tools: tuple[ToolCount, ...]
    rows_without_tools: int
    no_call_rows: int
    languages: dict[str, int]
    guessed_languages: dict[str, int]
    gold_sources: dict[str, int]
    tokens: TokenStats | None = None
    turns_with_thinking: int = 0

    @property
    def no_call_row_share(self) -> dict[str, Any]:
        """Rows in which no learned turn calls: they teach when not to call."""
        return _share(self.no_call_rows, self.rows)

    @property
    def no_call_turn_share(self) -> dict[str, Any]:
        """Learned turns without a call."""
        return _share(self.calls_per_turn.get(0, 0), self.turns)

    def to_json(self) -> dict[str, Any]:
        row = {key: value for key, value in asdict(self).items() if key not in ("tokens", "no_call_rows")}
        row |= {"no_call_rows": self.no_call_row_share, "no_call_turns": self.no_call_turn_share}
        for key in ("turns_per_row", "calls_per_turn"):
            row[key] = {str(number): count for number, count in row[key].items()}
        if not self.turns_with_thinking:
            del row["turns_with_thinking"]
        row["tokens"] = None if self.tokens is None else self.tokens.to_json()
        return row


def _share(count: int, total: int) -> dict[str, Any]:
    return {"value": count / total if total else None, "numerator": count, "denominator": total}


def data_stats(
    sources: Sequence[str],
    *,
    tools: tuple[Tool, ...] = (),
    format: str = "auto",
    tokenizer: str | None = None,
    console: Console | None = None,
) -> Stats:
    """Count the rows of sources (each `path` or `path=weight`), with a progress bar on the console. `tools` are for
    rows without any.

    Raises:
        UserError: if a source cannot be opened, no row is a conversation, or the tokenizer cannot be loaded.
    """
    found = measure(read_sources(sources, tools, format), tokenizer=tokenizer, console=console)
    if not found.rows:
        fault = found.faults[0] if found.faults else None
        why = f" (first fault, {fault.rule}: {fault.places[0]})" if fault else ""
        raise UserError(f"{', '.join(sources)}: no row is a conversation{why}; run `toolhone data check`")
    return found


def measure(
    rows: Iterable[Conversation | RowFault], *, tokenizer: str | None = None, console: Console | None = None
) -> Stats:
    """Count the rows one by one. With a tokenizer (a folder or a name on the hub), also count their tokens."""
    tokens = None if tokenizer is None else TokenCounter(tokenizer)
    faults: dict[str, list[str]] = {}
    count = without_tools = without_call = unlearned = thoughtful = 0
    messages, languages, guessed, gold_sources = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    turns_per_row, calls_per_turn = Counter[int](), Counter[int]()
    offered, called, fault_counts = Counter[str](), Counter[str](), Counter[str]()
    for row in counted(rows, console, "reading", **({} if tokens is None else {"short": _ROWS_A_SECOND})):
        if isinstance(row, RowFault):
            fault_counts[row.rule] += 1
            places = faults.setdefault(row.rule, [])
            if len(places) < _PLACES:
                places.append(f"{row.where}: {row.message}")
            continue
        count += 1
        messages.update(message.role for message in row.messages)
        turns = [message for message in row.messages if message.role == "assistant"]
        learned = [turn for turn in turns if turn.weight > 0]
        unlearned += len(turns) - len(learned)
        thoughtful += sum(bool(turn.thinking) for turn in turns)
        turns_per_row[len(learned)] += 1
        calls_per_turn.update(len(turn.tool_calls) for turn in learned)
        names = [call.name for turn in learned for call in turn.tool_calls]
        called.update(names)
        offered.update({tool.name for tool in row.tools})
        without_tools += not row.tools
        without_call += not names
        stated = row.meta.get("language")
        if isinstance(stated, str) and stated:
            languages[stated] += 1
        else:
            guessed[guess_language(m.content for m in row.messages if m.role == "user")] += 1
        if row.gold_source is not None:
            gold_sources[row.gold_source] += 1
        if tokens is not None:
            tokens.add(row)
    names_by_use = sorted({*offered, *called}, key=lambda name: (-called[name], -offered[name], name))
    return Stats(
        rows=count,
        faults=tuple(FaultCount(rule, number, tuple(faults[rule])) for rule, number in fault_counts.most_common()),
        messages=dict(messages.most_common()),
        turns=calls_per_turn.total(),
        unlearned_turns=unlearned,
        turns_per_row=dict(sorted(turns_per_row.items())),
        calls=called.total(),
        calls_per_turn=dict(sorted(calls_per_turn.items())),
        tools=tuple(ToolCount(name, offered[name], called[name]) for name in names_by_use),
        rows_without_tools=without_tools,
        no_call_rows=without_call,
        languages=dict(languages.most_common()),
        guessed_languages=dict(guessed.most_common()),
        gold_sources=dict(gold_sources.most_common()),
        tokens=None if tokens is None else tokens.result(),
        turns_with_thinking=thoughtful,
    )


class TokenCounter:
    """Counts the tokens of conversations one by one, and keeps a sample of the tokenised examples."""

    def __init__(self, tokenizer: str) -> None:
        """Load a tokenizer from a folder or the hub, and detect its chat format. Raises UserError if either fails."""
        from toolhone.chat.probe import make_renderer
        from toolhone.chat.token_bytes import TokenBytes
        from toolhone.config import ChatConfig, ModelConfig
        from toolhone.pretrained import load_tokenizer

        self._name = tokenizer
        self._renderer = make_renderer(load_tokenizer(ModelConfig(name=tokenizer)), ChatConfig(), tokenizer)
        self._bytes = TokenBytes(self._renderer.tokenizer)
        self._roles: dict[str, list[int]] = {role: [] for role in ("tools", "system", "user", "assistant", "tool")}
        self._lengths: list[int] = []
        self._labelled = 0
        self._sample: list[LabelledTokens] = []
        self._random = random.Random(0)
        self._refused: list[str] = []

    def add(self, row: Conversation) -> None:
        """Count the tokens of a conversation's examples. Messages after the last learned turn are in no example."""
        from toolhone.chat.render import RenderError
        from toolhone.chat.segments import segments

        rendered = None
        for example in examples(row):
            try:
                rendered = self._renderer.render(example)
            except RenderError as error:
                self._refused.append(str(error))
                continue
            self._lengths.append(len(rendered))
            self._labelled += len(rendered.completion_ids)
            # Reservoir sampling (Vitter 1985, algorithm R) gives every example the same chance to be in the sample.
            if len(self._sample) < _MAX_TREE_ROWS:
                self._sample.append(rendered.tokens)
            elif (place := self._random.randrange(len(self._lengths))) < _MAX_TREE_ROWS:
                self._sample[place] = rendered.tokens
        if rendered is None:
            return
        tokens: Counter[tuple[str, int]] = Counter()
        for segment in segments(self._renderer, rendered, self._bytes):
            tokens[segment.part, segment.message] += len(segment)
        for (role, _), count in tokens.items():
            self._roles[role].append(count)

    def result(self) -> TokenStats:
        from toolhone.chat.prefix_tree import build_tree
        from toolhone.config import TrainConfig

        tree_tokens = TrainConfig().tree_tokens
        logical = sum(len(row.ids) for row in self._sample)
        return TokenStats(
            tokenizer=self._name,
            format=self._renderer.format.name,
            template=self._renderer.source,
            examples=len(self._lengths),
            by_role={role: _spread(counts) for role, counts in self._roles.items() if counts},
            example=_spread(self._lengths) if self._lengths else None,
            lengths=tuple(self._lengths),
            labelled_tokens=self._labelled,
            laid_out=len(self._sample),
            common_prefix=_common_prefix(self._sample),
            shared_share=1 - len(build_tree(self._sample)) / logical if logical else None,
            gains=tuple(tree_gain(self._sample, size, tree_tokens) for size in BATCH_SIZES if self._sample),
            refused=len(self._refused),
            refused_places=tuple(self._refused[:_PLACES]),
        )


def _spread(counts: Sequence[int]) -> TokenSpread:
    from toolhone.rates import spread

    return TokenSpread(count=len(counts), max=max(counts), **spread(counts))


def tree_gain(rows: Sequence[LabelledTokens], batch_size: int, tree_tokens: int) -> Gain:
    """Return the tokens of rows laid out in shuffled batches, as in training: a batch with more than `tree_tokens`
    computed tokens becomes several trees."""
    from toolhone.chat.prefix_tree import split_into_trees

    order = list(rows)
    random.Random(42).shuffle(order)  # the default of the config's `seed`
    logical = computed = 0
    for first in range(0, len(order), batch_size):
        chunk = order[first : first + batch_size]
        logical += sum(len(row) for row in chunk)
        computed += sum(len(tree) for tree in split_into_trees(chunk, tree_tokens))
    return Gain(batch_size, logical, computed)


def _common_prefix(rows: Sequence[LabelledTokens]) -> int:
    """Return how many shareable ids all rows begin with. The lexically first and last rows begin with no more."""
    if not rows:
        return 0
    from toolhone.chat.prefix_tree import shareable_ids

    first, last = (choose(shareable_ids(row) for row in rows) for choose in (min, max))
    pairs = zip(first, last, strict=False)
    return next((n for n, (one, other) in enumerate(pairs) if one != other), min(len(first), len(last)))


# A Latin word counts as much as a Chinese character, so that an order number of ten letters does not outvote three
# characters.
_UNITS = re.compile(
    r"(?P<kana>[\u3040-\u30ff])|(?P<zh>[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f])"
    r"|(?P<ko>[\uac00-\ud7a3\u1100-\u11ff]+)|(?P<Latin>[A-Za-z\u00c0-\u024f\u1e00-\u1eff]+)"
    r"|(?P<Cyrillic>[\u0400-\u052f]+)|(?P<Greek>[\u0370-\u03ff]+)|(?P<Arabic>[\u0600-\u06ff\u0750-\u077f]+)"
    r"|(?P<Hebrew>[\u0590-\u05ff]+)|(?P<Devanagari>[\u0900-\u097f]+)|(?P<Thai>[\u0e00-\u0e7f]+)"
)


def guess_language(texts: Iterable[str]) -> str:
    """Guess a language by the script: "zh", "ja", "ko", or the script ("Latin script") if many languages use it.
    Without letters, the result is "unknown"."""
    units: Counter[str] = Counter()
    for text in texts:
        units.update(str(found.lastgroup) for found in _UNITS.finditer(text))
    if units["kana"]:  # Japanese has kana and Chinese characters
        units["ja"] = units.pop("kana") + units.pop("zh", 0)
    if not units:
        return "unknown"
    most = max(units, key=lambda name: units[name])
    return most if most in ("zh", "ja", "ko") else f"{most} script"
