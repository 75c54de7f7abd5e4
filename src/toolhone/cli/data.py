"""The commands of `toolhone data`. Most take sources, --tools for rows that have none of their own, and --format."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolhone.cli import flags
from toolhone.cli.terminal import plain_console
from toolhone.data.read import read_tools
from toolhone.data.write_formats import WRITERS
from toolhone.formats import FORMATS

if TYPE_CHECKING:
    from rich.console import Console

    from toolhone.data.convert import Converted


def add_data_commands(groups: Any) -> None:
    """Add `data` and its commands."""
    data = groups.add_parser("data", help="conversations: check, split, stats, convert, make, review")
    commands = data.add_subparsers(title="commands", required=True, metavar="COMMAND")
    from_rows = (_add_check, _add_split, _add_stats, _add_convert, _add_augment, _add_paraphrase, _add_review)
    for add_command in (*from_rows, _add_generate, _add_preview):
        add_command(commands)


def _command_on_rows(commands: Any, name: str, run: flags.Run, about: str) -> argparse.ArgumentParser:
    parser = flags.command(commands, name, run, about)
    parser.add_argument("sources", nargs="+", help="files, folders, globs or hub:owner/name[:split]")
    flags.add(parser, "--tools", "--format")
    return parser


def _add_check(commands: Any) -> None:
    add = _command_on_rows(commands, "check", _check, "find faulty rows, and fix what can be fixed").add_argument
    add("--profile", choices=("openai",), help="also check OpenAI's rules for fine-tuning files")
    add("--near", action="store_true", help="also find near duplicates (keeps texts in memory)")
    add("--tokenizer", help="name or folder of a model: check that turns parse back, and count tokens")
    formats = ("auto", *FORMATS)
    add("--chat-format", choices=formats, help="format that turns are written in (default: auto)")
    add("--max-tokens", type=flags.count, metavar="N", help="token limit of an example; needs --tokenizer")
    add("--fix", type=Path, metavar="OUT", help="write a fixed copy, and check it")
    add("--json", action="store_true", help="print JSON")


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


def _add_split(commands: Any) -> None:
    about = "training, validation, calibration and test rows, with no leakage"
    add = _command_on_rows(commands, "split", _split, about).add_argument
    add("--out", type=Path, required=True, help="folder for the four files and split.json")
    for side, share in (("validation", 0.1), ("calibration", 0.1), ("test", 0.2)):
        add(f"--{side}", type=float, default=share, help=f"share of {side} rows (default: {share})")
    add("--group-by", default="template", help="meta key of rows that stay together, or none (default: %(default)s)")
    add("--unseen-tools", type=float, default=0.0, help="share of tools that only test rows call (default: 0)")
    add("--salt", default="", help="any other text gives another split; auto: the most even of 64")
    add("--no-near", dest="near", action="store_false", help="do not keep near duplicates together (takes less memory)")
    add("--against", action="append", default=[], metavar="SOURCE", help="rows that must not leak in")
    add("--allow-leakage", action="store_true", help="report leakage instead of refusing")


def _split(options: argparse.Namespace) -> None:
    from toolhone.data.split import Shares
    from toolhone.data.split_files import show, split_files

    console = plain_console()
    result = split_files(
        options.sources,
        options.out,
        Shares(validation=options.validation, calibration=options.calibration, test=options.test),
        default_tools=flags.tools_of(options),
        format=options.format,
        group_by=None if options.group_by == "none" else options.group_by,
        unseen_tools=options.unseen_tools,
        salt=options.salt,
        near=options.near,
        against=options.against,
        allow_leakage=options.allow_leakage,
        console=console,
    )
    show(result, console)


def _add_stats(commands: Any) -> None:
    add = _command_on_rows(commands, "stats", _stats, "what a data set is made of").add_argument
    add("--tokenizer", help="name or folder of a model: count tokens and what rows share")
    add("--html", type=Path, help="write a page with plots")
    add("--json", action="store_true", help="print JSON")


def _stats(options: argparse.Namespace) -> None:
    from toolhone.data.sources import print_formats
    from toolhone.data.stats import data_stats
    from toolhone.report.stats import show_stats

    console, tools = plain_console(), flags.tools_of(options)
    if not options.json:
        print_formats(options.sources, options.format, console)
    stats = data_stats(
        options.sources, tools=tools, format=options.format, tokenizer=options.tokenizer, console=console
    )
    show_stats(stats, options.sources, console, html=options.html, as_json=options.json)


def _add_convert(commands: Any) -> None:
    about = "write rows in the format of OpenAI, Hermes or xLAM"
    add = _command_on_rows(commands, "convert", _convert, about).add_argument
    add("--to", required=True, choices=tuple(WRITERS), help="format to write")
    add("--out", type=Path, required=True, help="file to write")
    add("--keep-extra", action="store_true", help="keep toolhone's own keys if the format has a place for them")


def _convert(options: argparse.Namespace) -> None:
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


def show_conversion(report: Converted, to: str, out: Path, console: Console) -> None:
    """Print what was written, and a line for every loss."""
    written = f"{report.written:,} of {report.read:,} rows as {to}, {report.lossless:,} of them without any loss"
    console.print(f"{out}: {written}", markup=False)
    for loss in report.sorted():
        more = ", ..." if loss.count > len(loss.places) else ""
        rows = f"{loss.count:,} row{'' if loss.count == 1 else 's'}"
        kind = {"left out": "left out, {}", "lost": "lost in {}", "in reading": "fault in reading, {}"}[loss.kind]
        console.print(f"  {kind.format(rows)}: {loss.reason} ({', '.join(loss.places)}{more})", markup=False)


def _add_augment(commands: Any) -> None:
    about = "shuffle, add, rename and remove tools in training rows"
    add = _command_on_rows(commands, "augment", _augment, about).add_argument
    add("--out", type=Path, required=True, help="file to write")
    add("--shuffle-tools", action="store_true", help="shuffle the tools of each row")
    add("--distractors", type=int, default=0, metavar="N", help="tools of other rows to add to each row (default: 0)")
    add("--pool", type=Path, help="JSON list of more tools to take distractors from")
    add("--mask-names", type=float, default=0.0, help="share of rows whose tools get meaningless names (default: 0)")
    add("--irrelevance", type=float, default=0.0, help="share of rows that lose the right tool (default: 0)")
    escalate = "answer rows whose meta KEY is true with the reserved call escalate; all rows then offer it"
    add("--escalate", metavar="KEY", help=escalate)
    add("--seed", type=int, default=7, help="seed of the random choices (default: %(default)s)")


def _augment(options: argparse.Namespace) -> None:
    from toolhone.data.augment import Augmentation, augment_files

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
        default_tools=flags.tools_of(options),
        format=options.format,
        pool=read_tools(options.pool) if options.pool else (),
        console=plain_console(),
    )
    print(f"{options.out}: " + ", ".join(f"{count:,} {what}" for what, count in done.items() if count))


def _add_generate(commands: Any) -> None:
    add = flags.command(commands, "generate", _generate, "make rows from a spec of templates and slots").add_argument
    add("spec", type=Path, help="a YAML spec")
    add("--out", type=Path, help="file to write (several outputs: folder; default: beside the spec)")
    add("--check", action="store_true", help="compare with the existing files instead of writing")


def _generate(options: argparse.Namespace) -> int:
    from toolhone.data.generate.rows import generate

    return 0 if generate(options.spec, plain_console(), out=options.out, compare=options.check) else 1


def _add_paraphrase(commands: Any) -> None:
    parser = _command_on_rows(commands, "paraphrase", _paraphrase, "have an endpoint reword what users say")
    add = parser.add_argument
    add("--out", type=Path, required=True, help="file to write")
    add("--model", required=True, help="the model to ask for")
    add("--base-url", required=True, help="address of an OpenAI-compatible endpoint (its key: OPENAI_API_KEY)")
    add("--per-row", type=flags.count, default=3, help="paraphrases of a row (default: %(default)s)")
    flags.add_endpoint_limits(parser, max_tokens=2048, concurrency=4, retries=4)
    add("--only-new", action="store_true", help="write the paraphrases without the source rows")


def _paraphrase(options: argparse.Namespace) -> None:
    from toolhone.data.paraphrase import ParaphraseSettings, paraphrase

    settings = ParaphraseSettings(
        model=options.model,
        base_url=options.base_url,
        per_row=options.per_row,
        only_new=options.only_new,
        **flags.endpoint_limits_of(options),
    )
    tools = flags.tools_of(options)
    paraphrase(options.sources, options.out, settings, plain_console(), tools=tools, format=options.format)


def _add_review(commands: Any) -> None:
    about = "write a sheet of doubtful rows to mark, or apply the marks"
    parser = _command_on_rows(commands, "review", _review, about)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="sheet to write (.html or .csv); with --apply: the new rows")
    add("--predictions", type=Path, help="a model's predictions or scores: rows that differ are doubtful")
    flags.add(parser, "--chat-format")
    add("--rows", type=flags.count, default=200, help="turns on the sheet (default: %(default)s)")
    add("--random-share", type=float, default=0.5, help="share drawn at random, to estimate accuracy (default: 0.5)")
    add("--seed", type=int, default=7, help="seed of the random choices (default: %(default)s)")
    add("--apply", type=Path, metavar="MARKS", help="apply marks (.csv or .json) to the rows")
    add("--wrong", choices=("drop", "weight"), default="drop", help="drop rows marked wrong, or give them weight 0")


def _review(options: argparse.Namespace) -> None:
    from toolhone.data.review import apply_marks
    from toolhone.report.review_sheet import write_sheet

    console, tools = plain_console(), flags.tools_of(options)
    if options.apply:
        sources, marks, out = options.sources, options.apply, options.out
        apply_marks(sources, marks, out, console, tools=tools, format=options.format, wrong=options.wrong)
        return
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


def _add_preview(commands: Any) -> None:
    about = "show rows as the model sees them: prompt dim, labels bright"
    parser = flags.command(commands, "preview", _preview, about)
    flags.add(parser, "--config", "--set")
    parser.add_argument("--rows", type=flags.count, default=3, help="number of rows (default: %(default)s)")
    parser.add_argument("--html", type=Path, help="write a page instead, with the borders of every token")


def _preview(options: argparse.Namespace) -> None:
    from toolhone.prepare import prepare
    from toolhone.report.preview import show_preview

    config, console = flags.config_of(options), plain_console()
    prepared = prepare(config, console=console)
    show_preview(config, prepared.renderer, prepared.train, options.rows, console, options.html)
