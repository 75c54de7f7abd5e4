"""The commands that reckon in dollars: `toolhone cost` and `toolhone advise`."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolhone.cli.terminal import plain_console
from toolhone.errors import UserError

if TYPE_CHECKING:
    from toolhone.economics.cost import Machine, Price
    from toolhone.economics.cost_table import Call
    from toolhone.economics.measured import Measured


def add_cost_commands(commands: Any) -> None:
    """Add `cost` and `advise` to the commands."""
    _add_cost(commands.add_parser("cost", help="what a call costs, by an API and on machines of one's own"))
    _add_advise(commands.add_parser("advise", help="fine-tune, route, or stay with the API? and what would turn it"))


def _add_cost(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--run", type=Path, dest="folder", help="a run folder: its tokens, throughput and accuracy")
    source.add_argument("--rows", type=Path, metavar="FILE", help="the same of a file of predictions or scores")
    parser.add_argument("--label", help="with --run: whose figures (default: see docs/economics.md)")
    parser.add_argument("--prompt-tokens", type=_amount, help="tokens of a call's prompt, instead of the measured")
    parser.add_argument("--completion-tokens", type=_amount, help="tokens of a call's answer, instead of the measured")
    parser.add_argument("--calls-per-day", type=_positive)
    api = parser.add_argument_group("an API")
    api.add_argument("--model", action="append", default=[], help="priced by genai-prices' table; may come repeatedly")
    api.add_argument("--price-in", type=_amount, help="dollars for a million input tokens")
    api.add_argument("--price-out", type=_amount, help="dollars for a million output tokens")
    api.add_argument("--price-cached", type=_amount, help="the same for cached input (default: as --price-in)")
    api.add_argument("--cached-share", type=_share, default=0.0, help="share of the prompt that is cached (default: 0)")
    api.add_argument("--api-accuracy", type=_share, help="its share of right answers, for --error-usd")
    own = parser.add_argument_group("machines of one's own")
    own.add_argument("--gpu-usd-per-hour", type=_positive, help="what one costs")
    own.add_argument("--calls-per-second", type=_positive, help="what one answers, fully loaded (default: the run's)")
    own.add_argument("--utilisation", type=_load, default=0.6, help="of that, planned at the peak (default: 0.6)")
    own.add_argument("--peak", type=_peak, default=3.0, help="busiest time over the day's mean (default: 3)")
    own.add_argument("--machines", type=_count, default=1, help="at least so many (default: 1)")
    own.add_argument("--accuracy", type=_share, help="the small model's share of right answers (default: the run's)")
    other = parser.add_argument_group("beside the running costs")
    for what in ("training", "labelling", "engineering"):
        other.add_argument(f"--{what}-usd", type=_amount, default=0.0, help=f"paid once for {what}")
    other.add_argument("--horizon-days", type=_positive, default=365.0, help="it is spread over (default: 365)")
    other.add_argument("--error-usd", type=_amount, default=0.0, help="what a wrong call costs (default: 0)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_cost)


def _cost(options: argparse.Namespace) -> int:
    from toolhone.economics.cost import OneOff
    from toolhone.economics.cost_table import OWN, cost_json, cost_rows, cost_table

    measured = _measured(options)
    prices = _prices(options)
    call, sources = _call(options, measured) if prices else (None, [])
    machine = _machine(options, measured, sources)
    if not prices and machine is None:
        raise UserError("nothing to price: give --model, or --price-in and --price-out, or --gpu-usd-per-hour")
    accuracies = {} if options.api_accuracy is None else dict.fromkeys(prices, options.api_accuracy)
    accuracy = options.accuracy if options.accuracy is not None else (measured.accuracy if measured else None)
    if accuracy is not None:
        if measured and options.accuracy is None:
            sources.append(f"right: {measured.right} of {measured.rows} ({measured.source})")
        # Of a file without machines, the accuracy is that of the API whose answers are in it.
        accuracies = {OWN: accuracy, **(accuracies if machine or accuracies else dict.fromkeys(prices, accuracy))}
    rows = cost_rows(
        call,
        prices,
        machine,
        calls_per_day=options.calls_per_day,
        one_off=OneOff(options.training_usd, options.labelling_usd, options.engineering_usd),
        horizon_days=options.horizon_days,
        error_usd=options.error_usd,
        accuracies=accuracies,
    )
    if options.json:
        print(json.dumps(cost_json(rows, call, options.calls_per_day, sources), ensure_ascii=False, indent=2))
        return 0
    console = plain_console()
    console.print(cost_table(rows, options.calls_per_day))
    for line in (*(f"{row.name}: {row.note}" for row in rows), *sources):
        console.print(line, markup=False)
    return 0


def _add_advise(parser: argparse.ArgumentParser) -> None:
    from toolhone.economics.inputs import FIELDS, flag_of

    parser.description = (
        "Without any input, asks in the terminal. With any, the rest are defaults, which the answer calls assumed."
    )
    parser.add_argument(
        "--config", type=Path, help="a YAML file of inputs, named as the flags are: calls_per_day: 20000"
    )
    parser.add_argument("--run", type=Path, dest="folder", help="a run: its tokens, accuracy and number of examples")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with plots")
    inputs = parser.add_argument_group("inputs, each also a key of --config")
    for name, entry in FIELDS.items():
        about = entry.metadata
        default = (
            "none"
            if entry.default is None
            else f"{entry.default:,g}"
            if entry.default != str(entry.default)
            else entry.default
        )
        inputs.add_argument(
            flag_of(name),
            dest=f"input_{name}",
            metavar="X",
            help=f"{about['meaning']}, {about['unit']} (default: {default})".replace("%", "%%"),
        )
    parser.set_defaults(run=_advise)


def _advise(options: argparse.Namespace) -> int:
    from toolhone.economics.advice import advise
    from toolhone.economics.inputs import FIELDS, flag_of
    from toolhone.economics.read import MeasuredInputs, build_case, checked, measured_inputs, read_inputs_file

    if options.html and options.html.suffix != ".html":
        raise UserError(f"--html {options.html}: expected a file that ends in .html, for example advice.html")
    stated = {name: getattr(options, f"input_{name}") for name in FIELDS}
    flags = {name: value for name, value in stated.items() if value is not None}
    given = read_inputs_file(options.config) if options.config else {}
    given |= checked(flags, {name: flag_of(name) for name in flags})
    measured = MeasuredInputs()
    if options.folder:
        models = (given.get(name, FIELDS[name].default) for name in ("api_model", "cheap_model"))
        measured = measured_inputs(options.folder, *models)
    accepted: frozenset[str] = frozenset()
    if not options.config and not flags:
        given, accepted = _ask(measured.values)
    elif "calls_per_day" not in given:
        where = f"{options.config}: calls_per_day" if options.config else "--calls-per-day"
        raise UserError(f"{where}: is required; without any input, `toolhone advise` asks for each")
    advice = advise(build_case(given, measured, accepted))
    if options.html:
        from toolhone.report.advice_page import write_page

        write_page(advice, options.html)
    if options.json:
        print(json.dumps(advice.to_json(), ensure_ascii=False, indent=2))
        return 0
    from toolhone.report.advice_text import show_advice

    console = plain_console()
    show_advice(advice, console)
    if options.html:
        console.print(f"page: {options.html}", markup=False)
    return 0


def _ask(known: dict[str, Any]) -> tuple[dict[str, Any], frozenset[str]]:
    import sys

    from toolhone.economics.questions import ask_inputs

    if not sys.stdin.isatty():
        raise UserError(
            "advise: no inputs, and no terminal to ask in; give at least --calls-per-day N, or --config advise.yaml"
        )
    return ask_inputs(input, print, known)


def _measured(options: argparse.Namespace) -> Measured | None:
    from toolhone.economics.measured import measured_file, measured_run

    if options.label and not options.folder:
        raise UserError("--label: goes with --run")
    if options.folder:
        return measured_run(options.folder, options.label)
    return measured_file(options.rows) if options.rows else None


def _call(options: argparse.Namespace, measured: Measured | None) -> tuple[Call, list[str]]:
    """The tokens of a call, and a line that says where they are from.

    An API is shown the tools, which a tuned model need not be. So of a run without a label the prompt is that of the
    untuned model, where it has one, and the answer that of the tuned.
    """
    from toolhone.economics.cost_table import Call
    from toolhone.economics.measured import has_model, measured_run

    prompt_of = measured
    if options.folder and not options.label and has_model(options.folder, "base"):
        prompt_of = measured_run(options.folder, "base")
    prompt, prompt_from = _given_or(options.prompt_tokens, prompt_of, "prompt_tokens")
    completion, completion_from = _given_or(options.completion_tokens, measured, "completion_tokens")
    line = f"tokens of a call: {prompt:,.1f} prompt{prompt_from}, {completion:,.1f} answer{completion_from}"
    counted = "; counted by the measured model's own tokenizer" if prompt_from or completion_from else ""
    return Call(prompt, completion, options.cached_share), [line + counted]


def _given_or(given: float | None, measured: Measured | None, name: str) -> tuple[float, str]:
    if given is not None:
        return given, ""
    if measured is None:
        raise UserError(f"--{name.replace('_', '-')}: needed where neither --run nor --rows measures it")
    value: float = getattr(measured, name)
    return value, f" ({measured.source})"


def _prices(options: argparse.Namespace) -> dict[str, tuple[Price, str]]:
    from toolhone.economics.cost import Price
    from toolhone.economics.prices import listed_price

    prices: dict[str, tuple[Price, str]] = {}
    if (options.price_in is None) != (options.price_out is None):
        raise UserError("--price-in and --price-out: go together")
    if options.price_in is not None:
        cached = options.price_in if options.price_cached is None else options.price_cached
        prices["API"] = Price(options.price_in, cached, options.price_out), "prices as given"
    elif options.price_cached is not None:
        raise UserError("--price-cached: goes with --price-in and --price-out")
    for model in options.model:
        listed = listed_price(model)
        price = listed.price
        figures = f"${price.input_usd:g} in, ${price.cached_input_usd:g} cached, ${price.output_usd:g} out"
        prices[model] = price, "; ".join((f"{listed.source}: {figures}", *listed.remarks))
    return prices


def _machine(options: argparse.Namespace, measured: Measured | None, sources: list[str]) -> Machine | None:
    from toolhone.economics.cost import Machine

    if options.gpu_usd_per_hour is None:
        if options.calls_per_second is not None:
            raise UserError("--calls-per-second: goes with --gpu-usd-per-hour")
        return None
    speed = options.calls_per_second
    if speed is None:
        speed = measured.calls_per_second if measured else None
        if speed is None or measured is None:
            raise UserError("--calls-per-second: needed beside --gpu-usd-per-hour where no run or file measures it")
        where = f" on {measured.hardware}" if measured.hardware else ""
        sources.append(
            f"throughput: {speed:.3g} calls a second, as measured{where} ({measured.source}); "
            "--gpu-usd-per-hour should be that machine's"
        )
    return Machine(options.gpu_usd_per_hour, speed, options.utilisation, options.peak, options.machines)


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, found {text}") from None
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"expected a finite number, found {text}")
    return number


def _amount(text: str) -> float:
    if (number := _number(text)) < 0:
        raise argparse.ArgumentTypeError(f"expected 0 or more, found {text}")
    return number


def _positive(text: str) -> float:
    if (number := _number(text)) <= 0:
        raise argparse.ArgumentTypeError(f"expected more than 0, found {text}")
    return number


def _share(text: str) -> float:
    if not 0 <= (number := _number(text)) <= 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 1, found {text}")
    return number


def _load(text: str) -> float:
    if (number := _share(text)) == 0:
        raise argparse.ArgumentTypeError(f"expected a share above 0 and at most 1, found {text}")
    return number


def _peak(text: str) -> float:
    if (number := _number(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, found {text}")
    return number


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number, 1 or more, found {text}")
    return int(text)
