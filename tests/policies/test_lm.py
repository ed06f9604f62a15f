"""Language models: tokens, logits, sampling with exact log-probabilities."""

import numpy as np
import pytest
import torch

from embodied.core.types import UserError
from embodied.data import tiny
from embodied.llm.task import padded_ids
from embodied.objectives.likelihood import token_log_probs
from policies import lm
from policies.sampling import Sampling, generate
from tests import tiny_language

transformers = pytest.importorskip("transformers")
PROMPTS = ["^c1:", "^c1234:", "^c12:"]


@pytest.fixture(scope="module")
def model():
    return tiny_language.model(std=0.6)


def families():
    common = {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return {
        "llama": transformers.LlamaConfig(**common, **small, intermediate_size=32),
        "gpt2": transformers.GPT2Config(**common, n_embd=16, n_layer=2, n_head=2),
        "qwen3": transformers.Qwen3Config(
            **common, **small, intermediate_size=32, num_key_value_heads=1, head_dim=8
        ),
    }


def test_one_symbol_is_one_token():
    tokenizer = tiny_language.tokenizer()
    text = "^c0123____:0134.____?"
    ids = tokenizer(text)["input_ids"]
    assert len(tokenizer) == 64 and len(ids) == len(text)
    assert tokenizer.decode(ids) == text
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, ids[text.index(".")])
    with pytest.raises(ValueError, match="single characters"):
        lm.symbol_tokenizer(["a", "a"], "a", "a", "a")


def test_the_small_model_has_the_size_of_its_recipe():
    made = lm.small(tiny_language.tokenizer(), torch.Generator().manual_seed(0))
    assert sum(p.numel() for p in made.network.parameters()) == 157_504


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_are_those_of_a_forward_pass(name, temperature):
    torch.manual_seed(0)
    network = transformers.AutoModelForCausalLM.from_config(families()[name]).eval()
    made = lm.LanguageModel(network, tiny_language.tokenizer())
    prompt, prompt_mask = padded_ids(made, PROMPTS, left=True)
    sampling = Sampling(12, temperature=temperature)
    drawn = generate(made, prompt, prompt_mask, 4, sampling, torch.Generator().manual_seed(0))
    inputs = prompt.repeat_interleave(4, 0), prompt_mask.repeat_interleave(4, 0)
    logits = made.logits(*inputs, drawn.tokens, drawn.mask)
    forced = token_log_probs(logits, drawn.tokens, temperature).where(drawn.mask, 0)
    torch.testing.assert_close(drawn.log_prob, forced, atol=1e-5, rtol=0)


def test_padding_changes_nothing(model):
    prompt, prompt_mask = padded_ids(model, PROMPTS, left=True)
    completion, mask = padded_ids(model, ["12.", "1.", "123."])
    together = model.logits(prompt, prompt_mask, completion, mask)
    for i, text in enumerate(PROMPTS):
        one, one_mask = padded_ids(model, [text], left=True)
        length = int(mask[i].sum())
        alone = model.logits(
            one, one_mask, completion[i : i + 1, :length], mask[i : i + 1, :length]
        )
        torch.testing.assert_close(together[i, :length], alone[0], atol=1e-5, rtol=1e-5)


def test_a_group_comes_from_the_distribution(model):
    """Frequencies of likely first tokens against their probabilities, in standard deviations."""
    prompt, prompt_mask = padded_ids(model, PROMPTS[:1], left=True)
    generator = torch.Generator().manual_seed(0)
    drawn = generate(model, prompt, prompt_mask, 4000, Sampling(1), generator)
    probs = model.logits(prompt, prompt_mask, prompt[:, :1], prompt_mask[:, :1])[0, 0].softmax(-1)
    found = torch.bincount(drawn.tokens[:, 0], minlength=64) / 4000
    deviation = (probs * (1 - probs) / 4000).sqrt()
    likely = probs > 0.01  # the others' counts are too small for a normal distribution
    assert likely.sum() > 5 and ((found - probs).abs() <= 5 * deviation)[likely].all()


def test_top_p_leaves_the_rest_out(model):
    prompt, prompt_mask = padded_ids(model, PROMPTS[:1], left=True)
    sampling = Sampling(1, top_p=0.5)
    drawn = generate(model, prompt, prompt_mask, 500, sampling, torch.Generator().manual_seed(0))
    probs = model.logits(prompt, prompt_mask, prompt[:, :1], prompt_mask[:, :1])[0, 0].softmax(-1)
    order = probs.argsort(descending=True)
    kept = order[: int((probs[order].cumsum(0) < 0.5).sum()) + 1]
    assert set(drawn.tokens[:, 0].tolist()) == set(kept.tolist())


def test_the_end_ends(model):
    prompt, prompt_mask = padded_ids(model, PROMPTS, left=True)
    drawn = generate(model, prompt, prompt_mask, 50, Sampling(8), torch.Generator().manual_seed(1))
    for row, mask, ended in zip(drawn.tokens, drawn.mask, drawn.ended, strict=True):
        real = row[mask].tolist()
        assert mask[: len(real)].all()
        assert (real[-1] == model.end) == bool(ended) and model.end not in real[:-1]
        assert ended or len(real) == 8
    assert drawn.ended.any() and not drawn.ended.all()


def test_stop_texts(model):
    prompt, prompt_mask = padded_ids(model, PROMPTS[:1], left=True)

    def texts(sampling):
        generator = torch.Generator().manual_seed(1)
        drawn = generate(model, prompt, prompt_mask, 40, sampling, generator)
        rows = zip(drawn.tokens, drawn.mask, strict=True)
        return [model.tokenizer.decode(row[mask]) for row, mask in rows]

    stop = next(w for w in texts(Sampling(8)) if len(w) > 3 and w[1:3].isalnum())[1:3]
    found = texts(Sampling(8, stop=(stop,)))
    assert any(text.endswith(stop) for text in found)
    assert all(stop not in text[:-1] for text in found)


def test_save_and_load(model, tmp_path):
    model.save(tmp_path / "model")
    again = lm.load(tmp_path / "model")
    prompt, prompt_mask = padded_ids(model, PROMPTS, left=True)
    pair = [m.logits(prompt, prompt_mask, prompt, prompt_mask) for m in (model, again)]
    assert torch.equal(*pair) and again.end == model.end
    assert again.tokenizer.decode(again.tokenizer(PROMPTS[1])["input_ids"]) == PROMPTS[1]


def test_what_is_no_model(tmp_path, model):
    with pytest.raises(UserError, match="cannot load the language model"):
        lm.load(tmp_path / "nothing")
    model.save(tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        lm.load(tmp_path / "pickled")


def test_chain():
    chain = tiny.Chain()
    prompt = chain.prompt("413")
    assert prompt == "^c413_____:"
    rng = np.random.default_rng(0)
    assert chain.attempt(prompt, rng) == "403."
    assert chain.verify(prompt, "403.") == (True, True, (True, True, True), True)
    assert chain.verify(prompt, "413.") == (True, False, (True, False, False), True)
    assert chain.verify(prompt, "414.") == (False, False, (True, False, True), True)
    for bad in ("40.", "403", "4a3.", "", "."):
        assert chain.verify(prompt, bad) == (False, False, (), False)
    prompts = chain.problems(4000, rng, 6)
    tries = [chain.verify(p, chain.attempt(p, rng, slip=0.15)).all_steps for p in prompts]
    assert np.mean(tries) == pytest.approx(0.85**6, abs=0.04)
    both = chain.demonstration(prompts[0], rng)
    assert len(both) == 2 * 9 + 1 and both[9] == "?"


def test_gpt2_with_a_fused_gelu_computes_the_same():
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=64, n_positions=32, n_embd=16, n_layer=2, n_head=2)
    network = transformers.GPT2LMHeadModel(config).eval()
    ids = torch.arange(20).view(2, 10)
    before = network(ids).logits
    fused = lm.LanguageModel(network, None).network
    assert sum(isinstance(m, torch.nn.GELU) for m in fused.modules()) == 2
    torch.testing.assert_close(fused(ids).logits, before, atol=1e-6, rtol=0)
