"""Control tokens in the texts of messages and tools: they are encoded as plain text, never as the tokens themselves.

A tokenizer turns the characters `<|im_end|>` into the token that ends a turn, whoever wrote them. A user or a tool's
result could thus end its own turn and begin one of the system. Only the template may write control tokens, but once it
has rendered the messages, theirs look like its own. Therefore

1. `guard` puts marks into the control tokens of a text before the template renders it;
2. a control token without marks in the rendered text was written by the template;
3. `encode` gives these private names, takes the marks out, and encodes with a copy of the tokenizer that knows the
   names and reads every control token as text.

The copy cuts a text where the tokenizer does, so only the guarded characters get other ids. A text without control
tokens gets no marks and never needs the copy.

Control tokens are the tokenizer's special tokens, those of the chat format, and other added tokens in brackets that the
template's source names, such as `<｜User｜>`. No text may hold them. Plain tags among the last, such as
`<tool_response>`, are forbidden only in what comes from outside: users, results, the tools themselves. A system message
may explain them, and an earlier turn of the assistant keeps the tokens that it was learned with.
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

# Random, so that no text can hold them; digits, which no filter of a template changes.
_MARK, _NAME = (str(10**19 + secrets.randbelow(10**19)) for _ in range(2))
_BRACKETS = re.compile(r"<.+>|\[.+\]")
_TAG = re.compile(r"</?\w+>")
_TOOL_LISTS = 256


class ControlTokens:
    """What a tokenizer, a chat template and its format treat as control tokens.

    Attributes:
        everywhere: finds the tokens that no text may hold.
        outside: finds these and the template's tags, which no text from outside may hold.
    """

    def __init__(self, tokenizer: Any, template: str, format_tokens: Collection[str]) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values()
        always = {token.content for token in added if token.special or token.content in format_tokens}
        named = {token.content for token in added if _BRACKETS.fullmatch(token.content) and token.content in template}
        tags = {content for content in named - always if _TAG.fullmatch(content)}
        self._all = always | named
        # White space is in every text, and ends no turn.
        forbidden = {content for content in self._all - tags if content.strip()}
        self.everywhere = re.compile(_any_of(forbidden))
        self.outside = re.compile(_any_of(forbidden | tags))
        self._tools: dict[int, tuple[tuple[Tool, ...], list[Any]]] = {}

    def guard_tools(self, tools: tuple[Tool, ...]) -> list[Any]:
        """The tools as JSON, with marks in the control tokens of their texts.

        Rows share one tuple, whose identity finds the list again. The tuple is stored with the list, so that no other
        can get its identity.
        """
        known = self._tools.get(id(tools))
        if known is None:
            if len(self._tools) >= _TOOL_LISTS:
                self._tools.clear()
            texts = guard([[tool.name, tool.description, tool.parameters] for tool in tools], self.outside)
            known = self._tools[id(tools)] = (tools, [Tool(*text).to_json() for text in texts])
        return known[1]

    def encode(self, guarded: str) -> list[int]:
        """The token ids of a rendered text with marks, with nothing added.

        Raises:
            ValueError: if the tokenizer makes a control token of its characters even in plain text.
        """
        return self._plain_text.encode(guarded)

    @functools.cached_property  # copying a tokenizer takes a second
    def _plain_text(self) -> _PlainTextTokenizer:
        return _PlainTextTokenizer(self._tokenizer, self._all)


class _PlainTextTokenizer:
    """A copy of a tokenizer that reads control tokens as plain text. The tokens themselves go by private names."""

    def __init__(self, tokenizer: Any, control: Collection[str]) -> None:
        added = {id_: token for id_, token in tokenizer.added_tokens_decoder.items() if token.content in control}
        names = {id_: f"[{_NAME}:{id_}]" for id_ in added}
        self._copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._copy.no_truncation()
        self._copy.no_padding()
        self._copy.encode_special_tokens = True
        self._copy.add_special_tokens(list(control))  # so that tags are read as text, too
        self._copy.add_tokens([_renamed(token, names[id_]) for id_, token in added.items()])
        new_ids = {token.content: id_ for id_, token in self._copy.get_added_tokens_decoder().items()}
        self._by_template = re.compile(_any_of(control))
        self._name_of = {token.content: names[id_] for id_, token in added.items()}
        self._id_of_name = {new_ids[name]: id_ for id_, name in names.items()}
        # Any text may hold what the tokenizer does not know.
        self._forged = {id_: token.content for id_, token in added.items() if id_ != tokenizer.unk_token_id}

    def encode(self, guarded: str) -> list[int]:
        named = self._by_template.sub(lambda found: self._name_of[found.group()], guarded)
        ids = self._copy.encode(without_marks(named), add_special_tokens=False).ids
        forged = next((self._forged[id_] for id_ in ids if id_ in self._forged), None)
        if forged is not None:
            raise ValueError(f"the tokenizer cannot encode {forged} as plain text; take it out of the texts")
        return [self._id_of_name.get(id_, id_) for id_ in ids]


def _renamed(token: AddedToken, name: str) -> AddedToken:
    """A token that is matched as another is, but is not special."""
    return AddedToken(
        name, single_word=token.single_word, lstrip=token.lstrip, rstrip=token.rstrip, normalized=token.normalized
    )


@functools.lru_cache(maxsize=8)
def control_tokens(tokenizer: Any, template: str, format_tokens: tuple[str, ...]) -> ControlTokens:
    """The control tokens of a tokenizer under a template, made once."""
    return ControlTokens(tokenizer, template, format_tokens)


def guard(value: Any, control: re.Pattern[str]) -> Any:
    """A JSON value with marks in the control tokens of its texts."""
    if isinstance(value, str):
        return control.sub(_marked, value)
    if isinstance(value, dict):
        return {control.sub(_marked, key): guard(inner, control) for key, inner in value.items()}
    if isinstance(value, list):
        return [guard(inner, control) for inner in value]
    return value


def has_marks(guarded: str) -> bool:
    """Whether a rendered text holds control tokens that the template did not write."""
    return _MARK in guarded


def without_marks(guarded: str) -> str:
    """The rendered text as a model sees it."""
    return guarded.replace(_MARK, "")


def _marked(found: re.Match[str]) -> str:
    # Around every character, so that no other control token can begin inside this one.
    return _MARK.join(("", *found.group(), ""))


def _any_of(words: Collection[str]) -> str:
    """A pattern that finds the longest of the words, and nothing if there are none.

    It branches by character: `re` tries the words of an alternation one by one, and Gemma has 6,000 special tokens.
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
