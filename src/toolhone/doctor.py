"""`toolhone doctor`: reports what this machine can do, and runs a ten-second self-test. Run it first on a new machine.

The self-test trains and prompts a tiny random Llama on the GPU, or on the CPU if there is no GPU. It checks that
prefix trees give the same gradients as plain rows, with each kind of attention and in each number type that training
may use there, that optimizers lower the loss, also on NF4 weights, and that answers with a cached prefix equal those
without a cache.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from accelerate.utils import send_to_device
from huggingface_hub.constants import ENDPOINT
from peft import LoraConfig, get_peft_model
from rich.console import Console
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from toolhone.chat.render import IGNORED, LabelledTokens, mask_labels
from toolhone.errors import UserError
from toolhone.evaluate.decode import compute_prefix, decode_greedily, shared_prefix
from toolhone.hub import hub_fault
from toolhone.train.attention import TREE_ATTENTION
from toolhone.train.batches import TreeAttention, TreeCollator, tree_features
from toolhone.train.cpu import bfloat16_speedup
from toolhone.train.cuda import torch_build, why_unavailable
from toolhone.train.fused_lora import fuse_lora
from toolhone.train.hardware import choose_device
from toolhone.train.loss import tree_loss

_TESTED = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes")
_COLOURS = {"ok": "green", "note": "yellow", "FAIL": "bold red"}


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the output: the name of the check, its result, and what it found."""

    name: str
    status: Literal["ok", "note", "FAIL"]
    detail: str


def doctor(console: Console) -> bool:
    """Print each check when it is done. Returns True if none failed."""
    failed = False
    for check in diagnose():
        console.print(f"[{_COLOURS[check.status]}]{check.status:>4}[/]  {check.name}: ", end="")
        console.print(check.detail, markup=False)
        failed |= check.status == "FAIL"
    return not failed


def diagnose() -> Iterator[Check]:
    """Yield the checks of the machine, then the self-tests on its device."""
    accelerator = _accelerator()
    device = "cuda" if accelerator.status == "ok" else "cpu"
    yield accelerator
    yield _bfloat16(device)
    memory = psutil.virtual_memory()
    yield Check("memory", "ok", f"{memory.total / 1e9:.0f} GB, {memory.available / 1e9:.0f} GB free")
    yield Check("cores", "ok", f"{psutil.cpu_count(logical=False) or '?'} ({torch.get_num_threads()} threads in use)")
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    yield Check("disk", "ok" if free > 5 else "note", f"{free:.0f} GB free here")
    yield _hub()
    yield from _versions()
    for name, test in _self_tests(device):
        try:
            yield Check(f"{name} on {device}", "ok", test(device))
        except Exception as error:  # noqa: BLE001  # drivers and compilers raise errors of their own
            yield Check(f"{name} on {device}", "FAIL", str(error).strip().split("\n")[0] or type(error).__name__)


def _self_tests(device: str) -> Iterator[tuple[str, Callable[[str], str]]]:
    """Yield the self-tests of what training and evaluation use on this device."""
    kinds = ("blocks", "flex") if device == "cuda" else ("blocks",)
    for attention in kinds:
        yield f"packed gradients, {attention}", partial(packed_gradients, attention=attention)
    if trains_in_bfloat16(device):
        for attention in kinds:
            yield f"bfloat16 gradients, {attention}", partial(bfloat16_gradients, attention=attention)
    yield "NF4 step", nf4_step
    yield "cached generation", cached_generation


def trains_in_bfloat16(device: str) -> bool:
    """Return whether `model.dtype: auto` means bfloat16 on this device."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bfloat16_speedup() > 1


def packed_gradients(device: str, attention: str = "blocks") -> str:
    """Compare every LoRA gradient of a prefix tree with the gradients of plain rows, computed one at a time.

    Raises:
        UserError: if they differ by more than float32 rounding.
    """
    model, rows = _tiny_llama(device), _rows()
    expected = _gradients(model, _plain_losses(model, rows, device))
    batch = _tree_batch(rows, device, attention)
    found = _gradients(model, [_tree_loss(model, batch)])
    worst = max(float((found[name] - wanted).norm() / wanted.norm()) for name, wanted in expected.items())
    if worst > 1e-3:
        raise UserError(f"a gradient differs by {worst:.1e}: prefix-tree training is wrong here; {_INSTEAD[attention]}")
    ratio = int(batch["logical_tokens"]) / int(batch["computed_tokens"])
    return f"equal to plain rows ({worst:.0e} relative), {ratio:.1f} times fewer tokens"


def bfloat16_gradients(device: str, attention: str = "blocks") -> str:
    """Compare the gradients of a prefix tree in bfloat16, with autocast and with the fused adapter, with those in
    float32. Then let the optimizer take a step.

    Raises:
        UserError: if they are further from float32 than those of plain rows in bfloat16, or the loss does not fall.
    """
    rows = _rows()
    wide = _tiny_llama(device)
    exact = _gradients(wide, _plain_losses(wide, rows, device))
    narrow = _tiny_llama(device, torch.bfloat16)
    with torch.autocast(device, dtype=torch.bfloat16):
        of_rows = _error(_gradients(narrow, _plain_losses(narrow, rows, device)), exact)
    batch = _tree_batch(rows, device, attention)
    with torch.autocast(device, dtype=torch.bfloat16):
        errors = {"with autocast": _error(_gradients(narrow, [_tree_loss(narrow, batch)]), exact)}
    fuse_lora(narrow)
    before = _tree_loss(narrow, batch)
    gradients = _gradients(narrow, [before])
    errors["with the fused adapter"] = _error(gradients, exact)
    for how, error in errors.items():
        if not error <= 2 * of_rows:
            raise UserError(
                f"{how}, gradients differ from float32 by {error:.1e}, those of plain rows by {of_rows:.1e}: "
                f"prefix-tree training in bfloat16 is wrong here; {_INSTEAD[attention]}"
            )
    for name, parameter in narrow.named_parameters():
        parameter.grad = gradients.get(name)
    trained = [parameter for parameter in narrow.parameters() if parameter.requires_grad]
    torch.optim.AdamW(trained, lr=1e-3, fused=device == "cuda").step()
    with torch.no_grad():
        after = _tree_loss(narrow, batch)
    if not after.item() < before.item():
        change = f"from {before.item():.4f} to {after.item():.4f}"
        raise UserError(f"the loss went {change} in a step of AdamW in bfloat16; set model.dtype: float32")
    worst = max(errors.values()) / of_rows
    return f"{worst:.1f} times the rounding error of plain rows; loss {before.item():.2f} to {after.item():.2f}"


_INSTEAD = {"blocks": "use packing: none", "flex": "use train.attention: blocks"}
"""What to set if a kind of attention over trees is wrong."""


def nf4_step(device: str) -> str:
    """Train one step on 4-bit weights; on a GPU with the paged 8-bit optimizer.

    Raises:
        UserError: if the loss does not fall.
    """
    from bitsandbytes.nn import Linear4bit

    torch.manual_seed(0)
    model = LlamaForCausalLM(_tiny_config())
    computed = torch.bfloat16 if device == "cuda" and trains_in_bfloat16(device) else torch.float32
    for layer in model.model.layers:
        for parent, name in ((layer.self_attn, "q_proj"), (layer.mlp, "up_proj")):
            dense = getattr(parent, name)
            quantised = Linear4bit(dense.in_features, dense.out_features, False, computed, quant_type="nf4")
            quantised.load_state_dict(dense.state_dict())
            setattr(parent, name, quantised)
    model = get_peft_model(model.to(device), LoraConfig(r=4, target_modules=["q_proj", "up_proj"]))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer: Any = torch.optim.SGD(trained, lr=0.1)
    if device == "cuda":
        from bitsandbytes.optim import PagedAdamW8bit

        optimizer = PagedAdamW8bit(trained, lr=1e-2)
    losses, row = [], _rows()[0]
    for _ in range(2):
        optimizer.zero_grad()
        (loss,) = _plain_losses(model, [row], device)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    if not losses[1] < losses[0]:
        raise UserError(f"the loss went from {losses[0]:.4f} to {losses[1]:.4f}: do not use quantize: nf4 here")
    return f"loss {losses[0]:.3f} to {losses[1]:.3f}"


def cached_generation(device: str) -> str:
    """Compare answers with a cached prefix to answers that recompute everything for each token.

    Raises:
        UserError: if a token differs.
    """
    torch.manual_seed(0)
    model = _tiny_llama(device).eval()
    prompts = [row.ids[: row.prompt_length] for row in _rows()]
    prefix = compute_prefix(model, shared_prefix(prompts))
    answers = decode_greedily(model, prompts, prefix, frozenset(), max_new_tokens=8)
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = list(prompt)
        with torch.inference_mode():
            for _ in range(8):
                ids.append(int(model(torch.tensor([ids], device=device)).logits[0, -1].argmax()))
        if ids[len(prompt) :] != answer.ids:
            raise UserError("answers with a cached prefix differ from plain ones: do not trust evaluation here")
    return f"{len(prompts)} answers equal to those without a cache"


def _tiny_config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=256,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation="sdpa",
    )


def _tiny_llama(device: str, dtype: torch.dtype = torch.float32) -> Any:
    """Return the same random Llama with a float32 adapter at each call. Both LoRA matrices are random, so no gradient
    is zero."""
    torch.manual_seed(0)
    base = LlamaForCausalLM(_tiny_config()).to(dtype)
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.to(device)


_SHARED_TOKENS, _OWN_TOKENS = 300, 60
"""Lengths of the rows. A GPU computes the shared tokens as one causal block, and the rest in blocks with a mask."""


def _rows() -> list[LabelledTokens]:
    """Return six rows of unequal length that share their first tokens. The last five tokens of each are labelled."""
    generator = torch.Generator().manual_seed(1)
    shared: list[int] = torch.randint(256, (_SHARED_TOKENS,), generator=generator).tolist()
    own = [torch.randint(256, (_OWN_TOKENS + n,), generator=generator).tolist() for n in range(6)]
    return [mask_labels([*shared, *ids[:-5]], ids[-5:]) for ids in own]


def _plain_losses(model: Any, rows: Sequence[LabelledTokens], device: str) -> Iterator[torch.Tensor]:
    """Yield the summed loss of each row, computed with the model's own attention."""
    for row in rows:
        logits = model(torch.tensor([row.ids], device=device)).logits[0, :-1].float()
        labels = torch.tensor(row.labels[1:], device=device)
        yield cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")


def _tree_batch(rows: Sequence[LabelledTokens], device: str, attention: str) -> dict[str, Any]:
    collator = TreeCollator(0, 4096, TreeAttention(flex=attention == "flex", device=device))
    batch: dict[str, Any] = send_to_device(collator([tree_features(row) for row in rows]), device)
    return batch


def _tree_loss(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    model.get_base_model().set_attn_implementation(TREE_ATTENTION)
    return tree_loss(model, batch)


def _gradients(model: Any, losses: Iterable[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the gradients of the summed losses by the parameters' names. The model has none afterwards."""
    for loss in losses:
        loss.backward()  # type: ignore[no-untyped-call]
    taken = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return taken


def _error(found: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> float:
    """Return the relative difference of two sets of gradients."""
    one, other = (torch.cat([part[name].flatten() for name in exact]) for part in (found, exact))
    return float((one - other).norm() / other.norm())


def _accelerator() -> Check:
    """Report the GPUs that training would find, or the error that it would stop with."""
    try:
        device, notes = choose_device("auto")
    except UserError as error:
        return Check("CUDA", "FAIL", str(error))
    if device == "cuda":
        names = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
        free, total = torch.cuda.mem_get_info()
        return Check("CUDA", "ok", f"{', '.join(names)}; {free / 1e9:.0f} of {total / 1e9:.0f} GB free")
    why = notes[0] if notes else f"{torch_build()}: {why_unavailable()}"
    return Check("CUDA", "note", f"none ({why}): training runs on the CPU; choose a model of 0.1B to 0.3B")


def _bfloat16(device: str) -> Check:
    if device == "cuda":
        has = trains_in_bfloat16(device)
        return Check("bfloat16", "ok" if has else "note", "yes" if has else "no: float32 is used")
    speedup = bfloat16_speedup()
    fast = f"yes: this CPU multiplies it {speedup:.1f} times as fast as float32"
    return Check("bfloat16", "ok", fast if speedup > 1 else "not used on this CPU, where float32 is faster")


def _hub() -> Check:
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return Check("model hub", "note", "switched off by HF_HUB_OFFLINE; set model.name to a local folder")
    if (fault := hub_fault()) is not None:
        return Check("model hub", "note", f"{ENDPOINT} not reachable ({fault}); set model.name to a local folder")
    return Check("model hub", "ok", f"{ENDPOINT} answers")


def _versions() -> Iterator[Check]:
    """Compare the installed versions with those of constraints.txt, in the wheel or at the top of a checkout."""
    here = Path(__file__).parent
    files = [p for p in (here / "constraints.txt", here.parents[1] / "constraints.txt") if p.is_file()]
    lines = files[0].read_text(encoding="utf-8").splitlines() if files else []
    tested = dict(line.split("==") for line in lines if "==" in line)
    for name in _TESTED:
        found = metadata.version(name)
        wanted = tested.get(name, found)
        same = found.split("+")[0] == wanted
        yield Check(name, "ok" if same else "note", found if same else f"{found}; tested with {wanted}")
