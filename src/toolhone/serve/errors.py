"""Refusals in OpenAI's shape, which its client turns into its own exceptions."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """A request that is refused. `param` names the key at fault, `code` the kind of fault in a word."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def to_json(self) -> dict[str, Any]:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}
