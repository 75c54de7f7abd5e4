"""The run's model in transformers as a `Generator`: the reference for all other engines.

In: a loaded model and the run's renderer. Out: answers to token ids. One thread runs the model. It makes a token of
each running answer in turn, so a long answer does not hold up the short ones. A greedy answer is that of `toolhone
eval`.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, deque
from collections.abc import AsyncGenerator, Generator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from toolhone.chat.grammar import Grammar
from toolhone.chat.render import ChatRenderer
from toolhone.chat.token_bytes import token_bytes
from toolhone.engines.generate import EngineUnavailableError, Finish, Generated, Sampling
from toolhone.evaluate.decode import Prefix, compute_prefix, next_logits, shared_prefix
from toolhone.records import Token

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_RUNNING = 4
"""Answers that are generated at the same time. Each has a cache of its own; the others wait in order of arrival."""
_PREFIXES = 4
_PROMPTS = 16
"""Earlier prompts that a new one is compared with, to find what they share."""
_MIN_PREFIX = 16
_ENOUGH = 0.75
"""A cached prefix is used if it has this share of the tokens that the prompt shares with an earlier one."""
_ALLOWED = 200  # how llguidance marks a token that may come next

Part = Generated | Finish | Exception


@dataclass(slots=True)
class _Job:
    """A request: what to generate, and where its parts go. `has_left` is set if nobody reads them any more."""

    ids: list[int]
    max_tokens: int
    sampling: Sampling
    grammar: Grammar | None
    top_logprobs: int
    loop: asyncio.AbstractEventLoop
    parts: asyncio.Queue[Part] = field(default_factory=asyncio.Queue)
    has_left: bool = False

    def send(self, part: Part) -> None:
        try:
            self.loop.call_soon_threadsafe(self.parts.put_nowait, part)
        except RuntimeError:  # its event loop has ended
            self.has_left = True


class LocalGenerator:
    """A model in this process. Only its own thread may use the model meanwhile."""

    kind = "transformers"

    def __init__(self, model: Any, renderer: ChatRenderer) -> None:
        self.context: int | None = model.config.get_text_config().max_position_embeddings
        self._model = model.eval()
        self._renderer = renderer
        self._stop_ids = renderer.stop_ids()
        self._bytes = token_bytes(renderer.tokenizer)
        self._prefixes = _Prefixes(model)
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    async def generate(
        self,
        ids: Sequence[int],
        max_tokens: int,
        sampling: Sampling,
        *,
        grammar: Grammar | None = None,
        top_logprobs: int = 0,
        at_once: bool = False,
    ) -> AsyncGenerator[Generated | Finish, None]:
        """Yield the tokens of the answer as they are made, and a `Finish` at the end.

        Raises:
            EngineUnavailableError: if the generator is closed, or llguidance refuses the grammar.
            UserError: if prompt and answer are too long for the model's attention.
        """
        job = _Job(list(ids), max_tokens, sampling, grammar, top_logprobs, asyncio.get_running_loop())
        with self._changed:
            if self._is_closed:
                raise EngineUnavailableError("the model is being closed")
            self._waiting.append(job)
            self._changed.notify()
        try:
            while True:
                part = await job.parts.get()
                if isinstance(part, Exception):
                    raise part
                yield part
                if isinstance(part, Finish):
                    return
        finally:
            job.has_left = True

    async def is_ready(self) -> bool:
        """Return whether the model's thread runs."""
        return self._thread.is_alive() and not self._is_closed

    async def close(self) -> None:
        """End all answers and the thread. The model stays loaded as long as its owner keeps it."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        running: deque[tuple[_Job, Generator[Generated | Finish, None, None]]] = deque()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or self._waiting or running)
                while self._waiting and len(running) < _RUNNING:
                    job = self._waiting.popleft()
                    running.append((job, self._answer(job)))
                if self._is_closed:
                    for job in (*(job for job, _ in running), *self._waiting):
                        job.send(EngineUnavailableError("the model is being closed"))
                    return
            job, answer = running.popleft()
            if job.has_left:
                answer.close()
                continue
            try:
                part = next(answer)
            except Exception as error:  # noqa: BLE001  # the reader of the answer raises it
                job.send(error)
                continue
            job.send(part)
            if isinstance(part, Generated):
                running.append((job, answer))

    @torch.inference_mode()
    def _answer(self, job: _Job) -> Generator[Generated | Finish, None, None]:
        matcher = None if job.grammar is None else self._matcher(job.grammar)
        prefix, cached_tokens = self._prefixes.longest(job.ids)
        choose = _Chooser(job.sampling, self._model.device)
        steps = next_logits(self._model, job.ids, prefix, job.max_tokens)
        logits, before = next(steps), job.ids[-1]
        for left in reversed(range(job.max_tokens)):
            logprobs = logits.float().log_softmax(dim=-1)  # [vocabulary]
            id_ = choose(logprobs.clone(), matcher)
            yield self._generated(id_, before, logprobs, job.top_logprobs)
            if id_ in self._stop_ids:
                yield Finish("stop", has_stop_token=True, cached_tokens=cached_tokens)
                return
            if matcher is not None and not matcher.consume_token(id_):
                raise EngineUnavailableError(f"llguidance: {matcher.get_error()}")
            if left:
                logits, before = steps.send(id_), id_
        yield Finish("length", has_stop_token=False, cached_tokens=cached_tokens)

    def _generated(self, id_: int, before: int, logprobs: torch.Tensor, top_logprobs: int) -> Generated:
        best = logprobs.topk(max(2, top_logprobs))
        ranked = list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        chosen = float(logprobs[id_])
        runner_up = next(value for other, value in ranked if other != id_)
        token = Token(id_, self._bytes.of([id_], before)[0], chosen, runner_up)
        top = tuple((self._bytes.of([other], before)[0], value) for other, value in ranked[:top_logprobs])
        return Generated(token, top)

    def _matcher(self, grammar: Grammar) -> LLMatcher:
        from llguidance import LLMatcher

        matcher = LLMatcher(self._grammar_tokenizer, LLMatcher.grammar_from_lark(grammar.lark), log_level=0)
        if matcher.is_error():
            raise EngineUnavailableError(f"llguidance: {matcher.get_error()}", 400)
        return matcher

    @cached_property
    def _grammar_tokenizer(self) -> LLTokenizer:
        try:
            from llguidance.hf import from_tokenizer
        except ImportError:
            raise EngineUnavailableError(
                "grammars need the package llguidance, which is not installed; run pip install llguidance", 501
            ) from None
        size = self._model.get_output_embeddings().weight.shape[0]  # some models have more ids than tokens
        return from_tokenizer(self._renderer.tokenizer, size, sorted(self._stop_ids))


class _Chooser:
    """Chooses the next token of an answer."""

    def __init__(self, sampling: Sampling, device: torch.device) -> None:
        self._sampling = sampling
        self._made: Counter[int] = Counter()
        self._draw = torch.Generator(device)
        if sampling.seed is None:
            self._draw.seed()
        else:
            self._draw.manual_seed(sampling.seed % 2**63)
        self._warp = LogitsProcessorList()
        if sampling.temperature:
            self._warp.append(TemperatureLogitsWarper(float(sampling.temperature)))
            if sampling.top_k:
                self._warp.append(TopKLogitsWarper(sampling.top_k))
            if sampling.top_p < 1:
                self._warp.append(TopPLogitsWarper(sampling.top_p))
            if sampling.min_p:
                self._warp.append(MinPLogitsWarper(sampling.min_p))

    def __call__(self, logits: torch.Tensor, matcher: LLMatcher | None) -> int:
        """Return the next token. The logits [vocabulary] are overwritten in place."""
        sampling = self._sampling
        for id_, bias in sampling.logit_bias:
            logits[id_] += bias
        for id_, count in self._made.items():
            logits[id_] -= sampling.presence_penalty + sampling.frequency_penalty * count
        if matcher is not None:
            marks = torch.frombuffer(bytearray(matcher.compute_logit_bias()), dtype=torch.uint8)  # [vocabulary]
            logits[marks.to(logits.device) != _ALLOWED] = -torch.inf
        if sampling.temperature:
            probabilities = self._warp(torch.empty(1, 0, dtype=torch.long), logits[None]).softmax(dim=-1)  # [1, vocab]
            chosen = int(torch.multinomial(probabilities, 1, generator=self._draw))
        else:
            chosen = int(logits.max(dim=-1).indices)  # the first of equal values, as in evaluation
        self._made[chosen] += 1
        return chosen


class _Prefixes:
    """Caches what prompts share: the system prompt, the tools and earlier turns."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._prompts: deque[list[int]] = deque(maxlen=_PROMPTS)
        self._prefixes: list[Prefix] = []  # the most recently used last

    def longest(self, ids: list[int]) -> tuple[Prefix, int]:
        """Return the prefix to begin a prompt with, and how many of its tokens are not computed again."""
        shared = max((shared_prefix([ids, other]) for other in self._prompts), key=len, default=[])
        self._prompts.append(ids)
        if len(shared) < _MIN_PREFIX:
            return Prefix([], None), 0
        known = [one for one in self._prefixes if one.ids == ids[: len(one.ids)] and len(one.ids) < len(ids)]
        found = max(known, key=lambda prefix: len(prefix.ids), default=None)
        if found is not None and len(found.ids) >= _ENOUGH * len(shared):
            self._prefixes = [*(one for one in self._prefixes if one is not found), found]
            return found, len(found.ids) if found.cache is not None else 0
        # Old prefixes go first, to free their memory for the new one.
        self._prefixes = self._prefixes[max(0, len(self._prefixes) + 1 - _PREFIXES) :]
        made = compute_prefix(self._model, shared)
        self._prefixes.append(made)
        return made, 0
