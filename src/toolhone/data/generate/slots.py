"""Fill the slots of templates: with codes of given shapes, whole numbers, or values listed by language.

In: the slots as a spec declares them. Out: a `Filler` for each slot and output (train, test, ...). Outputs share no
value, so that a test row cannot be answered from memory, unless a slot says `shared: true`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, TypeVar

from toolhone.data.generate.spec import SlotSpec
from toolhone.errors import UserError

Filler = Callable[[Random, str, bool], str | int]
"""Returns a slot's value, given random numbers, the row's language, and whether the user types it (rather than a tool
returning it)."""

_SYMBOLS = {"#": "0123456789", "^": "123456789", "@": "ABCDEFGHJKLMNPQRSTUVWXYZ"}  # no I and O: read as 1 and 0
_MAX_DRAWS = 10_000
_DIGITS = re.compile(r"\d{4,}")

_T = TypeVar("_T")

Lists = dict[str, tuple[str | int, ...]]
"""Values by language."""


def fillers(
    slots: Mapping[str, SlotSpec], output: str, rows: Mapping[str, int], seed: int, drawn: set[str], where: str
) -> dict[str, Filler]:
    """Return a filler for each slot of one output.

    Args:
        rows: the number of rows of every output; values are dealt out in proportion.
        drawn: the codes drawn so far, for all outputs together; fillers add to it.

    Raises:
        UserError: starting with `where` and the slot, if an output gets no value, or two get the same.
    """
    made: dict[str, Filler] = {}
    for name, slot in slots.items():
        place = f"{where}: slots.{name}"
        if slot.codes is not None:
            made[name] = code_filler(slot, drawn, place)
        elif slot.integers is not None:
            whole = range(slot.integers[0], slot.integers[1] + 1)
            made[name] = _integer_filler(whole if slot.shared else deal(whole, rows, f"{seed}/{name}", place)[output])
        else:
            made[name] = _list_filler(_lists(slot, rows, f"{seed}/{name}", place)[output], place)
    return made


def code_filler(slot: SlotSpec, drawn: set[str], where: str) -> Filler:
    """Return a filler whose codes are new among `drawn`: in any case, and in each run of four digits or more.

    Raises (the filler):
        UserError: starting with `where`, once the shapes give no new code.
    """
    assert slot.codes is not None
    groups, weights = slot.codes, [group.weight for group in slot.codes]

    def draw(rng: Random, language: str, typed: bool) -> str:
        for _ in range(_MAX_DRAWS):
            shape = rng.choice(rng.choices(groups, weights)[0].of)
            code = "".join(rng.choice(_SYMBOLS[s]) if s in _SYMBOLS else s for s in shape)
            marks = {code.lower(), *_DIGITS.findall(code)}
            if slot.shared or drawn.isdisjoint(marks):
                drawn.update(marks)
                return code.lower() if typed and slot.lower_case and rng.random() < slot.lower_case else code
        raise UserError(f"{where}: {_MAX_DRAWS:,} draws gave no new code; add shapes, or characters to them")

    return draw


def _integer_filler(numbers: Sequence[int]) -> Filler:
    return lambda rng, language, typed: numbers[rng.randrange(len(numbers))]


def _list_filler(by_language: Lists, where: str) -> Filler:
    def draw(rng: Random, language: str, typed: bool) -> str | int:
        if language not in by_language:
            raise UserError(f'{where}: lists has no values for the language "{language}" of a template; add them')
        return rng.choice(by_language[language])

    return draw


def _lists(slot: SlotSpec, rows: Mapping[str, int], seed: str, where: str) -> dict[str, Lists]:
    """Return the values of every output, by language."""
    assert isinstance(slot.lists, dict), "load_spec reads the file of values"
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
    """Deal shuffled values out among outputs: one to each, and the rest in proportion to their rows.

    Raises:
        UserError: if there are fewer values than outputs.
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
