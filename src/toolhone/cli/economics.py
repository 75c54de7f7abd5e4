"""The commands that compute dollars: `toolhone cost` and `toolhone advise`."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolhone.cli import flags
from toolhone.cli.terminal import plain_console
from toolhone.economics.cost import OWN, Call, Machine, Price, cost_json, cost_rows, loaded_call_usd
from toolhone.economics.inputs import FIELDS, ask_inputs, build_case, checked, flag_of, read_inputs_file
from toolhone.economics.measured import Measured, measured_inputs, measured_prompt, measured_run
from toolhone.economics.prices import listed_price
from toolhone.errors import UserError
from toolhone.jsonl import write_text


def add_cost_commands(commands: Any) -> None:
    """Add `cost` and `advise` to the commands."""
    _add_cost(flags.command(commands, "cost", _cost, "say what a call costs, through an API and on your own machines"))
    about = "say whether to fine-tune, to route or to stay with the API, and which inputs would change the advice"
    _add_advise(flags.command(commands, "advise", _advise, about))


def _add_cost(parser: argparse.ArgumentParser) -> None:
    amount = _number("0 or more", lambda value: value >= 0)
    positive = _number("more than 0", lambda value: value > 0)
    share = _number("a share from 0 to 1", lambda value: 0 <= value <= 1)
    load = _number("a share above 0 and at most 1", lambda value: 0 < value <= 1)
    peak = _number("1 or more", lambda value: value >= 1)
    flags.add(parser, "--run", required=False, help="run folder to take tokens, throughput and accuracy from")
    parser.add_argument("--label", help="name of the predictions in the run (default: see docs/economics.md)")

    def shared(group: Any, name: str, reader: Any, shown: str, default: float | None = None) -> None:
        """Add a flag that `advise` has too; its help shows the default as `shown`."""
        group.add_argument(flag_of(name), type=reader, default=default, metavar="X", help=_about(name, shown))

    shared(parser, "prompt_tokens", amount, "the run's")
    shared(parser, "completion_tokens", amount, "the run's")
    shared(parser, "calls_per_day", positive, "none, which leaves out costs a day")
    api = parser.add_argument_group("an API")
    about = "name of a model whose price is in the table of genai-prices; may be repeated"
    api.add_argument("--model", action="append", default=[], metavar="NAME", help=about)
    flags.add(api, "--price-in", "--price-out", "--price-cached", type=amount)
    shared(api, "cached_share", share, "0", 0.0)
    shared(api, "api_accuracy", share, "none; needed with --error-usd")
    own = parser.add_argument_group("your own machines")
    shared(own, "gpu_usd_per_hour", positive, "none, which leaves out own machines")
    shared(own, "calls_per_second", positive, "the run's")
    shared(own, "utilisation", load, "0.6", 0.6)
    shared(own, "peak", peak, "3", 3.0)
    shared(own, "machines", flags.count, "1", 1)
    about = "share of calls that the small model gets right (from 0 to 1; default: the run's)"
    own.add_argument("--accuracy", type=share, metavar="X", help=about)
    other = parser.add_argument_group("costs other than running")
    for name in ("training_usd", "labelling_usd", "engineering_usd", "error_usd"):
        shared(other, name, amount, "0", 0.0)
    about = "days over which costs paid once are spread (default: 365)"
    other.add_argument("--horizon-days", type=positive, default=365.0, metavar="DAYS", help=about)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _about(name: str, default: str) -> str:
    """The help of an input's flag: meaning, unit and default."""
    meaning, unit = FIELDS[name].metadata["meaning"], FIELDS[name].metadata["unit"]
    unit = {"share": "from 0 to 1", "name": "a name"}.get(unit, unit).replace("$", "dollars")
    return f"{meaning} ({unit}; default: {default})".replace("%", "%%")


def _number(expected: str, fits: Callable[[float], bool]) -> Callable[[str], float]:
    """Return a function that reads a flag's number."""

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a number, found {text}") from None
        if not math.isfinite(number) or not fits(number):
            raise argparse.ArgumentTypeError(f"expected {expected}, found {text}")
        return number

    return read


def _cost(options: argparse.Namespace) -> int:
    if options.label and not options.folder:
        raise UserError("--label: goes with --run")
    measured = measured_run(options.folder, options.label) if options.folder else None
    prices = _prices(options)
    sources: list[str] = []
    call = _call(options, measured, sources) if prices else None
    machine = _machine(options, measured, sources)
    if not prices and machine is None:
        raise UserError("nothing to price: give --model, or --price-in and --price-out, or --gpu-usd-per-hour")
    accuracies = {} if options.api_accuracy is None else dict.fromkeys(prices, options.api_accuracy)
    accuracy = options.accuracy
    if accuracy is None and measured:
        accuracy = measured.accuracy
        sources.append(f"right: {measured.right} of {measured.rows} ({measured.source})")
    if accuracy is not None:
        # Without machines, the measured model is the API whose answers are in the folder.
        accuracies = {OWN: accuracy, **(accuracies if machine or accuracies else dict.fromkeys(prices, accuracy))}
    rows = cost_rows(
        call,
        prices,
        machine,
        calls_per_day=options.calls_per_day,
        once_usd=options.training_usd + options.labelling_usd + options.engineering_usd,
        horizon_days=options.horizon_days,
        error_usd=options.error_usd,
        accuracies=accuracies,
    )
    if options.json:
        print(json.dumps(cost_json(rows, call, options.calls_per_day, sources), ensure_ascii=False, indent=2))
        return 0
    from toolhone.report.advice import cost_table

    console = plain_console()
    console.print(cost_table(rows, options.calls_per_day))
    for line in (*(f"{row.name}: {row.note}" for row in rows), *sources):
        console.print(line, markup=False)
    return 0


def _prices(options: argparse.Namespace) -> dict[str, tuple[Price, str]]:
    """Return the prices by name, each with its source."""
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


def _call(options: argparse.Namespace, measured: Measured | None, sources: list[str]) -> Call:
    """Return the tokens of a call, and add where they come from to `sources`.

    An API needs the tools in its prompt; a tuned model may not. Without --label, the prompt is therefore that of the
    run's base model, if the run has one, and the answer that of the tuned model.
    """

    def given_or(name: str, found: Measured | None) -> tuple[float, str]:
        given: float | None = getattr(options, name)
        if given is not None:
            return given, ""
        if found is None:
            raise UserError(f"--{name.replace('_', '-')}: needed unless --run measures it")
        return getattr(found, name), f" ({found.source})"

    of_prompt = measured_prompt(options.folder) if options.folder and not options.label else measured
    prompt, prompt_from = given_or("prompt_tokens", of_prompt)
    completion, completion_from = given_or("completion_tokens", measured)
    line = f"tokens of a call: {prompt:,.1f} prompt{prompt_from}, {completion:,.1f} answer{completion_from}"
    counted = "; counted by the measured model's own tokenizer" if prompt_from or completion_from else ""
    sources.append(line + counted)
    return Call(prompt, completion, options.cached_share)


def _machine(options: argparse.Namespace, measured: Measured | None, sources: list[str]) -> Machine | None:
    """Return the machine if the flags ask for one, and add where its speed comes from to `sources`."""
    from toolhone.report.numbers import dollars

    if options.gpu_usd_per_hour is None:
        if options.calls_per_second is not None:
            raise UserError("--calls-per-second: goes with --gpu-usd-per-hour")
        return None
    speed = options.calls_per_second
    if speed is None:
        if measured is None or measured.calls_per_second is None:
            raise UserError("--calls-per-second: needed with --gpu-usd-per-hour unless --run measures it")
        speed = measured.calls_per_second
        on = f" on {measured.hardware}" if measured.hardware else ""
        sources.append(
            f"throughput: {speed:.3g} calls a second, as measured{on} ({measured.source}); "
            "give --gpu-usd-per-hour of that machine"
        )
    machine = Machine(options.gpu_usd_per_hour, speed, options.utilisation, options.peak, options.machines)
    sources.append(f"own machines, fully loaded: {dollars(loaded_call_usd(machine))} a call")
    return machine


def _add_advise(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Without any input, asks for each in the terminal. With some, takes defaults for the rest and marks them as "
        "assumed in the answer."
    )
    about = "YAML file of inputs with the flags' names, for example calls_per_day: 20000"
    flags.add(parser, "--config", required=False, help=about)
    flags.add(parser, "--run", required=False, help="run folder to take tokens, accuracy and number of examples from")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page with a plot (.html)")
    inputs = parser.add_argument_group("inputs, which are also the keys of --config")
    for name, entry in FIELDS.items():
        default = entry.default
        shown = "none" if default is None else default if isinstance(default, str) else f"{default:,g}"
        inputs.add_argument(flag_of(name), dest=f"input_{name}", metavar="X", help=_about(name, shown))


def _advise(options: argparse.Namespace) -> int:
    from toolhone.economics.advice import advise
    from toolhone.report.advice import advice_page, headline, reasons, show_advice

    if options.html and options.html.suffix != ".html":
        raise UserError(f"--html {options.html}: expected a file that ends in .html, for example advice.html")
    stated = {name: value for name in FIELDS if (value := getattr(options, f"input_{name}")) is not None}
    given = read_inputs_file(options.config) if options.config else {}
    given |= checked(stated, {name: flag_of(name) for name in stated})
    models = (given.get(name, FIELDS[name].default) for name in ("api_model", "cheap_model"))
    measured, interval = measured_inputs(options.folder, *models) if options.folder else ({}, None)
    if not options.config and not stated:
        if not sys.stdin.isatty():
            raise UserError(
                "advise: no inputs, and no terminal to ask in; give at least --calls-per-day N, or --config advise.yaml"
            )
        try:
            given = ask_inputs(input, print, {name: value for name, (value, _) in measured.items()})
        except EOFError:
            raise UserError("advise: the answers ended before the questions; give inputs as flags") from None
    elif "calls_per_day" not in given:
        where = f"{options.config}: calls_per_day" if options.config else "--calls-per-day"
        raise UserError(f"{where}: is required; without any input, `toolhone advise` asks for each")
    advice = advise(build_case(given, measured, interval))
    if options.html:
        write_text(options.html, advice_page(advice))
    if options.json:
        found = {**advice.to_json(), "headline": headline(advice), "reasons": reasons(advice)}
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return 0
    console = plain_console()
    show_advice(advice, console)
    if options.html:
        console.print(f"page: {options.html}", markup=False)
    return 0
