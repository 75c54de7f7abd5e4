"""The scoring policies: what each excuses beyond the plain rules of scoring, under a name for each excuse.

`strict` is the rules themselves: values by JSON Schema type, nothing excused. `bfcl` scores as the checker of the
Berkeley Function Calling Leaderboard does, which is laxer about texts and stricter about numbers. Whatever a policy
accepts that `strict` would not is recorded in `Score.rules` by the name of the rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Rule = Literal["spelling", "python-equality", "empty-as-left-out", "unreadable-as-none", "any-call"]

RULES: dict[Rule, str] = {
    "spelling": "a text differs from the expected in case, spaces, the kind of quotes or the signs , . / - _ * ^ only",
    "python-equality": "a value inside a list or an object equals the expected one to Python, where true is 1",
    "empty-as-left-out": "an empty text or list is given for an argument that may be left out",
    "unreadable-as-none": "a turn that cannot be read as calls counts as one without calls",
    "any-call": "where some call is expected, any will do, whatever its tool and arguments",
}
"""What each rule excuses."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How leniently predictions are scored; the last two fields are the rules of their names.

    `values`: how values are compared, "json" by scoring's own rules, "bfcl" as BFCL's checker does, whose leniencies
    are the rules "spelling", "python-equality" and "empty-as-left-out". `required_by_schema`: an argument that the
    schema requires must be given even if the gold lists it as optional.
    """

    name: str
    values: Literal["json", "bfcl"] = "json"
    required_by_schema: bool = False
    unreadable_as_none: bool = False
    any_call: bool = False


STRICT = Policy("strict")
BFCL = Policy("bfcl", values="bfcl", required_by_schema=True, unreadable_as_none=True, any_call=True)
POLICIES = {policy.name: policy for policy in (STRICT, BFCL)}
