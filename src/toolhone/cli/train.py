"""The commands that train: `toolhone train`, its dry run, and `toolhone learning-curve`."""

from __future__ import annotations

import argparse
from typing import Any

from toolhone.cli import flags
from toolhone.cli.terminal import plain_console, show_result


def add_train_commands(commands: Any) -> None:
    """Add `train` and `learning-curve`."""
    train = flags.command(commands, "train", _train, "train, evaluate and report one experiment")
    flags.add(train, "--config", "--set")
    train.add_argument("--dry-run", action="store_true", help="say what would happen; load no weights")
    old = train.add_mutually_exclusive_group()  # together they would delete the checkpoint to continue from
    old.add_argument("--resume", action="store_true", help="continue from the last complete checkpoint")
    old.add_argument("--fresh", action="store_true", help="delete the contents of the run folder and start again")

    about = "would more data help? train and score at several sizes"
    curve = flags.command(commands, "learning-curve", _learning_curve, about)
    flags.add(curve, "--config", "--set")
    about = "numbers of training conversations, for example 50,100,200,500"
    curve.add_argument("--sizes", type=_sizes, required=True, metavar="N,N,...", help=about)


def _train(options: argparse.Namespace) -> int:
    if options.dry_run:
        _dry_run(options)
        return 0
    from toolhone.pipeline import run_experiment

    config, console = flags.config_of(options), plain_console()
    run = run_experiment(config, resume=options.resume, fresh=options.fresh, console=console)
    if run is None:
        return 130
    show_result(run.path)
    return 0


def _dry_run(options: argparse.Namespace) -> None:
    """Print examples, tokens, steps, parameters, memory and time, before any weight is loaded."""
    from toolhone.prepare import prepare
    from toolhone.pretrained import load_model_config
    from toolhone.train.estimate import estimate
    from toolhone.train.preflight import refuse_untrainable
    from toolhone.train.trainer import prefix_sampler

    config, console = flags.config_of(options), plain_console()
    prepared = prepare(config, console=console)
    refuse_untrainable(config)
    rows = [row.tokens for row in prepared.train]
    order = list(prefix_sampler(prepared.train, config.train, config.seed))
    found = estimate(config, prepared.hardware, load_model_config(config.model), rows, order)
    share = found.trainable_parameters / found.total_parameters
    labelled = found.labelled_tokens / found.logical_tokens
    ratio = found.logical_tokens / found.computed_tokens
    kind = "GPU memory" if prepared.hardware.device == "cuda" else "memory"
    for line in (
        f"examples: {found.examples}, longest {found.longest} tokens (limit {config.chat.max_tokens})",
        f"tokens: {found.logical_tokens:,} a pass, of which {found.labelled_tokens:,} ({labelled:.1%}) are learned",
        f"computed: {found.computed_tokens:,} tokens a pass with packing {config.train.packing} (1/{ratio:.1f})",
        f"steps: {found.steps} of {found.effective_batch} examples",
        f"trainable parameters: {found.trainable_parameters:,} of {found.total_parameters:,} ({share:.2%})",
        f"peak {kind}: about {found.memory_gb:.1f} GB",
        f"training time: about {_duration(found.seconds)}, evaluation not counted",
    ):
        console.print(f"  {line}")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _sizes(text: str) -> list[int]:
    try:
        return [int(size) for size in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers such as 50,100,200, found {text}") from None


def _learning_curve(options: argparse.Namespace) -> int:
    from toolhone.learning_curve import learning_curve

    path = learning_curve(flags.config_of(options), options.sizes, plain_console())
    return 130 if path is None else 0
