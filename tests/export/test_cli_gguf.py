"""`toolhone export --gguf`, with a converter that writes only the template and its own arguments into the file."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from toolhone.cli import main
from toolhone.export.gguf import LLAMA_CPP
from toolhone.export.gguf_file import gguf_metadata
from toolhone.run_folder import RunFolder

SCRIPT = """
import pathlib, struct, sys
template = pathlib.Path(sys.argv[1], "chat_template.jinja").read_text(encoding="utf-8")
def text(value):
    return struct.pack("<Q", len(value.encode())) + value.encode()
pairs = {"tokenizer.chat_template": template, "arguments": " ".join(sys.argv[2:-1])}
packed = b"".join(text(key) + struct.pack("<I", 8) + text(value) for key, value in pairs.items())
pathlib.Path(sys.argv[-1]).write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + packed)
"""


@pytest.fixture(autouse=True)
def llama_cpp(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("llama.cpp")
    for name in ("convert_hf_to_gguf.py", "convert_lora_to_gguf.py"):
        (folder / name).write_text(SCRIPT, encoding="utf-8")
    monkeypatch.setenv(LLAMA_CPP, str(folder))


def served(folder: Path, tools: Path) -> list[str]:
    """Return the arguments that the export's launch file gives to llama-server."""
    tools.mkdir()
    program = tools / "llama-server"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "GGUF": "base.gguf"}
    script = folder / "launch" / "llama.cpp.sh"
    done = subprocess.run([script], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_merged_weights_get_a_gguf_file_a_launch_file_that_names_it_and_a_modelfile(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", str(run.path), "--merge", "f32", "--prompts", "1", "--gguf", "q8_0", "--ollama"]
    assert main(arguments) == 0
    folder = run.path / "export" / "merged-f32"
    found = gguf_metadata(folder / "shop-q8_0.gguf")
    assert found["tokenizer.chat_template"] == (folder / "chat_template.jinja").read_text(encoding="utf-8")
    assert found["arguments"] == "--outtype q8_0 --model-name shop --outfile"
    assert (folder / "Modelfile").read_text(encoding="utf-8").startswith("FROM ./shop-q8_0.gguf\n")
    assert 'PARAMETER stop "<|im_end|>"\n' in (folder / "Modelfile").read_text(encoding="utf-8")
    printed = capsys.readouterr().out
    assert f"for Ollama: ollama create shop -f {folder}/Modelfile\n" in printed
    assert f"toolhone verify --run {run.path} --gguf {folder}/shop-q8_0.gguf\n" in printed
    words = served(folder, tmp_path / "bin")
    assert words[words.index("-m") + 1] == str((folder / "shop-q8_0.gguf").resolve())


def test_an_adapter_gets_a_gguf_file_of_its_own(run: RunFolder, tmp_path: Path) -> None:
    assert main(["export", str(run.path), "--gguf", "f32"]) == 0
    folder = run.path / "export" / "adapter"
    assert (folder / "shop-lora-f32.gguf").is_file()
    words = served(folder, tmp_path / "bin")
    assert words[words.index("--lora") + 1] == str((folder / "shop-lora-f32.gguf").resolve())


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--gguf", "q9"], "--gguf: unknown type q9; expected one of f32, bf16, q8_0, "),
        (["--gguf", "q4_k_m"], "--gguf: q4_k_m is for merged weights; add --merge, or choose f32 or "),
        (["--gguf", "f32", "--ollama"], "--ollama: needs --merge and --gguf, "),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_export(
    run: RunFolder, capsys: pytest.CaptureFixture[str], arguments: list[str], error: str
) -> None:
    assert main(["export", str(run.path), *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"Error: {error}")
    assert not (run.path / "export").exists()
