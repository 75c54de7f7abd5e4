"""Encodes control tokens in the texts of messages and tools as plain text, never as the tokens themselves.

A tokenizer turns the characters `<|im_end|>` into the token that ends a turn, whoever wrote them. So a user or a tool
result could end its own turn and begin a system turn. Only the template may write control tokens, but in a rendered
text its tokens look the same as those of the messages. Therefore:

1. `guard` puts marks into the control tokens of a text before the template renders it;
2. a control token without marks in the rendered text comes from the template;
3. `encode` replaces the template's tokens by private names, removes the marks, and encodes with a copy of the tokenizer
   that knows the names and reads every control token as text.

The copy splits a text in the same places as the tokenizer, so only the guarded characters get other ids. A text without
control tokens gets no marks and never needs the copy.

Control tokens are the tokenizer's special tokens, those of the chat format, and other added tokens in brackets that
occur in the template's source, such as `<｜User｜>`. No text may contain them. Plain tags in the last group, such as
`<tool_response>`, are forbidden only in texts from outside: users, tool results and the tools themselves. A system
message may explain them, and an earlier assistant turn keeps the tokens that were trained.
"""

from __future__ import annotations

import functools
import re
import secrets
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any

from tokenizers import AddedToken, Tokenizer

from toolhone.records import Tool

# Random, so that no text contains them. Digits, because no template filter changes those.
_MARK, _NAME = (str(10**19 + secrets.randbelow(10**19)) for _ in range(2))
_BRACKETS = re.compile(r"<.+>|\[.+\]")
_TAG = re.compile(r"</?\w+>")
_TOOL_LISTS = 256


class ControlTokens:
    """The control tokens of a tokenizer, a chat template and its format.

    Attributes:
        everywhere: finds the tokens that no text may contain.
        outside: finds these and the template's tags, which no text from outside may contain.
    """

    def __init__(self, tokenizer: Any, template: str, format_tokens: Collection[str]) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values()
        always = {token.content for token in added if token.special or token.content in format_tokens}
        named = {token.content for token in added if _BRACKETS.fullmatch(token.content) and token.content in template}
        tags = {content for content in named - always if _TAG.fullmatch(content)}
        self._all = always | named
        # White space occurs in every text, and does not end a turn.
        forbidden = {content for content in self._all - tags if content.strip()}
        self.everywhere = re.compile(any_of(frozenset(forbidden)))
        self.outside = re.compile(any_of(frozenset(forbidden | tags)))
        self._tools: dict[int, tuple[tuple[Tool, ...], list[Any]]] = {}

    def guard_tools(self, tools: tuple[Tool, ...]) -> list[Any]:
        """Return the tools as JSON, with marks in the control tokens of their texts.

        The result is cached by identity, because rows share one tuple. The cache holds the tuple, so that no other
        tuple gets its identity.
        """
        known = self._tools.get(id(tools))
        if known is None:
            if len(self._tools) >= _TOOL_LISTS:
                self._tools.clear()
            texts = guard([[tool.name, tool.description, tool.parameters] for tool in tools], self.outside)
            known = self._tools[id(tools)] = (tools, [Tool(*text).to_json() for text in texts])
        return known[1]

    def encode(self, guarded: str) -> list[int]:
        """Return the token ids of a rendered text with marks. No special tokens are added.

        Raises:
            ValueError: if the tokenizer turns characters into a control token even in plain text.
        """
        return self._plain_text.encode(guarded)

    @functools.cached_property  # copying a tokenizer takes a second
    def _plain_text(self) -> _PlainTextTokenizer:
        return _PlainTextTokenizer(self._tokenizer, self._all)


class _PlainTextTokenizer:
    """A copy of a tokenizer that reads control tokens as plain text. The tokens themselves have private names."""

    def __init__(self, tokenizer: Any, control: Collection[str]) -> None:
        added = {id_: token for id_, token in tokenizer.added_tokens_decoder.items() if token.content in control}
        names = {id_: f"[{_NAME}:{id_}]" for id_ in added}
        self._copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._copy.no_truncation()
        self._copy.no_padding()
        self._copy.encode_special_tokens = True
        self._copy.add_special_tokens(list(control))  # so that tags are read as text too
        self._copy.add_tokens([_renamed(token, names[id_]) for id_, token in added.items()])
        new_ids = {token.content: id_ for id_, token in self._copy.get_added_tokens_decoder().items()}
        self._by_template = re.compile(any_of(frozenset(control)))
        self._name_of = {token.content: names[id_] for id_, token in added.items()}
        self._id_of_name = {new_ids[name]: id_ for id_, name in names.items()}
        # Any text may contain characters that the tokenizer does not know.
        self._forged = {id_: token.content for id_, token in added.items() if id_ != tokenizer.unk_token_id}

    def encode(self, guarded: str) -> list[int]:
        named = self._by_template.sub(lambda found: self._name_of[found.group()], guarded)
        ids = self._copy.encode(without_marks(named), add_special_tokens=False).ids
        forged = next((self._forged[id_] for id_ in ids if id_ in self._forged), None)
        if forged is not None:
            raise ValueError(f"the tokenizer cannot encode {forged} as plain text; remove it from the texts")
        return [self._id_of_name.get(id_, id_) for id_ in ids]


def _renamed(token: AddedToken, name: str) -> AddedToken:
    """Return a token with another name and the same matching rules, but not special."""
    return AddedToken(
        name, single_word=token.single_word, lstrip=token.lstrip, rstrip=token.rstrip, normalized=token.normalized
    )


@functools.lru_cache(maxsize=8)
def control_tokens(tokenizer: Any, template: str, format_tokens: tuple[str, ...]) -> ControlTokens:
    """Return the control tokens of a tokenizer with this template. The result is cached."""
    return ControlTokens(tokenizer, template, format_tokens)


def guard(value: Any, control: re.Pattern[str]) -> Any:
    """Return a JSON value with marks in the control tokens of its texts."""
    if isinstance(value, str):
        return control.sub(_marked, value)
    if isinstance(value, dict):
        return {control.sub(_marked, key): guard(inner, control) for key, inner in value.items()}
    if isinstance(value, list):
        return [guard(inner, control) for inner in value]
    return value


def has_marks(guarded: str) -> bool:
    """Whether a rendered text contains control tokens that the template did not write."""
    return _MARK in guarded


def without_marks(guarded: str) -> str:
    """Return the rendered text as a model sees it."""
    return guarded.replace(_MARK, "")


def _marked(found: re.Match[str]) -> str:
    # Mark every character, so that no other control token can begin inside this one.
    return _MARK.join(("", *found.group(), ""))


@functools.lru_cache(maxsize=32)
def any_of(words: frozenset[str]) -> str:
    """Return a pattern that finds the longest of the words. Without words it never matches.

    It branches by character, because `re` tries the words of an alternation one by one, and Gemma has 6,000 special
    tokens.
    """
    return _endings(words) or "(?!)"


def _endings(words: Iterable[str]) -> str:
    by_first: dict[str, list[str]] = defaultdict(list)
    may_end = False
    for word in words:
        if word:
            by_first[word[0]].append(word[1:])
        else:
            may_end = True
    branches = [re.escape(first) + _endings(rests) for first, rests in sorted(by_first.items())]
    if len(branches) > 1 or (branches and may_end):
        return f"(?:{'|'.join(branches)})" + "?" * may_end
    return "".join(branches)
