"""Decoding with shared prompts is the model's own, for every architecture it is used on."""

import pytest
import torch

pytest.importorskip("transformers")

import transformers

from embodied.objectives.likelihood import token_log_probs
from policies import decode_kernel, sampling, shared_prompts
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


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("longest", [1, 6])
def test_rows_that_share_a_prompt_are_read_at_once(kind, padded, longest, monkeypatch):
    """Log-probabilities and gradients are those of one row each."""
    made, (ids, mask) = model(kind), prompts(padded)
    made.network.requires_grad_(True)
    rng = torch.Generator().manual_seed(4)
    completion = torch.randint(3, 60, (12, longest), generator=rng)
    kept = torch.arange(longest) < torch.randint(1, longest + 1, (12, 1), generator=rng)
    rows = (ids.repeat_interleave(4, 0), mask.repeat_interleave(4, 0), completion, kept)
    found = {}
    read = made.network.forward
    sizes = []
    monkeypatch.setattr(
        made.network,
        "forward",
        lambda *a, **k: (sizes.append(k["input_ids"].numel()), read(*a, **k))[1],
    )
    for how in (shared_prompts.logits, LanguageModel.logits):
        made.network.zero_grad()
        log_prob = token_log_probs(how(made, *rows), completion)
        weight = torch.linspace(-1, 1, kept.sum())
        (log_prob[kept] * weight).sum().backward()
        gradients = [p.grad.clone() for p in made.network.parameters() if p.grad is not None]
        found[how] = log_prob.detach()[kept], gradients
    (ours, ours_gradients), (usual, usual_gradients) = found.values()
    assert (ours - usual).abs().max() < 1e-5 and usual.std() > 0.1
    for a, b in zip(ours_gradients, usual_gradients, strict=True):
        assert (a - b).abs().max() <= 1e-4 * max(1.0, b.abs().max())
    assert sizes == [3 * (5 + 4 * (longest - 1)), 12 * (5 + longest - 1)]


def test_rows_are_read_one_by_one_where_prompts_do_not_repeat_evenly():
    ids = torch.tensor([[1, 2], [1, 2], [3, 4], [3, 4]])
    ones = torch.ones_like(ids)
    assert shared_prompts.repeats(ids, ones) == 2
    assert shared_prompts.repeats(ids[:3], ones[:3]) == 1
    assert shared_prompts.repeats(ids[[0, 2, 3, 3]], ones) == 1
    assert shared_prompts.repeats(ids[[0, 0, 0]], ones[:3]) == 3
    ones[1, 0] = 0  # the same ids, but one of them is padding
    assert shared_prompts.repeats(ids, ones) == 1


@pytest.mark.parametrize("threads", [1, 3])
def test_the_compiled_kernel_attends_as_torch_does(threads, monkeypatch):
    pytest.importorskip("numba")
    rng = torch.Generator().manual_seed(0)
    parts = [torch.randn(*s, generator=rng) for s in [(3, 2, 5, 8)] * 2 + [(48, 2, 7, 8)] * 2]
    query = torch.randn(48, 4, 1, 8, generator=rng)
    hidden = torch.arange(5) < torch.tensor([[0], [2], [1]])
    key, value = (shared_prompts.Parts(parts[i], parts[2 + i], 6, hidden) for i in (0, 1))
    kernel = decode_kernel.available
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            assert kernel(query)
            ours, _ = shared_prompts.attend(None, query, key, value, scaling=0.4)
            monkeypatch.setattr(decode_kernel, "available", lambda query: False)
            usual, _ = shared_prompts.attend(None, query, key, value, scaling=0.4)
    finally:
        torch.set_num_threads(before)
    assert (ours - usual).abs().max() < 1e-5 and usual.std() > 0.1
    assert not kernel(query) and not kernel(query.double())
