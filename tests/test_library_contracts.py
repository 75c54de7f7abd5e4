"""Undocumented names and behaviours of libraries that toolhone relies on, one entry each.

If an upgrade changes one of them, its test fails and says what would break in toolhone.
"""

from __future__ import annotations

import copy
import inspect
import json
import json.decoder
import re
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
import yaml
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.utils import ModulesToSaveWrapper
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.cache_utils import Cache, DynamicLayer, LinearAttentionLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 64}


class Contract(NamedTuple):
    """A behaviour of a library. `check` fails if the library has changed; `breaks` says what would go wrong then."""

    name: str
    breaks: str
    check: Callable[[], None]


CONTRACTS: list[Contract] = []


def contract(name: str, breaks: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def add(check: Callable[[], None]) -> Callable[[], None]:
        CONTRACTS.append(Contract(name, breaks, check))
        return check

    return add


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


@cache
def llama(attention: str = "sdpa") -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=1, attn_implementation=attention)).eval()


def adapted() -> Any:
    return get_peft_model(copy.deepcopy(llama()), LoraConfig(r=2, target_modules=["q_proj"]))


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(3, 64, shape, generator=torch.Generator().manual_seed(1))


def tokenizer() -> Any:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({"<end>": 0, "<unk>": 1} | {c: n + 2 for n, c in enumerate(alphabet)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>", pad_token="<end>", unk_token="<unk>")


# Training: TRL's SFTTrainer on transformers' Trainer, configured like in train/trainer.py.


class Trained(NamedTuple):
    """What was observed in a tiny training: the `columns` of a row in the collator, and the arguments of calls."""

    trainer: Any
    sampled: list[int]
    columns: list[str]
    training_step: tuple[Any, ...]
    items_in_batch: list[Any]
    files: set[str]


@cache
def trained() -> Trained:
    """Train one step of two accumulated batches, with a custom order of the indices."""
    columns: list[str] = []
    steps: list[tuple[Any, ...]] = []
    items: list[Any] = []
    sampled: list[int] = []

    class Trainer(SFTTrainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return [3, 1, 2, 0]

        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            steps.append((*args, *kwargs.values()))
            return super().training_step(model, inputs, *args, **kwargs)

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            items.append(num_items_in_batch)
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        columns.extend(rows[0])
        sampled.extend(row["prompt_length"] for row in rows)
        batch = {name: torch.tensor([row[name] for row in rows]) for name in ("input_ids", "labels")}
        return {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}

    labels = [[-100] * 4 + [5, 6]] * 4
    rows = Dataset.from_dict({"input_ids": ids(4, 6).tolist(), "labels": labels, "prompt_length": [0, 1, 2, 3]})
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder,
            max_steps=1,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=2,
            use_cpu=True,
            bf16=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            max_length=None,
            packing=False,
            remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            gradient_checkpointing=None,
            activation_checkpointing=False,
        )
        trainer = Trainer(
            model=copy.deepcopy(llama()),
            args=arguments,
            data_collator=collate,
            train_dataset=rows,
            processing_class=tokenizer(),
            peft_config=LoraConfig(r=2, target_modules=["q_proj"]),
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        trainer.save_model(folder)
        files = {path.name for path in Path(folder).iterdir()}
    return Trained(trainer, sampled, columns, steps[0], items, files)


@contract("transformers.Trainer._get_train_sampler", "prefix trees would get rows with no shared prefix, at full cost")
def _() -> None:
    assert parameters(SFTTrainer._get_train_sampler) == ["self", "train_dataset"]
    assert trained().sampled[:2] == [3, 1]


@contract("SFTConfig.dataset_kwargs skip_prepare_dataset", "TRL would tokenise, truncate or filter prepared rows")
def _() -> None:
    assert trained().trainer.train_dataset[0]["labels"] == [-100] * 4 + [5, 6]


@contract("SFTConfig.remove_unused_columns", "the collator of prefix trees would miss prompt_length and weight")
def _() -> None:
    assert trained().columns[:3] == ["input_ids", "labels", "prompt_length"]


@contract("Trainer passes num_items_in_batch", "the loss would be a mean over batches, not over labelled tokens")
def _() -> None:
    assert parameters(SFTTrainer.compute_loss) == ["self", "model", "inputs", "return_outputs", "num_items_in_batch"]
    assert [int(count) for count in trained().items_in_batch] == [4, 4], "two labels in each of two batches"


@contract("transformers.Trainer.training_step", "ToolCallTrainer would not count examples and tokens")
def _() -> None:
    assert parameters(transformers.Trainer.training_step)[:3] == ["self", "model", "inputs"]
    assert [int(count) for count in trained().training_step] == [4]


@contract("SFTTrainer's collator makes labels and attention_mask", "packing: none would train on prompts or padding")
def _() -> None:
    rows = [{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, {"input_ids": [5, 6], "labels": [-100, 6]}]
    batch = DataCollatorForLanguageModeling(pad_token_id=0)(rows)
    assert batch["labels"].tolist() == [[-100, 6, 7], [-100, 6, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]


@contract("gradient_checkpointing=None", "SFTTrainer would recompute activations against the config")
def _() -> None:
    assert trained().trainer.args.activation_checkpointing is False
    assert not trained().trainer.args.gradient_checkpointing


@contract("SFTTrainer.aux_loss_enabled", "on a CPU, mixtures of experts would train without router balancing")
def _() -> None:
    assert trained().trainer.aux_loss_enabled is False


@contract("Trainer writes training_args.bin", "a pickle that may contain a hub token would stay beside the adapter")
def _() -> None:
    assert {"training_args.bin", "adapter_config.json", "adapter_model.safetensors"} <= trained().files


@contract("Trainer's folder checkpoint-<step>", "checkpoints would not be marked complete, so no run could resume")
def _() -> None:
    assert transformers.trainer_utils.PREFIX_CHECKPOINT_DIR == "checkpoint"


@contract("TENSORBOARD_LOGGING_DIR", "TensorBoard's files would not be in the run folder")
def _() -> None:
    assert "TENSORBOARD_LOGGING_DIR" in inspect.getsource(transformers.integrations.TensorBoardCallback)


@contract("warmup_steps below 1 is a fraction", "train.warmup: 0.05 would mean no warm-up")
def _() -> None:
    assert transformers.TrainingArguments(output_dir="x", warmup_steps=0.1, use_cpu=True).get_warmup_steps(100) == 10


@contract(
    "accelerate.PartialState(cpu=True, timeout=...)", "processes would not share work, or would wait for NCCL's timeout"
)
def _() -> None:
    from accelerate import PartialState

    assert parameters(PartialState.__init__)[1:] == ["cpu", "kwargs"]
    assert "init_process_group(backend=self.backend, **kwargs)" in inspect.getsource(PartialState.__init__)


@contract("TrainingArguments._n_gpu", "TRL would refuse one process on a machine with several GPUs, as DataParallel")
def _() -> None:
    arguments = transformers.TrainingArguments(output_dir="x", use_cpu=True)
    arguments._n_gpu = 3
    assert arguments.n_gpu == 3
    assert "args.n_gpu > 1" in inspect.getsource(SFTTrainer.__init__), "TRL's own check"


@contract("TRL casts the adapter on 4-bit weights in its constructor", "adapters would train in bfloat16")
def _() -> None:
    assert "param.data = param.data.to(torch.bfloat16)" in inspect.getsource(SFTTrainer.__init__)


@contract("Trainer.save_model under FSDP", "configs/accelerate/fsdp2.yaml would save no adapter")
def _() -> None:
    assert '"FULL_STATE_DICT" in str(' in inspect.getsource(transformers.Trainer.save_model)


@contract(
    "accelerate's variables of FSDP and DeepSpeed", "a state dict type that saves no adapter would not be refused"
)
def _() -> None:
    from accelerate import FullyShardedDataParallelPlugin
    from accelerate.utils import launch

    for version, default in (("1", "FULL_STATE_DICT"), ("2", "SHARDED_STATE_DICT")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FSDP_VERSION", version)
            patch.delenv("FSDP_STATE_DICT_TYPE", raising=False)
            assert FullyShardedDataParallelPlugin().state_dict_type.name == default
            patch.setenv("FSDP_STATE_DICT_TYPE", "1")
            assert FullyShardedDataParallelPlugin().state_dict_type.name == "FULL_STATE_DICT"
    source = inspect.getsource(launch)
    for name in ("ACCELERATE_USE_FSDP", "FSDP_VERSION", "FSDP_STATE_DICT_TYPE", "ACCELERATE_USE_DEEPSPEED"):
        assert f'current_env["{name}"]' in source


# Prefix trees: attention functions, loss of labelled tokens.


def record_attention() -> tuple[dict[str, Any], Any]:
    """Run a tiny Llama with a custom attention function. Returns the arguments of its last call, and the output."""
    got: dict[str, Any] = {}

    def attend(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **others: Any) -> Any:
        got.update(query=query, key=key, value=value, attention_mask=attention_mask, **others)
        return query.transpose(1, 2).contiguous(), None

    ALL_ATTENTION_FUNCTIONS.register("contract_test", attend)
    model = copy.deepcopy(llama())
    model.set_attn_implementation("contract_test")
    output = model(input_ids=ids(2, 5), position_ids=torch.arange(5)[None], use_cache=False, tree_blocks="blocks")
    return got, output


@contract("ALL_ATTENTION_FUNCTIONS.register and set_attn_implementation", "models could not use tree attention")
def _() -> None:
    got, output = record_attention()
    assert got["query"].shape == (2, 2, 5, 8), "[batch, heads, seq, dim]"
    assert got["key"].shape == got["value"].shape == (2, 1, 5, 8), "[batch, key-value heads, seq, dim]"
    assert {"scaling", "dropout"} <= set(got)
    assert output.logits.shape == (2, 5, 64), "[batch, seq, heads, dim] comes back"


@contract("attention functions get the model's other arguments", "tree_attention would not get the batch's tree_blocks")
def _() -> None:
    assert record_attention()[0]["tree_blocks"] == "blocks"


@contract("no mask for a custom attention function", "each step would build an unused dense mask [seq, seq]")
def _() -> None:
    assert record_attention()[0]["attention_mask"] is None


@contract("sliding_window, softcap and s_aux of attention functions", "tree_attention would ignore a layer's window")
def _() -> None:
    families = transformers.models
    window = inspect.getsource(families.gemma3.modeling_gemma3.Gemma3Attention.forward)
    capped = inspect.getsource(families.gemma2.modeling_gemma2.Gemma2Attention.forward)
    sinks = inspect.getsource(families.gpt_oss.modeling_gpt_oss.GptOssAttention.forward)
    assert "sliding_window=self.sliding_window" in window
    assert "softcap=" in capped
    assert "s_aux=" in sinks


@contract(
    "config.layer_types, sliding_window, attn_logit_softcapping",
    "models that prefix trees do not support would be accepted",
)
def _() -> None:
    gemma2 = transformers.Gemma2Config().get_text_config()
    assert set(gemma2.layer_types) == {"full_attention", "sliding_attention"}
    assert gemma2.sliding_window
    assert gemma2.attn_logit_softcapping
    assert transformers.GptOssConfig().get_text_config().model_type == "gpt_oss"
    assert hasattr(transformers.Gemma3TextConfig(), "use_bidirectional_attention")


@contract(
    "logits_to_keep takes an index tensor", "the LM head would compute all positions and use most of a step's memory"
)
def _() -> None:
    tokens, keep = ids(2, 5), torch.tensor([1, 4])
    with torch.no_grad():
        assert torch.allclose(
            llama()(input_ids=tokens, logits_to_keep=keep).logits, llama()(input_ids=tokens).logits[:, keep], atol=1e-6
        )


@contract("model.config._attn_implementation", "selection by exact match and sliding windows would not see the kernel")
def _() -> None:
    model = adapted()  # a PeftModel forwards both names to its base model
    assert model.config._attn_implementation == "sdpa"
    model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "eager"


@contract("torch._softmax_backward_data", "attention in bfloat16 on a CPU would have no gradient")
def _() -> None:
    scores = torch.randn(2, 3, requires_grad=True)
    gradient = torch.randn(2, 3)
    probabilities = torch.softmax(scores, dim=-1)
    (expected,) = torch.autograd.grad(probabilities, scores, gradient)
    found = torch._softmax_backward_data(gradient, probabilities.detach(), -1, torch.float32)
    assert torch.allclose(found, expected, atol=1e-6)


# LoRA layers: train/fused_lora.py


@contract("peft LoraLinear.lora_variant", "LoRA layers on a CPU would take the slow path with several passes")
def _() -> None:
    model = adapted()
    layers = [module for module in model.modules() if type(module) is LoraLinear]
    assert len(layers) == SIZES["num_hidden_layers"]
    calls: list[dict[str, Any]] = []

    class Variant:
        @staticmethod
        def forward(module: Any, active_adapter: str, x: Any, result: Any, **others: Any) -> Any:
            calls.append({"module": module, "adapter": active_adapter, "x": x, "result": result})
            return result

    for layer in layers:
        assert layer.lora_variant == {}, "a plain layer has no variant"
        layer.lora_variant["default"] = Variant
    model(input_ids=ids(1, 3))
    assert [call["module"] for call in calls] == layers
    assert calls[0]["adapter"] == "default"
    assert calls[0]["x"].shape == calls[0]["result"].shape == (1, 3, 16)


@contract("peft LoraLinear.cast_input_dtype_enabled", "inputs of LoRA layers in bfloat16 would be copied to float32")
def _() -> None:
    model = adapted()
    layer = next(module for module in model.modules() if type(module) is LoraLinear)
    assert layer.cast_input_dtype_enabled is True
    layer.cast_input_dtype_enabled = False
    x = torch.zeros(1, dtype=torch.bfloat16)
    assert layer._cast_input_dtype(x, torch.float32).dtype == torch.bfloat16


@contract("peft LoraLinear.lora_A, lora_B, lora_dropout, scaling", "fused LoRA would not find its matrices")
def _() -> None:
    layer = next(module for module in adapted().modules() if type(module) is LoraLinear)
    assert layer.lora_A["default"].weight.shape == (2, 16)
    assert layer.lora_B["default"].weight.shape == (16, 2)
    assert callable(layer.lora_dropout["default"])
    assert layer.scaling["default"] == LoraConfig().lora_alpha / 2


@contract('peft\'s message "Target modules"', "lora.targets without a matching layer would end in a traceback")
def _() -> None:
    with pytest.raises(ValueError, match="Target modules"):
        get_peft_model(copy.deepcopy(llama()), LoraConfig(target_modules=["qkv"]))


@contract("peft ModulesToSaveWrapper", "fully trained modules would change the type of a model's activations")
def _() -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    model = get_peft_model(copy.deepcopy(llama()), config)
    (wrapper,) = (module for module in model.modules() if isinstance(module, ModulesToSaveWrapper))
    assert wrapper.modules_to_save["default"].weight.requires_grad
    assert not wrapper.original_module.weight.requires_grad
    assert wrapper.weight is wrapper.modules_to_save["default"].weight
    seen: list[int] = []
    wrapper.modules_to_save["default"].register_forward_hook(lambda *_: seen.append(1))
    model(input_ids=ids(1, 3))
    assert seen == [1]


@contract("transformers Auto classes: _model_mapping", "Ministral 3, an image-text model only, would not load")
def _() -> None:
    causal, pictured = (
        one._model_mapping for one in (transformers.AutoModelForCausalLM, transformers.AutoModelForImageTextToText)
    )
    assert LlamaConfig in causal
    assert transformers.Mistral3Config not in causal
    assert transformers.Mistral3Config in pictured
    assert causal.get(LlamaConfig, None) is LlamaForCausalLM


@contract("transformers models: _supports_sdpa", "Gemma 2 and gpt-oss would be loaded with attention that they lack")
def _() -> None:
    assert LlamaForCausalLM._supports_sdpa
    assert not transformers.Gemma2ForCausalLM._supports_sdpa


# Generation: evaluate/decode.py


def cache_after(tokens: torch.Tensor) -> Any:
    class Layer(DynamicLayer):
        pass

    found = Cache(layer_class_to_replicate=Layer)
    with torch.no_grad():
        llama()(input_ids=tokens, past_key_values=found, use_cache=True, logits_to_keep=1)
    assert all(type(layer) is Layer for layer in found.layers)
    return found


@contract("Cache(layer_class_to_replicate=...)", "generation would copy the whole cache for each new token")
def _() -> None:
    assert len(cache_after(ids(1, 5)).layers) == SIZES["num_hidden_layers"]


@contract(
    "DynamicLayer.update, lazy_initialization, is_initialized, keys, values", "the preallocated cache would not work"
)
def _() -> None:
    assert parameters(DynamicLayer.update)[:3] == ["self", "key_states", "value_states"]
    assert parameters(DynamicLayer.lazy_initialization) == ["self", "key_states", "value_states"]
    layer = DynamicLayer()
    assert not layer.is_initialized
    layer.lazy_initialization(torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1, 4))
    assert layer.is_initialized
    assert cache_after(ids(1, 5)).layers[0].keys.shape == (1, 1, 5, 8)


@contract("cache layers: reorder_cache, deepcopy", "rows could not share a prefix, or leave the batch")
def _() -> None:
    first = cache_after(ids(1, 5))
    found = copy.deepcopy(first)
    for rows, count in (([0, 0, 0], 3), ([2, 0], 2)):
        found.layers[0].reorder_cache(torch.tensor(rows))
        assert found.layers[0].keys.shape[0] == found.layers[0].values.shape[0] == count
    assert first.layers[0].keys.shape[0] == 1


@contract("LinearAttentionLayer: its states, reorder_cache", "recurrent states could not form a batch")
def _() -> None:
    layer = LinearAttentionLayer()
    layer.update_conv_state(torch.ones(2, 3, 4))
    layer.update_recurrent_state(torch.arange(2.0)[:, None])
    layer.reorder_cache(torch.tensor([1, 1, 0]))
    assert layer.conv_states[0].shape == (3, 3, 4)
    assert layer.recurrent_states[0][:, 0].tolist() == [1, 1, 0]


@contract("DynamicCache(config=...).layers", "models with recurrent layers would get caches for attention only")
def _() -> None:
    text = transformers.Qwen3_5TextConfig(num_hidden_layers=4)
    kinds = [type(layer).__name__ for layer in transformers.DynamicCache(config=text).layers]
    assert kinds == ["LinearAttentionLayer"] * 3 + ["DynamicLayer"]


@contract(
    "attention_mask may be [batch, 1, queries, keys]", "rows longer than a sliding window would see the wrong tokens"
)
def _() -> None:
    tokens = ids(1, 4)
    causal = torch.full((4, 4), torch.finfo(torch.float32).min).triu(1)[None, None]
    with torch.no_grad():
        assert torch.allclose(
            llama()(input_ids=tokens, attention_mask=causal).logits, llama()(input_ids=tokens).logits, atol=1e-6
        )


@contract("attention_mask may be a dict by layer type", "models with two layer types would get one mask for both")
def _() -> None:
    config = transformers.Gemma3TextConfig(**SIZES, num_key_value_heads=1, head_dim=8, sliding_window=2)
    model = transformers.Gemma3ForCausalLM(config).eval()
    tokens, keys = ids(1, 5), torch.arange(5)
    full = keys <= keys[:, None]
    masks = {"full_attention": full, "sliding_attention": full & (keys > keys[:, None] - 2)}
    added = {kind: (~mask)[None, None] * torch.finfo(torch.float32).min for kind, mask in masks.items()}
    with torch.no_grad():
        assert torch.allclose(
            model(input_ids=tokens, attention_mask=added).logits, model(input_ids=tokens).logits, atol=1e-5
        )


@contract("max returns the first of equal values", "greedy answers would differ from transformers' generate")
def _() -> None:
    assert torch.tensor([[1.0, 3.0, 3.0, 2.0, 3.0]]).max(dim=-1).indices.tolist() == [1]


# Tokenizers and templates: chat/


@contract("tokenizer.backend_tokenizer.to_str()", "token bytes would be decoded with the wrong alphabet")
def _() -> None:
    assert '"ByteLevel"' in json.dumps(json.loads(tokenizer().backend_tokenizer.to_str())["decoder"])


@contract(
    "tokenizer.added_tokens_decoder", "control tokens in a text would be neither refused nor encoded as plain text"
)
def _() -> None:
    found = tokenizer().added_tokens_decoder
    assert {token.content for token in found.values() if token.special} == {"<end>", "<unk>"}


@contract("Tokenizer.encode_special_tokens, add_special_tokens for added tokens", "a text could contain control tokens")
def _() -> None:
    made = tokenizer()
    made.add_tokens(["<tag>"])
    copied = Tokenizer.from_str(made.backend_tokenizer.to_str())
    copied.encode_special_tokens = True
    assert copied.encode("<end><tag>", add_special_tokens=False).tokens == [*"<end>", "<tag>"]
    copied.add_special_tokens(["<tag>"])
    copied.add_tokens(["<name>"])
    assert copied.encode("<tag><name>", add_special_tokens=False).tokens == [*"<tag>", "<name>"]
    assert made.encode("<end><tag>") == [0, made.convert_tokens_to_ids("<tag>")]


@contract("tokens of unknown ids and ids of unknown tokens", "generation would stop at the unknown token")
def _() -> None:
    made = tokenizer()
    (id_,) = made.convert_tokens_to_ids(["<|im_end|>"])
    assert id_ is None or made.convert_ids_to_tokens(id_) != "<|im_end|>"
    assert made.convert_ids_to_tokens([10_000]) == [None]


@contract("apply_chat_template(chat_template=..., tools=None)", "prompts would list tools that a row does not have")
def _() -> None:
    template = "{% if tools %}tools{% endif %}{{ messages[0].content }}{{ extra }}{{ '>' if add_generation_prompt }}"
    messages = [{"role": "user", "content": "hi"}]
    options = {"chat_template": template, "tokenize": False, "add_generation_prompt": True, "extra": "!"}
    assert tokenizer().apply_chat_template(messages, tools=None, **options) == "hi!>"


# JSON: strict_json.py


@contract("json.decoder.scanstring", "rows would be decoded by the slower decoder, or not at all")
def _() -> None:
    assert json.decoder.scanstring('{"a\\n": 1}', 2, True) == ("a\n", 6)


@contract("json.JSONDecoder.scan_once", "decoding a line would fail")
def _() -> None:
    scan = json.JSONDecoder(parse_float=str).scan_once
    assert scan("[1.5] and more", 0) == (["1.5"], 5)
    with pytest.raises(StopIteration):
        scan("", 0)


# Config files: config_file.py uses pydantic's errors and PyYAML's resolvers


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    one: int
    """A number."""
    many: tuple[str, ...] | None = None
    either: str | tuple[str, ...] = Field("x")

    @model_validator(mode="after")
    def _agree(self) -> Section:
        if self.one == 0:
            raise ValueError("one: must not be 0")
        return self


class Whole(BaseModel):
    section: Section


def faults(values: Any) -> list[Any]:
    with pytest.raises(ValidationError) as caught:
        Whole.model_validate(values)
    return caught.value.errors()


@contract("pydantic error types", "config errors would have pydantic's wording, without the nearest key")
def _() -> None:
    assert faults({"section": {"one": 1, "two": 2}})[0]["type"] == "extra_forbidden"
    assert faults({"section": {}})[0]["type"] == "missing"
    assert faults({"section": 1})[0]["type"] == "model_type"
    assert faults({"section": {"one": 1, "many": "x"}})[0]["type"] == "tuple_type"
    (fault,) = faults({"section": {"one": 0}})
    assert (fault["type"], fault["msg"]) == ("value_error", "Value error, one: must not be 0")


@contract("pydantic's loc of a union", "errors would add names of Python types to the key")
def _() -> None:
    locations = [fault["loc"] for fault in faults({"section": {"one": 1, "either": 3}})]
    assert {tuple(part for part in loc if "[" not in part) for loc in locations} <= {
        ("section", "either"),
        ("section", "either", "str"),
    }


@contract("pydantic use_attribute_docstrings", "`toolhone config` would list keys without their meaning")
def _() -> None:
    assert Section.model_fields["one"].description == "A number."


@contract(
    "yaml resolvers of a subclassed loader", "1e-4 in a config would be a text, or other YAML readers would change"
)
def _() -> None:
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^\d+e-\d+$"), list("0123456789"))
    assert yaml.load("1e-4", Loader=Loader) == 1e-4
    assert yaml.safe_load("1e-4") == "1e-4"


# Runs: train/checkpoint.py, train/select.py, pretrained.py


@contract("transformers' message on a model's own code", "the error would not name model.trust_remote_code")
def _() -> None:
    from transformers.dynamic_module_utils import resolve_trust_remote_code

    with pytest.raises(ValueError, match="trust_remote_code"):
        resolve_trust_remote_code(False, "model", has_local_code=False, has_remote_code=True)


@contract("order of Trainer's callbacks", "select_by would not see that a validation is due at this step")
def _() -> None:
    ours = transformers.TrainerCallback()
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(output_dir=folder, report_to="none", use_cpu=True)
        handler = transformers.Trainer(llama(), arguments, callbacks=[ours]).callback_handler
    kinds = [type(callback) for callback in handler.callbacks]
    assert kinds.index(transformers.DefaultFlowCallback) < handler.callbacks.index(ours)


@contract("trainer_state.json of a checkpoint", "resuming at the last step would train one more step")
def _() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / transformers.trainer.TRAINER_STATE_NAME
        transformers.TrainerState(global_step=3, max_steps=4).save_to_json(str(path))
        state = json.loads((Path(folder) / "trainer_state.json").read_text(encoding="utf-8"))
    assert (state["global_step"], state["max_steps"]) == (3, 4)


# GGUF files: fetch.py


@contract("gguf.GGUFReader._get", "a downloaded model would be converted more slowly, or not at all")
def _() -> None:
    from gguf import GGUFReader
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    assert parameters(GGUFReader._get) == ["self", "offset", "dtype", "count", "override_order"]
    assert "from gguf import GGUFReader" in inspect.getsource(load_gguf_checkpoint)


# Merged weights: export/merge.py


@contract("PreTrainedModel._get_dtype_plan", "merged weights would lose the float32 of router biases")
def _() -> None:
    model = copy.copy(llama())
    model._keep_in_fp32_modules_strict = {"gate.bias"}
    assert model._get_dtype_plan(torch.bfloat16) == {"gate.bias": torch.float32}
    assert model._get_dtype_plan(torch.float32) == {}


# Prices: economics/cost.py


@contract("genai_prices.data_snapshot.get_snapshot", "unknown models would get no nearest name, and prices no date")
def _() -> None:
    from genai_prices.data_snapshot import get_snapshot
    from genai_prices.types import StartDateConstraint

    providers = get_snapshot().providers
    assert any(provider.id == "openai" and provider.name and provider.models for provider in providers)
    listed = [entry.prices for provider in providers for entry in provider.models if isinstance(entry.prices, list)]
    assert any(
        isinstance(price.constraint, StartDateConstraint) and price.constraint.start_date
        for prices in listed
        for price in prices
    )


@pytest.mark.parametrize("entry", CONTRACTS, ids=lambda entry: entry.name)
def test_a_library_still_behaves_as_toolhone_relies_on(entry: Contract) -> None:
    try:
        entry.check()
    except Exception as error:
        raise AssertionError(f"{entry.name} has changed: {entry.breaks}") from error
