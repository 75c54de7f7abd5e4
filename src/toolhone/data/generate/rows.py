"""`toolhone data generate`: make the data sets of a spec.

In: a spec (spec.py) with slots and templates. Out: a JSONL file for each output. The same spec gives the same bytes.
Nothing is written if a row does not fit the tools or a check, or if the phrasings of two outputs are too similar.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import combinations, product
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from toolhone.data.generate.spec import OutputSpec, Spec, YamlFile, fillers, load_spec
from toolhone.data.generate.templates import (
    Template,
    expand,
    join_requests,
    load_results,
    load_templates,
    parse_templates,
)
from toolhone.data.groups import jaccard, shingles
from toolhone.data.read import read_tools
from toolhone.errors import UserError
from toolhone.jsonl import write_text
from toolhone.records import Conversation, Tool

if TYPE_CHECKING:
    from rich.console import Console

_MAX_PAIRS, _MAX_CLOSE_PAIRS = 5, 20


class Made(NamedTuple):
    """The rows of an output, and the template of each request in them."""

    chosen: list[Template]
    rows: list[Conversation]

    def text(self) -> str:
        """Return the rows as JSONL."""
        return "".join(json.dumps(row.to_json(), ensure_ascii=False) + "\n" for row in self.rows)


def generate(path: Path, console: Console, *, out: Path | None = None, compare: bool = False) -> bool:
    """Write the rows of a spec, or with `compare` only compare them with the files. Return whether the files match.

    `out` is a file if the spec has one output, else a folder for <output>.jsonl. The default is the spec's folder. If
    the spec has a fault, nothing is written.
    """
    spec, file = load_spec(path)
    made = make(spec, file)
    for name in made:
        console.print(_counts(spec, name, made[name]), markup=False)
    refuse_similar_outputs(made, spec.max_similarity, console)
    stale: list[Path] = []
    for name, one in made.items():
        target, text = _target(path, spec, name, out), one.text()
        if not compare:
            write_text(target, text)
            console.print(f"written: {target}", markup=False)
        elif not target.is_file() or target.read_bytes() != text.encode():
            stale.append(target)
    for target in stale:
        console.print(f"{target} differs from what {path} makes", markup=False)
    return not stale


def make(spec: Spec, file: YamlFile) -> dict[str, Made]:
    """Return the rows of every output. Raises UserError for faulty or too few templates and rows that fail a check."""
    tools = read_tools(file.path.parent / spec.tools)
    drawn: set[str] = set()
    return {name: _make_output(spec, file, name, output, tools, drawn) for name, output in spec.outputs.items()}


def _make_output(
    spec: Spec, file: YamlFile, name: str, output: OutputSpec, tools: tuple[Tool, ...], drawn: set[str]
) -> Made:
    folder, seed, prefix = file.path.parent, spec.seed, output.ids or name
    counts = {name: output.rows for name, output in spec.outputs.items()}
    # Parsing fills each template once. It has its own set of drawn codes, so that it uses up none of the rows' codes.
    tried = fillers(spec.slots, name, counts, seed, set(), str(file.path))
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
            mix={kind: _count_or_share(kind, rows) for kind, rows in mix.items()},
            evenly_by=spec.evenly_by,
            languages=spec.languages,
            repeat=output.repeat_templates,
            rng=Random(f"{seed}/{name}"),
        )
    except UserError as error:
        raise UserError(f"{file.place(['outputs', name])}: outputs.{name}: {error}") from None
    filling = fillers(spec.slots, name, counts, seed, drawn, str(file.path))
    rows = expand(chosen, seed=seed, fillers=filling, system_prompt=spec.system_prompt, tools=tools, prefix=prefix)
    if output.requests > 1:
        if spec.results is None:
            place = file.place(["outputs", name])
            raise UserError(f"{place}: outputs.{name}: requests needs the spec's `results`, a YAML file")
        results, rng = load_results(folder / spec.results), Random(f"{seed}/{name}/requests")
        rows = join_requests(rows, output.requests, results, rng=rng, tools=tools, prefix=prefix)
    if "said_before" in spec.checks:
        for row in rows:
            refuse_invented_text(row)
    return Made(chosen, rows if spec.tools_in_rows else [replace(row, tools=()) for row in rows])


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
    """Return a template for each row.

    Args:
        mix: the rows of each kind (`Template.kind`), as a count or a share, which is rounded down. The other kinds
            share the rest evenly.
        evenly_by: for a kind, the argument whose values get equally many rows.
        languages: each language's share of the rows. If empty, the templates decide.
        repeat: a template may make several rows. Each template then makes at least one if the rows and the languages
            allow, even if that is uneven, because a new phrasing teaches more than another value in a known one.

    Raises:
        UserError: if the templates cannot make these rows.
    """
    groups: dict[str, dict[str, list[Template]]] = defaultdict(lambda: defaultdict(list))
    for template in templates:
        groups[template.kind][_variant(template, evenly_by)].append(template)
    unknown = [kind for kind in (*mix, *evenly_by) if kind not in groups]
    if unknown:
        raise UserError(f'mix or evenly_by has "{unknown[0]}"; expected kinds of templates: {", ".join(groups)}')
    quotas = {kind: count if isinstance(count, int) else int(rows * count) for kind, count in mix.items()}
    left = rows - sum(quotas.values())
    others = {kind: [t for ts in variants.values() for t in ts] for kind, variants in groups.items() if kind not in mix}
    if left < 0 or (left and not others):
        problem = f"more than the {rows} rows" if left < 0 else f"{left} fewer than the rows, and no other kind is left"
        raise UserError(f"mix asks for {rows - left} rows, {problem}; change mix or rows")
    quotas |= share(left, others, repeat)
    by_language: Counter[str] = Counter()
    chosen: list[Template] = []
    for kind, quota in quotas.items():
        for name, variant_rows in share(quota, groups[kind], repeat).items():
            for members, count in _by_language(groups[kind][name], variant_rows, languages, by_language, repeat):
                chosen += spread(members, count, rng)
    for language, weight in languages.items():
        # There may be too few phrasings of a language.
        found, wanted = by_language[language] / rows, weight / sum(languages.values())
        if found < wanted - 0.02 - 1 / rows:
            share_found = f"{by_language[language]} of {rows} rows, expected {wanted:.0%}"
            raise UserError(f"languages: {language}: the templates make {share_found}; add templates in this language")
    rng.shuffle(chosen)
    return chosen


def _variant(template: Template, evenly_by: Mapping[str, str]) -> str:
    """Return the value of the argument that `evenly_by` names for the template's kind, or "" if there is none."""
    if template.kind not in evenly_by:
        return ""
    arguments = [arguments for _, arguments in template.calls if evenly_by[template.kind] in arguments]
    return str(arguments[0][evenly_by[template.kind]]) if arguments else ""


def _by_language(
    members: Sequence[Template], rows: int, languages: Mapping[str, float], before: Counter[str], repeat: bool
) -> list[tuple[list[Template], int]]:
    """Return the templates and the number of rows for each language. `before` counts the rows of earlier groups, so
    that rounding errors do not add up."""
    if not languages:
        return [(list(members), rows)]
    groups = {language: [t for t in members if t.language == language] for language in languages}
    counts = share(
        rows, groups, repeat, lambda name, count: (before[name] + count + 0.5) / languages[name], cover=False
    )
    before.update(counts)
    return [(groups[language], count) for language, count in counts.items() if count]


def share(
    rows: int,
    groups: Mapping[str, Sequence[Template]],
    repeat: bool,
    burden: Callable[[str, int], float] = lambda name, count: count,
    *,
    cover: bool = True,
) -> dict[str, int]:
    """Return the number of rows for each group of templates, as even as the number of possible rows allows.

    Each row goes to the group with the least `burden`, a function of its name and its rows so far. With `repeat` and
    `cover`, every template first gets a row, if there are enough rows. Raises UserError if the groups cannot make
    `rows` rows.
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
            raise UserError(f"the templates of {', '.join(groups)} make {rows - left} rows, expected {rows}; add some")
        shares[min(open_names, key=lambda name: burden(name, shares[name]))] += 1
    return shares


def spread(templates: Sequence[Template], rows: int, rng: Random) -> list[Template]:
    """Return a template for each of `rows` rows, in a random order and as evenly as possible.

    A template without slots makes one row, because a second would be a copy. Raises UserError for too few templates.
    """
    chosen: list[Template] = []
    left = list(templates)
    while len(chosen) < rows:
        if not left:
            raise UserError(f"the {len(templates)} templates make {len(chosen)} rows, expected {rows}; add templates")
        chosen += rng.sample(left, min(len(left), rows - len(chosen)))
        left = [template for template in left if template.slots]
    return chosen


def _count_or_share(kind: str, rows: int | float | str) -> int | Fraction:
    """Return a count of rows as it is, and a share as an exact fraction, so that 1/6 of 600 is 100."""
    try:
        read = rows if isinstance(rows, int) else Fraction(str(rows))
    except (ValueError, ZeroDivisionError):
        raise UserError(f'mix: {kind}: expected a count or a share such as 0.1 or 1/6, found "{rows}"') from None
    if read < 0 or (isinstance(read, Fraction) and read > 1):
        raise UserError(f"mix: {kind}: expected a count, or a share of 0 to 1, found {rows}")
    return read


def refuse_slot_in_other_argument(template: Template) -> None:
    """Refuse a slot that fills an argument with another name, such as a tracking number as an order id."""
    for name, arguments in template.calls:
        for argument, value in arguments.items():
            if isinstance(value, str) and value.startswith("{") and not value.startswith("{" + argument):
                place = f"{template.where}: {name}: {argument}"
                raise UserError(f"{place}: expected the slot {{{argument}}}, found {value}")


def refuse_invented_text(row: Conversation) -> None:
    """Refuse a text argument that occurs in no message before the call, unless the schema lists its values."""
    listed = {
        (tool.name, name)
        for tool in row.tools
        for name, schema in tool.parameters.get("properties", {}).items()
        if "enum" in schema
    }
    before = ""
    for message in row.messages:
        before += message.content if message.role in ("user", "tool") else ""
        for call in message.tool_calls:
            for name, value in call.arguments.items():
                if isinstance(value, str) and (call.name, name) not in listed and value not in before:
                    raise UserError(f'{row.where}: {call.name}: {name} "{value}" is in no message before the call')


def refuse_similar_outputs(made: dict[str, Made], limit: float, console: Console) -> None:
    """Print the most similar phrasings of each two outputs. Raises UserError if a pair is over the limit."""
    for one, other in combinations(made, 2):
        pairs = nearest_pairs(made[other].chosen, made[one].chosen)
        close = [pair for pair in pairs if pair[0] > limit]
        shown = "\n".join(
            f"  {value:.3f} {a.id} {a.masked_question!r} | {b.id} {b.masked_question!r}"
            for value, a, b in (close[:_MAX_CLOSE_PAIRS] or pairs[:_MAX_PAIRS])
        )
        if close:
            raise UserError(f"max_similarity: {len(close)} pairs are over {limit}; reword one of each pair:\n{shown}")
        console.print(f"nearest phrasings of {other} and {one} (Jaccard similarity of 5-grams, slots masked):")
        console.print(shown, markup=False)


def nearest_pairs(lefts: Iterable[Template], rights: Iterable[Template]) -> list[tuple[float, Template, Template]]:
    """Return all pairs of a left and a right template with their similarity, the most similar first. It is the Jaccard
    similarity of the character 5-grams of what the user writes, in lower case, slots masked."""
    left = {template: shingles(template.masked_question) for template in lefts}
    right = {template: shingles(template.masked_question) for template in rights}
    pairs = [(jaccard(left[a], right[b]), a, b) for a, b in product(left, right)]
    return sorted(pairs, key=lambda pair: (-pair[0], pair[1].id, pair[2].id))


def _counts(spec: Spec, name: str, made: Made) -> str:
    """Return a few lines with the composition of an output."""
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


def _target(path: Path, spec: Spec, name: str, out: Path | None) -> Path:
    if out is not None and len(spec.outputs) == 1:
        return out
    if out is not None and out.suffix in (".jsonl", ".json"):
        outputs = ", ".join(spec.outputs)
        raise UserError(f"--out {out}: expected a folder for the outputs {outputs} of {path}, found a file name")
    return (path.parent if out is None else out) / f"{name}.jsonl"
