"""Measure evaluation speed: toolhone's decoding with a cached prefix, compared with batched `generate` without one.

Both answer the same test turns with the same model, batch size, token limit and stop tokens, rows of similar length
together. They take turns on the same rows, so that a machine whose speed drifts is fair to both. In float32 both must
give the same tokens, and the script prints how many answers are equal.

    .venv/bin/python scripts/bench_eval.py --run runs/cpu                # a finished run's tuned model
    .venv/bin/python scripts/bench_eval.py --run runs/cpu --tools schema # with longer prompts, as the base model has
    .venv/bin/python scripts/bench_eval.py --run runs/cpu --rows 96 --batch 16 --json eval.json
    .venv/bin/python scripts/bench_eval.py --shape qwen3-0.6b --rows 242 --batch 64    # random weights, no run, no hub

Random weights never write a stop token, so every answer has --max-tokens tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from random_models import SHAPES, data_of, make_model

Answers = list[list[int]]
"""A completion's token ids for each prompt, in the prompts' order."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--run", type=Path, default=Path("runs/cpu"), help="folder of a finished run (default: %(default)s)"
    )
    parser.add_argument("--shape", choices=SHAPES, help="take random weights of this shape instead of --run")
    about = "with --shape: number of tokens in each answer (default: %(default)s)"
    parser.add_argument("--max-tokens", type=int, default=48, help=about)
    parser.add_argument("--rows", type=int, default=64, help="number of test turns to answer (default: %(default)s)")
    parser.add_argument(
        "--batch", type=int, default=32, help="number of rows generated together (default: %(default)s)"
    )
    parser.add_argument(
        "--tools",
        choices=("schema", "signatures", "names"),
        help="how tools are written, as in chat.tools (default: the run's)",
    )
    parser.add_argument("--json", type=Path, help="JSON file to write the figures to as well")
    options = parser.parse_args()

    from toolhone.cli.terminal import prepare_libraries
    from toolhone.errors import UserError

    prepare_libraries()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            found = measure(options, Path(scratch))
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    show(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


def measure(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Answer the rows chunk by chunk in both ways, the first chunk once more before the clock as a warm-up."""
    from toolhone.evaluate.decode import batches_by_length, compute_prefix, shared_prefix

    opened = model_of_shape(options, scratch) if options.shape else model_of_run(options)
    model, renderer, examples, limit, hardware = opened
    # Every so-many-th of the turns, so that long conversations are among them in their proportion.
    chosen = examples[:: max(1, len(examples) // options.rows)][: options.rows]
    prompts = [renderer.prompt(example.prompt, example.tools)[1] for example in chosen]
    prefix_ids = shared_prefix(prompts)
    stop_ids = renderer.stop_ids()
    chunks = [[prompts[n] for n in indices] for indices in batches_by_length(prompts, options.batch)]

    seconds = {"prefix-cached": 0.0, "generate": 0.0}
    answers: dict[str, Answers] = {"prefix-cached": [], "generate": []}
    generate(model, [chunks[-1][0]], stop_ids, 2)
    clock, prefix = timed(lambda: compute_prefix(model, prefix_ids))
    seconds["prefix-cached"] += clock
    for number, chunk in enumerate(chunks):
        ways: list[tuple[str, Callable[[], Answers]]] = [
            ("prefix-cached", lambda chunk=chunk: decode_with_prefix(model, chunk, prefix, stop_ids, limit)),
            ("generate", lambda chunk=chunk: generate(model, chunk, stop_ids, limit)),
        ]
        for name, answer in ways if number % 2 == 0 else reversed(ways):
            clock, found = timed(answer)
            seconds[name] += clock
            answers[name] += found
    same = sum(a == b for a, b in zip(answers["prefix-cached"], answers["generate"], strict=True))
    return {
        "run": options.shape or str(options.run),
        "device": hardware.describe(),
        "date": date.today().isoformat(),
        "rows": len(prompts),
        "batch": options.batch,
        "prefix_tokens": len(prefix_ids),
        "prompt_tokens": sum(map(len, prompts)) / len(prompts),
        "seconds": seconds,
        "examples_per_second": {name: len(prompts) / taken for name, taken in seconds.items()},
        "ratio": seconds["generate"] / seconds["prefix-cached"],
        "same_answers": same,
    }


def model_of_run(options: argparse.Namespace) -> tuple[Any, Any, list[Any], int, Any]:
    """The tuned model of a finished run, its renderer, its test turns, its token limit, and the hardware."""
    from toolhone.chat.probe import make_renderer
    from toolhone.data.read import read_conversations, turns
    from toolhone.tuned import TunedModel

    tuned = TunedModel.load(options.run)
    config, renderer = tuned.config, tuned.renderer
    if options.tools and options.tools != config.chat.tools:
        chat = config.chat.model_copy(update={"tools": options.tools})
        renderer = make_renderer(renderer.tokenizer, chat, config.model.name)
    examples = turns(read_conversations(tuned.run.split("test")))
    return tuned.model, renderer, examples, config.evaluate.max_new_tokens, tuned.hardware


def model_of_shape(options: argparse.Namespace, scratch: Path) -> tuple[Any, Any, list[Any], int, Any]:
    """A model with random weights and a random adapter, on the test turns of customer_service."""
    import torch
    from peft import get_peft_model

    from toolhone.chat.probe import make_renderer
    from toolhone.config import Config
    from toolhone.data.read import turns
    from toolhone.data.split import make_splits
    from toolhone.pretrained import build_model, load_model_config, load_tokenizer
    from toolhone.train.adapter import lora_config
    from toolhone.train.hardware import choose_hardware
    from toolhone.train.model import load_for_inference

    values = {
        "name": "bench",
        "model": {"name": str(make_model(scratch / options.shape, options.shape))},
        "data": data_of("customer_service"),
        "chat": {"tools": options.tools or "schema"},
    }
    config = Config.model_validate(values)
    hardware = choose_hardware(config.model, cudnn_attention=config.cuda.cudnn_attention)
    with torch.device(hardware.device):
        base = build_model(load_model_config(config.model), dtype=hardware.dtype)
        adapted = get_peft_model(base, lora_config(config.lora, base))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    adapted.save_pretrained(str(scratch / "adapter"))
    del base, adapted
    model = load_for_inference(config.model, hardware, scratch / "adapter")
    renderer = make_renderer(load_tokenizer(config.model), config.chat, config.model.name)
    return model, renderer, turns(make_splits(config.data).test), options.max_tokens, hardware


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """What the work returns and the wall seconds it took."""
    import torch

    started = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started, result


def decode_with_prefix(
    model: Any, prompts: Sequence[list[int]], prefix: Any, stop_ids: frozenset[int], limit: int
) -> Answers:
    """toolhone's own decoding."""
    from toolhone.evaluate.decode import decode_greedily

    return [completion.ids for completion in decode_greedily(model, prompts, prefix, stop_ids, limit)]


def generate(model: Any, prompts: Sequence[list[int]], stop_ids: frozenset[int], limit: int) -> Answers:
    """transformers' generate on a left-padded batch, as its documentation has it."""
    import torch

    width = max(map(len, prompts))
    pad = min(stop_ids)
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=model.device)  # [batch, width]
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=limit,
            eos_token_id=sorted(stop_ids),
            pad_token_id=pad,
            use_cache=True,
        )
    return [up_to_stop(row, stop_ids) for row in out[:, width:].tolist()]


def up_to_stop(ids: list[int], stop_ids: frozenset[int]) -> list[int]:
    """The ids up to the first stop token, and that one."""
    return next((ids[: n + 1] for n, id_ in enumerate(ids) if id_ in stop_ids), ids)


def show(found: dict[str, Any]) -> None:
    """Print the figures as a Markdown table."""
    print(f"{found['run']}, {found['device']}, {found['date']}: {found['rows']} turns in batches of {found['batch']},")
    print(f"{found['prompt_tokens']:.0f} prompt tokens on average, of which {found['prefix_tokens']} are shared\n")
    print("| | seconds | examples/s |")
    print("| --- | --- | --- |")
    for name, taken in found["seconds"].items():
        print(f"| {name} | {taken:.1f} | {found['examples_per_second'][name]:.2f} |")
    print(f"\nratio {found['ratio']:.1f}x; {found['same_answers']} of {found['rows']} answers are the same")


if __name__ == "__main__":
    sys.exit(main())
