"""Make a tiny random Llama with a ChatML tokenizer, for tests and for `make smoke`. It needs no download.

The tokenizer is byte-level BPE, trained on the given texts, so it can encode any text.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(".cache/models/tiny-random-llama")
TEXTS = (Path("data/customer_service/train.jsonl"), Path("data/customer_service/tools.json"))
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="folder for the model (default: %(default)s)")
    folder = parser.parse_args().folder
    if not (folder / "model.safetensors").is_file():
        make_tiny_llama(folder, [path.read_text(encoding="utf-8") for path in TEXTS])
    print(f"{folder}: ready")
    return 0


def make_tiny_llama(folder: Path, texts: list[str], vocabulary: int = 1024, seed: int = 0) -> None:
    """Save a random Llama of 4 layers and hidden size 64 with its tokenizer in the folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer = make_tokenizer(texts, vocabulary)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_tokenizer(texts: list[str], vocabulary: int) -> Any:
    """Return a byte-level BPE tokenizer with ChatML's special tokens, trained on the texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=SPECIAL_TOKENS, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", clean_up_tokenization_spaces=False
    )


if __name__ == "__main__":
    sys.exit(main())
