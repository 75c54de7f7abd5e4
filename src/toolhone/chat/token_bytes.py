"""Gives the bytes of each token. A Chinese character is often several tokens, and none of them is text on its own.

SentencePiece tokenizers put a space (`▁`) in front of a text, and some also in front of the text after each special
token. It is no part of the text. Whether and where a tokenizer does this is found by encoding short texts.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from toolhone.chat.control_tokens import any_of
from toolhone.errors import UserError

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_PROBE = "("
"""A text without spaces, to see what a tokenizer puts in front. Not a letter: some added tokens match only beside
other characters."""
_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""The white space that added tokens absorb: Unicode's `White_Space`. `str.strip` would take other characters too."""

Span = tuple[int, int]


class TokenBytes:
    """Gives the bytes of each token id.

    It supports byte-level BPE tokenizers (GPT-2's printable alphabet for bytes) and SentencePiece (`▁` for a space,
    `<0x0A>` for a byte).

    Attributes:
        adds_space: whether the tokenizer puts a space in front of a text.
    """

    def __init__(self, tokenizer: Any) -> None:
        """Raises UserError if the tokenizer is not a fast one."""
        if not hasattr(tokenizer, "backend_tokenizer"):
            raise UserError(
                f"model.name: the tokenizer of {tokenizer.name_or_path} is a Python one ({type(tokenizer).__name__}), "
                "and toolhone needs one with a tokenizer.json; choose another model"
            )
        self._tokenizer = tokenizer
        self._added: dict[int, Any] = dict(tokenizer.added_tokens_decoder)
        self._byte_level = '"ByteLevel"' in json.dumps(json.loads(tokenizer.backend_tokenizer.to_str())["decoder"])
        self._known: dict[int, bytes] = {}
        self._spaced: dict[int, bool] = {}
        self.adds_space = self._spelled(_PROBE).startswith(b" ")
        self._absorbs = self.adds_space or any(token.lstrip or token.rstrip for token in self._added.values())

    def of(self, ids: Sequence[int], before: int | None = None) -> list[bytes]:
        """Return the bytes of each id, without spaces that the tokenizer adds. Joined, they are the UTF-8 text.

        Args:
            before: the id before these; None if they begin a text.
        """
        pieces = self._raw(ids)
        if self.adds_space:
            for n, id_ in enumerate(ids):
                if pieces[n][:1] == b" " and id_ not in self._added and self._is_space_added(before):
                    pieces[n] = pieces[n][1:]
                before = id_
        return pieces

    def text(self, ids: Sequence[int], before: int | None = None) -> str:
        """Return the text of the ids, with U+FFFD for invalid UTF-8. `before` is the id before these, as in `of`."""
        return b"".join(self.of(ids, before)).decode(errors="replace")

    def absorbed(self, text: str) -> list[Span]:
        """Return the spans of a text's white space that its tokens do not spell.

        Some added tokens absorb the white space beside them (`<|user|>` in Phi-3.5). And a tokenizer that adds no space
        where there is one encodes a text with and without that space in the same way.
        """
        if not self._absorbs:
            return []
        spans: list[Span] = []
        start, after = 0, self._absorbed_at_start
        for found in self._any_added.finditer(text):
            before, next_after = self._absorbed_beside[found.group()]
            spans += _absorbed(text, start, found.start(), after, before)
            start, after = found.end(), next_after
        return [*spans, *_absorbed(text, start, len(text), after, "")]

    def _is_space_added(self, before: int | None) -> bool:
        """Whether the tokenizer adds a space after this token; None is the start of a text."""
        if before is None or before not in self._added:
            return before is None
        if before not in self._spaced:
            ids = self._encode(self._added[before].content + _PROBE)
            self._spaced[before] = ids[:1] == [before] and b"".join(self._raw(ids[1:])).startswith(b" ")
        return self._spaced[before]

    @functools.cached_property
    def _any_added(self) -> re.Pattern[str]:
        return re.compile(any_of(frozenset(token.content for token in self._added.values())))

    @functools.cached_property
    def _absorbed_at_start(self) -> str:
        return " " if self.adds_space and self._encode(f" {_PROBE}") == self._encode(_PROBE) else ""

    @functools.cached_property
    def _absorbed_beside(self) -> dict[str, tuple[str, str]]:
        """What each added token absorbs before and after itself: _SPACE for any white space, " " for one space."""
        beside = {}
        for token in self._added.values():
            before, after = _SPACE * token.lstrip, _SPACE * token.rstrip
            if self.adds_space and not before:
                is_lost = self.text(self._encode(f"{_PROBE} {token.content}")) == _PROBE + token.content
                before = " " * is_lost
            if self.adds_space and not after:
                is_same = self._encode(f"{token.content} {_PROBE}") == self._encode(token.content + _PROBE)
                after = " " * is_same
            beside[token.content] = before, after
        return beside

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def _spelled(self, text: str) -> bytes:
        return b"".join(self._raw(self._encode(text)))

    def _raw(self, ids: Sequence[int]) -> list[bytes]:
        """Return the bytes of each id, with spaces that the tokenizer adds."""
        for id_ in {id_ for id_ in ids if id_ not in self._known}:
            self._known[id_] = self._bytes(id_, self._tokenizer.convert_ids_to_tokens(id_))
        return [self._known[id_] for id_ in ids]

    def _bytes(self, id_: int, token: str | None) -> bytes:
        if token is None:
            return b""  # Models have more output ids than the tokenizer has tokens. Such an id decodes to no text.
        if id_ in self._added:
            return str(self._added[id_].content).encode()
        if self._byte_level and all(character in _BYTE_OF_CHARACTER for character in token):
            return bytes(_BYTE_OF_CHARACTER[character] for character in token)
        if self._byte_level:
            return token.encode()  # a token that was put into the vocabulary as text
        if match := _BYTE_TOKEN.fullmatch(token):
            return bytes([int(match[1], 16)])
        return token.replace("▁", " ").encode()


@functools.lru_cache(maxsize=8)
def token_bytes(tokenizer: Any) -> TokenBytes:
    """Return the bytes of a tokenizer's tokens. The result is cached: reading a whole tokenizer takes a while.
    A tokenizer without a `tokenizer.json` may bring its own."""
    own: TokenBytes | None = getattr(tokenizer, "token_bytes", None)
    return TokenBytes(tokenizer) if own is None else own


def _absorbed(text: str, start: int, end: int, after: str, before: str) -> Iterator[Span]:
    """Yield the white space between two added tokens that the first absorbs after itself, and the second before."""
    between = text[start:end]
    begin = len(between) - len(between.lstrip(after))
    begin = min(begin, 1) if after == " " else begin
    rest = between[begin:]
    finish = len(rest) - len(rest.rstrip(before))
    finish = min(finish, 1) if before == " " else finish
    if begin:
        yield start, start + begin
    if finish:
        yield end - finish, end


def without(text: str, spans: Sequence[Span]) -> str:
    """Return the text without these spans, which are in order. They may go past its end."""
    kept, start = [], 0
    for first, last in spans:
        kept.append(text[start:first])
        start = last
    return "".join([*kept, text[start:]])


def _byte_alphabet() -> dict[str, int]:
    """Return GPT-2's alphabet: printable bytes map to themselves, the others in order to characters from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF_CHARACTER = _byte_alphabet()
