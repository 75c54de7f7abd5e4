"""Training and decoding on a fake GPU: the right devices and types, few kernels, and no needless waits for the GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import send_to_device
from fake_cuda import FakeGpu, autocast, fake_cuda, real_cpu
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model
from rich.console import Console
from torch._subclasses.fake_tensor import FakeTensorDeviceMismatchError
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

from toolhone.chat.render import Rendered, mask_labels
from toolhone.config import Config, CudaConfig, DataConfig, LoraConfig, ModelConfig, TrainConfig
from toolhone.evaluate.decode import compute_prefix, decode_greedily
from toolhone.run_folder import RunFolder
from toolhone.train import flex
from toolhone.train.attention import TREE_ATTENTION
from toolhone.train.batches import TreeAttention, TreeCollator, tree_features
from toolhone.train.checkpoint import StopOnSignal
from toolhone.train.fused_lora import fuse_lora
from toolhone.train.hardware import Hardware
from toolhone.train.log import TrainLog
from toolhone.train.loss import summed_cross_entropy, tree_loss
from toolhone.train.trainer import make_trainer

CUDA = Hardware("cuda", torch.bfloat16, ())
LLAMA_1B = LlamaConfig(
    vocab_size=128_256,
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=16,
    num_attention_heads=32,
    num_key_value_heads=8,
    max_position_embeddings=8192,
    tie_word_embeddings=True,
    attn_implementation="sdpa",
)
TINY = LlamaConfig(
    vocab_size=512,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    attn_implementation="sdpa",
)


@pytest.fixture
def gpu(stub: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    # FlexAttention is compiled for the GPU that is there, so one flash kernel takes its place.
    monkeypatch.setattr(flex, "compiled", lambda scaling: lambda q, k, v, _: flash(q, k, v, scaling))
    with fake_cuda(stub) as found:
        yield found


def flash(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    attend = torch.ops.aten._scaled_dot_product_flash_attention
    output: torch.Tensor = attend(query, key, value, 0.0, True, False, scale=scaling)[0]
    return output


def model_of(config: LlamaConfig, *, layers: int | None = None, adapter: bool = True) -> Any:
    """A model on the fake GPU in bfloat16, with an adapter in float32."""
    changed = LlamaConfig.from_dict({**config.to_dict(), "num_hidden_layers": layers or config.num_hidden_layers})
    changed._attn_implementation = "sdpa"
    with torch.device("meta"):
        model: Any = LlamaForCausalLM._from_config(changed, dtype=torch.bfloat16)
        model.config.use_cache = False
        if adapter:
            model = get_peft_model(model, PeftLoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    return model.to_empty(device="cuda")


def reference_batch(attention: str) -> dict[str, Any]:
    """Sixteen rows of 700 shared and 64 own tokens, of which 30 have a label."""
    shared = list(range(700))
    rows = [mask_labels([*shared, *[1000 + n] * 34], [2000 + n] * 30) for n in range(16)]
    collator = TreeCollator(0, 8192, TreeAttention(attention == "flex", "cuda", (None,)))
    with real_cpu():
        return collator([tree_features(row) for row in rows])


def reference_step(gpu: FakeGpu, attention: str, layers: int, *, fused: bool = True) -> Counter[str]:
    """The kernels of a forward and backward pass of Llama-3.2-1B with this many layers."""
    model = model_of(LLAMA_1B, layers=layers)
    model.get_base_model().set_attn_implementation(TREE_ATTENTION)
    if fused:
        fuse_lora(model)
    batch = reference_batch(attention)
    gpu.clear()
    with nullcontext() if fused else autocast():
        loss = tree_loss(model.train(), send_to_device(batch, "cuda", non_blocking=True))
    loss.backward()  # type: ignore[no-untyped-call]
    assert not gpu.syncs
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert len(trained) == layers * 7 * 2
    assert all((w.dtype, w.grad.dtype, w.grad.is_cuda) == (torch.float32, torch.float32, True) for w in trained)
    return gpu.kernels.copy()


@pytest.mark.parametrize(("attention", "limit"), [("flex", 3500), ("blocks", 5200)])
def test_a_step_of_llama_1b_launches_few_kernels(gpu: FakeGpu, attention: str, limit: int) -> None:
    one, two = (reference_step(gpu, attention, layers).total() for layers in (1, 2))
    # Every layer launches the same kernels, so sixteen need not be run.
    assert one + 15 * (two - one) <= limit
    assert two - one < one


def test_fused_lora_launches_fewer_kernels_than_pefts_own_layers_under_autocast(gpu: FakeGpu) -> None:
    fused, stock = (reference_step(gpu, "blocks", 1, fused=fused) for fused in (True, False))
    assert fused.total() < 0.95 * stock.total()
    assert fused["_to_copy"] < 0.7 * stock["_to_copy"]


def test_the_loss_is_computed_in_few_launches_whatever_the_vocabulary(gpu: FakeGpu) -> None:
    for positions, vocabulary, chunks in ((480, 128_256, 1), (600, 262_144, 3), (5000, 32_000, 3)):
        logits = torch.empty(positions, vocabulary, dtype=torch.bfloat16, device="cuda", requires_grad=True)
        targets = torch.empty(positions, dtype=torch.long, device="cuda")
        gpu.clear()
        loss = summed_cross_entropy(logits, targets, torch.empty(positions, device="cuda"))
        loss.backward()  # type: ignore[no-untyped-call]
        assert (loss.dtype, logits.grad.dtype) == (torch.float32, torch.bfloat16)  # type: ignore[union-attr]
        assert gpu.kernels["log"] == chunks
        assert gpu.launches <= 10 + 20 * chunks
        assert not gpu.syncs


@pytest.mark.parametrize("fused", [True, False])
def test_an_adapter_on_nf4_weights_trains_in_float32_next_to_bfloat16_activations(gpu: FakeGpu, fused: bool) -> None:
    from bitsandbytes.functional import quantize_4bit
    from bitsandbytes.nn import Linear4bit

    model = model_of(TINY, adapter=False)
    for layer in model.model.layers:
        for name, linear in list(layer.named_modules()):
            if not isinstance(linear, torch.nn.Linear):
                continue
            options = {"quant_type": "nf4", "quant_storage": torch.bfloat16}
            packed, state = quantize_4bit(linear.weight.data, compress_statistics=True, **options)
            with real_cpu():
                quantised = Linear4bit(
                    linear.in_features, linear.out_features, bias=False, compute_dtype=torch.bfloat16, device="meta"
                )
            weight: Any = torch.nn.Parameter(packed, requires_grad=False)  # Params4bit cannot contain a fake tensor
            weight.quant_state, weight.quant_type, weight.compress_statistics = state, "nf4", True
            quantised.weight = weight
            layer.set_submodule(name, quantised)
    model = get_peft_model(model, PeftLoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")).train()
    model.get_base_model().set_attn_implementation(TREE_ATTENTION)
    if fused:
        fuse_lora(model)
    batch = send_to_device(reference_batch("blocks"), "cuda", non_blocking=True)
    gpu.clear()
    with nullcontext() if fused else autocast():
        loss = tree_loss(model, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert len(trained) == 7 * 2
    assert {(w.dtype, w.grad.dtype, w.grad.is_cuda) for w in trained} == {(torch.float32, torch.float32, True)}
    # Backward, each layer's weight becomes bfloat16, except for query, key and value: nothing before them is trained.
    assert (gpu.kernels["gemm_4bit"], gpu.kernels["dequantize_4bit"]) == (7, 4)
    assert not gpu.syncs


def test_decoding_waits_once_for_each_token(gpu: FakeGpu) -> None:
    model = model_of(TINY).eval()
    shared = list(range(200))
    prompts = [[*shared, *range(length)] for length in (5, 9, 9, 14)]
    prefix = compute_prefix(model, shared)
    found = []
    for tokens in (2, 6):
        gpu.clear()
        answers = decode_greedily(model, prompts, prefix, frozenset(), tokens)
        assert [len(answer.ids) for answer in answers] == [tokens] * 4
        found.append((sum(gpu.syncs.values()), gpu.launches))
    (few_waits, few_kernels), (waits, kernels) = found
    assert waits - few_waits == 4, gpu.syncs
    assert kernels > few_kernels


STEP_END = {"read a number: transformers/trainer.py": 2}
"""All waits of a step: with log_every 1, Trainer reads the loss and the gradient norm for the log."""
METRICS = {"read a number: trl/trainer/sft_trainer.py": 5}
"""With packing none, SFTTrainer reads its metrics too."""


@pytest.mark.parametrize(
    ("packing", "attention", "waits"),
    [
        ("prefix_tree", "flex", STEP_END),
        ("prefix_tree", "blocks", STEP_END),
        pytest.param("rows", "auto", STEP_END, marks=pytest.mark.slow),
        ("none", "auto", STEP_END | METRICS),
    ],
)
def test_a_training_step_waits_for_the_gpu_only_to_log_the_loss_and_the_gradient_norm(
    train_steps: Callable[..., Counter[str]], packing: str, attention: str, waits: dict[str, int]
) -> None:
    assert train_steps(TrainConfig(packing=packing, attention=attention)) == waits


@pytest.mark.slow
def test_a_step_that_is_not_logged_does_not_wait(train_steps: Callable[..., Counter[str]]) -> None:
    assert train_steps(TrainConfig(log_every=2)) == {}


@pytest.mark.slow
def test_dora_trains_under_autocast_with_pefts_own_layers(train_steps: Callable[..., Counter[str]]) -> None:
    assert train_steps(TrainConfig(), LoraConfig(rank=4, dora=True)) == STEP_END


def test_a_planted_wait_is_found_with_its_file(
    train_steps: Callable[..., Counter[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "toolhone.train.trainer.tree_loss", lambda model, batch: tree_loss(model, batch) + int(batch["labels"].max())
    )
    assert train_steps(TrainConfig()) == {**STEP_END, "read a number: train/test_fake_cuda.py": 1}


def test_a_tensor_on_the_wrong_device_and_one_of_the_wrong_type_are_found(gpu: FakeGpu) -> None:
    model = model_of(TINY)
    model.get_base_model().set_attn_implementation(TREE_ATTENTION)
    batch = send_to_device(reference_batch("blocks"), "cuda", non_blocking=True)
    with pytest.raises(FakeTensorDeviceMismatchError):
        tree_loss(model, {**batch, "weights": batch["weights"].cpu()})
    model.get_base_model().model.layers[0].self_attn.q_proj.base_layer.weight.data = torch.empty(64, 64, device="cuda")
    with pytest.raises((AssertionError, RuntimeError), match=r"dtype|of \['torch.bfloat16', 'torch.float32'\]"):
        tree_loss(model, batch)


@pytest.fixture
def train_steps(
    gpu: FakeGpu,
    tiny_tokenizer: Any,
    short_rows: list[Rendered],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Counter[str]]:
    """Trains two steps with Trainer and returns the waits of the first, with its log line. The line numbers are left
    out, because those of libraries change."""

    monkeypatch.setattr("toolhone.train.trainer.flex_fault", lambda *_: None)  # it compiles for a real GPU

    def run_training(train: TrainConfig, lora: LoraConfig | None = None) -> Counter[str]:
        config = Config(
            name="fake",
            model=ModelConfig(name="tiny"),
            data=DataConfig(train=("train.jsonl",), test=("test.jsonl",)),
            lora=lora or LoraConfig(rank=4, alpha=8),
            train=train.model_copy(update={"batch_size": 4, "max_steps": 2}),
            cuda=CudaConfig(workers=0),  # a worker would be a copy of this process, with the fake GPU
        )
        steps: list[Counter[str]] = []

        class CountWaits(TrainerCallback):  # type: ignore[misc]
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                found: Counter[str] = Counter()
                for name, count in gpu.syncs.items():
                    found[name.rpartition(":")[0]] += count
                steps.append(found)
                gpu.clear()

        run = RunFolder(tmp_path / "run")
        log = TrainLog(tmp_path / "log.jsonl", Console(quiet=True))
        model = model_of(TINY, adapter=False)
        trainer = make_trainer(config, CUDA, model, tiny_tokenizer, short_rows, [], run, [log, StopOnSignal()])
        trainer.args.save_strategy = "no"  # fake tensors have nothing to save
        trainer.add_callback(CountWaits())
        trainer.train()
        return steps[1]  # before that are those of the start

    return run_training
