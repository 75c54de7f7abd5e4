"""Writes the launch files of an export: one shell script for each serving engine.

In: how engines serve the export (`chat/serving.py`). Out: `launch/vllm.sh`, `launch/sglang.sh` and
`launch/llama.cpp.sh`. A script finds the export from its own place, so the folder can be moved. It hands further
arguments to the engine.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from toolhone.chat.serving import Serving
from toolhone.jsonl import write_text

HERE = "@EXPORT@"
"""Stands for the export's folder in the words of a command. A script replaces it by `$here`."""

GGUF_VARIABLES = {"MODEL.gguf": "GGUF", "ADAPTER.gguf": "LORA_GGUF"}
"""GGUF files that an export does not have, and the shell variable that names each one."""


def write_launch_files(folder: Path, ways: Sequence[Serving]) -> None:
    """Write an executable script for each engine. If the engine cannot serve the export, the script says why."""
    for way in ways:
        path = folder / way.script
        write_text(path, _script(way))
        path.chmod(0o755)


def _script(way: Serving) -> str:
    lines = ["#!/bin/sh", f"# Serves this export with {way.engine}. Further arguments go to the engine."]
    if way.refused:
        reason = f"{way.refused}; merge the weights: toolhone export RUN --merge bf16"
        return "\n".join([lines[0], f"echo {shlex.quote(reason)} >&2", "exit 2", ""])
    if not way.parses_calls:
        lines.append(f"# {way.engine} has no parser for the chat format: calls stay in the text of the answer.")
    if way.note:
        lines.append(f"# In requests: {way.note}.")
    lines += ["set -eu", 'here=$(cd "$(dirname "$0")/.." && pwd)']
    for name, variable in GGUF_VARIABLES.items():
        if name in way.words:
            lines.append(f': "${{{variable}:?names the GGUF file; toolhone export --gguf writes one}}"')
    return "\n".join([*lines, f'exec {_command(way.words)} \\\n    "$@"', ""])


def _command(words: Sequence[str]) -> str:
    """Return the command for a script, with each flag and its value on a line."""
    lines: list[list[str]] = [[]]
    for word in words:
        if word.startswith("--"):
            lines.append([])
        lines[-1].append(_quoted(word))
    return " \\\n    ".join(map(" ".join, lines))


def _quoted(word: str) -> str:
    if word in GGUF_VARIABLES:
        return f'"${GGUF_VARIABLES[word]}"'
    return shlex.quote(word).replace(HERE, '"$here"')
