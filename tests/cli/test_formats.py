"""`toolhone formats` lists the formats, and `toolhone formats probe` shows what a model gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import byte_tokenizer

from toolhone.chat.serving import Target, serving
from toolhone.cli import main
from toolhone.formats import FORMATS

TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content if not m.tool_calls }}"
    '{% for c in m.tool_calls or [] %}<tool_call>\n{"name": "{{ c.function.name }}", "arguments": '
    "{{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A template that loses the text beside a call."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tokenizer: Any = byte_tokenizer(["<|im_start|>", "<|im_end|>"], eos_token="<|im_end|>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    return tmp_path / "model"


def test_the_list_has_every_format_with_its_parsers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["formats"]) == 0
    shown = capsys.readouterr().out
    for name, chat_format in FORMATS.items():
        line = next(line for line in shown.splitlines() if line.startswith(f"{name} "))
        assert all(parser in line for parser in chat_format.serving_parsers.values())


def test_a_probe_names_what_the_template_loses_and_the_flags(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["formats", "probe", str(model)]) == 0
    shown = capsys.readouterr().out
    assert "chat format: hermes, with toolhone's chat template, because" in shown
    assert "yes parallel calls" in shown
    assert "no  text beside a call: text beside a call cannot be read back from it" in shown
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>' in shown
    assert "--enable-auto-tool-choice --tool-call-parser hermes" in shown


def test_a_probe_takes_the_choices_of_a_config(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["formats", "probe", str(model), "--chat-format", "gemma", "--chat-tools", "names"]) == 0
    shown = capsys.readouterr().out
    assert "chat format: gemma, in the model's own turns; toolhone writes the tools and calls" in shown
    assert "no parser of this engine reads the format" in shown


def test_a_model_without_a_tokenizer_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["formats", "probe", str(tmp_path / "empty")]) == 2
    assert capsys.readouterr().err.startswith("Error: model.name: ")


def test_paths_with_spaces_are_quoted_in_serving_commands() -> None:
    vllm, *_ = serving(FORMATS["hermes"], Target("my model", "runs/a b/adapter", adapter={}))
    assert "vllm serve 'my model'" in vllm.command
    assert "--chat-template 'runs/a b/adapter/chat_template.jinja'" in vllm.command
