"""The questions of a bare `toolhone advise`: each with its unit and its default, asked again till the answer fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from toolhone.economics.inputs import FIELDS, flag_of
from toolhone.economics.read import checked
from toolhone.errors import UserError


def ask_inputs(
    ask: Callable[[str], str], say: Callable[[str], None], known: dict[str, Any]
) -> tuple[dict[str, Any], frozenset[str]]:
    """Ask for every input that is among the questions.

    Args:
        ask: shows a prompt and returns what was typed, as `input` does.
        say: shows a line, for an answer that does not fit.
        known: values that were measured, offered in place of the defaults.

    Returns:
        the values, and the names of those where the offered value was taken.

    Raises:
        UserError: where the answers end before the questions do.
    """
    values: dict[str, Any] = {}
    taken: set[str] = set()
    for name, entry in FIELDS.items():
        if not entry.metadata["asked"]:
            continue
        meaning: str = entry.metadata["meaning"]
        offered = known.get(name, entry.default)
        default = "none" if offered is None else f"{offered:g}" if isinstance(offered, float) else str(offered)
        prompt = f"{meaning[0].upper()}{meaning[1:]} ({entry.metadata['unit']}) [{default}]: "
        while True:
            try:
                typed = ask(prompt).strip()
            except EOFError:
                raise UserError(f"{name}: the answers ended here; give it as {flag_of(name)}") from None
            if not typed or (offered is None and typed == "none"):
                taken.add(name)
                if offered is not None and name not in known:
                    values[name] = offered
                break
            try:
                values |= checked({name: typed}, {name: flag_of(name)})
            except UserError as error:
                say(str(error).removeprefix(f"{flag_of(name)}: "))
                continue
            break
    return values, frozenset(taken)
