"""The command line: what commands print, and that bad input gives one message, exit code 2 and nothing half-written."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toolhone import __version__
from toolhone.cli import _parser, main
from toolhone.config import config_fields
from toolhone.config_file import load_config
from toolhone.errors import UserError
from toolhone.run_folder import RunFolder, open_run

SHIPPED = Path(__file__).parents[2] / "data" / "customer_service"
TOOLS = [
    {
        "name": "query_order",
        "description": "Look up an order",
        "parameters": {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]},
    }
]
CONFIG = """\
name: try
model:
  name: tiny
  device: cpu
data:
  train: [train.jsonl]
  test: [test.jsonl]
  tools: tools.json
  validation: 0
"""

Fails = Callable[..., str]


def line(number: int, name: str = "query_order", arguments: Any = None) -> str:
    arguments = {"order_id": f"ORD-{number}"} if arguments is None else arguments
    turn = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": name, "arguments": arguments}}]}
    return json.dumps({"id": f"row-{number}", "messages": [{"role": "user", "content": f"order {number}?"}, turn]})


@pytest.fixture
def workspace(in_workspace: Path, tiny_llama: Path) -> Path:
    """A folder with a config that runs: the tiny model, four training rows, two test rows."""
    (in_workspace / "tiny").symlink_to(tiny_llama)
    Path("try.yaml").write_text(CONFIG, encoding="utf-8")
    Path("train.jsonl").write_text("\n".join(map(line, range(4))), encoding="utf-8")
    Path("test.jsonl").write_text("\n".join(map(line, range(4, 6))), encoding="utf-8")
    Path("tools.json").write_text(json.dumps(TOOLS), encoding="utf-8")
    return in_workspace


@pytest.fixture
def fails(workspace: Path, capsys: pytest.CaptureFixture[str]) -> Fails:
    """Runs a command that must fail as bad input does, and gives its message."""

    def run(*arguments: str) -> str:
        before = tree(workspace)
        capsys.readouterr()
        code = main(arguments)
        error = capsys.readouterr().err
        assert code == 2
        assert error.startswith("Error: ")
        assert error.count("Error: ") == 1
        assert "Traceback" not in error
        assert tree(workspace) == before, "a failed command left something behind"
        return error.removeprefix("Error: ").removesuffix("\n")

    return run


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under a folder with its content, and every folder."""
    paths = sorted(folder.rglob("*"))
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in paths}


def train(*overrides: str) -> list[str]:
    return ["train", "--config", "try.yaml", *(part for override in overrides for part in ("--set", override))]


# What is printed


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"toolhone {__version__}\n"


@pytest.mark.parametrize("arguments", [["trian"], ["train"], ["data"], ["train", "--config"], ["score", "runs/x"]])
def test_a_faulty_command_line_shows_the_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: toolhone")


class RecordingOptions(argparse.Namespace):
    """Options that record which of them were read."""

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            self.__dict__.setdefault("_read", set()).add(name)
        return super().__getattribute__(name)


@pytest.mark.usefixtures("workspace")
@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "train.jsonl"],
        ["split", "train.jsonl", "--out", "splits"],
        ["stats", "train.jsonl"],
        ["convert", "train.jsonl", "--to", "openai", "--out", "out.jsonl"],
        ["augment", "train.jsonl", "--out", "out.jsonl", "--shuffle-tools"],
        [
            "paraphrase",
            "train.jsonl",
            "--out",
            "out.jsonl",
            "--endpoint-model",
            "m",
            "--base-url",
            "http://127.0.0.1:9",
        ],
        ["review", "train.jsonl", "--out", "sheet.html"],
        ["review", "train.jsonl", "--out", "out.jsonl", "--apply", "marks.csv"],
    ],
    ids=lambda arguments: f"{arguments[0]} {arguments[-1]}",
)
def test_every_flag_of_a_data_command_reaches_a_function(arguments: list[str]) -> None:
    options = _parser().parse_args(["data", *arguments, "--tools", "tools.json"], RecordingOptions())
    flags = set(vars(options)) - {"_read", "run"}
    vars(options)["_read"].clear()
    with contextlib.suppress(UserError):  # there is no endpoint, and there are no marks
        options.run(options)
    sheet_only = {"predictions", "doubts", "chat_format", "max_rows", "random_share", "seed"}
    unused = (sheet_only if "--apply" in arguments else {"wrong"}) if arguments[0] == "review" else set()
    assert flags - vars(options)["_read"] == unused


def test_config_lists_every_key_with_default_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config"]) == 0
    shown = capsys.readouterr().out.splitlines()
    keys = dict(config_fields())
    assert [entry.split(" = ")[0] for entry in shown[::2]] == list(keys)
    assert "model.name = (required)" in shown
    assert "train.learning_rate = 0.0002" in shown
    assert "data.group_by = 'template'" in shown
    assert all(entry.startswith("    ") for entry in shown[1::2])
    assert "How calls are written, a name that `toolhone formats` lists." in "\n".join(shown)


def test_data_check_counts_rows_turns_calls_and_tools(capsys: pytest.CaptureFixture[str]) -> None:
    files = [SHIPPED / name for name in ("train.jsonl", "test.jsonl")]
    rows = [json.loads(text) for path in files for text in path.read_text(encoding="utf-8").splitlines()]
    turns = [message for row in rows for message in row["messages"] if message["role"] == "assistant"]
    calls = sum(len(turn.get("tool_calls") or ()) for turn in turns)
    assert calls > 500
    assert main(["data", "check", *map(str, files), "--tools", str(SHIPPED / "tools.json")]) == 0
    counted = capsys.readouterr().out
    assert f"{len(rows):,} conversations, {len(turns):,} assistant turns, {calls:,} calls, 7 tools" in counted
    assert counted.rstrip().endswith("no faults found")


@pytest.mark.usefixtures("workspace")
def test_preview_shows_prompt_and_learned_turn(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "preview", "--config", "try.yaml", "--max-rows", "1"]) == 0
    shown = capsys.readouterr().out
    assert "train.jsonl:1  row-0/1  prompt " in shown
    assert "<|im_start|>user\norder 0?<|im_end|>" in shown
    assert '{"name": "query_order", "arguments": {"order_id": "ORD-0"}}' in shown
    assert "row-1" not in shown
    assert not Path("runs").exists()


@pytest.mark.usefixtures("workspace")
def test_a_dry_run_says_what_would_happen_and_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*train("train.batch_size=2"), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "examples: 4, longest " in shown
    assert "training: 2 steps of 2 examples, about " in shown
    assert not Path("runs").exists()


@pytest.mark.usefixtures("workspace")
def test_ask_prints_the_calls_of_the_base_model_before_any_training(
    tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from toolhone.evaluate.decode import Completion

    asked: list[str] = []

    def decode(model: Any, prompts: Any, *_: Any) -> list[Completion]:
        asked.extend(map(tiny_tokenizer.decode, prompts))
        text = '<tool_call>{"name": "query_order", "arguments": {"order_id": "ORD-4"}}</tool_call><|im_end|>'
        ids = tiny_tokenizer(text, add_special_tokens=False)["input_ids"]
        return [Completion(ids, [0.0] * len(ids), [-9.0] * len(ids), stopped=True)]

    monkeypatch.setattr("toolhone.evaluate.predict.decode_greedily", decode)
    run = open_run(load_config(Path("try.yaml")))
    run.split("test").parent.mkdir(parents=True, exist_ok=True)
    run.split("test").write_text(json.dumps({**json.loads(line(4)), "tools": TOOLS}), encoding="utf-8")
    assert main(["ask", "--run", "runs/try", "--base", "where is it?"]) == 0
    assert capsys.readouterr().out == 'query_order({"order_id": "ORD-4"})\n'
    assert "where is it?" in asked[0]
    assert "Look up an order" in asked[0], "with the tools of the first test row"


@pytest.fixture
def answered(workspace: Path) -> Path:
    """Predictions of the test rows by two models, of which the second has both right."""
    for model, numbers in (("small", (4, 9)), ("large", (4, 5))):
        rows = [predicted(row, model, number) for row, number in zip((4, 5), numbers, strict=True)]
        Path(f"{model}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return workspace


def predicted(row: int, model: str, number: int) -> dict[str, Any]:
    text = json.dumps({"name": "query_order", "arguments": {"order_id": f"ORD-{number}"}})
    return {
        "id": f"row-{row}/1",
        "model": model,
        "text": f"<tool_call>{text}</tool_call>",
        "finish_reason": "stop",
        "prompt_tokens": 9,
        "completion_tokens": 9,
        "latency_ms": 9,
    }


SCORE = ["score", "--rows", "test.jsonl", "--tools", "tools.json", "--out", "scored", "--predictions"]


@pytest.mark.usefixtures("answered")
def test_predictions_are_scored_compared_and_reported_without_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SCORE, "small.jsonl", "large.jsonl"]) == 0
    shown = capsys.readouterr().out
    assert "test.jsonl: read as openai" in shown
    assert "small 50.0% to large 100.0% exact match" in shown
    assert "report: scored/report.html" in shown

    assert main(["compare", "scored"]) == 0
    shown = capsys.readouterr().out
    assert "2 models on the same 2 rows" in shown
    assert "-50.0" in shown  # from large to small, in the order of their names

    assert main(["compare", "scored/scores/small.jsonl", "scored/scores/large.jsonl", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["compare"][0]["mcnemar"] == {"first_only": 0, "second_only": 1, "p_value": 1.0}

    assert main(["report", "--scores", "scored/scores/large.jsonl", "--out", "large.html"]) == 0
    assert "large 100.0% exact match" in capsys.readouterr().out
    assert "large 100.0% exact match" in Path("large.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("answered")
def test_predictions_in_another_chat_format_are_read_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    written = Path("large.jsonl").read_text(encoding="utf-8")
    bare = written.replace("<tool_call>", "").replace("</tool_call>", "").replace("arguments", "parameters")
    Path("large.jsonl").write_text(bare, encoding="utf-8")
    assert main([*SCORE, "large.jsonl", "--chat-format", "llama3"]) == 0
    assert "large 100.0% exact match" in capsys.readouterr().out


@pytest.mark.usefixtures("answered")
def test_another_policy_is_named_in_the_figures_and_counts_what_it_excuses() -> None:
    written = Path("large.jsonl").read_text(encoding="utf-8").replace("ORD-", "ord ")
    Path("large.jsonl").write_text(written, encoding="utf-8")
    for policy, right, rules in (("strict", 0, {}), ("bfcl", 2, {"spelling": 2})):
        assert main([*SCORE, "large.jsonl", "--matching-policy", policy]) == 0
        found = json.loads(Path("scored/metrics.json").read_text(encoding="utf-8"))
        assert found["provenance"]["policy"] == policy
        assert found["models"]["large"]["exact_match"]["numerator"] == right
        assert found["models"]["large"]["rules"] == rules


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["score", "--predictions", "small.jsonl"],
            "--predictions: needs --rows, the predicted rows, and --out",
        ),
        ([*SCORE, "absent.jsonl"], "absent.jsonl: no such file"),
        ([*SCORE, "test.jsonl"], "test.jsonl:1: is not a prediction: "),
        (["score", "--run", "runs/x", "--rows", "test.jsonl"], "--rows: goes with files, not with --run"),
        (["report", "--run", "runs/x", "--out", "x.html"], "--out: goes with files, not with --run"),
        (["report", "--scores", "small.jsonl"], "--scores: needs --out, the file to write"),
        (["report", "--scores", "small.jsonl", "--out", "x.html"], "small.jsonl:1: not a score ("),
        (["compare", "small.jsonl"], "small.jsonl:1: not a score ("),
        (["compare", "absent"], "absent: no such file"),
    ],
)
@pytest.mark.usefixtures("answered")
def test_files_that_cannot_be_scored_or_compared_are_reported(fails: Fails, arguments: list[str], message: str) -> None:
    assert fails(*arguments).startswith(message)


def test_python_dash_m_gives_the_exit_code(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "toolhone", "data", "check", "absent.jsonl"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"Error: absent.jsonl: no such file (looked in {tmp_path})\n"


def test_an_interrupted_command_exits_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("toolhone.data.check.survey.check_files", interrupted)
    assert main(["data", "check", "x.jsonl"]) == 130
    assert capsys.readouterr().err == "\ninterrupted\n"


# Bad input: the config


def test_a_missing_config_is_reported_with_the_nearest(fails: Fails) -> None:
    assert fails("train", "--config", "tri.yaml") == "tri.yaml: no such config file (did you mean try.yaml?)"


def test_an_unknown_key_is_reported_with_its_line(fails: Fails) -> None:
    Path("try.yaml").write_text(CONFIG + "train:\n  epohcs: 2\n", encoding="utf-8")
    assert fails(*train()) == 'try.yaml:11: train.epohcs: unknown key (did you mean "epochs"?)'


def test_a_bad_override_is_reported(fails: Fails) -> None:
    assert fails(*train("train.epochs=none")).startswith("--set train.epochs=none: train.epochs: input should be a")


# Bad input: the data


@pytest.mark.parametrize("command", ["train", "check"])
def test_a_missing_data_file_is_reported(fails: Fails, workspace: Path, command: str) -> None:
    arguments = train("data.train=[absent.jsonl]") if command == "train" else ["data", "check", "absent.jsonl"]
    assert fails(*arguments) == f"absent.jsonl: no such file (looked in {workspace})"


def test_a_missing_file_of_tools_is_reported(fails: Fails) -> None:
    assert (
        fails(*train("data.tools=absent.json"))
        == "absent.json: no such file; give the file with the list of tools as data.tools or --tools"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (line(1)[:40], "broken JSON: Unterminated string starting at"),
        (
            line(1, "query_ordr"),
            'message 1: tool call "query_ordr" is not in tools (did you mean "query_order"?)',
        ),
        (
            line(1, arguments={"order_id": 7}),
            "message 1: arguments of \"query_order\": order_id: 7 is not of type 'string'",
        ),
        (
            line(1, arguments={}),
            "message 1: arguments of \"query_order\": 'order_id' is a required property",
        ),
        (line(1, arguments='"{}"'), "message 1: call 0: the arguments are encoded twice"),
        ('{"prompt": "hi"}', 'unknown key "prompt"; a row has '),
        (line(0), 'the id "row-0" is already at train.jsonl:1; ids must differ'),
    ],
    ids=["broken-json", "unknown-tool", "wrong-type", "missing-argument", "encoded-twice", "unknown-key", "same-id"],
)
def test_a_faulty_row_is_reported_with_its_line_by_check_and_by_train(
    fails: Fails, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    Path("train.jsonl").write_text(f"{line(0)}\n\n{text}\n", encoding="utf-8")
    assert main(["data", "check", "train.jsonl", "--tools", "tools.json"]) == 1
    assert f"  train.jsonl:3: {message}" in capsys.readouterr().out
    assert fails(*train()).startswith(f"train.jsonl:3: {message}")


def test_every_faulty_row_is_reported_in_one_message(fails: Fails) -> None:
    faulty = "\n".join(line(n, "zzz") for n in range(3))
    Path("train.jsonl").write_text(faulty, encoding="utf-8")
    messages = fails(*train()).splitlines()
    assert [found.partition(": ")[0] for found in messages] == ["train.jsonl:1", "train.jsonl:2", "train.jsonl:3"]


def test_a_test_row_that_is_trained_on_is_reported_with_both_places(fails: Fails) -> None:
    Path("test.jsonl").write_text(line(2), encoding="utf-8")
    assert fails(*train()).startswith("test.jsonl:1: the test row is also a training row at train.jsonl:3")


def test_an_over_long_example_is_reported_with_its_length_and_the_limit(fails: Fails) -> None:
    rows = [line(0), line(1, arguments={"order_id": "1234567890" * 100})]
    Path("train.jsonl").write_text("\n".join(rows), encoding="utf-8")
    message = fails(*train("chat.max_tokens=600", "evaluate.max_new_tokens=16"))
    place, _, length = message.partition(" turn 1 is ")
    assert place == "train.jsonl:2:"
    assert int(length.split()[0]) > 1000
    assert length.endswith(" tokens long and chat.max_tokens is 600; raise it, or set chat.over_long: drop")


def test_an_over_long_test_row_is_refused_even_if_training_rows_may_be_dropped(fails: Fails) -> None:
    rows = [line(4), line(5, arguments={"order_id": "1234567890" * 100})]
    Path("test.jsonl").write_text("\n".join(rows), encoding="utf-8")
    overrides = ("chat.max_tokens=600", "evaluate.max_new_tokens=16", "chat.over_long=drop")
    assert fails(*train(*overrides)).startswith("test.jsonl:2: turn 1 is ")


# Bad input: the model and the machine


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./absent", "model.name: no such folder: ./absent"),
        ("models/of/mine", "model.name: no such folder: models/of/mine"),
        ("some-owner/no-such-model", "model.name: some-owner/no-such-model cannot be loaded ("),
        ("empty", "model.name: empty has no config.json; expected a folder saved by transformers"),
    ],
)
def test_a_model_that_cannot_be_found_is_reported(fails: Fails, name: str, message: str) -> None:
    Path("empty").mkdir()
    assert fails(*train(f"model.name={name}")).startswith(message)


def test_a_folder_without_weights_is_reported_before_anything_is_written(fails: Fails, tiny_llama: Path) -> None:
    shutil.copytree(tiny_llama, "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    assert fails(*train("model.name=bare")).startswith("model.name: bare has no weights; ")


def test_an_adapter_target_that_names_no_layer_is_reported_before_anything_is_written(fails: Fails) -> None:
    message = "lora.targets: tiny has no layer qkv; known: down_proj, "
    assert fails(*train("lora.targets=[qkv]")).startswith(message)
    assert fails(*train("lora.targets=[qkv]"), "--dry-run").startswith(message)


def test_missing_cuda_is_reported(fails: Fails) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("CUDA is here")
    message = fails(*train("model.device=cuda"))
    assert message.startswith("model.device: cuda was asked for, but ")
    assert message.endswith("; set it to auto or cpu")


def test_a_template_that_leaves_out_the_tools_is_refused_if_the_config_names_it(fails: Fails, tiny_llama: Path) -> None:
    # As SmolLM2's own: ChatML, and not a word of tools.
    template = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    shutil.copytree(tiny_llama, "toolless")
    Path("toolless/chat_template.jinja").write_text(template, encoding="utf-8")
    assert fails(*train("model.name=toolless", "chat.template=model")) == (
        "chat.template: the template of toolless cannot be used: it leaves out the tools; set it to auto or toolhone"
    )
    assert main([*train("model.name=toolless"), "--dry-run"]) == 0, "auto takes toolhone's instead"


# Bad input: runs


def test_a_run_folder_of_another_config_is_refused_and_kept(fails: Fails) -> None:
    run = open_run(load_config(Path("try.yaml")))
    run.mark_finished("train", "abc")
    message = fails(*train("lora.rank=8"))
    assert message.startswith("runs/try: holds a run with another config (lora.rank is 8, was 16); ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["eval", "--run", "runs/absent"],
        ["score", "--run", "runs/absent"],
        ["report", "--run", "runs/absent"],
        ["ask", "--run", "runs/absent", "hi"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_missing_run_is_reported_with_the_existing_ones(fails: Fails, arguments: list[str]) -> None:
    assert fails(*arguments) == "runs/absent: is not a run folder; known: none yet, run `make train`"
    open_run(load_config(Path("try.yaml")))
    assert fails(*arguments) == "runs/absent: is not a run folder; known: runs/try"


def test_a_run_that_was_never_trained_is_reported(fails: Fails) -> None:
    run = open_run(load_config(Path("try.yaml")))
    assert fails("eval", "--run", "runs/try") == "runs/try: has no adapter yet; `toolhone train` makes it"
    assert fails("score", "--run", "runs/try").startswith("runs/try/manifest.json: does not record which rows")
    assert fails("report", "--run", "runs/try").startswith("runs/try/metrics.json: no such file; ")
    assert fails("ask", "--run", "runs/try", "hi") == "runs/try: has no adapter yet; `toolhone train` makes it"
    shutil.copytree("tiny", run.adapter)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (run.adapter / name).write_text("{}", encoding="utf-8")
    assert fails("eval", "--run", "runs/try").startswith("runs/try: its training has not finished; ")


def test_a_training_that_saved_no_adapter_does_not_count_as_finished(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from toolhone.train.trainer import ToolCallTrainer

    save = ToolCallTrainer.save_model

    def saves_no_adapter(self: ToolCallTrainer, folder: str, **keys: Any) -> None:
        """What Trainer does under FSDP with a sharded state dict."""
        if not folder.endswith("adapter"):
            save(self, folder, **keys)

    monkeypatch.setattr(ToolCallTrainer, "save_model", saves_no_adapter)
    assert main(train("evaluate.base=false")) == 2
    assert capsys.readouterr().err.startswith(
        "Error: runs/try/adapter: training has ended, but its adapter was not saved"
    )
    assert RunFolder(Path("runs/try")).stage("train") is None


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_that_lacks_a_file_is_reported_by_every_command_that_needs_it(fails: Fails, name: str) -> None:
    run = open_run(load_config(Path("try.yaml")))
    run.mark_finished("train", "abc")
    run.adapter.mkdir()
    for file in {"adapter_config.json", "adapter_model.safetensors"} - {name}:
        (run.adapter / file).write_text("{}", encoding="utf-8")
    expected = f"runs/try/adapter/{name}: is missing; restore it from a copy, or train again with --fresh (FRESH=1)"
    assert fails("eval", "--run", "runs/try") == expected
    assert fails("ask", "--run", "runs/try", "hi") == expected


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "--rows", "test.jsonl", "--endpoint-model", "m"),
        ("eval", "--run", "runs/try", "--suite", "bfcl", "--endpoint-model", "m"),
    ],
    ids=["predict", "suite"],
)
def test_a_launcher_may_not_ask_an_endpoint_once_for_each_process(
    fails: Fails, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert fails(*arguments, "--base-url", "http://127.0.0.1:9") == (
        "WORLD_SIZE: a launcher started 2 processes, and each would ask for every answer; start this "
        "command without a launcher"
    )


@pytest.mark.parametrize("flag", ["--batch-size", "--max-tokens"])
def test_a_limit_of_zero_rows_or_tokens_is_refused(fails: Fails, flag: str) -> None:
    run = open_run(load_config(Path("try.yaml")))
    run.mark_finished("train", "abc")
    run.adapter.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (run.adapter / name).write_text("{}", encoding="utf-8")
    message = fails("eval", "--run", "runs/try", flag, "0")
    key = {"--batch-size": "batch_size", "--max-tokens": "max_new_tokens"}[flag]
    assert message == f"--set evaluate.{key}=0: evaluate.{key}: input should be greater than or equal to 1, found 0"


def test_a_closed_pipe_gives_no_traceback() -> None:
    command = f"{sys.executable} -m toolhone config | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""
