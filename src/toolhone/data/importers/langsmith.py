"""LangSmith's runs, as its SDK posts them and as exports give them, and the examples of its data sets.

A run of type `llm` is a request and its response. Its messages are LangChain's (of LangChain's tracer) or the bodies of
the client (of `wrap_openai` and others). Runs of other types (chains, tools, ...) are counted as `log-other`: the
requests inside them have runs of their own. In Parquet files of the bulk export, `inputs`, `outputs` and `extra` are
JSON strings. A posted batch has new runs under `post` and their ends under `patch`; the two are joined by id.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from toolhone.data.importers import langchain
from toolhone.data.importers.importer import Row, short
from toolhone.data.importers.traces import NO_REQUEST, PostedJoin, json_or_text, log_line
from toolhone.errors import RowError

_RUN_KEYS = ("inputs", "outputs", "dotted_order", "trace_id", "parent_run_id", "start_time")
_BATCH_KEYS = ("post", "patch")
_MESSAGE_KEYS = ("messages", "generations", "message", "input", "output")


def looks_like(row: Row) -> bool:
    """Whether the row is a run, a posted batch of runs, or an example whose messages are LangChain's."""
    if isinstance(row.get("run_type"), str):
        return any(key in row for key in _RUN_KEYS)
    if any(key in row for key in _BATCH_KEYS):
        runs = [run for key in _BATCH_KEYS if isinstance(row.get(key), list) for run in row[key]]
        return bool(runs) and all(isinstance(run, dict) and ("run_type" in run or "id" in run) for run in runs)
    if "inputs" not in row:
        return False
    return "dataset_id" in row or _has_langchain(row["inputs"]) or _has_langchain(row.get("outputs"))


def join() -> PostedJoin:
    """Joins a posted run and its patch. All other runs are complete."""
    return PostedJoin(_runs, _is_whole, _lines)


def _has_langchain(found: Any) -> bool:
    if isinstance(found, str):
        return '"lc"' in found and '"kwargs"' in found
    if not isinstance(found, dict):
        return False
    messages = next((found[key] for key in _MESSAGE_KEYS if found.get(key)), None)
    while isinstance(messages, list) and messages:
        messages = messages[0]
    message = messages.get("message", messages) if isinstance(messages, dict) else None
    return langchain.is_langchain(message)


def _runs(row: Row) -> Iterator[tuple[str | None, Row]]:
    """The runs of a row: a run and its children, or the posted pieces of runs, each with its id."""
    if "run_type" not in row and any(isinstance(row.get(key), list) for key in _BATCH_KEYS):
        for key in _BATCH_KEYS:
            for run in row[key] if isinstance(row.get(key), list) else ():
                id = run.get("id") if isinstance(run, dict) else None
                if not isinstance(id, str):
                    yield None, {"id": id, "run_type": "unknown"}
                elif run.get("run_type", "llm") != "llm":
                    yield id, {"id": id, "run_type": run["run_type"]}
                else:
                    yield id, {name: value for name, value in run.items() if value is not None}
        return
    yield None, row
    children = row.get("child_runs")
    for child in children if isinstance(children, list) else ():
        if isinstance(child, dict):
            yield from _runs(child)


def _is_whole(run: Row) -> bool:
    return bool(run.get("inputs") and (run.get("outputs") or run.get("error")))


def _lines(run: Row, where: str) -> Iterator[Row]:
    kind = run.get("run_type")
    named = f"the run {short(run.get('id') or run.get('name'))}"
    if kind is not None and kind != "llm":
        raise RowError(f"{where}: {named} is of type {short(kind)}, not a request to a model", rule="log-other")
    if run.get("error") or run.get("status") == "error":
        text = short(run.get("error") or "status error")
        raise RowError(f"{where}: {named} failed: {text}", rule="log-error")
    inputs, outputs, extra = (json_or_text(run.get(key), where) for key in ("inputs", "outputs", "extra"))
    if not inputs:
        text = f"{where}: {named} has no inputs: they were hidden, or the run's start was not logged"
        raise RowError(text, rule=NO_REQUEST)
    if isinstance(inputs, dict) and "prompts" in inputs and "messages" not in inputs:
        raise RowError(f"{where}: {named} completes a text; it has no messages", rule="log-other")
    if not outputs:
        raise RowError(f"{where}: {named} has no outputs", rule="log-no-response")
    extra = extra if isinstance(extra, dict) else {}
    metadata = json_or_text(extra.get("metadata") or run.get("metadata"), where)
    metadata = metadata if isinstance(metadata, dict) else {}
    parameters = json_or_text(extra.get("invocation_params"), where)
    holders = (parameters, extra.get("options"), extra, metadata.get("ls_invocation_params"), metadata)
    model = metadata.get("ls_model_name")
    if isinstance(parameters, dict):
        model = parameters.get("model") or parameters.get("model_name") or model
    for prompt, answer in _prompts(inputs, outputs, where):
        id = run.get("id") if prompt is inputs else None  # a batch of prompts shares the run's id
        yield log_line(prompt, answer, where, holders, model, run.get("start_time") or run.get("created_at"), id)


def _prompts(inputs: Any, outputs: Any, where: str) -> Iterator[tuple[Any, Any]]:
    """Each prompt of a run with its output. Nearly all runs have one; `generate` of LangChain takes several."""
    messages = inputs.get("messages") if isinstance(inputs, dict) else None
    messages = messages if isinstance(messages, list) and all(isinstance(each, list) for each in messages) else []
    generations = outputs.get("generations") if isinstance(outputs, dict) else None
    if len(messages) < 2 or not isinstance(generations, list) or all(map(langchain.is_pair, messages)):
        yield inputs, outputs
        return
    if len(generations) != len(messages):
        text = f"{where}: {len(messages)} prompts with {len(generations)} lists of generations"
        raise RowError(text, rule="log-unknown")
    for prompt, generated in zip(messages, generations, strict=True):
        yield {**inputs, "messages": prompt}, {**outputs, "generations": [generated]}
