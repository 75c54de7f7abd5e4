"""Errors that a user can fix. Each says what was found, what was expected, and how to fix it.

The command line prints such an error as one message without a traceback, and exits with code 2. Any other exception is
a bug in toolhone and keeps its traceback.
"""

from __future__ import annotations


class UserError(Exception):
    """Bad input. The message starts with `file:line` or the config key, and says how to fix it."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in long work. `kept` says what is kept; `flag` is what the command needs in order to continue from it."""

    def __init__(self, kept: str, flag: str | None = None) -> None:
        super().__init__(kept)
        self.kept, self.flag = kept, flag


class RowError(UserError):
    """A row that is not a valid conversation. `rule` is the kind of fault, as `toolhone data check` names it."""

    def __init__(self, message: str, *, rule: str = "row") -> None:
        super().__init__(message)
        self.rule = rule
