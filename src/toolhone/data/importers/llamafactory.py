"""LLaMA-Factory's ShareGPT: calls as JSON in `function_call`, results in `observation`, tools as a JSON string."""

from __future__ import annotations

from toolhone.data.importers.importer import Row, json_text, unexpected
from toolhone.data.importers.rewrite import read_rewritten, sharegpt_turns, speakers, to_call, tool_rows
from toolhone.data.importers.thinking import KEY as THINKING
from toolhone.data.importers.thinking import split_thought
from toolhone.errors import RowError
from toolhone.records import Conversation, Tool

_ROLES = {"system": "system", "human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool"}
_OTHER_TASKS = ("chosen", "rejected", "kto_tag", "images", "videos", "audios")


def looks_like(row: Row) -> bool:
    """Whether the row's turns are LLaMA-Factory's, with or without tools."""
    names = speakers(row)
    return bool(names & {"human", "gpt", "function_call"}) and names <= _ROLES.keys()


def read(row: Row, where: str, default_tools: tuple[Tool, ...] = ()) -> Conversation:
    task = next((key for key in _OTHER_TASKS if row.get(key) is not None), None)
    if task is not None:
        text = f'{where}: has the key "{task}"; preference pairs, images, videos and audio are not supported'
        raise RowError(text, rule="bad-row")
    system = row.get("system")
    if system is not None and not isinstance(system, str):
        raise unexpected(where, '"system" to be a string', system, "bad-content")
    messages: list[Row] = [{"role": "system", "content": system}] if system else []
    for role, text, place in sharegpt_turns(row, _ROLES, where):
        if place.endswith("function_call"):
            thought, text = split_thought(text)
            found = json_text(text, place)
            calls = [to_call(call, place) for call in (found if isinstance(found, list) else [found])]
            thinking: Row = {THINKING: thought} if thought else {}
            messages.append({"role": role, "content": None, "tool_calls": calls, **thinking})
        else:
            messages.append({"role": role, "content": text})
    return read_rewritten(row, "llamafactory", messages, tool_rows(row, where), where, default_tools)
