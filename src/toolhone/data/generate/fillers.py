"""What fills the slots of templates: codes of given shapes, whole numbers, and values listed by language.

In: the slots as a spec declares them. Out: a `Filler` for each slot and output (train, test, ...). Outputs share no
value, so that a test row cannot be answered from memory, unless a slot says `shared: true`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from toolhone.data.generate.templates import Filler
from toolhone.errors import UserError

LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
"""Without I and O, which people read as 1 and 0."""

_SYMBOLS = {"#": "0123456789", "^": "123456789", "@": LETTERS}
_MOST_DRAWS = 10_000
_DIGITS = re.compile(r"\d{4,}")

_T = TypeVar("_T")

Lists = dict[str, tuple[str | int, ...]]
"""Values by language."""


class Shapes(BaseModel):
    """Shapes of codes that come up equally often. "#" is a digit, "^" a digit that is not 0, "@" a letter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    of: tuple[str, ...] = Field(min_length=1)
    weight: float = Field(1.0, gt=0.0)
    """How often one of these is drawn, against the other groups of shapes."""


class SlotSpec(BaseModel):
    """How one slot is filled: by `codes`, `integers` or `lists`, one of them."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    codes: tuple[Shapes, ...] | None = None
    """Groups of shapes such as ORD-###. No code is drawn twice in the whole spec, whatever its case."""
    lower_case: float = Field(0.0, ge=0.0, le=1.0)
    """The share of the codes that a user types in lower case; what a tool gives back is never lowered."""
    integers: tuple[int, int] | None = None
    """The least and the greatest number."""
    lists: str | dict[str, Any] | None = None
    """Values by language; or by output and then language; or the name of a YAML file that holds either. Values that are
    listed by language alone are dealt out among the outputs."""
    shared: bool = False
    """Whether several outputs may hold the same value."""

    @model_validator(mode="after")
    def _one_kind(self) -> SlotSpec:
        given = [name for name in ("codes", "integers", "lists") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected one of codes, integers and lists, found {' and '.join(given) or 'none'}")
        if self.lower_case and self.codes is None:
            raise ValueError("lower_case is for codes alone")
        if self.integers is not None and self.integers[0] > self.integers[1]:
            raise ValueError(f"integers: the least is {self.integers[0]}, above the greatest, {self.integers[1]}")
        return self


class Codes:
    """Draws codes, none twice over all outputs: a test row holds no code of a training row, in whatever case, and none
    with the same four digits or more in a row."""

    def __init__(self) -> None:
        self._drawn: set[str] = set()

    def filler(self, slot: SlotSpec, where: str) -> Filler:
        """Fills one slot.

        Raises (the filler):
            UserError: starting with `where`, once the shapes give no new code.
        """
        assert slot.codes is not None
        groups = slot.codes
        total = sum(group.weight for group in groups)

        def draw(rng: Random, language: str, typed: bool) -> str:
            for _ in range(_MOST_DRAWS):
                shape = rng.choice(_pick(groups, rng.random() * total).of)
                code = "".join(rng.choice(_SYMBOLS[s]) if s in _SYMBOLS else s for s in shape)
                marks = {code.lower(), *_DIGITS.findall(code)}
                if slot.shared or self._drawn.isdisjoint(marks):
                    self._drawn |= marks
                    return code.lower() if typed and slot.lower_case and rng.random() < slot.lower_case else code
            raise UserError(f"{where}: {_MOST_DRAWS:,} draws gave no new code; add shapes, or characters to them")

        return draw


def _pick(groups: tuple[Shapes, ...], drawn: float) -> Shapes:
    """The group in whose part of the summed weights the number falls."""
    for group in groups:
        if drawn < group.weight:
            return group
        drawn -= group.weight
    return groups[-1]


def fillers(
    slots: Mapping[str, SlotSpec], output: str, rows: Mapping[str, int], seed: int, codes: Codes, where: str
) -> dict[str, Filler]:
    """A filler for each slot of one output. `rows` counts those of every output: values are dealt out accordingly.

    Raises:
        UserError: starting with `where` and the slot, where an output gets no value, or two the same.
    """
    made: dict[str, Filler] = {}
    for name, slot in slots.items():
        place = f"{where}: slots.{name}"
        if slot.codes is not None:
            made[name] = codes.filler(slot, place)
        elif slot.integers is not None:
            least, greatest = slot.integers
            whole = range(least, greatest + 1)
            made[name] = _integer_filler(whole if slot.shared else deal(whole, rows, f"{seed}/{name}", place)[output])
        else:
            made[name] = _list_filler(_lists(slot, rows, f"{seed}/{name}", place)[output], place)
    return made


def _integer_filler(numbers: Sequence[int]) -> Filler:
    return lambda rng, language, typed: numbers[rng.randrange(len(numbers))]


def _list_filler(by_language: Lists, where: str) -> Filler:
    def draw(rng: Random, language: str, typed: bool) -> str | int:
        if language not in by_language:
            raise UserError(f'{where}: lists has no values for the language "{language}" of a template; add them')
        return rng.choice(by_language[language])

    return draw


def _lists(slot: SlotSpec, rows: Mapping[str, int], seed: str, where: str) -> dict[str, Lists]:
    """The values of every output, by language."""
    assert isinstance(slot.lists, dict), "the name of a file has been replaced by what it holds"
    if not any(isinstance(values, dict) for values in slot.lists.values()):
        by_language = _by_language(slot.lists, where)
        if slot.shared:
            return dict.fromkeys(rows, by_language)
        dealt = {lang: deal(values, rows, f"{seed}/{lang}", where) for lang, values in by_language.items()}
        return {output: {language: dealt[language][output] for language in dealt} for output in rows}
    lacking = [output for output in rows if output not in slot.lists]
    if lacking:
        raise UserError(f'{where}: lists has no values for the output "{lacking[0]}"; it has {", ".join(slot.lists)}')
    lists = {output: _by_language(values, f"{where}.{output}") for output, values in slot.lists.items()}
    owner: dict[str | int, str] = {}
    for output in lists:
        for value in {value for values in lists[output].values() for value in values}:
            if value in owner and not slot.shared:
                both = f"{owner[value]} and {output}"
                raise UserError(f'{where}: "{value}" is listed for {both}; take it from one, or say shared: true')
            owner[value] = output
    return lists


def _by_language(values: Any, where: str) -> Lists:
    lists = values.values() if isinstance(values, dict) else [None]
    if not all(isinstance(one, list) and one and all(isinstance(v, str | int) for v in one) for one in lists):
        raise UserError(
            f"{where}: lists: expected a list of texts or whole numbers for each language, found {values!r}"
        )
    return {str(language): tuple(one) for language, one in values.items()}


def deal(values: Sequence[_T], rows: Mapping[str, int], seed: str, where: str) -> dict[str, tuple[_T, ...]]:
    """Deal values out among outputs, shuffled: one to each, and the rest in the proportion of their rows.

    Raises:
        UserError: where there are fewer values than outputs.
    """
    if len(values) < len(rows):
        raise UserError(f"{where}: {len(values)} values for {len(rows)} outputs; list more, or say shared: true")
    shuffled = Random(seed).sample(list(values), len(values))
    spare = len(values) - len(rows)
    dealt: dict[str, tuple[_T, ...]] = {}
    start = before = 0
    for number, (output, count) in enumerate(rows.items(), 1):
        before += count
        end = number + spare * before // sum(rows.values())
        dealt[output] = tuple(shuffled[start:end])
        start = end
    return dealt
