"""`toolhone doctor`: reports what this machine can do, and runs a ten-second self-test. Run it first on a new machine.

The self-test trains and prompts a tiny random Llama on the GPU, or on the CPU if there is no GPU. It checks that
a prefix tree gives the same gradients as plain rows, that a step on NF4 weights lowers the loss, and that answers with
a cached prefix equal those without a cache.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
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
from toolhone.train.batches import TreeCollator, tree_features
from toolhone.train.cpu import bfloat16_speedup
from toolhone.train.cuda import torch_build, why_unavailable
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
    tests = {"packed gradients": packed_gradients, "NF4 step": nf4_step, "cached generation": cached_generation}
    for name, test in tests.items():
        try:
            yield Check(f"{name} on {device}", "ok", test(device))
        except (UserError, RuntimeError, ImportError, AssertionError) as error:
            yield Check(f"{name} on {device}", "FAIL", str(error).strip().split("\n")[0] or type(error).__name__)


def packed_gradients(device: str) -> str:
    """Compare every LoRA gradient of a prefix tree with the gradients of plain rows, computed one at a time.

    Raises:
        UserError: if they differ by more than float32 rounding.
    """
    torch.manual_seed(0)
    model = _tiny_llama(device)
    rows = [mask_labels(ids[:-5], ids[-5:]) for ids in _prompts(with_answers=5)]
    plain = sum(_plain_loss(model, row, device) for row in rows)
    plain.backward()  # type: ignore[union-attr]
    expected = _take_gradients(model)
    batch = TreeCollator(0, 4096)([tree_features(row) for row in rows])
    model.get_base_model().set_attn_implementation(TREE_ATTENTION)
    tree_loss(model, {name: tensor.to(device) for name, tensor in batch.items()}).backward()  # type: ignore[no-untyped-call]
    differences = ((found, expected[name]) for name, found in _take_gradients(model).items())
    worst = max(float((found - wanted).norm() / wanted.norm()) for found, wanted in differences)
    if worst > 1e-3:
        raise UserError(f"a gradient differs by {worst:.1e}: prefix-tree training is wrong here; use packing: none")
    ratio = int(batch["logical_tokens"]) / int(batch["computed_tokens"])
    return f"equal to plain rows ({worst:.0e} relative), {ratio:.1f} times fewer tokens"


def nf4_step(device: str) -> str:
    """Train one step on 4-bit weights.

    Raises:
        UserError: if the loss does not fall.
    """
    from bitsandbytes.nn import Linear4bit

    torch.manual_seed(0)
    model = LlamaForCausalLM(_tiny_config())
    for layer in model.model.layers:
        for parent, name in ((layer.self_attn, "q_proj"), (layer.mlp, "up_proj")):
            dense = getattr(parent, name)
            quantised = Linear4bit(dense.in_features, dense.out_features, False, torch.float32, quant_type="nf4")
            quantised.load_state_dict(dense.state_dict())
            setattr(parent, name, quantised)
    model = get_peft_model(model.to(device), LoraConfig(r=4, target_modules=["q_proj", "up_proj"]))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses, ids = [], _prompts(with_answers=5)[0]
    for _ in range(2):
        optimizer.zero_grad()
        loss = _plain_loss(model, mask_labels(ids[:30], ids[30:]), device)
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
    prompts = _prompts(with_answers=0)
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
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation="sdpa",
    )


def _tiny_llama(device: str) -> Any:
    """Return a random Llama with an adapter. Both LoRA matrices are random, so no gradient is zero."""
    model = get_peft_model(LlamaForCausalLM(_tiny_config()), LoraConfig(r=4, target_modules="all-linear"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.to(device)


def _prompts(with_answers: int) -> list[list[int]]:
    """Return five prompts of unequal length with the same first 24 ids, each followed by `with_answers` more ids."""
    generator = torch.Generator().manual_seed(1)
    shared: list[int] = torch.randint(256, (24,), generator=generator).tolist()
    own = [torch.randint(256, (6 + n + with_answers,), generator=generator).tolist() for n in range(5)]
    return [[*shared, *ids] for ids in own]


def _plain_loss(model: Any, row: LabelledTokens, device: str) -> torch.Tensor:
    logits = model(torch.tensor([row.ids], device=device)).logits[0, :-1]
    return cross_entropy(logits, torch.tensor(row.labels[1:], device=device), ignore_index=IGNORED, reduction="sum")


def _take_gradients(model: Any) -> dict[str, torch.Tensor]:
    taken = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return taken


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
        has = torch.cuda.is_bf16_supported(including_emulation=False)
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
