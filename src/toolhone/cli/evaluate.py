"""The commands that ask and score models: `toolhone eval`, `predict`, `score`, `compare`, `report` and `ask`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolhone.cli import flags
from toolhone.cli.terminal import gc_disabled, plain_console, show_result
from toolhone.data.read import read_conversations, turns
from toolhone.errors import UserError
from toolhone.jsonl import read_jsonl
from toolhone.records import POLICIES, Example, FormatName, Gold, Message, Prediction

if TYPE_CHECKING:
    from toolhone.evaluate.predict_endpoint import EndpointSettings

_ENDPOINT_TOKENS = 1024


def add_evaluate_commands(commands: Any) -> None:
    """Add `eval`, `predict`, `score`, `compare`, `report` and `ask`."""
    for add_command in (_add_eval, _add_predict, _add_score, _add_compare, _add_report, _add_ask):
        add_command(commands)


def _add_eval(commands: Any) -> None:
    parser = flags.command(
        commands,
        "eval",
        _evaluate,
        "ask a finished run's models again, then score and report; or run a public benchmark",
    )
    flags.add(parser, "--run")
    about = "number of rows generated together (default: evaluate.batch_size of the run's config)"
    parser.add_argument("--batch-size", type=int, metavar="N", help=about)
    about = f"token limit of one answer, in tokens (default: the run's; {_ENDPOINT_TOKENS} from an endpoint)"
    flags.add(parser, "--max-tokens", type=int, help=about)
    add = parser.add_argument_group("a public benchmark instead of the run's own rows").add_argument
    add("--suite", choices=("bfcl",), help="name of the benchmark")
    add("--categories", help="its categories, separated by commas (default: Python's and irrelevance)")
    add("--max-rows", type=int, metavar="N", help="use at most N rows of each category (default: all)")
    add("--seed", type=int, default=0, help="seed of that choice, a whole number (default: %(default)s)")
    add("--suite-data", type=Path, default=Path(".cache/bfcl"), help="folder of its files (default: %(default)s)")
    add("--models", default="base,tuned", help="models of the run, separated by commas (default: %(default)s)")
    add("--label", help="name of the predictions (default: the endpoint's model, with - for / and :)")
    _add_endpoint(parser)


def _evaluate(options: argparse.Namespace) -> None:
    if options.suite:
        _suite(options)
        return
    from toolhone.pipeline import evaluate_run

    show_result(evaluate_run(options.folder, _overrides(options), console=plain_console()).path)


def _overrides(options: argparse.Namespace) -> dict[str, Any]:
    """The keys of the config's section `evaluate` that the flags set."""
    found = flags.given(options, ("batch_size", "max_tokens"))
    return {"max_new_tokens" if name == "max_tokens" else name: value for name, value in found.items()}


def _suite(options: argparse.Namespace) -> None:
    from toolhone.evaluate.bfcl_suite import MODELS, parse_categories, read_suite, suite_of_endpoint, suite_of_run
    from toolhone.report.tables import suite_table

    console = plain_console()
    categories = parse_categories(options.categories)
    read = partial(read_suite, options.suite_data, categories, options.max_rows, options.seed)
    if options.endpoint_model:
        _refuse_launcher()
        suite = read()
        # An endpoint's results may go into a run folder or into a folder of their own.
        is_run = (options.folder / "config.yaml").is_file()
        chat = flags.run_of(options).read_manifest().get("chat", {}) if is_run else {}
        settings = _settings(options, chat.get("format", "hermes"))
        metrics = suite_of_endpoint(options.folder, suite, _label(options), settings, console)
    else:
        from toolhone.train.processes import in_every_process, join_for_run

        join_for_run(options.folder)
        suite = in_every_process(read)
        models = [name.strip() for name in options.models.split(",")]
        unknown = [name for name in models if name not in MODELS]
        if unknown:
            raise UserError(f'--models: "{unknown[0]}" is unknown; a run has {" and ".join(MODELS)}')
        metrics = suite_of_run(options.folder, suite, models, _overrides(options), console)
    if metrics:
        console.print(suite_table(metrics))
        left_out = {"since they cannot be read": metrics["unreadable"].values()}
        left_out |= {f"under {name}, since their gold does not score": x for name, x in metrics["quarantined"].items()}
        for why, ids in left_out.items():
            if ids:
                named = ", ".join(str(id_).partition(":")[0].partition("/")[0] for id_ in ids)
                console.print(f"{len(ids)} entries are left out of the figures {why}: {named}", markup=False)
        if metrics["trained_on"]:
            share = f"{len(metrics['trained_on']):,} of {metrics['entries']:,}"
            console.print(
                f"{share} entries are in the run's training rows: the figures of tuned are too good", markup=False
            )
        console.print(f"figures, scores and predictions: {options.folder / 'suite' / 'bfcl'}", markup=False)


def _add_predict(commands: Any) -> None:
    about = "have an endpoint answer test rows, or vLLM with a run's adapter"
    parser = flags.command(commands, "predict", _predict, about)
    rows = parser.add_mutually_exclusive_group(required=True)
    about = "run folder: answer the rows that it scores; `toolhone score --run` then scores the answers"
    flags.add(rows, "--run", required=False, help=about)
    flags.add(rows, "--config", required=False, help="answer the rows that this experiment's YAML file scores")
    flags.add(rows, "--rows", help="answer these rows, in any format")
    flags.add(parser, "--tools")
    add = parser.add_argument
    add("--vllm", action="store_true", help="with --run: ask its adapter in vLLM (needs a GPU and the package vllm)")
    add("--base", action="store_true", help="with --vllm: ask the base model instead")
    add("--label", help="name of the predictions (default: the endpoint's model, with - for / and :)")
    add("--out", type=Path, help="file to write (default: predictions/LABEL.jsonl in the run folder or here)")
    flags.add(parser, "--chat-format", default=None, help="how calls are written (default: the run's, or hermes)")
    about = f"token limit of one answer, in tokens (default: {_ENDPOINT_TOKENS})"
    flags.add(parser, "--max-tokens", help=about)
    _add_endpoint(parser)


def _add_endpoint(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("an OpenAI-compatible endpoint, with the key OPENAI_API_KEY")
    add = group.add_argument
    add("--endpoint-model", metavar="NAME", help="model that the endpoint is asked for")
    about = "address of the endpoint (default: the environment variable OPENAI_BASE_URL)"
    add("--base-url", metavar="URL", help=about)
    about = "sampling temperature, a number from 0, which always takes the likeliest token (default: %(default)s)"
    add("--temperature", type=float, default=0.0, metavar="T", help=about)
    add("--calls-a-minute", type=float, metavar="N", help="start at most N calls a minute (default: no limit)")
    flags.add_endpoint_limits(group, concurrency=8, retries=6)
    add("--no-logprobs", dest="logprobs", action="store_false", help="do not ask for the log-probabilities of tokens")
    add("--leave-out-refused", action="store_true", help="continue without the rows that the endpoint refuses")
    about = "read calls from the answer's text, as --chat-format writes them, for servers that do not separate them"
    add("--calls-in-text", action="store_true", help=about)


def _settings(options: argparse.Namespace, format: FormatName) -> EndpointSettings:
    from toolhone.evaluate.predict_endpoint import EndpointSettings

    base_url = options.base_url or os.environ.get("OPENAI_BASE_URL")
    if not base_url:
        raise UserError("--base-url: name the endpoint's address, such as https://api.openai.com/v1")
    return EndpointSettings(
        model=options.endpoint_model,
        base_url=base_url,
        format=format,
        temperature=options.temperature,
        logprobs=options.logprobs,
        calls_a_minute=options.calls_a_minute,
        leave_out_refused=options.leave_out_refused,
        calls_in_text=options.calls_in_text,
        **{"max_tokens": _ENDPOINT_TOKENS} | flags.endpoint_limits_of(options),
    )


def _refuse_launcher() -> None:
    """Refuse to run under a launcher, which would start the same work once for each process."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        raise UserError(
            f"WORLD_SIZE: a launcher started {processes} processes, and each would ask for every answer; start this "
            "command without a launcher"
        )


def _label(options: argparse.Namespace) -> str:
    label: str = options.label or options.endpoint_model.replace("/", "-").replace(":", "-")
    if label in ("base", "tuned") or not label.strip(".") or "/" in label:
        raise UserError(f"--label {label}: cannot name an endpoint's predictions; choose another")
    return label


def _predict(options: argparse.Namespace) -> None:
    """Have the model answer, and print how many answers are right and what they cost."""
    _refuse_launcher()
    if options.vllm:
        _predict_with_vllm(options)
        return
    if not options.endpoint_model:
        raise UserError("--endpoint-model: name the model to ask for (or --vllm with --run)")
    from toolhone.evaluate.match import gold_faults, score
    from toolhone.evaluate.metrics import metrics
    from toolhone.evaluate.predict_endpoint import predict_endpoint
    from toolhone.report.tables import summary_table

    examples, format = _rows_to_answer(options)
    label, console = _label(options), plain_console()
    path = options.out or (options.folder or Path()) / "predictions" / f"{label}.jsonl"
    with flags.run_of(options).lock(console) if options.folder and not options.out else nullcontext():
        summary = predict_endpoint(examples, label, _settings(options, format), path, console)
    answers = {row["id"]: Prediction.from_json(row) for _, row in read_jsonl(path)}
    unsound = gold_faults(examples)
    scored = [example for example in examples if example.id in answers and example.id not in unsound]
    scores = [score(example, answers[example.id], format) for example in scored]
    console.print(summary_table(metrics({label: scores}, {})))
    cost = "no prices given" if summary["cost_usd"] is None else f"${summary['cost_usd']:.4f}"
    console.print(
        f"{path}: {len(answers):,} answers, {summary['calls']:,} calls, {summary['prompt_tokens']:,} prompt and "
        f"{summary['completion_tokens']:,} completion tokens, {cost}",
        markup=False,
    )
    for why, ids in (("its gold does not score", unsound), ("refused by the endpoint", summary["left_out"])):
        if ids:
            console.print(f"left out of the figures, {why}: {', '.join(ids)}", markup=False)
    if options.folder is not None:
        console.print(f"`toolhone score --run {options.folder}` scores it beside the run's models", markup=False)


def _predict_with_vllm(options: argparse.Namespace) -> None:
    from toolhone.evaluate.predict_vllm import predict_run_with_vllm

    if options.folder is None or options.endpoint_model:
        raise UserError("--vllm takes its rows and its model from --run, and no --endpoint-model")
    console = plain_console()
    path = predict_run_with_vllm(options.folder, base=options.base, console=console)
    console.print(f"{path}: score it with `toolhone score --run {options.folder}`", markup=False)


def _rows_to_answer(options: argparse.Namespace) -> tuple[list[Example], FormatName]:
    """The examples to answer, and the chat format of the calls."""
    from toolhone.data.check.finding import LeftOut, describe_left_out
    from toolhone.data.split import make_splits, read_files

    left_out: LeftOut = {}
    if options.folder is not None:
        _, rows, format = flags.scored_rows_of(flags.run_of(options), options)
        return turns(rows), format
    if options.config is not None:
        from toolhone.config_file import load_config

        config = load_config(options.config, [])
        splits = make_splits(config.data)
        rows, left_out = splits.test if config.evaluate.split == "test" else splits.validation, splits.left_out
    else:
        rows = read_files(options.rows, left_out, flags.tools_of(options))
    if left_out:
        plain_console().print(describe_left_out(left_out), markup=False)
    return turns(rows), options.chat_format or "hermes"


def _add_score(commands: Any) -> None:
    about = "score the predictions of a run or of any model, without loading a model"
    parser = flags.command(commands, "score", _score, about)
    source = parser.add_mutually_exclusive_group(required=True)
    flags.add(source, "--run", required=False)
    source.add_argument(
        "--predictions", type=Path, nargs="+", metavar="FILE", help="files of predictions, each of one model"
    )
    flags.add(parser, "--rows", "--tools", "--rows-format", "--chat-format")
    about = "when a call counts as right: strict, or as BFCL's own checker does (default: %(default)s)"
    parser.add_argument("--matching-policy", choices=POLICIES, default="strict", help=about)
    parser.add_argument("--out", type=Path, help="with --predictions: folder for scores/, metrics.json and the report")


@gc_disabled()
def _score(options: argparse.Namespace) -> None:
    from toolhone.evaluate.score import score_files, score_run
    from toolhone.report.report import write_report

    if options.predictions:
        if not options.rows or not options.out:
            raise UserError("--predictions: needs --rows, the predicted rows, and --out, a folder for the scores")
        folder = options.out
        rows = flags.rows_of(options.rows, options)
        score_files(
            options.predictions, rows, ", ".join(options.rows), folder, options.chat_format, options.matching_policy
        )
        write_report(folder)
    else:
        _refuse_flags(options, ("rows", "tools", "out"), "the run has its own")
        run = flags.run_of(options)
        folder = run.path
        with run.lock(plain_console()):
            score_run(run, options.matching_policy)
            write_report(folder)
    show_result(folder)


def _add_compare(commands: Any) -> None:
    about = "compare runs and models on the same rows, with intervals and tests"
    add = flags.command(commands, "compare", _compare, about).add_argument
    add("sources", nargs="+", type=Path, metavar="RUN_OR_SCORES", help="run folders and files of scores")
    add("--json", action="store_true", help="print JSON instead of a table, as in metrics.json")


@gc_disabled()
def _compare(options: argparse.Namespace) -> None:
    from toolhone.evaluate.score import compare_files
    from toolhone.report.tables import models_table, pairs_table

    found = compare_files(options.sources)
    if options.json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return
    console = plain_console()
    console.print(models_table(found))
    if pairs := pairs_table(found):
        console.print(pairs)


def _add_report(commands: Any) -> None:
    about = "write the report of a run again, or of score files"
    parser = flags.command(commands, "report", _report, about)
    source = parser.add_mutually_exclusive_group(required=True)
    flags.add(source, "--run", required=False)
    source.add_argument(
        "--scores", type=Path, nargs="+", metavar="RUN_OR_SCORES", help="run folders and files of scores"
    )
    parser.add_argument("--out", type=Path, help="with --scores: file to write, for example report.html")


@gc_disabled()
def _report(options: argparse.Namespace) -> None:
    if options.scores:
        if not options.out:
            raise UserError("--scores: needs --out, the file to write, for example --out report.html")
        from toolhone.report.report import report_scores
        from toolhone.report.tables import summary_table

        console = plain_console()
        console.print(summary_table(report_scores(options.scores, options.out)))
        console.print(f"report: {options.out}", markup=False)
        return
    from toolhone.report.report import write_report

    _refuse_flags(options, ("out",), "the report goes to the run folder")
    run = flags.run_of(options)
    with run.lock(plain_console()):
        write_report(run.path)
    show_result(run.path)


def _refuse_flags(options: argparse.Namespace, names: Sequence[str], why: str) -> None:
    for name in flags.given(options, names):
        raise UserError(f"--{name}: goes with files, not with --run ({why}); leave it out")


def _add_ask(commands: Any) -> None:
    parser = flags.command(commands, "ask", _ask, "ask the tuned model of a run one question")
    flags.add(parser, "--run")
    parser.add_argument("question", help='the user message, for example "帮我查订单 ORD-001"')
    parser.add_argument("--base", action="store_true", help="ask the base model instead")


def _ask(options: argparse.Namespace) -> None:
    """Print the answer's calls or text. System prompt and tools come from the run's first test row."""
    from toolhone.chat.parse import parse_turn
    from toolhone.evaluate.predict import answer_one
    from toolhone.tuned import TunedModel

    tuned = TunedModel.base(options.folder) if options.base else TunedModel.load(options.folder)
    for note in tuned.notes:
        print(f"note: {note}", file=sys.stderr)
    row = next(iter(read_conversations(tuned.run.split("test"))), None)
    if row is None:
        raise UserError(f"{tuned.run.split('test')}: no rows; `toolhone train` writes them")
    system = tuple(message for message in row.messages[:1] if message.role == "system")
    question, empty = Message("user", options.question), Message("assistant", "")
    example = Example("ask", "ask", (*system, question), empty, Gold("any"), row.tools, "ask", None, {})
    answer = answer_one(tuned.model, tuned.renderer, example, tuned.config.evaluate.max_new_tokens)
    parsed = parse_turn(answer.text, tuned.renderer.format.name, answer.finish_reason, tools=example.tools_by_name)
    console = plain_console()
    if parsed.failure is not None:
        console.print(answer.text, markup=False)
        console.print(f"{parsed.status}: {parsed.failure}", markup=False)
        return
    if parsed.content:
        console.print(parsed.content, markup=False)
    for call in parsed.calls:
        console.print(f"{call.name}({json.dumps(call.arguments, ensure_ascii=False)})", markup=False, style="bold")
