"""Estimated memory compared with counted memory: the bytes of all tensors that exist at the peak of a training step or
of answering. Most tensors are fake ones, which have a size but no storage, so models of any size are counted."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import send_to_device
from fake_cuda import fake_cuda
from peft import get_peft_model
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM

from toolhone.chat.render import LabelledTokens, mask_labels
from toolhone.config import Config
from toolhone.evaluate import decode
from toolhone.evaluate.decode import compute_prefix, decode_greedily
from toolhone.train import flex
from toolhone.train.adapter import lora_config
from toolhone.train.attention import TREE_ATTENTION
from toolhone.train.batches import RowCollator, TreeAttention, TreeCollator, tree_features
from toolhone.train.estimate import count_batches
from toolhone.train.fused_lora import fuse_lora
from toolhone.train.hardware import Hardware
from toolhone.train.loss import label_loss, summed_cross_entropy
from toolhone.train.memory import answering_bytes, frozen_bytes, training_bytes
from toolhone.train.model import load_model
from toolhone.train.sizes import model_sizes


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that exist on a device. `peak` is their maximum."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.device = device
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == self.device:
                self.count(tensor)
        return out

    def count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._sizes:
            return
        self._sizes[storage._cdata] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, storage._cdata)

    def _free(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


def shape(kind: str, hidden: int, layers: int, inner: int, heads: int, keys: int, words: int, **others: Any) -> Any:
    return AutoConfig.for_model(
        kind,
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        vocab_size=words,
        tie_word_embeddings=True,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
        **others,
    )


SMALL = shape("llama", 512, 3, 1536, 8, 2, 2_000)
LARGE_VOCABULARY = shape("gemma3_text", 320, 3, 1024, 4, 1, 60_000, head_dim=128)
WIDE_QUERIES = shape("qwen3", 512, 3, 1536, 8, 4, 20_000, head_dim=128)
LLAMA_1B = shape("llama", 2048, 16, 8192, 32, 8, 128_256)


def experiment(**sections: Any) -> Config:
    model = {"name": "tiny", "device": "cpu", **sections.pop("model", {})}
    data = {"train": ["train.jsonl"], "test": ["test.jsonl"]}
    return Config.model_validate({"name": "run", "model": model, "data": data, **sections})


def rows(count: int, shared: int, own: int, answer: int) -> list[LabelledTokens]:
    return [mask_labels([*range(shared), *([shared + row] * own)], [1] * answer) for row in range(count)]


def estimated(config: Config, hardware: Hardware, architecture: Any, examples: list[LabelledTokens]) -> float:
    [batch] = count_batches(config, examples, device=hardware.device)
    return training_bytes(config, hardware, model_sizes(config, architecture), batch)


def built(config: Config, hardware: Hardware, architecture: Any) -> Any:
    """The model with its adapter on the meta device, as training sets it up."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(copy.deepcopy(architecture), dtype=hardware.dtype)
        model.config.use_cache = False
        if config.train.packing == "prefix_tree":
            model.set_attn_implementation(TREE_ATTENTION)
        model = get_peft_model(model, lora_config(config.lora, model, init="default"))
    fuse_lora(model)
    if config.train.activation_checkpointing:
        model.enable_input_require_grads()
        model.activation_checkpointing_enable({"use_reentrant": False})
    return model.train()


def allocate(model: Any, dtype: torch.dtype, device: str = "cpu") -> None:
    """Replace the tensors on the meta device by new ones. Trained weights are in float32, as PEFT makes them."""
    made: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, weight in [(name, weight) for name, weight in module._parameters.items() if weight is not None]:
            if id(weight) not in made:
                kind = torch.float32 if weight.requires_grad else dtype
                fresh = torch.full(weight.shape, 0.01, dtype=kind, device=device)
                made[id(weight)] = torch.nn.Parameter(fresh, requires_grad=weight.requires_grad)
                made[id(weight)].original = weight  # type: ignore[attr-defined]  # keeps its id from being used again
            module._parameters[name] = made[id(weight)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.ones(buffer.shape, dtype=buffer.dtype, device=device)


@contextmanager
def counted_step(model: Any, hardware: Hardware, within: AbstractContextManager[Any]) -> Iterator[LiveBytes]:
    """Allocate the model and AdamW's moments, and count while the body computes forward and backward."""
    live = LiveBytes(hardware.device)
    with within, live:
        allocate(model, hardware.dtype, hardware.device)
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        moments = [torch.zeros_like(weight) for weight in (*trained, *trained)]
        gc.collect()
        live.peak = live.live
        yield live
        assert all(weight.grad is not None for weight in trained)
        del moments


def forward_and_backward(model: Any, batch: dict[str, Any]) -> None:
    inputs = {name: batch[name] for name in ("input_ids", "position_ids", "tree_blocks")}
    logits = model(**inputs, use_cache=False, logits_to_keep=batch["asked"]).logits.flatten(0, 1)
    loss = summed_cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))
    del logits
    loss.backward()  # type: ignore[no-untyped-call]


def tree_batch(examples: list[LabelledTokens], architecture: Any, *, flex: bool, device: str) -> dict[str, Any]:
    windows = (None, getattr(architecture, "sliding_window", None))
    collate = TreeCollator(0, 8192, TreeAttention(flex, device, windows))
    return collate([tree_features(row) for row in examples])


@pytest.mark.parametrize(
    ("architecture", "dtype", "checkpointing"),
    [
        (SMALL, torch.float32, False),
        (SMALL, torch.float32, True),
        (WIDE_QUERIES, torch.bfloat16, True),
        pytest.param(SMALL, torch.bfloat16, False, marks=pytest.mark.slow),
        pytest.param(WIDE_QUERIES, torch.float32, False, marks=pytest.mark.slow),
        pytest.param(LARGE_VOCABULARY, torch.bfloat16, False, marks=pytest.mark.slow),
        pytest.param(LLAMA_1B, torch.bfloat16, False, marks=pytest.mark.slow),
        pytest.param(LLAMA_1B, torch.bfloat16, True, marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "model_type", str(value).removeprefix("torch.")),
)
def test_the_estimate_of_a_tree_is_within_15_percent_of_counted_bytes(
    architecture: Any, dtype: torch.dtype, checkpointing: bool
) -> None:
    config = experiment(train={"batch_size": 8, "activation_checkpointing": checkpointing})
    hardware, examples = Hardware("cpu", dtype, ()), rows(8, shared=300, own=34, answer=30)
    batch = tree_batch(examples, architecture, flex=False, device="cpu")
    model = built(config, hardware, architecture)
    with counted_step(model, hardware, FakeTensorMode(allow_non_fake_inputs=True)) as live:
        forward_and_backward(model, batch)
    assert estimated(config, hardware, architecture, examples) == pytest.approx(live.peak, rel=0.15)


@pytest.mark.parametrize(("attention", "checkpointing"), [("flex", False), ("flex", True), ("blocks", False)])
@pytest.mark.parametrize(
    "architecture",
    [WIDE_QUERIES, pytest.param(LARGE_VOCABULARY, marks=pytest.mark.slow)],
    ids=lambda value: value.model_type,
)
def test_the_estimate_on_a_gpu_is_within_15_percent_of_counted_bytes(
    stub: Path, monkeypatch: pytest.MonkeyPatch, architecture: Any, attention: str, checkpointing: bool
) -> None:
    def flash(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, _: Any) -> torch.Tensor:
        attend = torch.ops.aten._scaled_dot_product_flash_attention
        output: torch.Tensor = attend(query, key, value, 0.0, True, False)[0]
        return output

    monkeypatch.setattr(flex, "compiled", lambda scaling: flash)  # the kernel is compiled for the GPU that is there
    train = {"batch_size": 16, "activation_checkpointing": checkpointing, "attention": attention}
    config, hardware = experiment(model={"device": "auto"}, train=train), Hardware("cuda", torch.bfloat16, ())
    examples = rows(16, shared=700, own=34, answer=30)
    batch = tree_batch(examples, architecture, flex=attention == "flex", device="cuda")
    model = built(config, hardware, architecture)
    with counted_step(model, hardware, fake_cuda(stub)) as live:
        forward_and_backward(model, send_to_device(batch, "cuda", non_blocking=True))
    assert estimated(config, hardware, architecture, examples) == pytest.approx(live.peak, rel=0.15)


def test_the_estimate_of_padded_rows_is_within_15_percent_of_counted_bytes() -> None:
    config, hardware = experiment(train={"batch_size": 3, "packing": "rows"}), Hardware("cpu", torch.float32, ())
    examples = [*rows(2, shared=200, own=34, answer=30), *rows(1, shared=150, own=20, answer=30)]
    batch = RowCollator(0)([tree_features(row) for row in examples])
    model = built(config, hardware, SMALL)
    with counted_step(model, hardware, nullcontext()) as live:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        label_loss(model, batch["labels"], **inputs).backward()  # type: ignore[no-untyped-call]
    assert estimated(config, hardware, SMALL, examples) == pytest.approx(live.peak, rel=0.15)


@pytest.mark.parametrize(
    ("prefix", "own", "new", "shares_prefix"),
    [
        (300, 30, 10, True),
        (300, 30, 10, False),
        pytest.param(40, 200, 3, True, marks=pytest.mark.slow),
        pytest.param(40, 200, 3, False, marks=pytest.mark.slow),
        pytest.param(40, 20, 100, True, marks=pytest.mark.slow),
        pytest.param(40, 20, 100, False, marks=pytest.mark.slow),
    ],
)
def test_the_estimate_of_answering_is_within_15_percent_of_counted_bytes(
    prefix: int, own: int, new: int, shares_prefix: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shares_prefix:
        monkeypatch.setattr(decode, "can_share_prefix", lambda model: False)
    config, hardware, count = experiment(), Hardware("cpu", torch.float32, ()), 16
    shared = [1 + n % 900 for n in range(prefix)]
    prompts = [[*shared, *(1 + (7 * row + n) % 900 for n in range(own))] for row in range(count)]
    live = LiveBytes()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(copy.deepcopy(SMALL), dtype=torch.float32).eval()
    with live:
        allocate(model, torch.float32)
        gc.collect()
        live.peak = live.live
        decode_greedily(model, prompts, compute_prefix(model, shared), frozenset(), new)
    found = answering_bytes(
        config,
        hardware,
        model_sizes(config, SMALL),
        rows=count,
        prefix_tokens=prefix,
        own_tokens=own,
        new_tokens=new,
        shares_prefix=shares_prefix,
        tuned=False,
    )
    assert found == pytest.approx(live.peak, rel=0.15)


def test_nf4_weights_take_the_estimated_bytes_with_their_constants(tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(copy.deepcopy(SMALL), dtype=torch.float32).save_pretrained(tmp_path)
    config = experiment(model={"name": str(tmp_path), "quantize": "nf4", "dtype": "float32"})
    hardware = Hardware("cpu", torch.float32, ())
    model, found = load_model(config.model, hardware), 0
    for weight in model.parameters():
        found += weight.nbytes
        state = getattr(weight, "quant_state", None)
        if state is not None:
            found += sum(x.nbytes for x in (state.absmax, state.code, state.state2.absmax, state.state2.code))
    sizes = model_sizes(config, SMALL)
    assert frozen_bytes(config, hardware, sizes) == pytest.approx(found, rel=0.02)
    assert sizes.body * 0.6 + (sizes.frozen - sizes.body) * 4 > found
