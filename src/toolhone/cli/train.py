"""The commands that train: `toolhone train`, its dry run, and `toolhone learning-curve`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from toolhone.cli import flags
from toolhone.cli.terminal import plain_console, show_result
from toolhone.errors import Interrupted


def add_train_commands(commands: Any) -> None:
    """Add `train` and `learning-curve`."""
    train = flags.command(commands, "train", _train, "train, evaluate and report one experiment")
    flags.add(train, "--config", "--set")
    train.add_argument(
        "--dry-run", action="store_true", help="print the stages, their time and the memory; load no weights"
    )
    old = train.add_mutually_exclusive_group()  # --fresh would delete the checkpoint that --resume needs
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
    from toolhone.hub import reach_hub_or_cache
    from toolhone.run_folder import RUNS, RunFolder

    config, console = flags.config_of(options), plain_console()
    with _report_interrupt_before_run("nothing was written yet"):
        reach_hub_or_cache(
            config.model.name, config.model.revision
        )  # first, because the libraries take seconds to load
        from toolhone.pipeline import interruption, run_experiment

        run = run_experiment(config, resume=options.resume, fresh=options.fresh, console=console)
    if run is None:
        raise interruption(RunFolder(RUNS / config.name))
    show_result(run.path, is_new=True)
    return 0


@contextmanager
def _report_interrupt_before_run(kept: str) -> Iterator[None]:
    """Report what is kept on Ctrl-C before a run begins. Later, the error itself reports it."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise error if isinstance(error, Interrupted) else Interrupted(kept) from None


def _dry_run(options: argparse.Namespace) -> None:
    """Print examples, tokens, parameters, stages, time and memory, before any weight is loaded."""
    from toolhone.hub import reach_hub_or_cache

    config, console = flags.config_of(options), plain_console()
    reach_hub_or_cache(config.model.name, config.model.revision)
    from toolhone.plan import make_plan
    from toolhone.prepare import prepare
    from toolhone.train.preflight import refuse_untrainable

    prepared = prepare(config, console=console)
    config = prepared.config
    refuse_untrainable(config)
    plan = make_plan(prepared)
    found = plan.training
    share = found.trainable_parameters / found.total_parameters
    labelled = found.labelled_tokens / found.logical_tokens
    ratio = found.logical_tokens / found.computed_tokens
    for line in (
        f"examples: {found.examples}, longest {found.longest} tokens (limit {config.chat.max_tokens})",
        f"tokens: {found.logical_tokens:,} a pass, of which {found.labelled_tokens:,} ({labelled:.1%}) are learned",
        f"computed: {found.computed_tokens:,} tokens a pass with packing {config.train.packing} (1/{ratio:.1f})",
        f"trainable parameters: {found.trainable_parameters:,} of {found.total_parameters:,} ({share:.2%})",
    ):
        console.print(f"  {line}")
    plan.print(console)


def _sizes(text: str) -> list[int]:
    try:
        return [int(size) for size in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers such as 50,100,200, found {text}") from None


def _learning_curve(options: argparse.Namespace) -> int:
    with _report_interrupt_before_run("finished sizes are kept"):
        from toolhone.learning_curve import learning_curve

        learning_curve(flags.config_of(options), options.sizes, plain_console())
    return 0
