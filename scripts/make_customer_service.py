"""Make data/customer_service/{train,test}.jsonl from the templates beside them.

    python scripts/make_customer_service.py            writes both files
    python scripts/make_customer_service.py --check    compares with the files there; exit code 1 where they differ

The same templates give the same bytes. Nothing is written where a row breaks the tools or the conventions of
data/customer_service/README.md, or where a test phrasing is too close to a training phrasing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from random import Random

import yaml

from toolhone.data.read import read_tools
from toolhone.data.templates import Filler, Template, expand, load_templates, spread
from toolhone.errors import UserError
from toolhone.jsonl import write_text
from toolhone.records import Conversation

FOLDER = Path(__file__).resolve().parent.parent / "data" / "customer_service"
SYSTEM_PROMPT = "你是客服 Agent,负责查询订单和物流。"
SEED = 20260
ROWS = {"train": 600, "test": 200}
# Training rows of each kind: more where a model errs longer (the reason of a refund, a quantity that is named or is
# not), which validation rows told.
TRAINING_MIX = {
    "no call": 108,
    "several calls": 50,
    "several turns": 60,
    "request_refund": 88,
    "query_stock": 66,
    "update_address": 50,
    "query_order": 46,
    "query_logistics": 46,
    "transfer_to_human": 44,
    "cancel_order": 42,
}
CLOSEST_ALLOWED = 0.5
"""The highest similarity that a test phrasing may have to a training phrasing."""

# "#" is a digit, "^" a digit that is not 0, "@" a letter. Of each kind first the usual shapes, then the rarer ones.
ORDERS = (
    "ORD-### @-### ^#### ^######",
    "ORD-#### ORD#### ORD-^##### @-#### @#### @@-^#### SO-^#### DD^##### WEB-### ^### ^##### ^####### "
    "^####-0^ ^########",
)
PARCELS = (
    "SF########## YT########## JD##########",
    "SF############ YT############# JD00######## JDV######### ZTO########## STO######### YD########## EMS######## "
    "E@#########CN 1Z###@@@######## DHL########## TT##########",
)
GOODS = ("SKU#### SKU#####", "SKU-#### SKU### SKU-^#### SKU####@")
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"


class Codes:
    """Draws codes, none twice over all files: a test row holds no code of a training row, in whatever case."""

    def __init__(self) -> None:
        self._drawn: set[str] = set()

    def filler(self, usual: str, rarer: str) -> Filler:
        """Two codes in three have one of the usual shapes; one in ten is typed in lower case."""

        def draw(rng: Random, language: str, typed: bool) -> str:
            while True:
                shape = rng.choice((usual if rng.random() < 2 / 3 else rarer).split())
                code = "".join(_character(symbol, rng) for symbol in shape)
                if code not in self._drawn:
                    self._drawn.add(code)
                    return code.lower() if typed and rng.random() < 0.1 else code

        return draw


def _character(symbol: str, rng: Random) -> str:
    choices = {"#": "0123456789", "^": "123456789", "@": LETTERS}
    return rng.choice(choices[symbol]) if symbol in choices else symbol


def fillers(codes: Codes, addresses: Mapping[str, Sequence[str]]) -> dict[str, Filler]:
    """What fills the templates' slots: codes, quantities of 2 to 20, and addresses in the row's language."""
    return {
        "order_id": codes.filler(*ORDERS),
        "tracking_no": codes.filler(*PARCELS),
        "sku": codes.filler(*GOODS),
        "quantity": lambda rng, language, typed: rng.randint(2, 20),
        "address": lambda rng, language, typed: rng.choice(addresses[language]),
    }


def refuse_slot_in_other_argument(template: Template) -> None:
    """An argument that is a code is one of its own kind: no parcel's number as an order's."""
    for name, arguments in template.calls:
        for argument, value in arguments.items():
            if isinstance(value, str) and value.startswith("{") and not value.startswith("{" + argument):
                raise UserError(f"{template.where}: {name}: {argument} is {value}; expected the slot {{{argument}}}")


def refuse_made_up_text(row: Conversation) -> None:
    """A text argument, unless the schema lists its values, stands word for word in a message before the call."""
    listed = {
        (tool.name, name) for tool in row.tools for name, s in tool.parameters["properties"].items() if "enum" in s
    }
    said = ""
    for message in row.messages:
        said += message.content if message.role in ("user", "tool") else ""
        for call in message.tool_calls:
            for name, value in call.arguments.items():
                if isinstance(value, str) and (call.name, name) not in listed and value not in said:
                    raise UserError(f'{row.where}: {call.name}: {name} "{value}" stands in no message before the call')


def choose(templates: Sequence[Template], quotas: Mapping[str, int], rng: Random) -> list[Template]:
    """A template for each row, each used once: so many of every kind, refunds shared evenly among their reasons."""
    groups: dict[str, dict[str, list[Template]]] = defaultdict(lambda: defaultdict(list))
    for template in templates:
        groups[template.kind][variant(template)].append(template)
    chosen: list[Template] = []
    for kind, quota in quotas.items():
        for name, part in share(quota, groups[kind]).items():
            chosen += spread(groups[kind][name], part, rng)
    rng.shuffle(chosen)
    return chosen


def test_mix(templates: Sequence[Template], rows: int) -> dict[str, int]:
    """One row in six without a call, one in ten with several calls, one in ten of several turns, and the rest single
    calls, shared evenly among the tools."""
    quotas = {"no call": rows // 6, "several calls": rows // 10, "several turns": rows // 10}
    singles: dict[str, list[Template]] = defaultdict(list)
    for template in templates:
        if template.kind not in quotas:
            singles[template.kind].append(template)
    return quotas | share(rows - sum(quotas.values()), singles)


def variant(template: Template) -> str:
    """The reason of a single refund; "" for all else."""
    if template.kind != "request_refund":
        return ""
    return str(template.calls[0][1]["reason"])


def share(rows: int, groups: Mapping[str, Sequence[Template]]) -> dict[str, int]:
    """Share rows out among groups of templates, evenly as far as the groups reach."""
    shares = dict.fromkeys(groups, 0)
    while (left := rows - sum(shares.values())) > 0:
        open_names = [name for name, members in groups.items() if shares[name] < len(members)]
        if not open_names:
            raise UserError(f"{rows} rows asked for among {', '.join(groups)}, {left} more than the templates make")
        shares[min(open_names, key=shares.__getitem__)] += 1
    return shares


def similarity(left: frozenset[str], right: frozenset[str]) -> float:
    """Jaccard similarity of two sets."""
    return len(left & right) / len(left | right)


def grams(text: str, size: int = 5) -> frozenset[str]:
    """The character n-grams of a text; a shorter text is its own one."""
    return frozenset(text[start : start + size] for start in range(max(1, len(text) - size + 1)))


def nearest_pairs(test: Iterable[Template], train: Iterable[Template]) -> list[tuple[float, Template, Template]]:
    """Every pair of a test and a training template, by falling similarity of what the user writes, slots masked."""
    left = {template: grams(template.masked_question) for template in test}
    right = {template: grams(template.masked_question) for template in train}
    pairs = [(similarity(left[a], right[b]), a, b) for a, b in product(left, right)]
    return sorted(pairs, key=lambda pair: (-pair[0], pair[1].id, pair[2].id))


def make() -> tuple[dict[str, list[Template]], dict[str, list[Conversation]]]:
    """The chosen templates and their rows, by split."""
    tools = read_tools(FOLDER / "tools.json")
    addresses = yaml.safe_load((FOLDER / "templates" / "addresses.yaml").read_text(encoding="utf-8"))
    codes = Codes()
    chosen: dict[str, list[Template]] = {}
    rows: dict[str, list[Conversation]] = {}
    # The test rows draw their codes first, so that they stay as they are when training templates change.
    for split, count in sorted(ROWS.items()):
        # The try-out of the templates draws codes of its own, so that those of the rows are not used up by it.
        path = FOLDER / "templates" / f"{split}.yaml"
        templates = load_templates(path, tools, fillers(Codes(), addresses[split]))
        for template in templates:
            refuse_slot_in_other_argument(template)
        mix = TRAINING_MIX if split == "train" else test_mix(templates, count)
        chosen[split] = choose(templates, mix, Random(f"{SEED}/{split}"))
        made = expand(
            chosen[split],
            seed=SEED,
            fillers=fillers(codes, addresses[split]),
            system_prompt=SYSTEM_PROMPT,
            tools=tools,
            prefix=f"cs-{split}",
        )
        for row in made:
            refuse_made_up_text(row)
        rows[split] = [replace(row, tools=()) for row in made]  # they stand in tools.json, once
    return chosen, rows


def print_counts(split: str, chosen: Sequence[Template], rows: Sequence[Conversation]) -> None:
    """Say what a split is made of."""
    calls = [call for row in rows for message in row.messages for call in message.tool_calls]
    literals = [value for call in calls for key, value in call.arguments.items() if key == "reason"]
    counts = {
        "kind": Counter(template.kind for template in chosen),
        "calls of": Counter(call.name for call in calls),
        "reason": Counter(literals),
        "language": Counter(template.language for template in chosen),
    }
    print(f"{split}: {len(rows)} rows of {len(set(chosen))} templates")
    for name, counter in counts.items():
        print(f"  {name}: " + ", ".join(f"{key} {count}" for key, count in counter.most_common()))


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the customer_service data set from its templates.")
    parser.add_argument("--check", action="store_true", help="compare with the files that are there, write nothing")
    arguments = parser.parse_args()
    try:
        chosen, rows = make()
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    for split in ROWS:
        print_counts(split, chosen[split], rows[split])
    pairs = nearest_pairs(chosen["test"], chosen["train"])
    close = [pair for pair in pairs if pair[0] > CLOSEST_ALLOWED]
    print("nearest test and training phrasings (Jaccard similarity of character 5-grams, slots masked):")
    for value, test, train in pairs[: max(20, len(close))]:
        print(f"  {value:.3f} {test.id} {test.masked_question!r} | {train.id} {train.masked_question!r}")
    if close:
        print(f"Error: {len(close)} pairs are over {CLOSEST_ALLOWED}; reword one of each", file=sys.stderr)
        return 1
    stale = []
    for split in ROWS:
        path = FOLDER / f"{split}.jsonl"
        text = "".join(json.dumps(row.to_json(), ensure_ascii=False) + "\n" for row in rows[split])
        if not arguments.check:
            write_text(path, text)
        elif not path.is_file() or path.read_bytes() != text.encode():
            stale.append(str(path))
    if stale:
        print(f"Error: {', '.join(stale)} differ from what the templates make; run without --check", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
