"""The commands of `toolhone data`. Most take sources, --tools for rows without tools, and --format."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolhone.cli import flags
from toolhone.cli.doubt import add_doubt, add_import_decisions
from toolhone.cli.terminal import plain_console
from toolhone.data.read import read_tools
from toolhone.data.write_formats import WRITERS
from toolhone.errors import UserError
from toolhone.formats import FORMATS

if TYPE_CHECKING:
    from rich.console import Console

    from toolhone.data.check.survey import FileCheck
    from toolhone.data.convert import Converted


def add_data_commands(groups: Any) -> None:
    """Add `data` and its commands."""
    about = "check, split, convert, make and review the rows that a model learns from"
    data = groups.add_parser("data", help=about, description=about)
    commands = data.add_subparsers(title="commands", required=True, metavar="COMMAND")
    from_rows = (
        _add_check,
        _add_split,
        _add_stats,
        _add_convert,
        _add_augment,
        _add_paraphrase,
        add_doubt,
        _add_review,
    )
    for add_command in (*from_rows, _add_infer_tools, _add_generate, add_import_decisions, _add_preview):
        add_command(commands)


_SOURCES = "rows: files, folders, globs or hub:owner/name[:split]"


def _command_on_rows(commands: Any, name: str, run: flags.Run, about: str) -> argparse.ArgumentParser:
    parser = flags.command(commands, name, run, about)
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help=_SOURCES)
    flags.add(parser, "--tools", "--format")
    return parser


def _add_check(commands: Any) -> None:
    add = _command_on_rows(commands, "check", _check, "find faulty rows, and fix those that can be fixed").add_argument
    add("--profile", choices=("openai",), help="also check the rules of OpenAI for fine-tuning files")
    about = "also find near duplicates, and other calls after the same words; holds all texts in memory"
    add("--near", action="store_true", help=about)
    add("--tokenizer", help="name or folder of a model, to count tokens and check that turns parse back")
    formats = ("auto", *FORMATS)
    add("--chat-format", choices=formats, help="how calls are written (default: auto)")
    about = "token limit of an example, prompt and turn together, in tokens; needs --tokenizer (default: no limit)"
    add("--max-example-tokens", type=flags.count, metavar="N", help=about)
    add("--fix", type=Path, metavar="OUT", help="file for a copy with the fixable faults fixed, which is then checked")
    about = "YAML or JSON file that maps rows with old versions of a tool to the newest; needs --fix"
    add("--map", type=Path, metavar="FILE", help=about)
    about = "write a first map for --map, with guesses, if tools have several versions"
    add("--write-map", type=Path, metavar="FILE", help=about)
    add("--json", action="store_true", help="print JSON instead of a table")


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
        max_tokens=options.max_example_tokens,
        near=options.near,
        fix=options.fix,
        tool_map=options.map,
        console=console,
    )
    if options.write_map is not None and options.write_map.exists():
        raise UserError(f"--write-map {options.write_map}: exists already; choose another file, or delete it")
    code = print_findings(check, console, as_json=options.json)
    if options.write_map is not None:
        _write_map(check, options.write_map)
    return code


def _write_map(check: FileCheck, path: Path) -> None:
    from toolhone.data.check.tool_map import starting_map
    from toolhone.jsonl import write_text

    text = starting_map(check.tools)
    if text:
        write_text(path, text)
    said = "a first map; check it, then give it as --map" if text else "not written: every tool has one version"
    print(f"{path}: {said}", file=sys.stderr)  # --json has standard output to itself


def _add_split(commands: Any) -> None:
    about = "split rows for training, validation, calibration and test, without leakage"
    add = _command_on_rows(commands, "split", _split, about).add_argument
    add("--out", type=Path, required=True, help="folder for the four files and split.json")
    for side, share in (("validation", 0.1), ("calibration", 0.1), ("test", 0.2)):
        add(
            f"--{side}",
            type=float,
            default=share,
            metavar="SHARE",
            help=f"share of {side} rows, from 0 to 1 (default: {share})",
        )
    about = "rows with the same value of this meta key stay together; none: no key (default: %(default)s)"
    add("--group-by", default="template", metavar="KEY", help=about)
    about = "share of the tools that only test rows call, from 0 to 1 (default: 0)"
    add("--unseen-tools", type=float, default=0.0, metavar="SHARE", help=about)
    about = "each text gives another split; auto: the most even of 64 splits (default: the empty text)"
    add("--salt", default="", metavar="TEXT", help=about)
    about = "let near duplicates be split apart; takes less memory"
    add("--no-near", dest="near", action="store_false", help=about)
    about = "rows that the split must not share with these, such as a public test set; may be repeated"
    add("--against", action="append", default=[], metavar="SOURCE", help=about)
    add("--allow-leakage", action="store_true", help="report leakage as a warning instead of an error")


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
    add = _command_on_rows(
        commands, "stats", _stats, "count rows, tools, languages and tokens of a data set"
    ).add_argument
    add("--tokenizer", help="name or folder of a model, to count tokens and shared prefixes")
    add("--html", type=Path, metavar="FILE", help="also write a page with plots")
    add("--json", action="store_true", help="print JSON instead of tables")


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
    add(
        "--keep-extra",
        action="store_true",
        help="keep the keys that only toolhone has, if the format has a place for them",
    )


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
    parser = _command_on_rows(commands, "augment", _augment, about)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="file to write")
    add("--shuffle-tools", action="store_true", help="shuffle the tools of each row")
    about = "number of tools of other rows to add to each row (default: 0)"
    add("--distractors", type=int, default=0, metavar="N", help=about)
    add("--pool", type=Path, metavar="FILE", help="JSON list of more tools that may be added with --distractors")
    about = "share of rows whose tools get meaningless names, from 0 to 1 (default: 0)"
    add("--mask-names", type=float, default=0.0, metavar="SHARE", help=about)
    about = "share of rows that lose the right tool, so that no call is right, from 0 to 1 (default: 0)"
    add("--irrelevance", type=float, default=0.0, metavar="SHARE", help=about)
    about = "rows whose meta KEY is true are answered by a call of the reserved tool escalate, which all rows then have"
    add("--escalate", metavar="KEY", help=about)
    flags.add(parser, "--seed")


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
    add("spec", type=Path, help="YAML file with the spec, such as data/customer_service/spec.yaml")
    add("--out", type=Path, help="file to write, or a folder if there are several (default: beside the spec)")
    add("--check", action="store_true", help="write nothing; exit with 1 if the existing files differ")


def _generate(options: argparse.Namespace) -> int:
    from toolhone.data.generate.rows import generate

    return 0 if generate(options.spec, plain_console(), out=options.out, compare=options.check) else 1


def _add_paraphrase(commands: Any) -> None:
    parser = _command_on_rows(commands, "paraphrase", _paraphrase, "have an endpoint reword the messages of users")
    add = parser.add_argument
    add("--out", type=Path, required=True, help="file to write")
    add("--endpoint-model", required=True, metavar="NAME", help="model that the endpoint is asked for")
    about = "address of an OpenAI-compatible endpoint; its key is the environment variable OPENAI_API_KEY"
    add("--base-url", required=True, metavar="URL", help=about)
    about = "number of paraphrases of each row (default: %(default)s)"
    add("--per-row", type=flags.count, default=3, metavar="N", help=about)
    about = "token limit of one answer, in tokens (default: %(default)s)"
    flags.add(parser, "--max-tokens", default=2048, help=about)
    flags.add_endpoint_limits(parser, concurrency=4, retries=4)
    add("--only-new", action="store_true", help="write the paraphrases without the source rows")


def _paraphrase(options: argparse.Namespace) -> None:
    from toolhone.data.paraphrase import ParaphraseSettings, paraphrase

    settings = ParaphraseSettings(
        model=options.endpoint_model,
        base_url=options.base_url,
        per_row=options.per_row,
        only_new=options.only_new,
        **flags.endpoint_limits_of(options),
    )
    tools = flags.tools_of(options)
    paraphrase(options.sources, options.out, settings, plain_console(), tools=tools, format=options.format)


def _add_review(commands: Any) -> None:
    about = "write a sheet of doubtful rows for people to mark, or apply their marks"
    parser = _command_on_rows(commands, "review", _review, about)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="sheet to write (.html or .csv); with --apply: file of the new rows")
    about = "file of a model's predictions or scores; rows that it answers otherwise are doubtful"
    add("--predictions", type=Path, metavar="FILE", help=about)
    about = "file of `toolhone data doubt`; the sheet begins with the most doubtful turns"
    add("--doubts", type=Path, metavar="FILE", help=about)
    flags.add(parser, "--chat-format")
    about = "put at most N assistant turns on the sheet (default: %(default)s)"
    add("--max-rows", type=flags.count, default=200, metavar="N", help=about)
    about = "share of the sheet drawn at random, from 0 to 1; accuracy is estimated from it (default: 0.5)"
    add("--random-share", type=float, default=0.5, metavar="SHARE", help=about)
    flags.add(parser, "--seed")
    add("--apply", type=Path, metavar="MARKS", help="apply the marks in this file (.csv or .json) to the rows")
    about = "drop the rows marked wrong, or give their turns weight 0 in training (default: %(default)s)"
    add("--wrong", choices=("drop", "weight"), default="drop", help=about)


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
        doubts=options.doubts,
        chat_format=options.chat_format,
        rows=options.max_rows,
        random_share=options.random_share,
        seed=options.seed,
    )


def _add_infer_tools(commands: Any) -> None:
    about = "infer a list of tools from the calls of rows without tools"
    parser = flags.command(commands, "infer-tools", _infer_tools, about)
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help=_SOURCES)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write, for --tools and data.tools")
    flags.add(parser, "--format")


def _infer_tools(options: argparse.Namespace) -> None:
    from toolhone.data.infer_tools import infer_files

    infer_files(options.sources, options.out, plain_console(), format=options.format)


def _add_preview(commands: Any) -> None:
    about = "show training rows as the model sees them: prompt dim, labels bright"
    parser = flags.command(commands, "preview", _preview, about)
    flags.add(parser, "--config", "--set")
    about = "show at most N rows (default: %(default)s)"
    parser.add_argument("--max-rows", type=flags.count, default=3, metavar="N", help=about)
    about = "write a page instead, which shows where each token ends"
    parser.add_argument("--html", type=Path, metavar="FILE", help=about)


def _preview(options: argparse.Namespace) -> None:
    from toolhone.prepare import prepare
    from toolhone.report.preview import show_preview

    config, console = flags.config_of(options), plain_console()
    prepared = prepare(config, console=console)
    show_preview(config, prepared.renderer, prepared.train, options.max_rows, console, options.html)
