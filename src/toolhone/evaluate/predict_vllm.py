"""Predictions of a run's model by vLLM's offline engine, with the adapter: for a GPU, many rows at once.

Needs the package vllm (`pip install "toolhone[vllm]"`). Prompts are rendered here and given as token ids, so that the
model is asked just as in training; the log-probabilities are those of vLLM's default, before any mask or temperature.
Only vLLM's public names are used: `LLM`, `SamplingParams`, `LoRARequest`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from toolhone.chat.render import ChatRenderer
from toolhone.chat.token_bytes import TokenBytes
from toolhone.config import Config
from toolhone.errors import UserError
from toolhone.evaluate.score import scored_examples
from toolhone.jsonl import json_line, part_path, read_part, remove_parts, write_jsonl
from toolhone.records import Example, Prediction, Token
from toolhone.run_folder import fingerprint
from toolhone.tuned import TunedModel

_CHUNK = 256
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM takes for `max_lora_rank`."""


def predict_run_with_vllm(folder: Path, *, base: bool, console: Console) -> Path:
    """Answer a run's judged rows; the predictions' name is tuned-vllm or base-vllm. Returns their file.

    Raises:
        UserError: where vllm is not installed, or the run has no adapter.
    """
    tuned = TunedModel.base(folder) if base else TunedModel.load(folder)
    run = tuned.run
    examples = scored_examples(run)
    label = f"{tuned.label}-vllm"
    path = run.predictions(label)
    predict_vllm(tuned.config, tuned.renderer, examples, label, tuned.adapter, path, console)
    return path


def predict_vllm(
    config: Config,
    renderer: ChatRenderer,
    examples: Sequence[Example],
    label: str,
    adapter: Path | None,
    path: Path,
    console: Console,
) -> None:
    """Answer every example greedily and write the predictions to `path`, in the examples' order.

    Answers of an interrupted call are reused where the same is asked of the same model.

    Raises:
        UserError: where vllm is not installed, or cannot hold an adapter of this rank.
    """
    prompts = {example.id: renderer.prompt(example.prompt, example.tools)[1] for example in examples}
    part = part_path(path, 0, _fingerprint(config, adapter, list(prompts.items())))
    done = {row["id"] for row in read_part(part)}
    waiting = [example for example in examples if example.id not in done]
    if done:
        console.print(f"{label}: {len(done)} answers are there from before, {len(waiting)} to go")
    if waiting:
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as out:
            for row in _answers(config, renderer, waiting, prompts, label, adapter, console):
                out.write(json_line(row.to_json()))
                out.flush()
    rows = {row["id"]: row for row in read_part(part)}
    write_jsonl(path, (rows[example.id] for example in examples))
    remove_parts(path)


def _fingerprint(config: Config, adapter: Path | None, asked: list[tuple[str, list[int]]]) -> str:
    # The weights' size and time stand for the weights themselves, which may be large.
    files = sorted(adapter.glob("adapter_model*")) if adapter else []
    weights = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    return fingerprint("vllm", config.model_dump(mode="json", include={"model", "evaluate", "seed"}), weights, asked)


def _answers(
    config: Config,
    renderer: ChatRenderer,
    examples: Sequence[Example],
    prompts: dict[str, list[int]],
    label: str,
    adapter: Path | None,
    console: Console,
) -> Iterator[Prediction]:
    """Yield the predictions, a chunk of them at a time."""
    try:
        from vllm import LLM, SamplingParams  # type: ignore[import-not-found,unused-ignore]
        from vllm.lora.request import LoRARequest  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise UserError('the package vllm is not installed; `pip install "toolhone[vllm]"` brings it') from None
    most = max(len(prompts[example.id]) for example in examples) + config.evaluate.max_new_tokens
    llm = LLM(**_engine_options(config, adapter, most))
    stop_ids, token_bytes = renderer.stop_ids(), TokenBytes(renderer.tokenizer)
    sampling = SamplingParams(
        temperature=0.0,  # greedy
        max_tokens=config.evaluate.max_new_tokens,
        logprobs=2,  # those of the chosen token and of its runner-up
        stop_token_ids=sorted(stop_ids),
        detokenize=False,  # the ids are decoded here, special tokens and all
    )
    adapted = LoRARequest("adapter", 1, str(adapter.resolve())) if adapter else None
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
            answer = output.outputs[0]
            yield _prediction(renderer, token_bytes, stop_ids, label, example, output, answer, latency_ms)
        console.print(f"{label}: {first + len(chunk)} of {len(examples)} answered")


def _engine_options(config: Config, adapter: Path | None, max_model_len: int) -> dict[str, Any]:
    model = config.model
    options: dict[str, Any] = {
        "model": model.name,
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
        rank = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"]
        fits = [size for size in _RANKS if size >= rank]
        if not fits:
            raise UserError(f"{adapter}: is of rank {rank}, and vLLM holds adapters up to rank {_RANKS[-1]}")
        options |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": fits[0]}
    return options


def _prediction(
    renderer: ChatRenderer,
    token_bytes: TokenBytes,
    stop_ids: frozenset[int],
    label: str,
    example: Example,
    output: Any,
    answer: Any,
    latency_ms: float,
) -> Prediction:
    ids = list(answer.token_ids)
    # vLLM counts the token that it stopped at among the ids.
    said = ids[:-1] if ids and ids[-1] in stop_ids else ids
    logprobs = [at_place[id_].logprob for id_, at_place in zip(ids, answer.logprobs, strict=True)]
    runner_ups = [
        max((other.logprob for id_other, other in at_place.items() if id_other != id_), default=None)
        for id_, at_place in zip(ids, answer.logprobs, strict=True)
    ]
    return Prediction(
        id=example.id,
        model=label,
        text=renderer.decode(said),
        finish_reason="length" if answer.finish_reason == "length" else "stop",
        prompt_tokens=len(output.prompt_token_ids),
        completion_tokens=len(ids),
        latency_ms=latency_ms,
        tokens=tuple(map(Token, ids, token_bytes.of(ids), logprobs, runner_ups)),
    )
