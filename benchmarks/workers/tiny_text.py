"""The language model and the tasks that both sides of the text rows are handed.

Four layers, width 128, four heads, 64 symbols; prompts of 8 symbols, answers of 32. The end symbol
is not among those the model can say, so that every answer has exactly 32; only a model that learns
from given answers knows it.
"""

from __future__ import annotations

import random

import torch

SYMBOLS = "0123456789+-*/=() .,?:abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN"[:60]
PROMPTS, GROUP, LONGEST, PAIRS = 64, 8, 32, 64
LAYERS, WIDTH, HEADS, VOCABULARY, PROMPT = 4, 128, 4, 64, 8
FEED_FORWARD = 344  # of llama's shape


def model(shape: str, end: bool = False) -> torch.nn.Module:
    """A network of transformers with the weights of seed 0: gpt2 or llama; `end`: it can end."""
    import transformers

    torch.manual_seed(0)
    special = {"bos_token_id": 1, "eos_token_id": VOCABULARY, "pad_token_id": 0}
    if shape == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=VOCABULARY + end,
            n_positions=128,
            n_embd=WIDTH,
            n_layer=LAYERS,
            n_head=HEADS,
            resid_pdrop=0,
            embd_pdrop=0,
            attn_pdrop=0,
            **special,
        )
        return transformers.GPT2LMHeadModel(config)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY + end,
        hidden_size=WIDTH,
        intermediate_size=FEED_FORWARD,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=128,
        **special,
    )
    return transformers.LlamaForCausalLM(config)


def tokenizer() -> object:
    """One id per character; `<eos>` is the 65th."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {text: i for i, text in enumerate(["<pad>", "<bos>", "<unk>", "|", *SYMBOLS])}
    made = Tokenizer(models.WordLevel({**words, "<eos>": VOCABULARY}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    made.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
    )


def questions(count: int = 2048) -> list[tuple[str, int]]:
    """Prompts of 8 symbols and the numbers that answer them."""
    draw = random.Random(0)
    pairs = [(draw.randint(100, 999), draw.randint(100, 999)) for _ in range(count)]
    return [(f"{a}+{b}=", a + b) for a, b in pairs]


def score(answer: str) -> float:
    """A cheap reward that differs between answers."""
    return float(answer.count("1"))


def preferences() -> list[dict[str, str]]:
    """Pairs of answers of 29 symbols and an end."""
    return [
        {"prompt": prompt, "chosen": f"{a:<29}", "rejected": f"{a + 1:.<29}"}
        for prompt, a in questions(512)
    ]
