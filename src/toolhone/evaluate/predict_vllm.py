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

from rich.console import Console

from toolhone.config import Config
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
        facts = {"examples": len(examples), "asked": asked_fingerprint(examples), "versions": versions()}
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
    del settings["evaluate"]["base_rows"]  # vLLM answers every row
    made_from = fingerprint("vllm", settings, weights, list(prompts.items()))
    part = part_path(path, 0, made_from)
    answer_missing(part, examples, label, console, lambda waiting: _answers(tuned, waiting, prompts, label, console))
    rows = {row["id"]: row for row in read_part(part)}
    write_jsonl(path, (rows[example.id] for example in examples))
    remove_parts(path)
    return made_from


def _answers(
    tuned: TunedModel, examples: Sequence[Example], prompts: dict[str, list[int]], label: str, console: Console
) -> Iterator[Prediction]:
    """Yield the predictions, computed in chunks."""
    try:
        from vllm import LLM, SamplingParams  # type: ignore[import-not-found,unused-ignore]
        from vllm.lora.request import LoRARequest  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise UserError('the package vllm is not installed; run `pip install "toolhone[vllm]"`') from None
    renderer, max_new_tokens = tuned.renderer, tuned.config.evaluate.max_new_tokens
    longest = max(len(prompts[example.id]) for example in examples) + max_new_tokens
    llm = LLM(**_engine_options(tuned.config, tuned.adapter, longest))
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


def _engine_options(config: Config, adapter: Path | None, max_model_len: int) -> dict[str, Any]:
    model = config.model
    options: dict[str, Any] = {
        "model": model.name,
        "trust_remote_code": model.trust_remote_code,
        "dtype": model.dtype,
        "max_model_len": max_model_len,
        "enable_prefix_caching": True,
        "seed": config.seed,
    }
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
