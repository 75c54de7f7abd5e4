"""Keeps off the terminal what libraries say of themselves and a user can do nothing about. Each line has its reason."""

from __future__ import annotations

import logging
import os
import warnings


def hush_libraries() -> None:
    """Call before the libraries are imported."""
    # It warns at every fork of a process that has used a tokenizer.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # On import it asks for an optional CPU kernel that nothing here needs.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # TRL and PEFT still use names that transformers 5 is renaming.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft)\b")
    # FSDP is only looked at, not used, by the code that warns on one process.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\b")
