"""Print the table of configs/recipes/README.md: models, licences, chat formats, and GPU memory by formula.

    python scripts/recipe_table.py            # print the table
    python scripts/recipe_table.py --write    # write it into README.md, and the memory into each recipe

The memory is that of `toolhone train --dry-run` (train/estimate.py) for a GPU, without a GPU, a hub or a tokenizer.
Sizes are those of the models' public config.json. Each step has the recipe's batch of examples of a usual length:
their system prompt and tools take 900 tokens, which they share, and each one has 100 more tokens of prompt and 60 of
answer. Training or answering needs more; the larger counts. The dry run counts your own examples instead.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

RECIPES = Path(__file__).parent.parent / "configs" / "recipes"
SHARED, OWN, ANSWER = 900, 100, 60
"""Tokens of an example: prompt that all share, prompt of its own, and answer."""
MEMORY = "# GPU memory by formula: "


class Model(NamedTuple):
    """What a recipe's model is on the hub. `sizes` are from its config.json; `template` says which chat template and
    call format is expected."""

    kind: str
    sizes: dict[str, Any]
    licence: str
    gated: bool
    template: str


def _sizes(
    hidden: int, layers: int, inner: int, heads: int, key_value_heads: int, vocabulary: int, **others: Any
) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "vocab_size": vocabulary,
        "tie_word_embeddings": True,
        **others,
    }


_APACHE, _LLAMA, _GEMMA = "Apache-2.0", "Llama {} Community License", "Gemma Terms of Use"
_HERMES = "own, calls in `<tool_call>` (hermes)"
_LLAMA3 = "toolhone's, JSON calls (llama3)"
_GEMMA_TEMPLATE = "toolhone's, `[name(argument=value)]` (pythonic)"
MODELS = {
    "qwen3-0.6b": Model("qwen3", _sizes(1024, 28, 3072, 16, 8, 151_936, head_dim=128), _APACHE, False, _HERMES),
    "qwen3-1.7b": Model("qwen3", _sizes(2048, 28, 6144, 16, 8, 151_936, head_dim=128), _APACHE, False, _HERMES),
    "qwen3-4b": Model("qwen3", _sizes(2560, 36, 9728, 32, 8, 151_936, head_dim=128), _APACHE, False, _HERMES),
    "llama3.2-1b": Model("llama", _sizes(2048, 16, 8192, 32, 8, 128_256), _LLAMA.format("3.2"), True, _LLAMA3),
    "llama3.2-3b": Model("llama", _sizes(3072, 28, 8192, 24, 8, 128_256), _LLAMA.format("3.2"), True, _LLAMA3),
    "llama3.1-8b-qlora": Model(
        "llama",
        _sizes(4096, 32, 14_336, 32, 8, 128_256, tie_word_embeddings=False),
        _LLAMA.format("3.1"),
        True,
        _LLAMA3,
    ),
    "gemma3-270m": Model(
        "gemma3_text", _sizes(640, 18, 2048, 4, 1, 262_144, head_dim=256), _GEMMA, True, _GEMMA_TEMPLATE
    ),
    "gemma3-1b": Model(
        "gemma3_text", _sizes(1152, 26, 6912, 4, 1, 262_144, head_dim=256), _GEMMA, True, _GEMMA_TEMPLATE
    ),
    "granite4-micro": Model(
        "granitemoehybrid",
        _sizes(
            2560,
            40,
            8192,
            40,
            8,
            100_352,
            shared_intermediate_size=8192,
            num_local_experts=0,
            num_experts_per_tok=0,
            layer_types=["attention"] * 40,
            position_embedding_type="rope",
        ),
        _APACHE,
        False,
        _HERMES,
    ),
    "ministral3-3b": Model(
        "mistral3",
        {
            "text_config": _sizes(3072, 26, 9216, 32, 8, 131_072, head_dim=128, model_type="ministral3"),
            "vision_config": {
                "model_type": "pixtral",
                "hidden_size": 1024,
                "num_hidden_layers": 24,
                "intermediate_size": 4096,
                "num_attention_heads": 16,
                "head_dim": 64,
                "patch_size": 14,
                "image_size": 1540,
            },
            "tie_word_embeddings": True,
        },
        _APACHE,
        False,
        "own, `[TOOL_CALLS]name[ARGS]{...}`",
    ),
    "lfm2-350m": Model(
        "lfm2",
        # config.json says 6656; the model takes two thirds of it, rounded up to a multiple of 256: 4608.
        _sizes(1024, 16, 6656, 16, 8, 65_536, block_auto_adjust_ff_dim=True, full_attn_idxs=[2, 5, 8, 10, 12, 14]),
        "LFM Open License v1.0",
        False,
        "own, `[name(argument=value)]`",
    ),
    "smollm3-3b": Model(
        "smollm3",
        _sizes(2048, 36, 11_008, 16, 4, 128_256),
        _APACHE,
        False,
        "toolhone's, calls in `<tool_call>` (hermes)",
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the table and the memory into configs/recipes")
    options = parser.parse_args()
    memory = {name: memory_gb(name) for name in MODELS}
    text = table(memory)
    if not options.write:
        print(text)
        return 0
    readme = RECIPES / "README.md"
    before = readme.read_text(encoding="utf-8")
    readme.write_text(re.sub(r"^\| recipe.*?\n\n", f"{text}\n\n", before, flags=re.S | re.M), encoding="utf-8")
    for name, gigabytes in memory.items():
        recipe = RECIPES / f"{name}.yaml"
        lines = recipe.read_text(encoding="utf-8")
        recipe.write_text(re.sub(rf"^{MEMORY}.*$", memory_line(gigabytes), lines, flags=re.M), encoding="utf-8")
    return 0


def memory_line(gigabytes: float) -> str:
    """Return the line of a recipe that states its memory."""
    return f"{MEMORY}{gigabytes:.1f} GB (scripts/recipe_table.py; not measured)"


def memory_gb(name: str) -> float:
    """Return the estimated peak of GPU memory of a recipe in training and answering, in GB of 10^9 bytes."""
    import torch

    from toolhone.chat.render import mask_labels
    from toolhone.config_file import load_config
    from toolhone.evaluate.predict import AnswerMemory, Batch
    from toolhone.train.estimate import estimate
    from toolhone.train.hardware import Hardware

    config = load_config(RECIPES / f"{name}.yaml")
    shared = list(range(SHARED))
    rows = [mask_labels([*shared, *([SHARED + row] * OWN)], [1] * ANSWER) for row in range(config.train.batch_size)]
    gpu = Hardware("cuda", torch.bfloat16, ())
    training = estimate(config, gpu, architecture(name), rows)
    prompts = [[*shared, *([SHARED + row] * OWN)] for row in range(config.evaluate.batch_size)]
    needs = AnswerMemory(config, gpu, architecture(name), training.sizes)
    answering = needs.peak_gb([Batch(shared, prompts, [])], config.evaluate.max_new_tokens, tuned=True)
    return max(training.memory_gb, answering)


def architecture(name: str) -> Any:
    """Return transformers' config of a recipe's model."""
    from transformers import AutoConfig

    model = MODELS[name]
    return AutoConfig.for_model(model.kind, **model.sizes)


def table(memory: dict[str, float]) -> str:
    """Return the Markdown table of all recipes."""
    from toolhone.config_file import load_config

    lines = [
        "| recipe | model | licence | login | chat template and calls | GPU memory |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, model in MODELS.items():
        hub = load_config(RECIPES / f"{name}.yaml").model.name
        login = "yes" if model.gated else "no"
        cells = (f"[{name}]({name}.yaml)", f"`{hub}`", model.licence, login, model.template, f"{memory[name]:.1f} GB")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
