"""`expected` of a row: the gold that a scorer holds the last assistant turn against."""

from __future__ import annotations

from typing import Any

from toolhone.data.importers.fields import short, typed
from toolhone.errors import RowError
from toolhone.records import Gold, GoldCall


def read_expected(row: Any, where: str) -> Gold:
    """The gold of the last assistant turn, with accepted alternatives, as `Gold.to_json` writes it.

    Raises:
        RowError: naming `where`.
    """
    if not isinstance(row, dict) or row.get("status") not in ("calls", "none", "any"):
        raise RowError(
            f'{where}: expected "expected" to have a "status" of calls, none or any, found {short(row)}',
            rule="bad-expected",
        )
    calls = row.get("calls", [])
    if not isinstance(calls, list) or bool(calls) != (row["status"] == "calls"):
        raise RowError(
            f'{where}: "expected" lists "calls" where, and only where, its status is calls', rule="bad-expected"
        )
    return Gold(row["status"], tuple(_gold_call(call, f"{where}: expected call {n}") for n, call in enumerate(calls)))


def _gold_call(row: Any, where: str) -> GoldCall:
    arguments = row.get("arguments") if isinstance(row, dict) else None
    if not isinstance(arguments, dict) or not isinstance(row.get("name"), str):
        raise RowError(f'{where}: expected "name" and "arguments", found {short(row)}', rule="bad-expected")
    for name, accepted in arguments.items():
        if not isinstance(accepted, list) or not accepted:
            raise RowError(
                f"{where}: expected the accepted values of {name} as a list, found {short(accepted)}",
                rule="bad-expected",
            )
    optional = typed(row, "optional", list, [], where)
    for name in optional:
        if not isinstance(name, str) or name not in arguments:
            raise RowError(
                f'{where}: "optional" names {short(name)}, which is not among the arguments', rule="bad-expected"
            )
    blank = typed(row, "blank", list, [], where)
    for name in blank:
        if not isinstance(name, str) or name in arguments:
            text = f'{where}: "blank" names {short(name)}, expected a name that has no accepted values'
            raise RowError(text, rule="bad-expected")
    return GoldCall(row["name"], arguments, frozenset(optional), frozenset(blank))
