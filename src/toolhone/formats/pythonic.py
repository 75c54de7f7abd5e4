"""The pythonic format: calls in a Python list, `[f(a=1), g(text="x")]`, for Llama 3.2, Llama 4, ToolACE and Gemma 3.

The list is the whole answer. vLLM's parser `pythonic` reads no call if there is text beside the list, so such a turn is
malformed here, and a row with text beside calls fails its round trip. The same holds for names that the parser does not
read: a function with a dot, an argument such as `order-id` or `from`, and names that begin with `_` or another script.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from toolhone.formats.call_syntax import CallSyntax
from toolhone.formats.chat_format import ChatFormat
from toolhone.formats.foreign_syntax import openings
from toolhone.formats.gemma import GEMMA_TOKENS, gemma_turns
from toolhone.formats.pieces import FENCE, THINK_END, Fault, Piece, PlacedCall, Thought, foreign_block, read_thought
from toolhone.formats.python_calls import (
    ARGUMENT_NAME,
    NAME,
    SPACE,
    PythonCallStyle,
    read_python_calls,
    skip_python_space,
)
from toolhone.formats.python_writing import PythonCallForm
from toolhone.formats.repair import Repairer

_STYLE = PythonCallStyle()
_FORM = PythonCallForm("[", "]", ", ", space="\n")
_COMMA = re.compile(rf"{SPACE},")
_BESIDE = "text beside the list of calls, which must be the whole answer"

_PYTHON_START, _PYTHON_END = "<|python_start|>", "<|python_end|>"  # Llama 4 sometimes writes them

_VALUE = r"(?:[\"'\[{]|[-+]?[0-9.]|(?:True|False|None|true|false|null)\b)"
_CALL = rf"{SPACE}{NAME}\({SPACE}(?:{ARGUMENT_NAME}{SPACE}=(?!=)|[\"']|\){SPACE}[,\]])"
_CALL_IN_LINE = rf"{SPACE}{NAME}\({SPACE}{ARGUMENT_NAME}{SPACE}={SPACE}{_VALUE}"
_LIST = rf"(?:^[ \t]*+|(?<=</think>)\s*+)(?:{re.escape(_PYTHON_START)}\s*+)?\[(?={_CALL})|\[(?={_CALL_IN_LINE})"
_MARK = re.compile(rf"</?think>|(?P<list>{_LIST})|(?P<foreign>{openings()})", re.MULTILINE)
_MARK_OR_FENCE = re.compile(rf"(?P<fence>^[ \t]*+```[\w+-]*\s*+\[(?={_CALL}))|{_MARK.pattern}", re.MULTILINE)
_BEGUN = re.compile(rf"\s*+(\[{SPACE}(?:{NAME}(?:\({SPACE}(?:{ARGUMENT_NAME}{SPACE}|\){SPACE})?)?)?)\Z")


def _read(text: str, repairer: Repairer) -> Iterator[Piece]:
    """Yield the prose, thoughts, calls and faults of a turn, in order."""
    marks = _MARK_OR_FENCE if "code_fence" in repairer.allowed else _MARK
    answer: list[Piece] = []
    prose = at = 0
    while mark := marks.search(text, at):
        kind, start = mark.lastgroup, mark.start()
        pieces: list[Piece] = []
        at = mark.end()
        answer.append(text[prose:start])
        prose = start
        if kind == "foreign":
            pieces, at = foreign_block(text, start)
            prose = at
        elif mark.group() == "<think>":
            pieces, at = read_thought(text, start, repairer.tools)
            prose = at
        elif kind is None:  # </think>
            yield from _alone(answer)
            yield Thought(0, start, opened=False)
            answer = []
            prose = at
        elif _is_empty(answer):
            pieces, at = _read_list(text, at, repairer, is_fenced=kind == "fence")
            prose = at
        else:  # its text stays prose
            _, at = _read_list(text, at, repairer, is_fenced=False)
            pieces = [Fault(_BESIDE)]
        answer += pieces
    begun = _BEGUN.match(text, prose) if _is_empty(answer) else None
    answer.append(text[prose : begun.start(1) if begun else len(text)])
    if begun:
        answer.append(Fault("the list of calls is not finished", "begun", begun[1]))
    yield from _alone(answer)


def _alone(answer: Sequence[Piece]) -> Iterator[Piece]:
    """Yield the pieces of an answer. If it has prose, each call is a fault."""
    has_prose = any(isinstance(piece, str) and piece.strip() for piece in answer)
    for piece in answer:
        yield Fault(_BESIDE) if has_prose and isinstance(piece, PlacedCall) else piece


def _is_empty(answer: Sequence[Piece]) -> bool:
    """Whether an answer has only thoughts and white space so far."""
    return all(isinstance(piece, Thought) or (isinstance(piece, str) and not piece.strip()) for piece in answer)


def _read_list(text: str, at: int, repairer: Repairer, *, is_fenced: bool) -> tuple[list[Piece], int]:
    """Return the calls of the list whose [ ends here, and where it ends. A broken list takes the rest of the answer."""
    pieces, at = read_python_calls(text, at, _STYLE, separator=_COMMA, closing="]")
    if not isinstance(pieces[-1], Fault):
        end = skip_python_space(text, at)
        if text.startswith(_PYTHON_END, end):
            return pieces, end + len(_PYTHON_END)
        if not is_fenced:
            return pieces, at
        if text.startswith(FENCE, end):
            repairer.fired["code_fence"] += 1
            return pieces, end + len(FENCE)
        pieces.append(Fault("expected the end of the code fence after the list of calls"))
    thought_end = text.find(THINK_END, at)
    return pieces, len(text) if thought_end < 0 else thought_end


_INSTRUCTIONS = (
    "To call functions, answer only with a Python list of calls: [name(argument=value), other_name()]. "
    "Values are Python literals. Write no other text beside the list."
)

PYTHONIC = ChatFormat(
    name="pythonic",
    read=_read,
    write=_FORM.write,
    calls=_FORM.calls,
    instructions=_INSTRUCTIONS,
    template=gemma_turns(_INSTRUCTIONS),
    special_tokens=GEMMA_TOKENS,
    end_of_turn=GEMMA_TOKENS[-1],
    other_stops=("<eos>",),
    syntaxes=("Llama 4 <|python_start|>",),
    stray_call="a call outside the list of calls",
    serving_parsers={"vllm": "pythonic", "sglang": "pythonic"},
    call_syntax=CallSyntax(
        "python",
        first="[",
        between=", ",
        last="]",
        opens=(r"\[\s*[A-Za-z_\x80-\U0010FFFF][\w.\x80-\U0010FFFF-]*\s*\(",),
        python=_STYLE,
        begins_with_name=True,
        prose_before=False,
    ),
)
