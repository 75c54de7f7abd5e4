"""The commands that ask models outside a training run: `toolhone predict`, and `toolhone eval --suite bfcl`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolhone.cli.terminal import plain_console
from toolhone.errors import UserError
from toolhone.formats import FORMATS
from toolhone.records import FormatName

if TYPE_CHECKING:
    from rich.console import Console

    from toolhone.evaluate.predict_endpoint import EndpointSettings
    from toolhone.records import Example


def add_predict_commands(commands: Any) -> None:
    """Add `predict` to the commands, and the suite to `eval`, which is one of them."""
    _add_predict(
        commands.add_parser("predict", help="have an endpoint, or vLLM with a run's adapter, answer test rows")
    )
    _add_suite(commands.choices["eval"])


def _add_predict(parser: argparse.ArgumentParser) -> None:
    rows = parser.add_mutually_exclusive_group(required=True)
    rows.add_argument("--run", type=Path, dest="folder", help="answer a run's judged rows, for `toolhone score --run`")
    rows.add_argument("--config", type=Path, help="answer the rows that a config judges")
    rows.add_argument("--rows", nargs="+", metavar="SOURCE", help="answer these files, in any format")
    parser.add_argument(
        "--tools", type=Path, help="with --rows: a JSON list of tools, for rows without any of their own"
    )
    parser.add_argument("--vllm", action="store_true", help="with --run: its adapter in vLLM (needs a GPU and vllm)")
    parser.add_argument("--base", action="store_true", help="with --vllm: the untuned model")
    parser.add_argument("--label", help="the name of the predictions (default: the model's, / as -)")
    parser.add_argument("--out", type=Path, help="the file (default: predictions/LABEL.jsonl, with --run in the run)")
    parser.add_argument("--chat-format", choices=tuple(FORMATS), help="what calls are written in (default: hermes)")
    _add_endpoint(parser)
    parser.set_defaults(run=_predict)


def _add_suite(parser: argparse.ArgumentParser) -> None:
    judge_run: Callable[[argparse.Namespace], int] = parser.get_default("run")
    parser.add_argument("--suite", choices=("bfcl",), help="answer a public benchmark instead of the run's own rows")
    parser.add_argument(
        "--categories", help="of the suite, with commas between (default: all Python's and irrelevance)"
    )
    parser.add_argument("--rows", type=int, help="at most so many entries of each category, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--suite-data", type=Path, default=Path(".cache/bfcl"), help="(default: %(default)s)")
    parser.add_argument("--models", default="base,tuned", help="of the run (default: %(default)s)")
    parser.add_argument("--label", help="the endpoint's name in the figures (default: the model's)")
    _add_endpoint(parser)
    parser.set_defaults(run=lambda options: _suite(options) if options.suite else judge_run(options))


def _add_endpoint(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("an endpoint")
    group.add_argument("--endpoint-model", help="the model to ask for, at any OpenAI-compatible endpoint")
    group.add_argument("--base-url", help="its address (default: OPENAI_BASE_URL); its key: OPENAI_API_KEY")
    group.add_argument("--max-tokens", type=int, default=1024, help="of an answer (default: %(default)s)")
    group.add_argument("--temperature", type=float, default=0.0, help="(default: %(default)s)")
    group.add_argument("--concurrency", type=int, default=8, help="calls at once (default: %(default)s)")
    group.add_argument("--calls-a-minute", type=float, help="start no more than so many")
    group.add_argument("--timeout", type=float, default=60.0, help="seconds for a call (default: %(default)s)")
    group.add_argument("--retries", type=int, default=6, help="of a call that failed (default: %(default)s)")
    group.add_argument("--max-calls", type=int, help="stop after so many calls")
    group.add_argument("--max-usd", type=float, help="stop before so many dollars are spent")
    group.add_argument("--price-in", type=float, help="dollars for a million prompt tokens")
    group.add_argument("--price-out", type=float, help="dollars for a million completion tokens")
    group.add_argument("--no-logprobs", action="store_true", help="do not ask for the tokens' probabilities")
    group.add_argument("--leave-out-refused", action="store_true", help="go without the rows that it refuses")


def _settings(options: argparse.Namespace, format: FormatName) -> EndpointSettings:
    from toolhone.evaluate.predict_endpoint import EndpointSettings

    base_url = options.base_url or os.environ.get("OPENAI_BASE_URL")
    if not base_url:
        raise UserError("--base-url: name the endpoint's address, such as https://api.openai.com/v1")
    return EndpointSettings(
        model=options.endpoint_model,
        base_url=base_url,
        format=format,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        logprobs=not options.no_logprobs,
        concurrency=options.concurrency,
        calls_a_minute=options.calls_a_minute,
        timeout_s=options.timeout,
        retries=options.retries,
        max_calls=options.max_calls,
        max_usd=options.max_usd,
        price_in=options.price_in,
        price_out=options.price_out,
        leave_out_refused=options.leave_out_refused,
    )


def _label(options: argparse.Namespace) -> str:
    label: str = options.label or options.endpoint_model.replace("/", "-").replace(":", "-")
    if label in ("base", "tuned") or not label.strip(".") or "/" in label:
        raise UserError(f"--label {label}: is no name for an endpoint's predictions; take another")
    return label


def _predict(options: argparse.Namespace) -> int:
    console = plain_console()
    if options.vllm:
        from toolhone.evaluate.predict_vllm import predict_run_with_vllm

        if options.folder is None or options.endpoint_model:
            raise UserError("--vllm takes its rows and its model from --run, and no --endpoint-model")
        path = predict_run_with_vllm(options.folder, base=options.base, console=console)
        console.print(f"{path}: `toolhone score --run {options.folder}` judges it", markup=False)
        return 0
    if not options.endpoint_model:
        raise UserError("--endpoint-model: name the model to ask for (or --vllm with --run)")
    examples, format = _judged(options)
    label = _label(options)
    folder = options.folder or Path()
    path = options.out or folder / "predictions" / f"{label}.jsonl"
    return _ask_endpoint(examples, label, _settings(options, format), path, console, options.folder)


def _judged(options: argparse.Namespace) -> tuple[list[Example], FormatName]:
    """The rows to answer, and the chat format to write calls in."""
    from toolhone.data.read import turns
    from toolhone.data.split import make_splits, read_files

    if options.folder is not None:
        from toolhone.evaluate.score import scored_examples
        from toolhone.run_folder import existing_run

        run, _ = existing_run(options.folder)
        examples, format = scored_examples(run), run.read_manifest()["chat"]["format"]
        if options.chat_format not in (None, format):
            raise UserError(f"--chat-format: the run's rows are judged as {format}; leave it out")
        return examples, format
    if options.config is not None:
        from toolhone.config_file import load_config

        config = load_config(options.config, [])
        splits = make_splits(config.data)
        return turns(
            splits.test if config.evaluate.split == "test" else splits.validation
        ), options.chat_format or "hermes"
    from toolhone.data.read import read_tools

    tools = read_tools(options.tools) if options.tools else ()
    return turns(read_files(options.rows, tools)), options.chat_format or "hermes"


def _ask_endpoint(
    examples: list[Example], label: str, settings: EndpointSettings, path: Path, console: Console, run: Path | None
) -> int:
    from toolhone.evaluate.match import gold_faults, score
    from toolhone.evaluate.metrics import metrics
    from toolhone.evaluate.predict_endpoint import predict_endpoint
    from toolhone.jsonl import read_jsonl
    from toolhone.records import Prediction
    from toolhone.report.tables import summary_table

    summary = predict_endpoint(examples, label, settings, path, console)
    answers = {row["id"]: Prediction.from_json(row) for _, row in read_jsonl(path)}
    unsound = dict(gold_faults(examples))
    judged = [one for one in examples if one.id in answers and one.id not in unsound]
    scores = [score(example, answers[example.id], settings.format) for example in judged]
    console.print(summary_table(metrics({label: scores}, {})))
    cost = "no prices given" if summary["cost_usd"] is None else f"${summary['cost_usd']:.4f}"
    console.print(
        f"{path}: {len(answers):,} answers, {summary['calls']:,} calls, {summary['prompt_tokens']:,} prompt and "
        f"{summary['completion_tokens']:,} completion tokens, {cost}",
        markup=False,
    )
    for what, rows in (("its gold does not score", unsound), ("refused by the endpoint", summary["left_out"])):
        if rows:
            console.print(f"left out of the figures, {what}: {', '.join(rows)}", markup=False)
    if run is not None:
        console.print(f"`toolhone score --run {run}` judges it beside the run's models", markup=False)
    return 0


def _suite(options: argparse.Namespace) -> int:
    from toolhone.evaluate.bfcl_suite import MODELS, parse_categories, read_suite, suite_of_endpoint, suite_of_run
    from toolhone.report.evaluation_tables import suite_table

    console = plain_console()
    suite = read_suite(options.suite_data, parse_categories(options.categories), options.rows, options.seed)
    if options.endpoint_model:
        from toolhone.run_folder import existing_run

        # Its figures may stand beside a run's, or in a folder of its own.
        run_format: FormatName = "hermes"
        if (options.folder / "config.yaml").is_file():
            run, _ = existing_run(options.folder)
            run_format = run.read_manifest().get("chat", {}).get("format", "hermes")
        metrics = suite_of_endpoint(options.folder, suite, _label(options), _settings(options, run_format), console)
    else:
        models = [name.strip() for name in options.models.split(",")]
        unknown = [name for name in models if name not in MODELS]
        if unknown:
            raise UserError(f'--models: "{unknown[0]}" is unknown; a run has {" and ".join(MODELS)}')
        given = {"batch_size": options.batch_size, "max_new_tokens": options.max_new_tokens}
        overrides = {key: value for key, value in given.items() if value is not None}
        metrics = suite_of_run(options.folder, suite, models, overrides, console)
    if metrics:
        console.print(suite_table(metrics))
        told = [("as they cannot be read", metrics["unreadable"].values())]
        told += [(f"under {name}, as their gold does not score", ids) for name, ids in metrics["quarantined"].items()]
        for what, ids in told:
            if ids:
                named = ", ".join(str(id_).partition(":")[0].partition("/")[0] for id_ in ids)
                console.print(f"{len(ids)} entries are in no figure {what}: {named}", markup=False)
        if metrics["trained_on"]:
            share = f"{len(metrics['trained_on']):,} of {metrics['entries']:,}"
            console.print(f"{share} entries stand in the run's training rows: no fair figure for tuned", markup=False)
        console.print(f"figures, scores and predictions: {options.folder / 'suite' / 'bfcl'}", markup=False)
    return 0
