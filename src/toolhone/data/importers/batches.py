"""Batches of Anthropic and Gemini: requests in one file, results in another, paired by the id that both have.

A pair becomes one row with both halves, which the provider's importer reads.
"""

from __future__ import annotations

from collections.abc import Iterator

from toolhone.data.importers.bodies import body_of
from toolhone.data.importers.importer import Row, RowFault, short
from toolhone.errors import RowError

_IDS = ("custom_id", "key")  # Anthropic's and Gemini's


def looks_like(row: Row) -> bool:
    """Whether the row is one half of a batch: a request or a result, with an id."""
    return _half(row) is not None


def _half(row: Row) -> tuple[str, str] | None:
    """The row's half and its id; None if the row is no half of a batch."""
    name = next((name for name in _IDS if isinstance(row.get(name), str) and row[name]), None)
    if name is None:
        return None
    if name == "custom_id":
        params, result = row.get("params"), row.get("result")
        is_request = isinstance(params, dict) and "messages" in params
        is_result = isinstance(result, dict) and "type" in result
    else:
        request, response = body_of(row.get("request")), body_of(row.get("response"))
        is_request = isinstance(request, dict) and "contents" in request
        is_result = isinstance(row.get("error"), dict) or (isinstance(response, dict) and "candidates" in response)
    if is_request == is_result:
        return None
    return "request" if is_request else "result", f"{name} {short(row[name])}"


class Batches:
    """Pairs the rows of batches, in any order."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], tuple[Row, str]] = {}  # the unpaired rows and places, by half and id

    def rewrite(self, row: Row, where: str) -> Iterator[Row | RowFault]:
        """Yield the row joined with its other half, if that was read before. Raises RowError if an unpaired row has the
        same id and is the same half, because the pair is then unknown."""
        found = _half(row)
        if found is None:
            raise RowError(
                f"{where}: expected a request or a result of a batch, found {short(row)}", rule="log-unknown"
            )
        half, id_ = found
        other = self._rows.pop(("result" if half == "request" else "request", id_), None)
        if other is not None:
            yield {**other[0], **row}
            return
        _, first = self._rows.setdefault(found, (row, where))
        if first != where:
            raise RowError(f"{where}: {id_} is also the id of the {half} at {first}", rule="log-repeated")

    def unpaired(self) -> Iterator[RowFault]:
        for (half, id_), (_, where) in self._rows.items():
            other = "result" if half == "request" else "request"
            text = f"no row has the {other} with {id_}; read the batch's requests and results together"
            yield RowFault(where, "log-no-response" if half == "request" else "log-no-request", text)
