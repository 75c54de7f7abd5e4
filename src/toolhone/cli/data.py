"""The commands of `toolhone data`: each reads its flags, calls one function, prints.

They share three flags: the sources, `--tools` for rows that carry none of their own, and `--format`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from toolhone.cli.terminal import plain_console
from toolhone.data.importers import IMPORTERS
from toolhone.data.write_formats import WRITERS
from toolhone.formats import FORMATS
from toolhone.records import Tool

if TYPE_CHECKING:
    from rich.console import Console

    from toolhone.data.convert import Converted


def add_data_commands(data: argparse.ArgumentParser) -> None:
    """Give `toolhone data` its commands."""
    commands = data.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_check(commands.add_parser("check", help="find what a model must not be taught, and fix what can be fixed"))
    _add_split(commands.add_parser("split", help="training, validation, calibration and test rows, with no leakage"))
    _add_stats(commands.add_parser("stats", help="what a data set is made of"))
    _add_convert(commands.add_parser("convert", help="write rows as OpenAI's, Hermes' or xLAM's format"))
    _add_augment(commands.add_parser("augment", help="shuffle, add, rename and take away tools in training rows"))
    _add_generate(commands.add_parser("generate", help="make rows from a spec of templates and slots"))
    _add_paraphrase(commands.add_parser("paraphrase", help="have an endpoint reword what users say"))
    _add_review(commands.add_parser("review", help="a sheet of doubtful rows to mark, and the marks read back"))
    _add_preview(commands.add_parser("preview", help="show rows as the model sees them: prompt dim, labels bright"))


def _add_check(parser: argparse.ArgumentParser) -> None:
    _add_sources(parser)
    parser.add_argument("--profile", choices=("openai",), help="OpenAI's own rules for fine-tuning files as well")
    parser.add_argument("--near", action="store_true", help="look for near duplicates too (keeps texts in memory)")
    parser.add_argument("--tokenizer", help="a model's name or folder: turns must read back, tokens are counted")
    parser.add_argument("--chat-format", choices=("auto", *FORMATS), help="the format turns are written in")
    parser.add_argument("--max-tokens", type=_count, help="the longest example; needs --tokenizer")
    parser.add_argument("--fix", type=Path, metavar="OUT", help="write a fixed copy, and check that")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    from toolhone.data.check.survey import check_files
    from toolhone.report.check_findings import print_findings

    console = plain_console()
    check = check_files(
        options.sources,
        options.tools,
        format=options.format,
        profile=options.profile,
        tokenizer=options.tokenizer,
        chat_format=options.chat_format,
        max_tokens=options.max_tokens,
        near=options.near,
        fix=options.fix,
        console=console,
    )
    return print_findings(check, console, as_json=options.json)


def _add_split(parser: argparse.ArgumentParser) -> None:
    _add_sources(parser)
    parser.add_argument("--out", type=Path, required=True, help="the folder for the four files and split.json")
    for side, share in (("validation", 0.1), ("calibration", 0.1), ("test", 0.2)):
        parser.add_argument(f"--{side}", type=float, default=share, help="its share of the rows (default: %(default)s)")
    parser.add_argument("--group-by", default="template", help="the key in meta of rows that stay together, or none")
    parser.add_argument("--unseen-tools", type=float, default=0.0, help="the share of tools kept for the test alone")
    parser.add_argument("--salt", default="", help="another text gives another split; auto: the most even of 64")
    parser.add_argument("--no-near", action="store_true", help="do not keep near duplicates together (less memory)")
    parser.add_argument("--against", action="append", default=[], metavar="SOURCE", help="rows that may not leak in")
    parser.add_argument("--allow-leakage", action="store_true", help="say how much leaks instead of refusing")
    parser.set_defaults(run=_split)


def _split(options: argparse.Namespace) -> int:
    from toolhone.data.split import Shares
    from toolhone.data.split_files import show, split_files

    console = plain_console()
    result = split_files(
        options.sources,
        options.out,
        Shares(validation=options.validation, calibration=options.calibration, test=options.test),
        default_tools=_tools(options),
        format=options.format,
        group_by=None if options.group_by == "none" else options.group_by,
        unseen_tools=options.unseen_tools,
        salt=options.salt,
        near=not options.no_near,
        against=options.against,
        allow_leakage=options.allow_leakage,
        console=console,
    )
    show(result, console)
    return 0


def _add_stats(parser: argparse.ArgumentParser) -> None:
    _add_sources(parser)
    parser.add_argument("--tokenizer", help="a model's name or folder: counts tokens and what rows share")
    parser.add_argument("--html", type=Path, help="write a page with plots")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_stats)


def _stats(options: argparse.Namespace) -> int:
    from toolhone.data.sources import print_formats
    from toolhone.data.stats import data_stats
    from toolhone.report.stats import show_stats

    console = plain_console()
    tools = _tools(options)
    if not options.json:
        print_formats(options.sources, options.format, console)
    stats = data_stats(
        options.sources, tools=tools, format=options.format, tokenizer=options.tokenizer, console=console
    )
    show_stats(stats, options.sources, console, html=options.html, as_json=options.json)
    return 0


def _add_convert(parser: argparse.ArgumentParser) -> None:
    _add_sources(parser)
    parser.add_argument("--to", required=True, choices=tuple(WRITERS), help="the format to write")
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    parser.add_argument("--keep-extra", action="store_true", help="keep toolhone's own keys where there is a place")
    parser.set_defaults(run=_convert)


def _convert(options: argparse.Namespace) -> int:
    from toolhone.data.convert import convert

    console = plain_console()
    report = convert(
        options.sources,
        options.to,
        options.out,
        tools=options.tools,
        format=options.format,
        keep_extra=options.keep_extra,
        console=console,
    )
    show_conversion(report, options.to, options.out, console)
    return 0


def show_conversion(report: Converted, to: str, out: Path, console: Console) -> None:
    """Print what was written, and a line for every loss."""
    written = f"{report.written:,} of {report.read:,} rows as {to}, {report.lossless:,} of them without any loss"
    console.print(f"{out}: {written}", markup=False)
    for loss in report.sorted():
        more = ", ..." if loss.count > len(loss.places) else ""
        rows = f"{loss.count:,} row{'' if loss.count == 1 else 's'}"
        kind = {"left out": "left out, {}", "lost": "lost in {}", "in reading": "fault in reading, {}"}[loss.kind]
        console.print(f"  {kind.format(rows)}: {loss.reason} ({', '.join(loss.places)}{more})", markup=False)


def _add_augment(parser: argparse.ArgumentParser) -> None:
    _add_sources(parser)
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    parser.add_argument("--shuffle-tools", action="store_true", help="put each row's tools in another order")
    parser.add_argument("--distractors", type=int, default=0, help="tools of other rows to offer as well")
    parser.add_argument("--pool", type=Path, help="a JSON list of tools to take distractors from as well")
    parser.add_argument(
        "--mask-names", type=float, default=0.0, help="the share of rows whose names become meaningless"
    )
    parser.add_argument("--irrelevance", type=float, default=0.0, help="the share of rows that lose the right tool")
    parser.add_argument(
        "--escalate",
        metavar="KEY",
        help="answer rows whose meta KEY is true with the reserved call escalate, which all rows then offer",
    )
    parser.add_argument("--seed", type=int, default=7)
    parser.set_defaults(run=_augment)


def _augment(options: argparse.Namespace) -> int:
    from toolhone.data.augment import Augmentation, augment_files
    from toolhone.data.read import read_tools

    augmentation = Augmentation(
        shuffle_tools=options.shuffle_tools,
        distractors=options.distractors,
        mask_names=options.mask_names,
        irrelevance=options.irrelevance,
        escalate=options.escalate,
        seed=options.seed,
    )
    done = augment_files(
        options.sources,
        options.out,
        augmentation,
        default_tools=_tools(options),
        format=options.format,
        pool=read_tools(options.pool) if options.pool else (),
        console=plain_console(),
    )
    print(f"{options.out}: " + ", ".join(f"{count:,} {what}" for what, count in done.items() if count))
    return 0


def _add_generate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", type=Path, help="a YAML spec")
    parser.add_argument("--out", type=Path, help="the file (several outputs: the folder); default: beside the spec")
    parser.add_argument("--check", action="store_true", help="compare with the files there instead of writing")
    parser.set_defaults(run=_generate)


def _generate(options: argparse.Namespace) -> int:
    from toolhone.data.generate.rows import generate

    return 0 if generate(options.spec, plain_console(), out=options.out, compare=options.check) else 1


def _add_paraphrase(parser: argparse.ArgumentParser) -> None:
    _add_sources(parser)
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    parser.add_argument("--model", required=True, help="the model to ask")
    parser.add_argument("--base-url", required=True, help="an OpenAI-compatible endpoint; its key: OPENAI_API_KEY")
    parser.add_argument("--per-row", type=_count, default=3, help="paraphrases of a row (default: %(default)s)")
    parser.add_argument("--max-calls", type=int, help="stop after so many calls")
    parser.add_argument("--max-usd", type=float, help="stop before so many dollars are spent")
    parser.add_argument("--price-in", type=float, help="dollars for a million prompt tokens")
    parser.add_argument("--price-out", type=float, help="dollars for a million completion tokens")
    parser.add_argument("--concurrency", type=_count, default=4, help="calls at once (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for a call (default: %(default)s)")
    parser.add_argument("--retries", type=int, default=4, help="of a call that failed (default: %(default)s)")
    parser.add_argument("--max-tokens", type=_count, default=2048, help="of an answer (default: %(default)s)")
    parser.add_argument("--only-new", action="store_true", help="write the paraphrases without the source rows")
    parser.set_defaults(run=_paraphrase)


def _paraphrase(options: argparse.Namespace) -> int:
    from toolhone.data.paraphrase import ParaphraseSettings, paraphrase

    settings = ParaphraseSettings(
        model=options.model,
        base_url=options.base_url,
        per_row=options.per_row,
        max_calls=options.max_calls,
        max_usd=options.max_usd,
        price_in=options.price_in,
        price_out=options.price_out,
        concurrency=options.concurrency,
        timeout_s=options.timeout,
        retries=options.retries,
        max_tokens=options.max_tokens,
        only_new=options.only_new,
    )
    paraphrase(options.sources, options.out, settings, plain_console(), tools=_tools(options), format=options.format)
    return 0


def _add_review(parser: argparse.ArgumentParser) -> None:
    _add_sources(parser)
    parser.add_argument("--out", type=Path, required=True, help="the sheet (.html or .csv); with --apply the new rows")
    parser.add_argument("--predictions", type=Path, help="a model's predictions or scores: disagreement is doubt")
    parser.add_argument("--chat-format", choices=tuple(FORMATS), default="hermes", help="of predictions' texts")
    parser.add_argument("--rows", type=_count, default=200, help="turns on the sheet (default: %(default)s)")
    parser.add_argument("--random-share", type=float, default=0.5, help="share drawn at random, for the accuracy")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--apply", type=Path, metavar="MARKS", help="read marks (.csv or .json) back into the rows")
    parser.add_argument(
        "--wrong", choices=("drop", "weight"), default="drop", help="rows marked wrong: out, or weight 0"
    )
    parser.set_defaults(run=_review)


def _review(options: argparse.Namespace) -> int:
    from toolhone.data.review.marks import apply_marks
    from toolhone.report.review_sheet import write_sheet

    console, tools = plain_console(), _tools(options)
    if options.apply:
        apply_marks(
            options.sources,
            options.apply,
            options.out,
            console,
            tools=tools,
            format=options.format,
            wrong=options.wrong,
        )
        return 0
    write_sheet(
        options.sources,
        options.out,
        console,
        tools=tools,
        format=options.format,
        predictions=options.predictions,
        chat_format=options.chat_format,
        rows=options.rows,
        random_share=options.random_share,
        seed=options.seed,
    )
    return 0


def _add_preview(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, help="the experiment's YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one key")
    parser.add_argument("--rows", type=_count, default=3, help="how many (default: %(default)s)")
    parser.add_argument("--html", type=Path, help="write a page instead: every token with its borders")
    parser.set_defaults(run=_preview)


def _preview(options: argparse.Namespace) -> int:
    from toolhone.config_file import load_config
    from toolhone.pipeline import prepare
    from toolhone.report.preview import show_preview

    config, console = load_config(options.config, options.set), plain_console()
    prepared = prepare(config, console=console)
    show_preview(config, prepared.renderer, prepared.train, options.rows, console, options.html)
    return 0


def _add_sources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", nargs="+", help="files, folders, globs or hub:owner/name[:split]")
    parser.add_argument("--tools", type=Path, help="a JSON list of tools, for rows without any of their own")
    parser.add_argument(
        "--format", choices=("auto", *IMPORTERS), default="auto", help="the rows' format (default: detected)"
    )


def _tools(options: argparse.Namespace) -> tuple[Tool, ...]:
    from toolhone.data.read import read_tools

    return read_tools(options.tools) if options.tools else ()


def _count(text: str) -> int:
    """A flag's value that counts something: 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, found {value}")
    return value
