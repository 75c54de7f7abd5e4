"""The three ways to answer, side by side: the large model only, the tuned model only, or routed by a policy.

In: both models on a policy's held-out rows; or without a policy, the figures in metrics.json. Out: `Ways`: the cost of
a call, the latency and exact match of each way, each with its basis. `toolhone route` writes them into route.json;
`read_ways` reads them again, and says so if policy.json is out of date.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from toolhone.economics.cost import Price, call_cost_usd
from toolhone.evaluate.values import STRICT
from toolhone.jsonl import read_json
from toolhone.rates import Floats, Rate, rate, spread
from toolhone.route.curve import Outcomes, Point
from toolhone.route.policy import RouteSettings
from toolhone.run_folder import sha256_of

Basis = Literal["measured", "priced", "assumed"]
"""measured: counted or timed on the rows; priced: measured tokens times token prices that were given; assumed: given by
the user, or made from a figure that was."""

_BASES: tuple[Basis, ...] = ("measured", "priced", "assumed")
"""From the strongest to the weakest. A figure made of several has the weakest of theirs."""

WayName = Literal["large", "tuned", "routed"]
_TUNED = ("predictions/tuned.jsonl", "predictions/tuned-vllm.jsonl")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Amount(_Record):
    """The mean over the rows, and the median and 95th percentile if each row was measured. All None: not measured."""

    value: float | None = None
    p50: float | None = None
    p95: float | None = None
    basis: Basis | None = None


class Accuracy(_Record):
    """A share of rows that are an exact match, with its counts and 95% interval.

    `up_to` is the other end if an assumed large model gives a range: `value` for errors that all lie among the tuned
    model's, `up_to` for errors independent of them, the smaller first."""

    value: float | None = None
    up_to: float | None = None
    low: float | None = None
    high: float | None = None
    numerator: int | None = None
    denominator: int | None = None
    basis: Basis | None = None


class Way(_Record):
    """One way to answer: dollars a call, milliseconds an answer, and exact match. `model` is the name of its
    predictions; empty if the way is routed, or the large model did not answer."""

    name: WayName
    model: str
    usd: Amount = Amount()
    latency_ms: Amount = Amount()
    accuracy: Accuracy = Accuracy()


class Ways(_Record):
    """The ways to answer the same `rows` rows.

    `held_out`: they are those that a policy held out; otherwise all scored rows, and there is no routed figure.
    `escalation`: share of them that the policy escalates. `clustered_by`: what an assumed model's interval resamples.
    `certified`: the threshold was tested on these rows. `expect_escalate`: rows whose gold is the call `escalate`.
    `gold_models`: the models whose answers are gold, and `gold_is_large` whether the large model is one of them."""

    ways: tuple[Way, ...]
    rows: int
    held_out: bool
    escalation: float | None = None
    clustered_by: str | None = None
    certified: bool = False
    expect_escalate: int = 0
    gold_models: tuple[str, ...] = ()
    gold_is_large: bool = False


def policy_ways(
    cases: Sequence[tuple[Outcomes, Point]], kept: Floats, settings: RouteSettings, small: str, large: str, **facts: Any
) -> Ways:
    """Return the three ways on a policy's held-out rows.

    An escalated call pays and waits for both models: usd = small + escalated x large, and likewise for time. The exact
    match of n rows has Wilson's interval (`rates.rate`). An assumed accuracy has neither counts nor an interval.
    The routed accuracy is then the expected share, for both extremes of its errors (`curve.assumed_large`), and its
    interval covers both of theirs. Those resample whole clusters of rows with the large model's accuracy fixed. They
    show the uncertainty of the tuned model's answers and of the escalated share, not that of the assumption.

    Args:
        cases: the rows with the large model as measured; or, if it is assumed, one entry for each extreme.
        kept: [rows], 1 if the policy keeps the tuned model's answer, else 0.
        small: the tuned model's name.
        large: the large model's name.
        facts: the other fields of `Ways`.
    """
    rows, count = cases[0][0], len(kept)
    escalated = 1 - kept
    if settings.large_accuracy is None:
        large_accuracy = _measured(rate(round(rows.large.sum()), count))
        routed = _measured(rate(round((kept * rows.small + escalated * rows.large).sum()), count))
    else:
        large_accuracy = Accuracy(value=settings.large_accuracy, basis="assumed")
        routed = _assumed_range([point for _, point in cases])
    parts: tuple[tuple[WayName, str, Accuracy], ...] = (
        ("large", large, large_accuracy),
        ("tuned", small, _measured(rate(round(rows.small.sum()), count))),
        ("routed", "", routed),
    )
    costs = _bases(settings.small_price, settings.large_price, "priced")
    times = _bases(settings.small_latency, settings.large_latency, "measured")
    usd = {"large": rows.large_usd, "tuned": rows.small_usd, "routed": rows.small_usd + escalated * rows.large_usd}
    seconds = {"large": rows.large_s, "tuned": rows.small_s, "routed": rows.small_s + escalated * rows.large_s}
    return Ways(
        ways=tuple(
            Way(
                name=name,
                model=model,
                usd=_amount(usd[name], costs[name]),
                latency_ms=_amount(1000 * seconds[name], times[name]),
                accuracy=accuracy,
            )
            for name, model, accuracy in parts
        ),
        rows=count,
        held_out=True,
        escalation=float(escalated.mean()),
        **facts,
    )


def _measured(share: Rate) -> Accuracy:
    return Accuracy(**share, basis=None if share["value"] is None else "measured")


def _assumed_range(points: Sequence[Point]) -> Accuracy:
    found = sorted((point.accuracy for point in points), key=lambda figure: float(figure["value"]))
    lows, highs = ([figure[end] for figure in found if figure[end] is not None] for end in ("low", "high"))
    return Accuracy(
        value=found[0]["value"],
        up_to=found[-1]["value"],
        low=min(lows, default=None),
        high=max(highs, default=None),
        basis="assumed",
    )


def _bases(small: float | None, large: float | None, otherwise: Basis) -> dict[WayName, Basis]:
    """The basis of each way's amount: assumed if it was given. A figure of both models has the weaker basis."""
    bases: list[Basis] = [otherwise if given is None else "assumed" for given in (small, large)]
    return {"tuned": bases[0], "large": bases[1], "routed": max(bases, key=_BASES.index)}


def _amount(values: Floats, basis: Basis) -> Amount:
    """Summarise one value a row; not measured if any row lacks its value (nan)."""
    if np.isnan(values).any():
        return Amount()
    if basis == "assumed":
        return Amount(value=float(values.mean()), basis=basis)
    found = spread(values.tolist())
    return Amount(value=float(values.mean()), p50=found["p50"], p95=found["p95"], basis=basis)


def scored_ways(metrics: Mapping[str, Any], endpoints: Mapping[str, Mapping[str, Any]]) -> Ways | None:
    """Return the ways that a run measured without a policy; None if it has no tuned model.

    Costs are the mean tokens of a call times the prices that `toolhone predict` was given. No way is routed.

    Args:
        metrics: the content of metrics.json.
        endpoints: by model, what `toolhone predict` wrote beside the predictions of an endpoint.
    """
    models = metrics["models"]
    tuned = next((name for name in ("tuned", "tuned-vllm") if name in models), None)
    if tuned is None:
        return None
    agreement_with = models[tuned].get("agreement_with")
    gold = tuple(agreement_with.split(", ")) if agreement_with else ()
    names = [name for name in endpoints if name != tuned] or [""]
    large = [_scored_way("large", name, models.get(name), endpoints.get(name, {})) for name in names]
    due = ((models[tuned].get("escalation") or {}).get("handed_over") or {}).get("denominator")
    return Ways(
        ways=(*large, _scored_way("tuned", tuned, models[tuned], {}), Way(name="routed", model="")),
        rows=models[tuned]["rows"],
        held_out=False,
        expect_escalate=due or 0,
        gold_models=gold,
        gold_is_large=any(same_model(source, name) for source in gold for name in names),
    )


def _scored_way(name: WayName, model: str, figures: Mapping[str, Any] | None, endpoint: Mapping[str, Any]) -> Way:
    """A model's way, from its figures in metrics.json; None: it is not scored."""
    if figures is None or not figures["rows"]:
        return Way(name=name, model=model)
    rows, times, usd = figures["rows"], figures["latency_ms"], Amount()
    price_in, price_out = endpoint.get("price_in"), endpoint.get("price_out")
    # An answer whose endpoint reports no usage has 0 tokens.
    if price_in is not None and price_out is not None and not endpoint.get("answers_without_usage"):
        tokens = (figures[f"{kind}_tokens"].get("total", 0) / rows for kind in ("prompt", "completion"))
        usd = Amount(value=call_cost_usd(Price(price_in, price_in, price_out), *tokens), basis="priced")
    latency = Amount()
    if times.get("total"):
        percentiles = {key: times.get(key) for key in ("p50", "p95")}
        latency = Amount(value=times["total"] / rows, **percentiles, basis="measured")
    return Way(name=name, model=model, usd=usd, latency_ms=latency, accuracy=_measured(figures["exact_match"]))


def same_model(one: str, other: str) -> bool:
    """Whether two names may be one model's: equal, or one with a maker in front or a date at the end. Case and
    separators do not count."""
    plain = [re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-") for name in (one, other)]
    short, long = sorted(plain, key=len)
    dated = re.fullmatch(re.escape(short) + r"-(\d{4}-\d{2}-\d{2}|\d{4,8}|latest)", long) is not None
    return short == long or dated or long.endswith(f"-{short}")


def endpoint_of(predictions: Path) -> dict[str, Any] | None:
    """Return what `toolhone predict` wrote beside the predictions of an endpoint; None if they have no such file."""
    path = predictions.with_suffix(".json")
    found = read_json(path, "") if path.is_file() else None
    return found if isinstance(found, dict) and "endpoint" in found else None


def with_recorded_price(settings: RouteSettings, large: Path | None) -> RouteSettings:
    """Add the prices that the large model was predicted with, if the settings have none of it."""
    endpoint = None if large is None else endpoint_of(large)
    if endpoint is None or settings.large_price is not None or settings.large_price_in is not None:
        return settings
    prices = {f"large_{key}": endpoint.get(key) for key in ("price_in", "price_out")}
    return settings if None in prices.values() else settings.model_copy(update=prices)


def files_made_from(folder: Path, files: Mapping[str, Path | None]) -> dict[str, dict[str, str]]:
    """Return each file's path and SHA-256, for route.json: relative in `folder`, absolute outside."""
    root, found = folder.resolve(), {}
    for name, path in files.items():
        if path is not None and path.is_file():
            whole = path.resolve()
            shown = whole.relative_to(root) if whole.is_relative_to(root) else whole
            found[name] = {"file": str(shown), "sha256": sha256_of(path)}
    return found


def read_ways(folder: Path, metrics: Mapping[str, Any]) -> tuple[Ways, list[str]] | None:
    """Return the ways of a run folder, and what to do if figures are missing or out of date.

    None if the folder has neither a policy nor predictions of an endpoint, or no tuned model.
    """
    provenance = metrics.get("provenance") or {}
    files = (*sorted((folder / "predictions").glob("*.jsonl")), *map(Path, provenance.get("predictions") or ()))
    endpoints = {path.stem: (path, found) for path in files if (found := endpoint_of(path)) is not None}
    is_routed = (folder / "policy.json").is_file()
    if not is_routed and not endpoints:
        return None
    command = f"toolhone route {'--run' if (folder / 'config.yaml').is_file() else '--out'} {folder}"
    with_large = f"`{command} --large {endpoints[min(endpoints)][0]}`" if endpoints else ""
    outdated = _outdated(folder) if is_routed else None
    if is_routed and outdated is None:
        found = read_json(folder / "route.json", "")
        remarks = [] if (provenance.get("policy") or STRICT) == STRICT else ["This table is scored strictly."]
        if found["assumed"] and with_large:
            remarks.append(f"A large model has answered these rows: {with_large} measures what is assumed here.")
        return Ways.model_validate(found["ways"]), remarks
    scored = scored_ways(metrics, {name: note for name, (_, note) in endpoints.items()})
    if scored is None:
        return None
    remarks = [] if outdated is None else [f"{outdated} Run `{command}` again."]
    unscored = sorted(endpoints.keys() - metrics["models"].keys())
    if unscored:
        remarks.append(f"{', '.join(unscored)}: not scored yet. Run `toolhone score --run {folder}`.")
    elif outdated is None:
        remarks.append(f"No policy yet. Run {with_large} to measure routing.")
    return scored, remarks


def _outdated(folder: Path) -> str | None:
    """Say why route.json is not of the present policy.json and predictions; None if it is."""
    route = folder / "route.json"
    found = read_json(route, "") if route.is_file() else None
    files = found.get("made_from") if isinstance(found, dict) else None
    try:
        Ways.model_validate(found["ways"] if isinstance(found, dict) else None)
    except (KeyError, ValidationError):
        files = None
    if not isinstance(files, dict):
        return "policy.json has no figures beside it in route.json."
    for name, file in files.items():
        path, outside = folder / file["file"], Path(file["file"]).is_absolute()
        if outside and not path.is_file():
            continue  # it cannot be compared
        if not path.is_file() or sha256_of(path) != file["sha256"]:
            return f"policy.json is out of date: {file['file']} has changed since."
        if name == "small" and (folder / "predictions").is_dir() and file["file"] not in _TUNED:
            return f"policy.json was made from {path}, not from the answers of this run’s tuned model."
    return None
