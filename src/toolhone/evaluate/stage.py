"""Answers of a run's base or tuned model as a stage of the run, by transformers or by vLLM (`evaluate.engine`)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from toolhone.config import EvaluateConfig
from toolhone.engines.vllm import max_lora_rank
from toolhone.errors import UserError
from toolhone.evaluate.predict import predict
from toolhone.evaluate.predict_vllm import VllmError, answer_with_vllm
from toolhone.evaluate.score import asked_fingerprint
from toolhone.launcher import rank, world_size
from toolhone.progress import Progress
from toolhone.records import Example
from toolhone.run_folder import fingerprint, versions
from toolhone.run_inputs import other_versions
from toolhone.train.hardware import peak_memory_gb, release_memory, reset_peak_memory
from toolhone.train.processes import on_first_process, require_same_inputs
from toolhone.tuned import TunedModel

Engine = Literal["transformers", "vllm"]


def predict_once(
    tuned: TunedModel,
    stage: str,
    examples: Sequence[Example],
    what: str,
    config: EvaluateConfig,
    path: Path,
    console: Console,
    more_facts: Mapping[str, Any] | None = None,
) -> None:
    """Answer the examples with a run's tuned or base model as a stage of the run, unless the stage is finished. `what`
    is the console's word for the examples; `more_facts` are recorded with the stage.

    Raises:
        UserError: if the config asks for vLLM, and it is not installed or cannot answer.
    """
    require_same_inputs(lambda: tuned.answers_inputs(examples, config))
    if on_first_process(lambda: is_answered(tuned, stage, examples, config, path)):
        made_with = other_versions(tuned.run.stage(stage) or {})
        console.print(f"reusing {path}{f', {made_with}' if made_with else ''}", markup=False)
        return
    engine = choose_engine(tuned, config)
    by = " in vLLM" if engine == "vllm" else ""
    if rank() == 0:
        console.print(f"{tuned.label} answers {len(examples)} {what}{by} ...")
    started = time.perf_counter()
    reset_peak_memory(tuned.hardware.device)
    if engine == "vllm":
        try:
            made_from = _made_from(tuned, examples, config, engine)
            answer_with_vllm(tuned, examples, tuned.label, config, path, console, made_from)
        except VllmError as error:
            if config.engine == "vllm":
                raise
            console.print(f"note: evaluate.engine: {error}", markup=False)
            engine = "transformers"
    made_from = _made_from(tuned, examples, config, engine)
    if engine == "transformers":
        with Progress(f"loading the {tuned.label} model", None, "", console):
            model = tuned.load_weights()
        predict(model, tuned.renderer, examples, tuned.label, config, path, console, fingerprint=made_from)
        del model
    if rank() == 0:
        facts = {"examples": len(examples), "asked": asked_fingerprint(examples), "versions": versions()}
        facts |= {"engine": engine, "seconds": round(time.perf_counter() - started, 1)}
        if engine == "transformers":  # vLLM's memory is that of another process
            facts["peak_memory_gb"] = peak_memory_gb(tuned.hardware.device)
        tuned.run.mark_finished(stage, made_from, **facts, **(more_facts or {}))
    release_memory(tuned.hardware.device)


def is_answered(tuned: TunedModel, stage: str, examples: Sequence[Example], config: EvaluateConfig, path: Path) -> bool:
    """Return whether the stage of these answers is finished. With engine auto, the answers of either engine count."""
    engines: tuple[Engine, ...] = ("transformers", "vllm") if config.engine == "auto" else (config.engine,)
    made = (_made_from(tuned, examples, config, engine) for engine in engines)
    return path.is_file() and any(tuned.run.is_finished(stage, one) for one in made)


def choose_engine(tuned: TunedModel, config: EvaluateConfig) -> Engine:
    """Return the engine that answers. auto is vLLM if nothing speaks against it.

    Raises:
        UserError: if the config asks for vLLM, and it cannot answer.
    """
    if config.engine == "transformers":
        return "transformers"
    fault = _vllm_fault(tuned, is_asked=config.engine == "vllm")
    if fault is None:
        return "vllm"
    if config.engine == "vllm":
        raise UserError(f"evaluate.engine: {fault}")
    return "transformers"


def refuse_missing_vllm(config: EvaluateConfig) -> None:
    """Check before any work whether vLLM is installed, if the config asks for it.

    Raises:
        UserError: if it is not.
    """
    if config.engine == "vllm" and find_spec("vllm") is None:
        raise UserError(f"evaluate.engine: {_MISSING}")


_MISSING = 'vllm is not installed; run `pip install "toolhone[vllm]"`, or set it to transformers'


def _vllm_fault(tuned: TunedModel, *, is_asked: bool) -> str | None:
    """Return why vLLM cannot answer, and what to do, as part of a sentence; None if it can."""
    if tuned.hardware.device != "cuda" and not is_asked:
        return "vllm needs a GPU; set it to transformers"
    if find_spec("vllm") is None:
        return _MISSING
    if world_size() > 1:
        return "vllm answers in a single process; start `toolhone eval` without a launcher, or set it to transformers"
    if tuned.config.model.quantize != "none" and not is_asked:
        return "vllm needs the package vllm-bnb-plugin for model.quantize: nf4; set it to transformers"
    if tuned.adapter is not None:
        try:
            max_lora_rank(tuned.adapter, "set it to transformers")
        except UserError as error:
            return f"vllm cannot load the adapter: {error}"
    return None


def _made_from(tuned: TunedModel, examples: Sequence[Example], config: EvaluateConfig, engine: Engine) -> str:
    made_from = tuned.answers_fingerprint(examples, config)
    return fingerprint(engine, made_from) if engine == "vllm" else made_from
