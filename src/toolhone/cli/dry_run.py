"""`toolhone train --dry-run`: what a run would take, shown before any weight is loaded."""

from __future__ import annotations

from rich.console import Console

from toolhone.config import Config
from toolhone.pipeline import prepare
from toolhone.pretrained import load_model_config
from toolhone.train.estimate import estimate
from toolhone.train.preflight import refuse_untrainable
from toolhone.train.trainer import prefix_sampler


def dry_run(config: Config, console: Console) -> None:
    """Print examples, tokens, steps, parameters, memory and time."""
    prepared = prepare(config, console=console)
    refuse_untrainable(config)
    rows = [row.tokens for row in prepared.train]
    order = list(prefix_sampler(prepared.train, config.train, config.seed))
    found = estimate(config, prepared.hardware, load_model_config(config.model), rows, order)
    share = found.trainable_parameters / found.total_parameters
    labelled = found.labelled_tokens / found.logical_tokens
    ratio = found.logical_tokens / found.computed_tokens
    kind = "GPU memory" if prepared.hardware.device == "cuda" else "memory"
    console.print(f"  examples: {found.examples}, longest {found.longest} tokens (limit {config.chat.max_tokens})")
    console.print(
        f"  tokens: {found.logical_tokens:,} a pass, of which {found.labelled_tokens:,} ({labelled:.1%}) are learned"
    )
    console.print(
        f"  computed: {found.computed_tokens:,} tokens a pass with packing {config.train.packing} (1/{ratio:.1f})"
    )
    console.print(f"  steps: {found.steps} of {found.effective_batch} examples")
    console.print(f"  trainable parameters: {found.trainable_parameters:,} of {found.total_parameters:,} ({share:.2%})")
    console.print(f"  peak {kind}: about {found.memory_gb:.1f} GB")
    console.print(f"  training time: about {_duration(found.seconds)}, evaluation not counted")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
