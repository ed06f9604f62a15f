"""The same loss and gradient as TRL's trainers, on the same model and batch.

Needs trl, which is no requirement: pip install ".[oracle]".
"""

import os

import numpy as np
import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
pytest.importorskip("trl", reason="trl is not installed: pip install .[oracle]")

from embodied.llm.grpo import GRPOConfig, grpo_loss
from embodied.objectives.advantages import whiten
from embodied.objectives.likelihood import nll_loss, sequence_sums, token_log_probs
from embodied.objectives.policy_gradient import (
    sequence_ratio,
)
from embodied.objectives.preference import preference_loss
from policies.lm import LanguageModel

CLOSE = 1e-6
CHAT = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
LENGTHS = (6, 4, 2, 3)


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["<pad>", "<bos>", "<eos>", *map(str, range(29))])}
    made = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
    fast.chat_template = CHAT
    return fast


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """A function from a seed to a folder with a model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    made = tmp_path_factory.mktemp("models")

    def save(seed):
        place = made / str(seed)
        if not place.exists():
            torch.manual_seed(seed)
            config = LlamaConfig(
                vocab_size=32,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                max_position_embeddings=64,
                initializer_range=0.3,
                bos_token_id=1,
                eos_token_id=2,
                pad_token_id=0,
            )
            LlamaForCausalLM(config).save_pretrained(place)
            tokenizer.save_pretrained(place)
        return place

    return save


@pytest.fixture(scope="module")
def model(folder, tokenizer):
    """A function from a seed to our language model."""
    from transformers import LlamaForCausalLM

    return lambda seed: LanguageModel(LlamaForCausalLM.from_pretrained(folder(seed)), tokenizer)


@pytest.fixture(scope="module")
def batch():
    """Four answers to one prompt."""
    rng = torch.Generator().manual_seed(7)
    mask = torch.arange(6) < torch.tensor(LENGTHS)[:, None]
    completion = torch.randint(3, 32, (4, 6), generator=rng).where(mask, 0)
    prompt = torch.randint(3, 32, (4, 5), generator=rng)
    prompt_mask = torch.ones(4, 5, dtype=torch.bool)
    prompt_mask[1, :2] = False
    return {
        "prompt": prompt.where(prompt_mask, 0),
        "prompt_mask": prompt_mask,
        "completion": completion,
        "mask": mask,
    }


def log_probs(model, batch):
    logits = model.logits(batch["prompt"], batch["prompt_mask"], batch["completion"], batch["mask"])
    return token_log_probs(logits, batch["completion"])


def gradients(network):
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def gap(ours, loss, theirs, their_loss):
    """The largest difference of the losses and of any parameter's gradient."""
    mine, other = gradients(ours), gradients(theirs)
    assert mine.keys() == other.keys() and len(mine) > 10
    assert max(float(g.abs().max()) for g in mine.values()) > 1e-4
    gaps = [float((mine[name] - other[name]).abs().max()) for name in mine]
    return max(abs(float(loss.detach()) - float(their_loss.detach())), *gaps)


def options(tmp_path):
    return dict(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[])


def trl_grpo(folder, tokenizer, tmp_path, **settings):
    from datasets import Dataset
    from trl import GRPOConfig as Theirs
    from trl import GRPOTrainer

    config = Theirs(
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=8,
        **options(tmp_path),
        **settings,
    )
    trainer = GRPOTrainer(
        model=str(folder(0)),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_list([{"prompt": "1 2 3"}] * 8),
        processing_class=tokenizer,
    )
    trainer.current_gradient_accumulation_steps = 1
    return trainer


VARIANTS = [
    {},
    {"beta": 0.04},
    {"beta": 0.04, "unbiased_kl": False},
    {"clip_high": 0.28},
    {"ratio": "sequence_mean"},
    {"ratio": "sequence_mean", "beta": 0.04},
]


@pytest.mark.parametrize("aggregation", ["grpo", "bnpo", "dapo", "dr_grpo"])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_grpo(folder, model, tokenizer, batch, tmp_path, aggregation, variant):
    config = GRPOConfig(group=4, prompts=1, aggregation=aggregation, **variant)
    trainer = trl_grpo(
        folder,
        tokenizer,
        tmp_path,
        loss_type=aggregation,
        beta=config.beta,
        epsilon_high=config.clip_high,
        use_bias_correction_kl=config.unbiased_kl,
        importance_sampling_level="token" if config.ratio == "token" else "sequence",
    )
    advantage = torch.tensor([1.5, -0.5, -0.5, -0.5])
    with torch.no_grad():
        old, ref = log_probs(model(1), batch), log_probs(model(2), batch)
    tokens = batch["mask"].sum()
    theirs = trainer.model
    their_loss = trainer._compute_loss(
        theirs,
        {
            "prompt_ids": batch["prompt"],
            "prompt_mask": batch["prompt_mask"].long(),
            "completion_ids": batch["completion"],
            "completion_mask": batch["mask"].long(),
            "advantages": advantage,
            "old_per_token_logps": old,
            "ref_per_token_logps": ref,
            "num_items_in_batch": tokens,
        },
    )
    their_loss.backward()
    ours = model(0)
    loss, _ = grpo_loss(
        config,
        log_probs(ours, batch),
        old,
        ref if config.beta else None,
        advantage,
        batch["mask"],
        longest=8,
        tokens=tokens,
        sequences=4,
    )
    loss.backward()
    assert gap(ours.network, loss, theirs, their_loss) < CLOSE


def test_rloo(folder, model, tokenizer, batch, tmp_path):
    from datasets import Dataset
    from trl import RLOOConfig, RLOOTrainer

    trainer = RLOOTrainer(
        model=str(folder(0)),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=RLOOConfig(
            per_device_train_batch_size=4,
            num_generations=4,
            max_completion_length=8,
            beta=0.0,
            **options(tmp_path),
        ),
        train_dataset=Dataset.from_list([{"prompt": "1 2 3"}] * 8),
        processing_class=tokenizer,
    )
    advantage = torch.tensor([1.0, -1 / 3, -1 / 3, -1 / 3])
    near = model(0)
    with torch.no_grad():  # near enough for ratios on both sides of the clip
        for p in near.network.parameters():
            p += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3))
        old = log_probs(near, batch)
    their_loss = trainer._compute_loss(
        trainer.model,
        {
            "prompt_ids": batch["prompt"],
            "prompt_mask": batch["prompt_mask"].long(),
            "completion_ids": batch["completion"],
            "completion_mask": batch["mask"].long(),
            "advantages": advantage,
            "old_logps": sequence_sums(old, batch["mask"]),
        },
    )
    their_loss.backward()
    ours = model(0)
    config = GRPOConfig(
        group=4, prompts=1, advantage="leave_one_out", ratio="sequence", aggregation="grpo"
    )
    log_prob = log_probs(ours, batch)
    loss, _ = grpo_loss(
        config, log_prob, old, None, advantage, batch["mask"],
        longest=8, tokens=batch["mask"].sum(), sequences=4,
    )  # fmt: skip
    loss.backward()
    assert gap(ours.network, loss, trainer.model, their_loss) < CLOSE
    ratio = sequence_ratio(log_prob, old, batch["mask"], mean=False)[:, 0].detach()
    inside = (ratio > 0.8) & (ratio < 1.2)
    assert inside.any() and not inside.all()


@pytest.mark.parametrize(
    ("kind", "smoothing"),
    [("sigmoid", 0.0), ("robust", 0.0), ("robust", 0.1), ("hinge", 0.0), ("ipo", 0.0)],
)
def test_dpo(folder, model, tokenizer, tmp_path, kind, smoothing):
    from datasets import Dataset
    from transformers import LlamaForCausalLM
    from trl import DPOConfig, DPOTrainer

    rows = [
        {"prompt": "5 6 7", "chosen": " 8 9 10", "rejected": " 11 12"},
        {"prompt": "5 6", "chosen": " 20", "rejected": " 3 4 5 6"},
    ]
    trainer = DPOTrainer(
        model=str(folder(0)),
        ref_model=LlamaForCausalLM.from_pretrained(folder(1)),
        args=DPOConfig(
            per_device_train_batch_size=2,
            max_length=None,
            loss_type=kind,
            label_smoothing=smoothing,
            **options(tmp_path),
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.current_gradient_accumulation_steps = 1
    collated = trainer.data_collator([trainer.train_dataset[i] for i in range(2)])
    their_loss = trainer.compute_loss(trainer.model, collated)
    their_loss.backward()
    ids, attend = collated["input_ids"], collated["attention_mask"].bool()
    answer = collated["completion_mask"].bool()
    ours, reference = model(0), model(1)

    def sums(language):
        logits = language.network(input_ids=ids, attention_mask=attend.long()).logits[:, :-1]
        return sequence_sums(token_log_probs(logits, ids[:, 1:]), answer[:, 1:])

    with torch.no_grad():
        before = sums(reference)
    chosen, rejected = (sums(ours) - before).chunk(2)
    lengths = answer[:, 1:].sum(-1).chunk(2)
    loss = preference_loss(
        chosen, rejected, 0.1, kind=kind, label_smoothing=smoothing, lengths=lengths
    ).mean()
    loss.backward()
    scale = max(1.0, float(loss.detach()))
    assert gap(ours.network, loss, trainer.model, their_loss) < CLOSE * scale


def test_sft(folder, model, tokenizer, tmp_path):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = [
        {"prompt": "5 6 7", "completion": " 8 9 10"},
        {"prompt": "5 6", "completion": " 20"},
    ]
    trainer = SFTTrainer(
        model=str(folder(0)),
        args=SFTConfig(per_device_train_batch_size=2, max_length=None, **options(tmp_path)),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.current_gradient_accumulation_steps = 1
    collated = trainer.data_collator([trainer.train_dataset[i] for i in range(2)])
    their_loss = trainer.compute_loss(trainer.model, collated)
    their_loss.backward()
    ids, target = collated["input_ids"], collated["labels"][:, 1:] != -100
    assert 0 < target.sum() < target.numel()
    ours = model(0)
    attend = collated.get("attention_mask", torch.ones_like(ids))
    logits = ours.network(input_ids=ids, attention_mask=attend).logits[:, :-1]
    loss = nll_loss(token_log_probs(logits, ids[:, 1:]), target)
    loss.backward()
    assert gap(ours.network, loss, trainer.model, their_loss) < CLOSE


def test_ppo():
    """TRL's PPO has no function of its loss; these are the pieces that its `train` is made of."""
    from trl.experimental.ppo import ppo_trainer as theirs

    rng = torch.Generator().manual_seed(5)
    mask = torch.arange(6) < torch.tensor(LENGTHS)[:, None]
    values = torch.randn(4, 6, generator=rng)
    ours = whiten(values, mask)
    other = theirs.masked_whiten(values, mask)
    torch.testing.assert_close(ours, other.where(mask, 0), atol=CLOSE, rtol=0)
    unmoved = theirs.masked_whiten(values, mask, shift_mean=False).where(mask, 0)
    torch.testing.assert_close(whiten(values, mask, shift=False), unmoved, atol=CLOSE, rtol=0)
    assert np.isfinite(ours.numpy()).all()
