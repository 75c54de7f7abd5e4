"""Python code that ships with a model runs only if the config allows it, and after a notice."""

from __future__ import annotations

import ast
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toolhone import pretrained
from toolhone.cli import main
from toolhone.config import Config, ModelConfig
from toolhone.run_folder import open_run
from toolhone.run_inputs import model_inputs

ROOT = Path(__file__).parents[1]
CODE = """\
from pathlib import Path
Path({marker!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class C(LlamaConfig):
    model_type = {type!r}
class M(LlamaForCausalLM):
    config_class = C
class T(PreTrainedTokenizerFast):
    pass
"""
CONFIG: dict[str, Any] = {
    "name": "try",
    "model": {"name": "model", "device": "cpu", "dtype": "float32"},
    "data": {"train": ["train.jsonl"], "test": ["test.jsonl"], "tools": "tools.json", "validation": 0},
    "train": {"max_steps": 1},
    "evaluate": {"max_new_tokens": 2, "base": False},
}
TOOL = {"name": "query_order", "description": "", "parameters": {"type": "object", "properties": {}}}
Commands = Callable[[str], None]


def row(number: int) -> str:
    call = {"function": {"name": "query_order", "arguments": "{}"}}
    turns = [{"role": "user", "content": f"order {number}?"}, {"role": "assistant", "tool_calls": [call]}]
    return json.dumps({"id": f"row-{number}", "messages": turns})


@pytest.fixture
def workspace(in_workspace: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a config and its data. Reading standard input fails the test."""
    shutil.copytree(tiny_llama, "model")
    Path("try.json").write_text(json.dumps(CONFIG), encoding="utf-8")  # JSON is YAML
    Path("train.jsonl").write_text("\n".join(map(row, range(4))), encoding="utf-8")
    Path("test.jsonl").write_text(row(4), encoding="utf-8")
    Path("tools.json").write_text(json.dumps([TOOL]), encoding="utf-8")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(in_workspace / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])

    def asked(*_: Any) -> str:
        raise AssertionError("a question was asked on standard input")

    monkeypatch.setattr("builtins.input", asked)
    pretrained._warn_of_remote_code.cache_clear()
    return in_workspace


def add_code(workspace: Path, what: str) -> Path:
    """Add code to the model's folder, for its config or tokenizer. Returns the file that it creates when it runs."""
    marker = workspace / "ran"
    kind = "llama" if what == "known type" else "our_llama"
    Path("model/code_of_ours.py").write_text(CODE.format(marker=str(marker), type=kind), encoding="utf-8")
    path = Path("model/tokenizer_config.json" if what == "tokenizer" else "model/config.json")
    values = json.loads(path.read_text(encoding="utf-8"))
    if what == "tokenizer":
        values |= {"auto_map": {"AutoTokenizer": [None, "code_of_ours.T"]}, "tokenizer_class": "T"}
    else:
        auto_map = {"AutoConfig": "code_of_ours.C", "AutoModelForCausalLM": "code_of_ours.M"}
        values |= {"auto_map": auto_map, "model_type": kind}
    path.write_text(json.dumps(values), encoding="utf-8")
    return marker


TRAIN = ["train", "--config", "try.json"]
COMMANDS = [
    [*TRAIN, "--dry-run"],
    TRAIN,
    ["data", "preview", "--config", "try.json"],
    ["ask", "--base", "--run", "runs/try", "order 1?"],
    ["data", "check", "test.jsonl", "--tools", "tools.json", "--tokenizer", "model"],
    ["data", "stats", "test.jsonl", "--tools", "tools.json", "--tokenizer", "model"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:2]))
@pytest.mark.parametrize("what", ["config", "known type", "tokenizer"])
def test_code_of_a_model_does_not_run_and_nothing_is_asked(
    workspace: Path, command: list[str], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if command[0] == "ask":
        run = open_run(Config.model_validate(CONFIG))
        run.split("test").parent.mkdir()
        shutil.copyfile("test.jsonl", run.split("test"))
    marker = add_code(workspace, what)
    code = main(command)
    assert not marker.exists()
    error = capsys.readouterr().err
    assert "Traceback" not in error
    if code:
        assert code == 2
        assert error.startswith(
            ("Error: model.trust_remote_code: model comes with its own Python code", "Error: --tok")
        )
    else:  # transformers has its own class for this type or tokenizer, or the command loads no model
        assert what != "config" or command[0] == "data"


def test_code_added_to_the_model_of_a_trained_run_is_refused_before_it_runs(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(TRAIN) == 0
    marker = add_code(workspace, "config")
    capsys.readouterr()
    for command in (["eval", "--run", "runs/try"], ["ask", "--run", "runs/try", "order 1?"], TRAIN):
        assert main(command) == 2
        assert capsys.readouterr().err.startswith("Error: model.")
    assert not marker.exists()


@pytest.mark.parametrize("what", ["config", "known type"])
def test_allowed_code_runs_with_one_notice_that_names_the_model(
    workspace: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = add_code(workspace, what)
    assert main([*TRAIN, "--dry-run", "--set", "model.trust_remote_code=true"]) == 0
    assert marker.exists()
    notices = [line for line in capsys.readouterr().err.splitlines() if line.startswith("WARNING: ")]
    assert notices == [
        "WARNING: model.trust_remote_code is true: Python code that comes with model runs here, with your permissions"
    ]


def test_the_fingerprint_of_a_model_includes_its_code(workspace: Path) -> None:
    add_code(workspace, "config")
    before = model_inputs(ModelConfig(name="model"))
    path = Path("model/code_of_ours.py")
    path.write_text(path.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    assert model_inputs(ModelConfig(name="model"))["model"] != before["model"]


def test_a_run_whose_config_lacks_trust_remote_code_can_continue(workspace: Path) -> None:
    run = open_run(Config.model_validate(CONFIG))
    text = run.config.read_text(encoding="utf-8")
    run.config.write_text(text.replace("  trust_remote_code: false\n", ""), encoding="utf-8")
    assert "trust_remote_code" not in run.config.read_text(encoding="utf-8")
    assert open_run(Config.model_validate(CONFIG)).path == run.path


def test_every_call_of_an_auto_class_says_whether_code_may_run() -> None:
    """Without the argument, transformers asks on standard input."""
    silent = []
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = ast.unparse(node.func.value)
                loads = node.func.attr in ("from_pretrained", "from_config") and owner.startswith(("Auto", "loader"))
                if loads and "trust_remote_code" not in {keyword.arg for keyword in node.keywords}:
                    silent.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert silent == []
