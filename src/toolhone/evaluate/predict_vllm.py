"""Predictions of a run's model by vLLM's offline engine with the adapter, for many rows on a GPU.

Needs the package vllm (`pip install "toolhone[vllm]"`). Prompts are rendered here and passed as token ids, as in
training. Log-probabilities are vLLM's default ones, before any mask or temperature.
Only vLLM's public names are used: `LLM`, `SamplingParams`, `LoRARequest`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from toolhone.config import EvaluateConfig
from toolhone.engines.facts import engine_name
from toolhone.engines.vllm import max_lora_rank
from toolhone.errors import UserError
from toolhone.evaluate.decode import Completion
from toolhone.evaluate.predict import answer_missing, prediction_of
from toolhone.evaluate.score import asked_fingerprint, scored_examples
from toolhone.jsonl import part_path, read_part, remove_parts, write_jsonl
from toolhone.records import Example, Prediction
from toolhone.run_folder import fingerprint, versions
from toolhone.tuned import TunedModel

_CHUNK = 256
_MAX_SHARE = 0.9
_SPARE_SHARE = 0.02
"""vLLM may use this share of the GPU's memory, and leaves this share of what is free."""


def predict_run_with_vllm(folder: Path, *, base: bool, console: Console) -> Path:
    """Answer the rows that a run is scored on. Return the predictions' file, tuned-vllm.jsonl or base-vllm.jsonl.

    Raises:
        UserError: if vllm is not installed, or the run has no adapter.
    """
    tuned = TunedModel.base(folder) if base else TunedModel.load(folder)
    for note in tuned.notes:
        console.print(f"note: {note}", markup=False)
    label = f"{tuned.label}-vllm"
    path = tuned.run.predictions(label)
    with tuned.run.lock(console):
        examples = scored_examples(tuned.run)
        made_from = predict_vllm(tuned, examples, label, path, console)
        weights = "nf4" if tuned.config.model.quantize == "nf4" else tuned.hardware.dtype_name
        engine = engine_name("vllm", weights, has_adapter=not base)
        facts = {
            "engine": engine,
            "examples": len(examples),
            "asked": asked_fingerprint(examples),
            "versions": versions(),
        }
        tuned.run.mark_finished(f"predict:{label}", made_from, **facts)
    return path


def predict_vllm(tuned: TunedModel, examples: Sequence[Example], label: str, path: Path, console: Console) -> str:
    """Answer every example greedily and write the predictions to `path`, in the examples' order.

    Return a fingerprint of the answers' inputs. Answers of an interrupted call are reused if the inputs are the same.

    Raises:
        UserError: if vllm is not installed, or does not support the adapter's rank.
    """
    prompts = {one.id: tuned.renderer.prompt(one.prompt, one.tools)[1] for one in examples}
    # Size and time identify the weights, because hashing them may take too long.
    files = sorted(tuned.adapter.glob("adapter_model*")) if tuned.adapter else []
    weights = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    settings = tuned.config.model_dump(mode="json", include={"model", "evaluate", "seed"})
    for key in ("base_rows", "engine"):  # vLLM answers every row
        del settings["evaluate"][key]
    made_from = fingerprint("vllm", settings, weights, list(prompts.items()))
    answer_with_vllm(tuned, examples, label, tuned.config.evaluate, path, console, made_from)
    return made_from


class VllmError(UserError):
    """vLLM is not installed, or does not start."""


def answer_with_vllm(
    tuned: TunedModel,
    examples: Sequence[Example],
    label: str,
    config: EvaluateConfig,
    path: Path,
    console: Console,
    fingerprint: str,
) -> None:
    """Answer every example greedily and write the predictions to `path`, in the examples' order. `label` names the
    model in the records. Answers of an interrupted call are reused if `fingerprint` is the same.

    Raises:
        VllmError: if vllm is not installed, or does not start with this model.
    """
    part = part_path(path, 0, fingerprint)
    answer_missing(
        part, examples, label, console, lambda waiting: _answers(tuned, waiting, label, config.max_new_tokens)
    )
    rows = {row["id"]: row for row in read_part(part)}
    write_jsonl(path, (rows[example.id] for example in examples))
    remove_parts(path)


def _answers(tuned: TunedModel, examples: Sequence[Example], label: str, max_new_tokens: int) -> Iterator[Prediction]:
    """Yield the predictions, computed in chunks."""
    try:
        from vllm import LLM, SamplingParams  # type: ignore[import-not-found,unused-ignore]
        from vllm.lora.request import LoRARequest  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise VllmError('the package vllm is not installed; run `pip install "toolhone[vllm]"`') from None
    renderer = tuned.renderer
    prompts = {one.id: renderer.prompt(one.prompt, one.tools)[1] for one in examples}
    options = _engine_options(tuned, max(map(len, prompts.values())) + max_new_tokens)
    try:
        llm = LLM(**options)
    except Exception as error:  # any code of vLLM and of the model runs here
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
        raise VllmError(f"vLLM does not start with {tuned.config.model.name} ({reason}); use transformers") from error
    sampling = SamplingParams(
        temperature=0.0,  # greedy
        max_tokens=max_new_tokens,
        logprobs=2,  # of the chosen token and its runner-up
        stop_token_ids=sorted(renderer.stop_ids()),
        detokenize=False,  # the ids are decoded here, including special tokens
    )
    adapted = LoRARequest("adapter", 1, str(tuned.adapter.resolve())) if tuned.adapter else None
    for first in range(0, len(examples), _CHUNK):
        chunk = examples[first : first + _CHUNK]
        started = time.perf_counter()
        outputs = llm.generate(
            [{"prompt_token_ids": prompts[example.id]} for example in chunk],
            sampling,
            use_tqdm=False,
            lora_request=adapted,
        )
        latency_ms = (time.perf_counter() - started) * 1000 / len(chunk)
        for example, output in zip(chunk, outputs, strict=True):
            completion = _completion(output.outputs[0])
            yield prediction_of(completion, example, output.prompt_token_ids, renderer, label, latency_ms)


def _engine_options(tuned: TunedModel, max_model_len: int) -> dict[str, Any]:
    model, adapter = tuned.config.model, tuned.adapter
    options: dict[str, Any] = {
        "model": model.name,
        "trust_remote_code": model.trust_remote_code,
        "dtype": model.dtype,
        "max_model_len": max_model_len,
        "enable_prefix_caching": True,
        "seed": tuned.config.seed,
    }
    if tuned.hardware.device == "cuda":
        options["dtype"] = tuned.hardware.dtype_name  # vLLM's own choice may be another
        free, total = torch.cuda.mem_get_info()  # vLLM refuses to start if its share of the memory is not free
        options["gpu_memory_utilization"] = round(min(_MAX_SHARE, free / total - _SPARE_SHARE), 2)
    if model.revision is not None:
        options["revision"] = model.revision
    if model.quantize == "nf4":
        options["quantization"] = "bitsandbytes"
    if adapter is not None:
        rank = max_lora_rank(adapter, "use `toolhone eval`")
        options |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": rank}
    return options


def _completion(answer: Any) -> Completion:
    ids = list(answer.token_ids)  # ends with the stop token, if it stopped at one
    logprobs = [at_place[id_].logprob for id_, at_place in zip(ids, answer.logprobs, strict=True)]
    runner_ups = [
        max((other.logprob for id_other, other in at_place.items() if id_other != id_), default=None)
        for id_, at_place in zip(ids, answer.logprobs, strict=True)
    ]
    return Completion(ids, logprobs, runner_ups, stopped=answer.finish_reason != "length")
