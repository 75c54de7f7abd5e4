"""Which phrasings make the rows of a data set, and how alike the phrasings of two data sets are.

In: templates. Out: a template for each row, in the mix of kinds that a spec asks for; or pairs of templates by
falling similarity.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import product
from random import Random

from toolhone.data.generate.templates import Template, spread
from toolhone.errors import UserError


def choose(
    templates: Sequence[Template],
    rows: int,
    *,
    mix: Mapping[str, int | Fraction],
    evenly_by: Mapping[str, str],
    languages: Mapping[str, float],
    repeat: bool,
    rng: Random,
) -> list[Template]:
    """A template for each row.

    `mix` gives the kinds of templates (`Template.kind`) their rows, as a count or a share that is rounded down; the
    rows that are left go to the other kinds, evenly. `evenly_by` names for a kind an argument of its call, over whose
    values the kind's rows are shared evenly. `languages`, where given, is each language's share of the rows.

    With `repeat` a template may make several rows. Each then makes at least one, where there are rows enough for that
    and no shares of languages stand against it, which comes before evenness: a new phrasing teaches more than another
    value in a known one.

    Raises:
        UserError: where the templates do not make the rows that are asked for.
    """
    groups: dict[str, dict[str, list[Template]]] = defaultdict(lambda: defaultdict(list))
    for template in templates:
        groups[template.kind][_variant(template, evenly_by)].append(template)
    unknown = [kind for kind in (*mix, *evenly_by) if kind not in groups]
    if unknown:
        raise UserError(f'mix or evenly_by names "{unknown[0]}", but the templates are of {", ".join(groups)}')
    quotas = {kind: part if isinstance(part, int) else int(rows * part) for kind, part in mix.items()}
    left = rows - sum(quotas.values())
    others = {kind: [t for part in parts.values() for t in part] for kind, parts in groups.items() if kind not in mix}
    if left < 0 or (left and not others):
        whose = f"more than the {rows} rows" if left < 0 else f"{left} fewer than the rows, and leaves no other kind"
        raise UserError(f"mix asks for {rows - left} rows, {whose}; change mix or rows")
    quotas |= share(left, others, repeat)
    told: Counter[str] = Counter()
    chosen: list[Template] = []
    for kind, quota in quotas.items():
        for name, part in share(quota, groups[kind], repeat).items():
            for members, count in _by_language(groups[kind][name], part, languages, told, repeat):
                chosen += spread(members, count, rng)
    for language, weight in languages.items():
        # Phrasings in one language may be used up; what then comes out must still be what was asked for.
        found, wanted = told[language] / rows, weight / sum(languages.values())
        if found < wanted - 0.02 - 1 / rows:
            share_found = f"{told[language]} of {rows} rows, expected {wanted:.0%}"
            raise UserError(f"languages: {language}: the templates make {share_found}; write more templates of it")
    rng.shuffle(chosen)
    return chosen


def _variant(template: Template, evenly_by: Mapping[str, str]) -> str:
    """The value of the argument that its kind is shared by; "" for a kind that is not."""
    if template.kind not in evenly_by:
        return ""
    arguments = [arguments for _, arguments in template.calls if evenly_by[template.kind] in arguments]
    return str(arguments[0][evenly_by[template.kind]]) if arguments else ""


def _by_language(
    members: Sequence[Template], rows: int, languages: Mapping[str, float], told: Counter[str], repeat: bool
) -> list[tuple[list[Template], int]]:
    """Share rows out by language. `told` counts those of every group before, so that roundings do not add up."""
    if not languages:
        return [(list(members), rows)]
    groups = {language: [t for t in members if t.language == language] for language in languages}
    counts = share(rows, groups, repeat, lambda name, count: (told[name] + count + 0.5) / languages[name], cover=False)
    told.update(counts)
    return [(groups[language], count) for language, count in counts.items() if count]


def share(
    rows: int,
    groups: Mapping[str, Sequence[Template]],
    repeat: bool,
    burden: Callable[[str, int], float] = lambda name, count: count,
    *,
    cover: bool = True,
) -> dict[str, int]:
    """Share rows out among groups of templates, evenly as far as the groups can make different rows.

    Each row goes to the group of the least `burden`, given its name and its rows so far. With `repeat` and `cover`,
    every template gets a row first, where there are rows enough.

    Raises:
        UserError: where the groups cannot make so many different rows.
    """
    sizes = {name: len(members) for name, members in groups.items()}
    shares = sizes if repeat and cover and sum(sizes.values()) <= rows else dict.fromkeys(groups, 0)
    while (left := rows - sum(shares.values())) > 0:
        open_names = [
            name
            for name, members in groups.items()
            if shares[name] < len(members) or (repeat and any(template.slots for template in members))
        ]
        if not open_names:
            raise UserError(f"{rows} rows asked for among {', '.join(groups)}, {left} more than the templates make")
        shares[min(open_names, key=lambda name: burden(name, shares[name]))] += 1
    return shares


def similarity(left: frozenset[str], right: frozenset[str]) -> float:
    """Jaccard similarity of two sets."""
    return len(left & right) / len(left | right)


def grams(text: str, size: int = 5) -> frozenset[str]:
    """The character n-grams of a text; a shorter text is its own one."""
    return frozenset(text[start : start + size] for start in range(max(1, len(text) - size + 1)))


def nearest_pairs(lefts: Iterable[Template], rights: Iterable[Template]) -> list[tuple[float, Template, Template]]:
    """Every pair of a template of either side, by falling similarity of what the user writes: lower case, slots masked,
    Jaccard similarity of character 5-grams."""
    left = {template: grams(template.masked_question) for template in lefts}
    right = {template: grams(template.masked_question) for template in rights}
    pairs = [(similarity(left[a], right[b]), a, b) for a, b in product(left, right)]
    return sorted(pairs, key=lambda pair: (-pair[0], pair[1].id, pair[2].id))
