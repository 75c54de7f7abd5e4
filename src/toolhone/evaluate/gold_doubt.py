"""How much a model doubts the gold of a turn, from one forward pass over the gold (teacher forcing).

Nothing is generated.

In: a model that was not trained on the turns, and the rendered turns. Out: a `Doubt` for each turn with whose gold the
model disagrees.

The doubt of a turn is how much likelier the model finds what it would say than the gold, in nats (the logarithm of the
ratio of the two probabilities), at the token where this is greatest among the tokens that decide:

- a turn with calls: every token from the opening of the first call to the end of the turn. A wrong tool shows at its
  name, a wrong value inside the value, an added call at its opening, a lost one at the end of the turn;
- a plain answer: only whether it is one. The two probabilities are those that a call opens, and that none does. The
  tokens that open a call are those with which most turns with calls begin. The wording of an answer decides nothing.

If the model is unsure at a token of the gold but finds no other one much likelier, as inside an address, that is little
doubt. What is shown is the first token with at least half of that doubt.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from accelerate.utils import send_to_device

from toolhone.chat.parse import parse_turn
from toolhone.chat.render import IGNORED, ChatRenderer, LabelledTokens, Rendered
from toolhone.chat.token_bytes import TokenBytes
from toolhone.config import Config
from toolhone.evaluate.doubts import Doubt, Place, shortened
from toolhone.formats.call_json import CallSpans, Span, skip_space
from toolhone.progress import Progress
from toolhone.records import Example
from toolhone.train.attention import TREE_ATTENTION
from toolhone.train.batches import TreeAttention, TreeCollator, tree_features
from toolhone.train.hardware import Hardware

_BLOCK = 64
"""Number of logit rows that are computed together in float32."""
_LEAST = 1e-7
"""Smallest probability that counts: float32 has no smaller difference from 1."""


@dataclass(frozen=True, slots=True, order=True)
class _Guess:
    """What a model finds at one token of the gold: the gold's log-probability, the likeliest token with its own, and
    the probability that a call opens here."""

    logprob: float
    top: int
    top_logprob: float
    call_probability: float

    @property
    def nats(self) -> float:
        """How much likelier the likeliest token is than the gold's; 0 if it is the gold's."""
        return self.top_logprob - self.logprob


def gold_doubts(
    model: Any,
    renderer: ChatRenderer,
    rows: Sequence[Rendered],
    config: Config,
    hardware: Hardware,
    console: Any,
) -> list[Doubt]:
    """Return the doubts of the rows that the model disagrees with, in their order."""
    token_bytes = TokenBytes(renderer.tokenizer)
    turns = [_Turn.of(row, renderer, token_bytes) for row in rows]
    openers = _call_openers(turns)
    masked = [turn.only_deciding() for turn in turns]
    if config.train.packing == "prefix_tree":
        model.set_attn_implementation(TREE_ATTENTION)
    guesses: list[dict[int, _Guess]] = [{} for _ in rows]
    # Without trees, the logits of a batch grow with the square of its rows, as in training.
    size = config.evaluate.batch_size if config.train.packing == "prefix_tree" else config.train.batch_size
    with Progress("scoring the gold", len(rows), "turns", console) as progress, torch.inference_mode():
        for start in range(0, len(rows), size):
            batch = masked[start : start + size]
            for owner, place, guess in _guesses(model, batch, config, hardware, renderer.tokenizer, openers):
                guesses[start + owner][place] = guess
            progress.advance(len(batch))
    doubts = (turn.doubt(found, openers, token_bytes) for turn, found in zip(turns, guesses, strict=True))
    return [doubt for doubt in doubts if doubt is not None]


def _guesses(
    model: Any,
    rows: Sequence[LabelledTokens],
    config: Config,
    hardware: Hardware,
    tokenizer: Any,
    openers: frozenset[int],
) -> Iterator[tuple[int, int, _Guess]]:
    """Yield the guess at each labelled token of a batch, with the index of its row and its index in the row's
    completion. Shared prefixes are computed once if the config packs prefix trees."""
    # The weights of a tree follow its labels, so they can say which row a label belongs to. 0 is no row.
    owned = [
        replace(row, weights=[float((n + 1) * (label != IGNORED)) for label in row.labels])
        for n, row in enumerate(rows)
    ]
    batch: dict[str, Any]
    inputs: dict[str, Any]
    if config.train.packing == "prefix_tree":
        attention = TreeAttention(device=hardware.device, matrix_attention=config.cpu.matrix_attention)
        collate = TreeCollator(tokenizer.pad_token_id or 0, config.train.tree_tokens, attention)
        batch = send_to_device(collate([tree_features(row) for row in owned]), hardware.device)
        inputs = {name: batch[name] for name in ("position_ids", "tree_blocks")}
    else:
        batch = _padded(owned, hardware.device)
        inputs = {"attention_mask": batch["attention_mask"]}
    labels = batch["labels"][:, 1:]
    asked = (labels != IGNORED).any(dim=0).nonzero().squeeze(1)  # [asked]
    logits = model(input_ids=batch["input_ids"], use_cache=False, logits_to_keep=asked, **inputs).logits
    targets = labels[:, asked]  # [trees, asked]
    taken = targets != IGNORED
    found, right = logits[taken], targets[taken]  # [labels, vocabulary] and [labels]
    owners = batch["weights"][:, 1:][:, asked][taken].long() - 1
    positions = batch["position_ids"][:, 1:][:, asked][taken]
    opening = torch.tensor(sorted(openers), device=found.device, dtype=torch.long)
    for block, gold, owner, position in zip(*(x.split(_BLOCK) for x in (found, right, owners, positions)), strict=True):
        logprobs = block.float().log_softmax(dim=-1)  # [block, vocabulary]
        best = logprobs.max(dim=-1)
        columns = (
            owner,
            position,
            logprobs.gather(1, gold[:, None]).squeeze(1),
            best.indices,
            best.values,
            logprobs[:, opening].exp().sum(dim=1),
        )
        for n, at, logprob, top, chance, calls in zip(*(column.tolist() for column in columns), strict=True):
            yield n, at - rows[n].prompt_length, _Guess(logprob, top, chance, min(1.0, calls))


def _padded(rows: Sequence[LabelledTokens], device: str) -> dict[str, torch.Tensor]:
    """Return rows of equal length, each [rows, width]."""
    width = max(map(len, rows))
    columns: dict[str, list[list[Any]]] = {
        "input_ids": [row.ids + [0] * (width - len(row)) for row in rows],
        "labels": [row.labels + [IGNORED] * (width - len(row)) for row in rows],
        "weights": [row.weights + [0.0] * (width - len(row)) for row in rows],
        "attention_mask": [[1] * len(row) + [0] * (width - len(row)) for row in rows],
        "position_ids": [list(range(width)) for _ in rows],
    }
    return {name: torch.tensor(values, device=device) for name, values in columns.items()}


@dataclass(frozen=True, slots=True)
class _Turn:
    """A gold turn and its deciding tokens: the first token of the first call or of the plain answer is `first`; with
    calls, all later tokens decide too. `after_text`: text comes before the first call. `begins` and `ends` are the
    characters of each completion token."""

    row: Rendered
    text: str
    calls: tuple[Span, ...]
    spans: tuple[CallSpans, ...]
    stops: tuple[str, ...]
    after_text: bool
    first: int
    begins: tuple[int, ...]
    ends: tuple[int, ...]

    @classmethod
    def of(cls, row: Rendered, renderer: ChatRenderer, token_bytes: TokenBytes) -> _Turn:
        text = row.completion_text
        answer = row.turn_text
        parsed = parse_turn(answer, renderer.format.name, tools=row.example.tools_by_name)
        thought = answer.rfind("</think>")
        start = skip_space(answer, 0 if thought < 0 else thought + len("</think>"))
        after_text = bool(parsed.places and parsed.content)
        if after_text:  # the call opens after the text
            start = answer.find(parsed.content, start) + len(parsed.content)
        spelled = token_bytes.of(row.completion_ids, row.prompt_ids[-1])
        byte_ends = list(accumulate(map(len, spelled)))
        characters = list(accumulate((len(character.encode()) for character in text), initial=0))
        begins = [bisect_right(characters, byte) - 1 for byte in (0, *byte_ends[:-1])]
        ends = [bisect_left(characters, byte) for byte in byte_ends]
        first = min(bisect_right(ends, start), len(ends) - 1)
        if first and not spelled[first - 1]:  # a token of only the space that SentencePiece adds
            first -= 1
        return cls(
            row,
            text,
            parsed.places,
            tuple(parsed.call_spans(answer)),
            renderer.stops,
            after_text,
            first,
            tuple(begins),
            tuple(ends),
        )

    def deciding(self) -> range:
        """Return the indices of the deciding tokens in the completion."""
        return range(self.first, len(self.ends) if self.calls else self.first + 1)

    def only_deciding(self) -> LabelledTokens:
        """Return the row's tokens, with labels only at the deciding ones."""
        tokens, start = self.row.tokens, self.row.tokens.prompt_length
        kept = {start + n for n in self.deciding()}
        return replace(tokens, labels=[label if n in kept else IGNORED for n, label in enumerate(tokens.labels)])

    def doubt(self, guesses: Mapping[int, _Guess], openers: frozenset[int], token_bytes: TokenBytes) -> Doubt | None:
        """Return the doubt, from the guess at each deciding token; None if the model agrees with the gold."""
        ids = self.row.completion_ids
        if not self.calls and openers and ids[self.first] not in openers:
            chance = guesses[self.first].call_probability
            nats = math.log(max(chance, _LEAST) / max(1 - chance, _LEAST))
            return None if nats <= 0 else self._made(nats, chance, "call or text", "text", "a call")
        nats = max(guess.nats for guess in guesses.values())
        if nats <= 0:
            return None
        # Disagreement at a later token often only follows from the gold's tokens before it.
        at, guess = min((at, guess) for at, guess in guesses.items() if guess.nats >= nats / 2)
        chance = math.exp(guess.top_logprob)
        said = token_bytes.text([guess.top], self.row.tokens.ids[self.row.tokens.prompt_length + at - 1])
        if at != self.first:
            return self._made(nats, chance, *self._difference(at, said))
        if openers and guess.top not in openers and not self.after_text:
            # The wording of a text is spread over many tokens, so its probability is what calls leave.
            return self._made(nats, 1 - guess.call_probability, "call or text", self._a_call(0), "text")
        return self._made(nats, chance, "call or text", self._a_call(0), self._said(said))

    def _made(self, nats: float, chance: float, place: Place, expected: str, says: str) -> Doubt:
        one = self.row.example
        return Doubt(one.id, one.where, len(one.prompt), nats, "nats", place, expected, says, chance)

    def _said(self, token: str) -> str:
        return "the end of the turn" if token in self.stops else shortened(json.dumps(token, ensure_ascii=False))

    def _a_call(self, number: int) -> str:
        return f"a call of `{self.row.example.turn.tool_calls[number].name}`" if self.calls else "text"

    def _difference(self, at: int, said: str) -> tuple[Place, str, str]:
        """Return where a token is, what the gold has there, and what the model says there."""
        example, begin, end = self.row.example, self.begins[at], self.ends[at]
        for number, place in enumerate(self.calls):
            if end <= place[0] and number:
                return "call", self._a_call(number), self._said(said)
            if begin >= place[1]:
                continue
            spans = self.spans[number]
            if begin < spans.name[1] and end > spans.name[0]:
                name = example.turn.tool_calls[number].name
                other = _complete((self.text[spans.name[0] : begin] + said).lstrip('"'), example.tools_by_name)
                return "tool", f"`{name}`", f"`{other}`"
            for argument, span in spans.values.items():
                if begin < span[1] and end > span[0]:
                    written = self.text[span[0] : max(begin, span[0])] + said
                    value = _complete(written, _accepted(example, number, argument))
                    expected = f"{argument}: {self.text[span[0] : span[1]]}"
                    return "value", shortened(expected), shortened(f"{argument}: {value}")
            return "call", self._said(self.text[begin:end]), self._said(said)
        is_last = at == len(self.ends) - 1
        return "end of turn" if is_last else "call", "the end of the turn", f"more: {self._said(said)}"


def _call_openers(turns: Sequence[_Turn]) -> frozenset[int]:
    """Return the tokens that open a call: more turns with calls than plain answers begin with them."""
    balance: Counter[int] = Counter()
    for turn in turns:
        if not turn.after_text:
            balance[turn.row.completion_ids[turn.first]] += 1 if turn.calls else -1
    return frozenset(id_ for id_, count in balance.items() if count > 0)


def _accepted(example: Example, number: int, argument: str) -> list[str]:
    """Return the values that a tool's schema lists for an argument, as JSON."""
    name = example.turn.tool_calls[number].name
    schema = next((tool.parameters for tool in example.tools if tool.name == name), {})
    values = (schema.get("properties") or {}).get(argument)
    listed = values.get("enum") if isinstance(values, dict) else None
    return [json.dumps(value, ensure_ascii=False) for value in listed or ()]


def _complete(begun: str, known: Collection[str]) -> str:
    """Return the known text that begins like this, or the beginning with an ellipsis."""
    clean = begun.rstrip('",}\n ')
    return next((text for text in known if text.startswith(clean)), begun if begun in known else f"{clean}…")
