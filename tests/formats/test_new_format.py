"""A new chat format needs one object and one table entry. Here a made-up format is defined, trained and scored."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from toolhone.chat.grammar import call_grammar
from toolhone.cli import main
from toolhone.config import ChatConfig, Config, DataConfig, EvaluateConfig, ModelConfig, TrainConfig
from toolhone.formats import FORMATS
from toolhone.formats.call_json import CallSpans, Decoded, decode
from toolhone.formats.call_syntax import CallSyntax
from toolhone.formats.chat_format import ChatFormat, RawCall
from toolhone.formats.pieces import Fault, Piece, PlacedCall
from toolhone.formats.repair import Repairer
from toolhone.jsonl import read_jsonl, write_jsonl
from toolhone.pipeline import run_experiment
from toolhone.records import FinishReason, Tool, ToolCall

TEMPLATE = """
{%- for tool in tools or [] %}{{ write_tool(tool) + "\n" }}{% endfor %}
{%- for m in messages %}{{ "<|im_start|>" + m.role + "\n" + m.content }}
{%- for call in m.tool_calls or [] %}{{ "@" + call.function.name + " " + call.function.arguments | tojson + "@" }}
{%- endfor %}{{ "<|im_end|>\n" }}{% endfor %}
{%- if add_generation_prompt %}{{ "<|im_start|>assistant\n" }}{% endif %}"""


def read(text: str, repairer: Repairer) -> Iterator[Piece]:
    """Read calls like `@name {"argument": value}@`; anything else is prose."""
    end = 0
    for mark in re.finditer(r"@(\w+) (?=\{)", text):
        found = decode(text, mark.end())
        yield text[end : mark.start()]
        if isinstance(found, Decoded) and isinstance(found.value, dict):
            yield PlacedCall(ToolCall(mark[1], found.value), mark.end(), found.end, CallSpans(mark.span(1), {}))
        else:
            yield Fault("broken JSON in a call")
        end = found.end + text.startswith("@", found.end)
    yield text[end:]


def write(content: str, calls: Sequence[RawCall], finish_reason: FinishReason) -> str:
    return content + "".join(f"@{call.name} {call.arguments}@" for call in calls)


AT_SIGNS = ChatFormat(
    "at_signs",
    read,
    write,
    CallSyntax(
        "named",
        first="@",
        between="@",
        opens=(r"@\w+ \{",),
        after_name=" ",
        after_arguments="@",
        name=r"\w+",
        begins_with_name=True,
        is_exact=True,
    ),
    template=TEMPLATE,
    special_tokens=("<|im_start|>", "<|im_end|>"),
    end_of_turn="<|im_end|>",
)
CALL = {"function": {"name": "query_order", "arguments": '{"order_id": "A1"}'}}
ROWS = [
    {
        "id": f"row-{number}",
        "messages": [
            {"role": "user", "content": f"order {number}?"},
            {"role": "assistant", "content": "", "tool_calls": [CALL] * (number % 3)}
            if number % 3
            else {"role": "assistant", "content": "Which order?"},
        ],
    }
    for number in range(12)
]
TOOLS = [{"name": "query_order", "parameters": {"type": "object", "properties": {"order_id": {"type": "string"}}}}]


def config(model: Path, format: str) -> Config:
    return Config(
        name="made-up",
        model=ModelConfig(name=str(model), device="cpu", dtype="float32"),
        data=DataConfig(train=("train.jsonl",), test=("test.jsonl",), tools="tools.json", validation=0),
        chat=ChatConfig(format=format),
        train=TrainConfig(max_steps=2),
        evaluate=EvaluateConfig(max_new_tokens=4, base=False),
    )


@pytest.fixture
def model(in_workspace: Path, tiny_llama: Path) -> Path:
    write_jsonl(Path("train.jsonl"), ROWS[:6])
    write_jsonl(Path("test.jsonl"), ROWS[6:])
    Path("tools.json").write_text(json.dumps(TOOLS), encoding="utf-8")
    return tiny_llama


def test_a_run_in_a_made_up_format_is_trained_and_scored(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, "at_signs", AT_SIGNS)
    run = run_experiment(config(model, "at_signs"), resume=False, fresh=False, console=Console(quiet=True))
    assert run is not None
    assert run.read_manifest()["stages"]["train"]["steps"] == 2
    answered = [line for _, line in read_jsonl(run.predictions("tuned"))]
    calls = [RawCall("query_order", '{"order_id": "A1"}')]
    texts = [write("" if n % 3 else "Which order?", calls * (n % 3), "stop") for n in range(6, 12)]
    write_jsonl(run.predictions("tuned"), [{**line, "text": text} for line, text in zip(answered, texts, strict=True)])
    assert main(["score", "--run", str(run.path)]) == 0
    figures = json.loads(run.metrics.read_text(encoding="utf-8"))["models"]["tuned"]
    assert figures["exact_match"]["numerator"] == 6


def test_the_grammar_of_a_made_up_format_has_valid_calls_only() -> None:
    llguidance = pytest.importorskip("llguidance", reason="grammars are checked with the package llguidance")
    parameters = {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]}
    grammar = call_grammar(AT_SIGNS, [Tool("query_order", "", parameters)])
    for text, is_valid in (
        ("Which order @ 5?", True),
        ('Look.@query_order {"order_id": "A1"}@@query_order {"order_id": "A2"}@', True),
        ("@query_order {}@", False),
        ('@other {"order_id": "A1"}@', False),
    ):
        matcher = llguidance.LLMatcher(
            llguidance.LLTokenizer("byte"), llguidance.LLMatcher.grammar_from_lark(grammar.lark)
        )
        taken = matcher.try_consume_tokens(list(text.encode()))
        assert (taken == len(text) and matcher.is_accepting()) is is_valid, text


def test_a_format_that_does_not_exist_is_refused_with_the_nearest_name(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from toolhone.config import config_yaml

    Path("config.yaml").write_text(config_yaml(config(model, "hermse")), encoding="utf-8")
    assert main(["train", "--config", "config.yaml"]) == 2
    assert "chat.format: unknown format 'hermse'; did you mean hermes?" in capsys.readouterr().err
    assert not Path("runs").exists()
