"""Choose how a batch is computed: check that the model's class gives the right loss, before any weight is loaded.

`train.packing: prefix_tree` needs attention that toolhone can replace, and layers that mix tokens by attention alone.
The check compares the losses of a small random copy of the model (`miniature.py`). If a loss is wrong or cannot be
computed, training falls back to `rows`, and from there to `none`, with one notice.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch.nn.functional import cross_entropy

from toolhone.chat.render import IGNORED, LabelledTokens, mask_labels
from toolhone.config import Config
from toolhone.errors import UserError
from toolhone.train import flex
from toolhone.train.attention import TREE_ATTENTION
from toolhone.train.batches import RowCollator, TreeAttention, TreeCollator, tree_features
from toolhone.train.hardware import Hardware
from toolhone.train.loss import row_loss, tree_loss
from toolhone.train.miniature import VOCABULARY, CannotShrinkError, make_miniature

_TESTED = (
    "Apertus Arcee Cohere Cohere2 DeepseekV3 DiffLlama Ernie4_5 Exaone4 GPT2LMHeadModel GPTNeoX Gemma Gemma3 Glm Glm4 "
    "Granite GraniteMoe GraniteMoeHybrid Helium HunYuanDenseV1 Llama MiniCPM3 Ministral Ministral3 Mistral OPT Olmo2 "
    "Olmo3 Phi Phi3 Qwen2 Qwen2Moe Qwen3 Qwen3Moe SeedOss SmolLM3"
)
TESTED = frozenset(_TESTED.split())
"""Classes whose tree loss the test suite compares with the plain loss, without their ending ForCausalLM."""

_LOSS_TOLERANCE = 1e-5
_GRADIENT_TOLERANCE = 1e-3
_TREE_TOKENS = 150  # of the check: its rows make two trees
_TRIAL_BLOCKS = 7
"""Blocks of the trial of FlexAttention. torch assumes that equal sizes stay equal, and no model has 7 or 896 heads or
numbers in a head. Otherwise the kernel would be compiled again."""


@dataclass(frozen=True, slots=True)
class PackingCheck:
    """What the check found. Each fault is a clause that says why a packing cannot be used; None: it can be used."""

    tree_fault: str | None
    rows_fault: str | None


def settle_packing(config: Config, model_config: Any) -> tuple[Config, tuple[str, ...]]:
    """Return the config with a packing that is right for the model, and notices for the user."""
    if config.train.packing != "prefix_tree":
        return config, ()
    found = check_packing(model_config, trust_remote_code=config.model.trust_remote_code)
    if found.tree_fault is None:
        return config, ()
    changes: dict[str, Any] = {"packing": "rows"}
    note = f"train.packing: rows instead of prefix_tree, because {found.tree_fault}"
    if found.rows_fault is not None:
        changes["packing"] = "none"
        note = f"train.packing: none instead of prefix_tree, because {found.tree_fault}"
        if found.rows_fault != found.tree_fault:
            note += f", and with rows, {found.rows_fault}"
        if config.train.answer_weight != 1:
            changes["answer_weight"] = 1.0
            note += f"; train.answer_weight counts as 1 instead of {config.train.answer_weight}"
    return config.model_copy(update={"train": config.train.model_copy(update=changes)}), (note,)


def tree_attention_of(config: Config, hardware: Hardware, model_config: Any) -> TreeAttention:
    """Return how the layers of a model compute attention over prefix trees in training."""
    return TreeAttention(
        flex=uses_flex(config, hardware),
        device=hardware.device,
        windows=_windows(model_config),
        matrix_attention=config.cpu.matrix_attention,
    )


def uses_flex(config: Config, hardware: Hardware) -> bool:
    """Return whether training computes attention with FlexAttention, if the model allows it.

    Raises:
        UserError: if the config asks for it on a CPU.
    """
    asked = config.train.attention
    if asked == "flex" and hardware.device == "cpu":
        raise UserError(
            "train.attention: flex needs a GPU, because FlexAttention has no backward pass on a CPU; set it to auto"
        )
    return config.train.packing == "prefix_tree" and hardware.device == "cuda" and asked != "blocks"


def flex_fault(model: Any, attention: TreeAttention) -> str | None:
    """Return why a training step with FlexAttention fails, as a clause; None if it works.

    One small step is tried, because the kernel depends on the GPU, its compiler and the sizes of the heads. The
    compiled kernel is that of the training.
    """
    shared = [1] * (flex.BLOCK * _TRIAL_BLOCKS // 2)
    rows = [mask_labels([*shared, n], [n] * (len(shared) // 2 - 1)) for n in (1, 2)]
    batch = TreeCollator(0, 2 * len(shared), attention)([tree_features(row) for row in rows])
    was_training = model.training
    device = next(model.parameters()).device
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The .grad attribute")  # the compiler asks every input for one
            loss = tree_loss(model.train(), send_to_device(batch, device))
            loss.backward()  # type: ignore[no-untyped-call]
        return None if bool(loss.isfinite()) else "the loss of a trial step is not finite"
    except Exception as error:  # noqa: BLE001  # a compiler runs here
        # An error while compiling names its cause after a page of hints.
        return _described(error.__cause__ if isinstance(error.__cause__, Exception) else error)
    finally:
        model.zero_grad(set_to_none=True)
        model.train(was_training)


def _windows(model_config: Any) -> tuple[int | None, ...]:
    """Return the windows of a model's layers, as far as its config says. None: full attention."""
    text = model_config.get_text_config()
    window = getattr(text, "sliding_window", None)
    kinds = set(getattr(text, "layer_types", None) or (["sliding_attention"] if window else ["full_attention"]))
    return tuple(None if kind == "full_attention" else window for kind in sorted(kinds))


def check_packing(model_config: Any, *, trust_remote_code: bool = False) -> PackingCheck:
    """Compare the losses of a small copy of the model along prefix trees, and in padded rows, with the plain loss."""
    key = type(model_config), model_config.to_json_string(use_diff=False), trust_remote_code
    if key not in _checked:
        _checked[key] = _check(model_config, trust_remote_code)
    return _checked[key]


_checked: dict[Any, PackingCheck] = {}


def is_tested(model: Any) -> bool:
    """Return whether the class of this model is one of `TESTED`, and from transformers itself."""
    kind = type(model)
    return kind.__name__.removesuffix("ForCausalLM") in TESTED and kind.__module__.startswith("transformers.")


def other_layers(model_config: Any) -> list[str]:
    """Return what prefix trees do not support in a model, as far as its config says."""
    text = model_config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    others = sorted(kinds - {"full_attention", "sliding_attention"})
    if getattr(text, "attn_logit_softcapping", None):
        others.append("capped attention logits")
    if text.model_type == "gpt_oss":
        others.append("attention sinks")
    if getattr(text, "use_bidirectional_attention", None):
        others.append("bidirectional attention")
    return others


def _check(model_config: Any, trust_remote_code: bool) -> PackingCheck:
    others = other_layers(model_config)
    tree_fault = f"the model has {', '.join(others)}" if others else None
    try:
        model = make_miniature(model_config, trust_remote_code=trust_remote_code)
    except CannotShrinkError as error:
        fault = f"no small copy of the model can be made to check its loss ({error})"
        return PackingCheck(tree_fault or fault, fault)
    rows = _rows()
    if tree_fault is None:
        tree_fault = _tree_fault(model, rows)
        if tree_fault is None:
            return PackingCheck(None, None)
        model = make_miniature(model_config, trust_remote_code=trust_remote_code)  # with its own attention
    return PackingCheck(tree_fault, _rows_fault(model, rows[:3]))


def _tree_fault(model: Any, rows: Sequence[LabelledTokens]) -> str | None:
    try:
        plain, of_plain = _with_gradient(model, _plain_loss(model, rows))
        model.set_attn_implementation(TREE_ATTENTION)
        batch = TreeCollator(0, _TREE_TOKENS)([tree_features(row) for row in rows])
        loss, of_trees = _with_gradient(model, tree_loss(model, batch))
    except Exception as error:  # noqa: BLE001  # any code of any class runs here
        return f"{type(model).__name__} does not support it ({_described(error)})"
    difference = abs(loss - plain) / abs(plain)
    of_gradient = float((of_trees - of_plain).norm() / of_plain.norm())
    if difference <= _LOSS_TOLERANCE and of_gradient <= _GRADIENT_TOLERANCE:
        return None
    return (
        f"{type(model).__name__} gives another loss along trees (relative difference {difference:.0e}, of the gradient "
        f"{of_gradient:.0e})"
    )


@torch.no_grad()
def _rows_fault(model: Any, rows: Sequence[LabelledTokens]) -> str | None:
    try:
        plain = float(_plain_loss(model, rows))
        loss = float(row_loss(model, RowCollator(0)([tree_features(row) for row in rows])))
    except Exception as error:  # noqa: BLE001  # any code of any class runs here
        return f"{type(model).__name__} does not support it ({_described(error)})"
    difference = abs(loss - plain) / abs(plain)
    if difference <= _LOSS_TOLERANCE:
        return None
    return f"{type(model).__name__} gives another loss in padded rows (relative difference {difference:.0e})"


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:150]}"


def _with_gradient(model: Any, loss: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Return a loss and its gradient in the input embeddings."""
    weight = model.get_input_embeddings().weight
    model.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item(), weight.grad.clone()


def _plain_loss(model: Any, rows: Sequence[LabelledTokens]) -> torch.Tensor:
    """Return the summed loss of rows that are computed one by one, without padding."""
    losses = []
    for row in rows:
        logits = model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0].float()  # [tokens, vocabulary]
        losses.append(cross_entropy(logits[:-1], torch.tensor(row.labels[1:]), ignore_index=IGNORED, reduction="sum"))
    return torch.stack(losses).sum()


@functools.cache
def _rows() -> tuple[LabelledTokens, ...]:
    """Return rows that share prefixes of different lengths, longer than the windows of a small copy."""
    draw = torch.Generator().manual_seed(1)

    def some(count: int) -> list[int]:
        return torch.randint(3, VOCABULARY, (count,), generator=draw).tolist()

    first, second = some(40), some(30)
    later = first + some(15)
    prompts = [first + some(4), later + some(3), later + some(9), first + some(25), second + some(5), second + some(2)]
    return tuple(mask_labels(prompt, some(length)) for prompt, length in zip(prompts, (6, 5, 7, 4, 8, 3), strict=True))
