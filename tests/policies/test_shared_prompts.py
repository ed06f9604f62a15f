"""Decoding with shared prompts is the model's own, for every architecture it is used on."""

import pytest
import torch

pytest.importorskip("transformers")

import transformers

from embodied.objectives.likelihood import token_log_probs
from policies import sampling, shared_prompts
from policies.lm import LanguageModel
from policies.sampling import Sampling, generate
from tests import tiny_language

SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
CONFIGS = {
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=64, n_positions=64, n_embd=16, n_layer=2, n_head=4
    ),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**SIZES),
    "llama": lambda: transformers.LlamaConfig(**SIZES, num_key_value_heads=2),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES, num_key_value_heads=2),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=4),
}


def model(kind):
    torch.manual_seed(0)
    network = transformers.AutoModelForCausalLM.from_config(CONFIGS[kind]())
    with torch.no_grad():
        for p in network.parameters():
            if p.ndim > 1:
                p.mul_(20)  # far from uniform
    return LanguageModel(network.eval().requires_grad_(False), tiny_language.tokenizer())


def prompts(padded):
    rng = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 60, (3, 5), generator=rng)
    mask = torch.ones(3, 5, dtype=torch.bool)
    if padded:
        mask[0, :3], mask[2, :1] = False, False
    return ids.where(mask, 0), mask


def test_every_architecture_that_is_named_is_tested():
    assert set(CONFIGS) == set(shared_prompts.TESTED)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("group", [1, 4])
def test_probabilities_are_those_of_a_forward_pass(kind, padded, group):
    made = model(kind)
    assert shared_prompts.supports(made)
    before = made.network.config._attn_implementation
    ids, mask = prompts(padded)
    drawn = generate(made, ids, mask, group, Sampling(8), torch.Generator().manual_seed(2))
    assert made.network.config._attn_implementation == before
    rows = ids.repeat_interleave(group, 0), mask.repeat_interleave(group, 0)
    exact = token_log_probs(made.logits(*rows, drawn.tokens, drawn.mask), drawn.tokens)
    gap = (exact - drawn.log_prob)[drawn.mask].abs().max()
    assert gap < 1e-5
    assert drawn.log_prob[drawn.mask].std() > 0.1


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_same_tokens_as_with_the_usual_cache(kind, monkeypatch):
    made, (ids, mask) = model(kind), prompts(True)
    ours = generate(made, ids, mask, 4, Sampling(8), torch.Generator().manual_seed(3))
    monkeypatch.setattr(sampling, "supports", lambda model: False)
    usual = generate(made, ids, mask, 4, Sampling(8), torch.Generator().manual_seed(3))
    assert torch.equal(ours.tokens, usual.tokens)
    torch.testing.assert_close(ours.log_prob, usual.log_prob, atol=1e-5, rtol=0)


def test_a_model_whose_attention_is_not_plain_keeps_its_own_cache():
    config = transformers.MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=4)
    made = LanguageModel(
        transformers.AutoModelForCausalLM.from_config(config).eval(), tiny_language.tokenizer()
    )
    assert not shared_prompts.supports(made)
    ids, mask = prompts(False)
    generate(made, ids, mask, 2, Sampling(6), torch.Generator().manual_seed(0))


def test_tokens_are_drawn_by_their_probabilities_and_none_that_was_left_out():
    rng = torch.Generator().manual_seed(0)
    probs = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0]).repeat(100_000, 1)
    drawn = sampling._drawn(probs, [rng])
    shares = torch.bincount(drawn, minlength=6) / len(probs)
    torch.testing.assert_close(shares, probs[0], atol=0.006, rtol=0)
    assert (shares[[0, 2, 5]] == 0).all()
