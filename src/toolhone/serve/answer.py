"""Asks the small model for the answer to a request, piece by piece.

In: a request and the engine. Out: pieces of text as the engine makes them, and at the end the whole answer as a
`Prediction`, which the routing policy reads as it reads those of the test rows. The prompt is sent as token ids, so it
is that of training, whatever the engine's own template is.
"""

from __future__ import annotations

import codecs
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import cached_property

import jinja2

from toolhone.chat.grammar import Grammar, call_grammar, syntax_tokens
from toolhone.chat.grammar_rules import TooLargeError
from toolhone.chat.render import ChatRenderer
from toolhone.engines.generate import Finish, Generated, Generator
from toolhone.evaluate.decode import Completion
from toolhone.evaluate.predict import opens_thought, prediction_of
from toolhone.records import Example, Prediction
from toolhone.serve.request import ApiError, ChatRequest


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the text, and its tokens. A piece has several if a character has, or if the text might begin a
    stop string."""

    text: str
    tokens: tuple[Generated, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the small model is asked. `opens_thought`: it ends with the opening tag of a thought, so the answer begins
    in it."""

    example: Example
    ids: tuple[int, ...]
    opens_thought: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. `tokens` are those of its text; `prediction` also has the stop token. `in_thought`: the answer
    begins in a thought, which the prompt opened."""

    prediction: Prediction
    tokens: tuple[Generated, ...]
    cached_tokens: int | None
    in_thought: bool


@dataclass(frozen=True)
class SmallModel:
    """A model of a run, behind an engine. `max_new_tokens` limits an answer. With `decode_valid`, every call follows
    the grammar of the request's tools."""

    name: str
    renderer: ChatRenderer
    generator: Generator
    max_new_tokens: int
    decode_valid: bool = False

    def prompt(self, example: Example) -> Prompt:
        """Return the prompt of an example.

        Raises:
            ApiError: if the chat template refuses its messages.
        """
        try:
            _, ids = self.renderer.prompt(example.prompt, example.tools)
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise ApiError(400, f"messages: the chat template refuses them: {error}", param="messages") from None
        return Prompt(example, tuple(ids), opens_thought(self.renderer, ids))

    async def answer(
        self, asked: ChatRequest, prompt: Prompt, number: int = 0, *, at_once: bool = False
    ) -> AsyncGenerator[Piece | Answer, None]:
        """Yield the pieces of the answer, and the `Answer` at the end. Closing the iterator ends the generation.

        Args:
            prompt: of the request's example, or of the same with the reserved tool.
            number: which of the request's answers it is; each has its own seed.
            at_once: whether all pieces may come at the end, which costs less. Then no stop string ends it early.

        Raises:
            ApiError: if the prompt exceeds the context, or no grammar has what the request asks.
            EngineUnavailableError: if the engine does not answer.
        """
        started = time.perf_counter()
        sampling = asked.sampling
        if sampling.seed is not None:
            sampling = replace(sampling, seed=sampling.seed + number)
        limit = self._limit(asked, prompt.ids)
        reader = _TextReader(self.renderer.stop_ids(), asked.stop)
        finish = Finish("length", has_stop_token=False)
        steps = self.generator.generate(
            prompt.ids,
            limit,
            sampling,
            grammar=self._grammar(asked, prompt),
            top_logprobs=asked.top_logprobs,
            at_once=at_once,
        )
        async with aclosing(steps):
            async for step in steps:
                if isinstance(step, Finish):
                    finish = step
                    break
                if piece := reader.add(step):
                    yield piece
                if reader.is_stopped:
                    finish = Finish("stop", has_stop_token=False)
                    break
        if piece := reader.end():
            yield piece
        yield self._whole(reader, finish, prompt, (time.perf_counter() - started) * 1000)

    def _limit(self, asked: ChatRequest, ids: Sequence[int]) -> int:
        limit = min(asked.max_tokens or self.max_new_tokens, self.max_new_tokens)
        context = self.generator.context
        if context is None:
            return limit
        if (room := context - len(ids)) < 1:
            found = f"messages: the prompt has {len(ids)} tokens, the model's context {context}; shorten the messages"
            raise ApiError(400, found, param="messages", code="context_length_exceeded")
        return min(limit, room)

    def _grammar(self, asked: ChatRequest, prompt: Prompt) -> Grammar | None:
        choice, example = asked.tool_choice, prompt.example
        is_forced = choice.mode == "required"
        may_call = choice.mode != "none"
        if not (is_forced or asked.response_schema is not None or (self.decode_valid and may_call and example.tools)):
            return None
        names = {*choice.names, *(tool.name for tool in example.tools if tool not in asked.example.tools)}
        tools = [tool for tool in example.tools if tool.name in names] if may_call else []
        param = "tool_choice" if is_forced else "response_format"
        try:
            return call_grammar(
                self.renderer.format,
                tools,
                required=is_forced,
                parallel=asked.parallel,
                text_schema=asked.response_schema,
                free_text=not is_forced,
                thinks=prompt.opens_thought or self.renderer.thinking != "strip",
                special_tokens=self._syntax_tokens,
            )
        except TooLargeError as error:
            raise ApiError(
                400, f"tools: {error}; send fewer or smaller ones", param="tools", code="unsupported"
            ) from None
        except ValueError as error:
            raise ApiError(400, f"{param}: {error}", param=param, code="unsupported") from None

    @cached_property
    def _syntax_tokens(self) -> dict[str, int]:
        """The special tokens of the format's syntax. Some vocabularies have thousands of others."""
        return syntax_tokens(self.renderer.format, self.renderer.tokenizer.get_added_vocab())

    def _whole(self, reader: _TextReader, finish: Finish, prompt: Prompt, latency_ms: float) -> Answer:
        made = [step.token for step in reader.made]
        completion = Completion(
            [token.id for token in made],
            tuple(token.logprob for token in made),
            tuple(token.runner_up for token in made),
            stopped=finish.has_stop_token,
        )
        prediction = prediction_of(completion, prompt.example, prompt.ids, self.renderer, self.name, latency_ms)
        prediction = replace(prediction, finish_reason=finish.reason)  # some engines leave out the stop token
        if reader.is_stopped:
            shown = tuple(step.token for step in reader.shown)
            prediction = replace(prediction, text=reader.text, tokens=shown)
        return Answer(prediction, tuple(reader.shown), finish.cached_tokens, prompt.opens_thought)


class _TextReader:
    """Turns tokens into text. It holds back the bytes of an unfinished character, and a text that may begin a stop
    string.

    Attributes:
        text: the text so far, without a stop string.
        made: all tokens.
        shown: the tokens of the text.
        is_stopped: whether a stop string was found.
    """

    def __init__(self, stop_ids: frozenset[int], stops: Sequence[str]) -> None:
        self.text = ""
        self.made: list[Generated] = []
        self.shown: list[Generated] = []
        self.is_stopped = False
        self._stop_ids, self._stops = stop_ids, stops
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._held_tokens: list[Generated] = []

    def add(self, step: Generated) -> Piece | None:
        """Return the text that is certain with this token, if there is any."""
        self.made.append(step)
        if step.token.id in self._stop_ids:
            return None
        self._held += self._decoder.decode(step.token.bytes)
        self._held_tokens.append(step)
        found = [place for place in map(self._held.find, self._stops) if place >= 0]
        if found:
            self.is_stopped = True
            return self._release(min(found), keeps_tokens=False)
        return self._release(len(self._held) - _open_length(self._held, self._stops), keeps_tokens=True)

    def end(self) -> Piece | None:
        """Return what is left of the text, unless a stop string ended it."""
        if self.is_stopped:
            return None
        self._held += self._decoder.decode(b"", final=True)
        return self._release(len(self._held), keeps_tokens=True)

    def _release(self, length: int, *, keeps_tokens: bool) -> Piece | None:
        if not length:
            return None
        piece = Piece(self._held[:length], tuple(self._held_tokens) if keeps_tokens else ())
        self.text += piece.text
        self.shown += piece.tokens
        self._held, self._held_tokens = self._held[length:], []
        return piece


def _open_length(text: str, stops: Sequence[str]) -> int:
    """Return the length of the longest end of a text that begins a stop string."""
    longest = 0
    for stop in stops:
        for length in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:length]):
                longest = length
                break
    return longest
