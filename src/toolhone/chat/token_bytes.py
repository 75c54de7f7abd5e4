"""Gives the bytes of each token. A Chinese character is often several tokens, and none of them is text on its own."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenBytes:
    """Gives the bytes of each token id.

    It supports byte-level BPE tokenizers (GPT-2's printable alphabet for bytes) and SentencePiece (`▁` for a space,
    `<0x0A>` for a byte).
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added: dict[int, str] = {id_: token.content for id_, token in tokenizer.added_tokens_decoder.items()}
        self._byte_level = '"ByteLevel"' in json.dumps(json.loads(tokenizer.backend_tokenizer.to_str())["decoder"])

    def of(self, ids: Sequence[int]) -> list[bytes]:
        """Return the bytes of each id. Joined, they are the UTF-8 text that the ids decode to."""
        return [
            self._bytes(id_, token) for id_, token in zip(ids, self._tokenizer.convert_ids_to_tokens(ids), strict=True)
        ]

    def _bytes(self, id_: int, token: str | None) -> bytes:
        if token is None:
            return b""  # Models have more output ids than the tokenizer has tokens. Such an id decodes to no text.
        if id_ in self._added:
            return self._added[id_].encode()
        if self._byte_level:
            return bytes(_BYTE_OF_CHARACTER[character] for character in token)
        if match := _BYTE_TOKEN.fullmatch(token):
            return bytes([int(match[1], 16)])
        return token.replace("▁", " ").encode()


def _byte_alphabet() -> dict[str, int]:
    """Return GPT-2's alphabet: printable bytes map to themselves, the others in order to characters from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF_CHARACTER = _byte_alphabet()
