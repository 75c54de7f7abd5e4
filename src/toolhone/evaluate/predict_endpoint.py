"""Predictions of any OpenAI-compatible endpoint: examples in, a line of `predictions/<model>.jsonl` for each out.

Several requests run at once, with a rate limit and a budget; temporary failures are retried. Every attempt is written
to a part file when it ends, so an interrupted prediction resumes and its cost counts. `<model>.json` beside the
predictions records how they were made and what they cost.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from rich.console import Console

from toolhone.chat.parse import parse_turn
from toolhone.endpoint import Attempt, Budget, Endpoint, OutOfBudget
from toolhone.errors import UserError
from toolhone.evaluate.openai_wire import read_choice, request_of
from toolhone.evaluate.score import asked_fingerprint
from toolhone.jsonl import json_line, part_path, read_json, read_part, remove_parts, write_json, write_jsonl
from toolhone.progress import Progress
from toolhone.records import Example, FormatName, Prediction
from toolhone.run_folder import fingerprint


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """How to call an endpoint. `format` is the chat format to write its calls in, or the format of the calls that the
    server leaves in the text (`calls_in_text`). Prices are in dollars per million tokens."""

    model: str
    base_url: str
    format: FormatName = "hermes"
    max_tokens: int = 1024
    temperature: float = 0.0
    logprobs: bool = True
    concurrency: int = 8
    calls_a_minute: float | None = None
    timeout_s: float = 60.0
    retries: int = 6
    first_wait_s: float = 1.0
    max_calls: int | None = None
    max_usd: float | None = None
    price_in: float | None = None
    price_out: float | None = None
    leave_out_refused: bool = False
    calls_in_text: bool = False

    def __post_init__(self) -> None:
        for name, minimum in (("max_tokens", 1), ("concurrency", 1), ("retries", 0), ("temperature", 0)):
            if getattr(self, name) < minimum:
                raise UserError(f"--{name.replace('_', '-')}: expected {minimum} or more, found {getattr(self, name)}")
        for name in ("calls_a_minute", "timeout_s", "max_usd"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"--{name.removesuffix('_s').replace('_', '-')}: expected more than 0, found {value}")
        if self.max_usd is not None and (self.price_in is None or self.price_out is None):
            raise UserError("--max-usd needs --price-in and --price-out, in dollars per million tokens")


def predict_endpoint(
    examples: Sequence[Example], label: str, settings: EndpointSettings, path: Path, console: Console
) -> dict[str, Any]:
    """Ask the endpoint for every example's turn and write the predictions to `path`, in the examples' order.

    Return the content of the JSON file beside it: settings, rows, calls, failures, tokens and cost.

    Raises:
        UserError: if the endpoint refuses the request, rows have no answer, or the budget is used up. The same command
            continues with the missing rows.
    """
    asked = [example.asked() for example in examples]
    how = (settings.model, settings.base_url, settings.format, settings.max_tokens, settings.temperature)
    made_from = fingerprint(label, how, settings.logprobs, settings.calls_in_text, asked)
    note = path.with_suffix(".json")
    if path.is_file() and note.is_file():
        known: dict[str, Any] = read_json(note, "the first call writes it")
        if known.get("fingerprint") == made_from:
            console.print(f"reusing {path}", markup=False)
            return known
    logprobs = {"logprobs": True, "top_logprobs": 2} if settings.logprobs else {}
    endpoint = Endpoint(
        settings.model,
        settings.base_url,
        max_tokens=settings.max_tokens,
        timeout_s=settings.timeout_s,
        retries=settings.retries,
        first_wait_s=settings.first_wait_s,
        calls_a_minute=settings.calls_a_minute,
        optional={"temperature": settings.temperature, **logprobs},
    )
    budget = Budget(settings.max_calls, settings.max_usd, settings.price_in or 0.0, settings.price_out or 0.0)
    part = part_path(path, 0, made_from)
    log = read_part(part)
    for row in log:
        budget.spend(row["prompt_tokens"], row["completion_tokens"])
    answered = _answers(log)
    waiting = [example for example in examples if example.id not in answered]
    if log:
        done = len(examples) - len(waiting)
        console.print(f"{label}: {done} answers are reused, {len(waiting)} are left", markup=False)
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.open("ab") as out:
        halted = _ask_all(endpoint, waiting, label, settings, budget, out, console)
    log = read_part(part)
    answers = _answers(log)
    left_out = _left_out(examples, log, settings, halted=halted)
    made = {id_: Prediction.from_json(row) for id_, row in answers.items()}
    unparsed = [] if settings.calls_in_text else _calls_left_in_text(examples, made, settings.format)
    if unparsed:
        console.print(
            f"{label}: no answer has calls beside its text, and {len(unparsed)} texts look like calls (the first is "
            f"{unparsed[0]}); they count as prose: if this server leaves calls in the text, give --calls-in-text",
            markup=False,
        )
    renamed = {own for example in examples for sent, own in request_of(example).names.items() if sent != own}
    address = urlsplit(settings.base_url)
    summary = {
        "label": label,
        "model": settings.model,
        "endpoint": f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path}",
        "chat_format": settings.format,
        "max_tokens": settings.max_tokens,
        "temperature": endpoint.options.optional.get("temperature"),
        "logprobs": bool(endpoint.options.optional.get("logprobs")),
        "calls_in_text": settings.calls_in_text,
        "rows": len(examples) - len(left_out),
        "left_out": left_out,
        "calls": len(log),
        "failures": dict(Counter(row["failure"] for row in log if row["failure"] is not None)),
        "texts_like_calls": len(unparsed),
        "answers_without_usage": sum(row["prediction"] is not None and not row["usage_told"] for row in log),
        "tools_renamed": sorted(renamed),
        "prompt_tokens": sum(row["prompt_tokens"] for row in log),
        "completion_tokens": sum(row["completion_tokens"] for row in log),
        "price_in": settings.price_in,
        "price_out": settings.price_out,
        "cost_usd": None if None in (settings.price_in, settings.price_out) else round(budget.usd, 6),
        "asked": asked_fingerprint(examples),
        "fingerprint": made_from,
    }
    write_jsonl(path, (answers[example.id] for example in examples if example.id not in left_out))
    write_json(note, summary)
    remove_parts(path)
    return summary


def _calls_left_in_text(examples: Sequence[Example], made: Mapping[str, Prediction], format: FormatName) -> list[str]:
    """Return the ids of answers whose prose parses as calls, if no answer has separate calls. Then the server may leave
    calls in the text."""
    if any(len(prediction.text) > prediction.prose_end for prediction in made.values()):
        return []
    tools = {example.id: example.tools_by_name for example in examples}
    return [
        id_
        for id_, one in made.items()
        if parse_turn(one.text, format, one.finish_reason, tools=tools[id_]).status != "none"
    ]


def _answers(log: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["id"]: row["prediction"] for row in log if row["prediction"] is not None}


def _ask_all(
    endpoint: Endpoint,
    waiting: Sequence[Example],
    label: str,
    settings: EndpointSettings,
    budget: Budget,
    out: IO[bytes],
    console: Console,
) -> bool:
    """Ask for every example and write each attempt to `out`. Return True if the budget ran out first."""
    lock, stop = threading.Lock(), threading.Event()

    def ask(example: Example) -> None:
        request = request_of(example)

        def record(attempt: Attempt) -> None:
            row = _attempt_row(example, label, settings, request.names, attempt)
            with lock:
                out.write(json_line(row))
                out.flush()

        endpoint.ask(request.messages, budget, record, stop, request.tools)

    pool = ThreadPoolExecutor(settings.concurrency)
    try:
        futures = [pool.submit(ask, example) for example in waiting]
        with Progress(f"{label} answers", len(futures), "rows", console) as progress:
            for future in as_completed(futures):
                future.result()
                progress.advance()
    except OutOfBudget:
        return True
    finally:
        stop.set()  # waiting threads stop; running requests finish, because they may be charged
        pool.shutdown(wait=True, cancel_futures=True)
    return False


def _attempt_row(
    example: Example, label: str, settings: EndpointSettings, names: dict[str, str], attempt: Attempt
) -> dict[str, Any]:
    failure, prediction = attempt.failure, None
    if attempt.choice is not None:
        answer = read_choice(attempt.choice, names, settings.format, calls_in_text=settings.calls_in_text)
        if answer is None:
            failure = "withheld by the endpoint's content filter"
        else:
            usage = (attempt.prompt_tokens, attempt.completion_tokens) if attempt.usage_reported else (0, 0)
            end = (answer.finish_reason, *usage, attempt.latency_ms, answer.tokens, answer.prose_end, settings.format)
            prediction = Prediction(example.id, label, answer.text, *end).to_json()
    return {
        "id": example.id,
        "prediction": prediction,
        "failure": failure,
        "passing": attempt.retry,
        "usage_told": attempt.usage_reported,
        "prompt_tokens": attempt.prompt_tokens,
        "completion_tokens": attempt.completion_tokens,
    }


def _left_out(
    examples: Sequence[Example], log: Sequence[dict[str, Any]], settings: EndpointSettings, *, halted: bool
) -> dict[str, str]:
    """Return the rows that the endpoint refuses permanently, with its reason, if the settings leave them out.

    Raises:
        UserError: if other rows have no answer.
    """
    answers = _answers(log)
    last = {row["id"]: row for row in log}
    lacking = [example.id for example in examples if example.id not in answers]
    refused = {id_: str(last[id_]["failure"]) for id_ in lacking if id_ in last and not last[id_]["passing"]}
    if settings.leave_out_refused and len(refused) == len(lacking) and answers:
        return refused
    if not lacking:
        return {}
    if halted:
        raise UserError(
            f"the budget is used up with {len(answers)} of {len(examples)} rows answered; the answers are kept: to "
            "continue, run the same command with a larger --max-calls or --max-usd"
        )
    reasons = Counter(str(last[id_]["failure"]) if id_ in last else "not asked" for id_ in lacking)
    why = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
    hint = ", or leave out refused rows with --leave-out-refused" if refused else ""
    raise UserError(
        f"{len(lacking)} of {len(examples)} rows have no answer ({why}; the first is {lacking[0]}); the other answers "
        f"are kept: run the same command again to ask for these{hint}"
    )
