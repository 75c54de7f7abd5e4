"""Make tiny random models of the model families, with real tokenizers and the families' own chat templates.

The tokenizers are those of Llama 3.2, Qwen3, Gemma 3, Llama 2 and gpt-oss (`fetch_tokenizers.py`). A family whose own
tokenizer no registry has gets one of these with its special tokens renamed or added. The templates are TRL's copies,
llama.cpp's copies (in the source package of llama-cpp-python), or `family_templates/`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers as hf
import trl

LLAMA_CPP = "llama-cpp-python==0.3.36"
FOLDER = Path(".cache/families").absolute()
_TEMPLATES = {
    "trl": Path(trl.__file__).parent / "chat_templates",
    "llama.cpp": FOLDER / "templates",
    "own": Path(__file__).parent / "family_templates",
}
_SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 8192, "tie_word_embeddings": True,
}  # fmt: skip


class Family(NamedTuple):
    """How a tiny model of a family is made.

    Attributes:
        tokenizer: the name of a tokenizer of `fetch_tokenizers.py`.
        config: transformers' config class, and its values besides `_SIZES`.
        template: where the chat template comes from: "trl", "llama.cpp" or "own", and its name.
        eos, bos, pad: tokens; "" for none.
        renamed: special tokens of the tokenizer by their name in this family.
        added: special tokens that are added at the end of the vocabulary.
    """

    tokenizer: str
    config: tuple[str, Mapping[str, Any]]
    template: str
    eos: str
    bos: str = ""
    pad: str = ""
    renamed: Mapping[str, str] = {}
    added: Sequence[str] = ()


_QWEN_SPARE = (
    "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>",
    "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
"""Special tokens of Qwen's tokenizer that its chat does not use."""


def _qwen(*names: str, **renamed: str) -> dict[str, str]:
    others = {f"<|{old}|>": new for old, new in renamed.items()}
    return dict(zip(_QWEN_SPARE, names, strict=False)) | others


def _llama3(*names: str, **renamed: str) -> dict[str, str]:
    others = {f"<|{old}|>": new for old, new in renamed.items()}
    return {f"<|reserved_special_token_{20 + number}|>": name for number, name in enumerate(names)} | others


def _gemma(*names: str, **renamed: str) -> dict[str, str]:
    others = {f"<{old}>": new for old, new in renamed.items()}
    return {f"<unused{40 + number}>": name for number, name in enumerate(names)} | others


_LLAMA = ("LlamaConfig", {})
_QWEN2 = ("Qwen2Config", {})
_QWEN3 = ("Qwen3Config", {"head_dim": 8})
_QWEN35 = (
    "Qwen3_5TextConfig",
    {
        "num_hidden_layers": 4, "head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    },
)  # fmt: skip
_GEMMA3 = ("Gemma3TextConfig", {"head_dim": 8, "sliding_window": 512, "num_hidden_layers": 6})
_MISTRAL = ("MistralConfig", {"head_dim": 8, "sliding_window": None})
_PHI3 = ("Phi3Config", {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2})
_LFM2 = ("Lfm2Config", {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False})
_GRANITE_HYBRID = {
    "num_local_experts": 0, "num_experts_per_tok": 0, "shared_intermediate_size": 64, "mamba_n_heads": 4,
    "mamba_d_state": 8, "mamba_expand": 2, "mamba_d_head": 16, "mamba_n_groups": 1,
}  # fmt: skip
_GPT_OSS = (
    "GptOssConfig",
    {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "sliding_window": 128},
)

_GRANITE = _qwen(
    "<|start_of_role|>", "<|end_of_role|>", "<|tool_call|>",
    endoftext="<|end_of_text|>", im_start="<fim_prefix>", im_end="<fim_middle>",
)  # fmt: skip
_MISTRAL_TOKENS = (
    "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]",
)  # fmt: skip
_TEKKEN = _llama3(
    *_MISTRAL_TOKENS, begin_of_text="<s>", end_of_text="</s>", start_header_id="<SPECIAL_20>",
    end_header_id="<SPECIAL_21>", eot_id="<SPECIAL_22>",
)  # fmt: skip
_LFM2_TOKENS = _qwen(
    "<|tool_list_start|>", "<|tool_list_end|>", "<|tool_call_start|>", "<|tool_call_end|>", "<|tool_response_start|>",
    "<|tool_response_end|>", "<|startoftext|>",
)  # fmt: skip
_R1_SENTENCE = ("<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>")
_LLAMA3_ENDS = ("<|eot_id|>", "<|begin_of_text|>", "<|finetune_right_pad_id|>")
_QWEN_ENDS = ("<|im_end|>", "", "<|endoftext|>")
_GEMMA_ENDS = ("<end_of_turn>", "<bos>", "<pad>")

FAMILIES: dict[str, Family] = {
    "llama-3.1": Family("llama3.2", _LLAMA, "llama.cpp:meta-llama-Llama-3.1-8B-Instruct", *_LLAMA3_ENDS),
    "llama-3.2": Family("llama3.2", _LLAMA, "llama.cpp:meta-llama-Llama-3.2-3B-Instruct", *_LLAMA3_ENDS),
    "llama-3.3": Family("llama3.2", _LLAMA, "llama.cpp:meta-llama-Llama-3.3-70B-Instruct", *_LLAMA3_ENDS),
    "hermes-3-llama": Family(
        "llama3.2", _LLAMA, "llama.cpp:NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "<|im_end|>", "<|begin_of_text|>",
        renamed=_llama3("<|im_start|>", eot_id="<|im_end|>"),
    ),
    "xlam-2-llama": Family("llama3.2", _LLAMA, "own:xlam_llama", "<|eot_id|>", "<|begin_of_text|>"),
    "xlam-2-qwen": Family("qwen3", _QWEN2, "own:xlam_qwen", *_QWEN_ENDS),
    "qwen2.5": Family("qwen3", _QWEN2, "llama.cpp:Qwen-Qwen2.5-7B-Instruct", *_QWEN_ENDS),
    "qwen3": Family("qwen3", _QWEN3, "trl:qwen3", *_QWEN_ENDS),
    "qwen3-2507": Family("qwen3", _QWEN3, "trl:qwen3_instruct_2507", *_QWEN_ENDS),
    "qwen3-coder": Family("qwen3", _QWEN3, "llama.cpp:Qwen3-Coder", *_QWEN_ENDS),
    "qwen3.5": Family("qwen3", _QWEN35, "llama.cpp:Qwen3.5-4B", *_QWEN_ENDS),
    "qwen3.5-nothink": Family("qwen3", _QWEN35, "trl:qwen3_5_nothink", *_QWEN_ENDS),
    "gemma-2": Family(
        "gemma3", ("Gemma2Config", {"head_dim": 8, "sliding_window": 512}), "llama.cpp:google-gemma-2-2b-it",
        "<eos>", "<bos>", "<pad>",
    ),
    "gemma-3": Family("gemma3", _GEMMA3, "trl:gemma3", *_GEMMA_ENDS),
    "functiongemma": Family(
        "gemma3", _GEMMA3, "own:functiongemma", *_GEMMA_ENDS,
        renamed=_gemma(
            "<start_function_declaration>", "<end_function_declaration>", "<start_function_call>",
            "<end_function_call>", "<start_function_response>", "<end_function_response>", "<escape>",
        ),
    ),
    "gemma-4": Family(
        "gemma3", _GEMMA3, "trl:gemma4", "<turn|>", "<bos>", "<pad>",
        renamed=_gemma(
            "<|tool_call>", "<tool_call|>", "<|tool>", "<tool|>", '<|"|>', "<|channel>", "<channel|>",
            "<|tool_response>", "<tool_response|>", start_of_turn="<|turn>", end_of_turn="<turn|>",
        ),
    ),
    "mistral-v0.3": Family("llama2", _MISTRAL, "own:mistral7b", "</s>", "<s>", added=_MISTRAL_TOKENS),
    "mistral-nemo": Family(
        "llama3.2", _MISTRAL, "llama.cpp:mistralai-Mistral-Nemo-Instruct-2407", "</s>", "<s>", renamed=_TEKKEN
    ),
    "ministral-3": Family(
        "llama3.2", _MISTRAL, "llama.cpp:mistralai-Ministral-3-14B-Reasoning-2512", "</s>", "<s>", renamed=_TEKKEN
    ),
    "hermes-2-pro-mistral": Family(
        "llama2", _MISTRAL, "llama.cpp:NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", "<|im_end|>", "<s>",
        added=("<|im_end|>", "<|im_start|>"),
    ),
    "phi-3.5-mini": Family(
        "llama2", _PHI3, "trl:phi3_5", "<|endoftext|>", "<s>",
        added=(
            "<|endoftext|>", "<|assistant|>", "<|placeholder1|>", "<|placeholder2|>", "<|placeholder3|>",
            "<|placeholder4|>", "<|system|>", "<|end|>", "<|placeholder5|>", "<|placeholder6|>", "<|user|>",
        ),
    ),
    "phi-4-mini": Family(
        "gpt-oss", _PHI3, "own:phi4mini", "<|endoftext|>", "<|endoftext|>",
        renamed={
            "<|return|>": "<|end|>", "<|start|>": "<|user|>", "<|end|>": "<|assistant|>", "<|message|>": "<|system|>",
            "<|channel|>": "<|tool|>", "<|constrain|>": "<|/tool|>", "<|call|>": "<|tool_call|>",
            "<|reserved_200009|>": "<|/tool_call|>", "<|reserved_200010|>": "<|tool_response|>",
        },
    ),
    "phi-4": Family(
        "gpt-oss", _PHI3, "own:phi4", "<|im_end|>", "<|endoftext|>",
        renamed={"<|start|>": "<|im_start|>", "<|end|>": "<|im_end|>", "<|message|>": "<|im_sep|>"},
    ),
    "smollm3": Family(
        "llama3.2", ("SmolLM3Config", {"pad_token_id": 128004}), "llama.cpp:HuggingFaceTB-SmolLM3-3B", "<|im_end|>",
        renamed=_llama3("<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>"),
    ),
    "granite-3.3": Family(
        "qwen3", ("GraniteConfig", {}), "llama.cpp:ibm-granite-granite-3.3-2B-Instruct", "<|end_of_text|>",
        "<|end_of_text|>", renamed=_GRANITE,
    ),
    "granite-4-micro": Family(
        "qwen3",
        (
            "GraniteMoeHybridConfig",
            {"layer_types": ["attention", "attention"], "position_embedding_type": "rope", **_GRANITE_HYBRID},
        ),
        "llama.cpp:ibm-granite-granite-4.0", "<|end_of_text|>", "<|end_of_text|>", renamed=_GRANITE,
    ),
    "granite-4-h": Family(
        "qwen3", ("GraniteMoeHybridConfig", {"layer_types": ["mamba", "attention"], **_GRANITE_HYBRID}),
        "llama.cpp:ibm-granite-granite-4.0", "<|end_of_text|>", "<|end_of_text|>", renamed=_GRANITE,
    ),
    "r1-distill-qwen": Family(
        "qwen3", _QWEN2, "trl:deepseek_r1_distill", *_R1_SENTENCE,
        renamed=_qwen(
            _R1_SENTENCE[1], endoftext=_R1_SENTENCE[0], im_start="<｜User｜>", im_end="<｜Assistant｜>",
        ),
    ),
    "r1-distill-llama": Family(
        "llama3.2", _LLAMA, "trl:deepseek_r1_distill", *_R1_SENTENCE,
        renamed=_llama3(
            "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>",
            begin_of_text=_R1_SENTENCE[1], end_of_text=_R1_SENTENCE[0],
        ),
    ),
    "lfm2": Family(
        "qwen3", _LFM2, "trl:lfm2", "<|im_end|>", "<|startoftext|>", "<|endoftext|>", renamed=_LFM2_TOKENS
    ),
    "lfm2-v2": Family(
        "qwen3", _LFM2, "trl:lfm2_v2", "<|im_end|>", "<|startoftext|>", "<|endoftext|>", renamed=_LFM2_TOKENS
    ),
    "gpt-oss": Family("gpt-oss", _GPT_OSS, "trl:gptoss", "<|return|>", "<|startoftext|>", "<|endoftext|>"),
    "tinyllama": Family("llama2", _LLAMA, "own:zephyr", "</s>", "<s>"),
    "yi-1.5": Family(
        "llama2", _LLAMA, "own:chatml", "<|im_end|>", "<|startoftext|>",
        added=("<|startoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_sep|>"),
    ),
    "internlm-3": Family(
        "llama2", _LLAMA, "own:chatml", "<|im_end|>", "<s>",
        added=(
            "<|im_start|>", "<|im_end|>", "<|action_start|>", "<|action_end|>", "<|interpreter|>", "<|plugin|>",
        ),
    ),
    "glm-4": Family(
        "qwen3", ("Glm4Config", {"head_dim": 8, "pad_token_id": 0}), "llama.cpp:GLM-4.6", "<|user|>", "",
        "<|endoftext|>",
        renamed=_qwen(
            "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>",
            im_start="<eop>", im_end="[sMASK]",
        ),
    ),
    "olmo-2": Family("qwen3", ("Olmo2Config", {"pad_token_id": 0}), "own:olmo2", *(["<|endoftext|>"] * 3)),
    "olmo-3": Family(
        "qwen3", ("Olmo3Config", {"pad_token_id": 0, "sliding_window": 512, "num_hidden_layers": 4}), "own:olmo3",
        "<|im_end|>", "<|endoftext|>", "<|endoftext|>",
    ),
    "falcon-3": Family(
        "qwen3", _LLAMA, "own:zephyr", "<|endoftext|>", "", "<|endoftext|>",
        renamed=_qwen("<|assistant|>", im_start="<|system|>", im_end="<|user|>"),
    ),
    "hunyuan-1.8b": Family(
        "qwen3", ("HunYuanDenseV1Config", {"head_dim": 8}), "own:hunyuan_a13b", "<｜hy_place▁holder▁no▁2｜>",
        "<｜hy_begin▁of▁sentence｜>",
        renamed=_qwen(
            "<｜hy_begin▁of▁sentence｜>", im_start="<｜hy_User｜>", im_end="<｜hy_Assistant｜>",
            endoftext="<｜hy_place▁holder▁no▁2｜>",
        ),
    ),
    "minicpm-5": Family(
        "qwen3", _LLAMA, "llama.cpp:openbmb-MiniCPM5-1B", "<|im_end|>", "<|im_start|>", "<|endoftext|>"
    ),
    "minicpm-3": Family(
        "llama2", ("MiniCPM3Config", {"num_key_value_heads": 4}), "own:chatml", "<|im_end|>", "<s>",
        added=("<|im_start|>", "<|im_end|>", "<|tool_call|>"),
    ),
    "stablelm-2": Family("qwen3", ("StableLmConfig", {}), "own:chatml", *_QWEN_ENDS),
    "kimi-k2": Family(
        "qwen3", _LLAMA, "llama.cpp:Kimi-K2-Instruct", "<|im_end|>", "", "<|endoftext|>",
        renamed=_qwen(
            "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>",
            "<|tool_call_argument_begin|>", "<|tool_call_end|>", "<|im_system|>", "<|im_user|>", "<|im_assistant|>",
            "<|im_middle|>",
        ),
    ),
}  # fmt: skip


def make_model(name: str) -> Path:
    """Return the folder of a family's tiny model. It is made once.

    Raises:
        LookupError: if the installed transformers lacks the architecture.
    """
    folder = FOLDER / "models" / name
    if (folder / "model.safetensors").is_file():
        return folder
    family = FAMILIES[name]
    class_name, values = family.config
    config_class = getattr(hf, class_name, None)
    if config_class is None:
        raise LookupError(f"transformers {hf.__version__} has no {class_name}")
    folder.mkdir(parents=True, exist_ok=True)
    size = _write_tokenizer(family, folder)
    source, _, template = family.template.partition(":")
    text = (_TEMPLATES[source] / f"{template}.jinja").read_text(encoding="utf-8")
    (folder / "chat_template.jinja").write_text(text, encoding="utf-8")
    torch.manual_seed(0)
    config = config_class(vocab_size=size, **{**_SIZES, **values})
    hf.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def _write_tokenizer(family: Family, folder: Path) -> int:
    """Write the tokenizer with the family's special tokens, and return the size of its vocabulary."""
    tokenizer = json.loads(_tokenizer_file(family.tokenizer).read_text(encoding="utf-8"))
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    for token in tokenizer["added_tokens"]:
        if token["content"] in family.renamed:
            token |= {"content": family.renamed[token["content"]], "special": True}
    ids = {old: vocabulary.pop(old) for old in family.renamed if old in vocabulary}
    vocabulary.update({family.renamed[old]: id for old, id in ids.items()})
    top = max([token["id"] for token in tokenizer["added_tokens"]] + list(vocabulary.values()))
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    for id, content in enumerate(family.added, top + 1):
        tokenizer["added_tokens"].append({"id": id, "content": content, **plain})
    written = json.dumps(tokenizer["post_processor"], ensure_ascii=False)
    for old in sorted(family.renamed, key=len, reverse=True):
        written = written.replace(f'"{old}"', f'"{family.renamed[old]}"')
    tokenizer["post_processor"] = json.loads(written)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 131072,
    }
    ends = {"eos_token": family.eos, "bos_token": family.bos, "pad_token": family.pad}
    settings |= {key: token for key, token in ends.items() if token}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
    return top + 1 + len(family.added)


def _tokenizer_file(name: str) -> Path:
    path = FOLDER.parent / "tokenizers" / name / "tokenizer.json"
    if not path.is_file():
        subprocess.run([sys.executable, Path(__file__).parent / "fetch_tokenizers.py", name], check=True)
    return path


def fetch_templates() -> None:
    """Unpack llama.cpp's copies of the official templates from the source package of llama-cpp-python, once."""
    folder = _TEMPLATES["llama.cpp"]
    if folder.is_dir():
        return
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download"]
    source = ["--no-deps", "--no-binary", "llama-cpp-python", "--dest", FOLDER, LLAMA_CPP]
    subprocess.run([*pip, *source], check=True)
    archive = next(FOLDER.glob("llama_cpp_python-*.tar.gz"))
    unpacked = FOLDER / "templates.part"
    unpacked.mkdir(exist_ok=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            if "/llama.cpp/models/templates/" in member.name and member.name.endswith(".jinja"):
                file = tar.extractfile(member)
                assert file is not None
                (unpacked / Path(member.name).name).write_bytes(file.read())
    archive.unlink()
    unpacked.rename(folder)
