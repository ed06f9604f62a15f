"""NFT: its loss by hand, its optimum, what it is on-policy, and which questions it learns from."""

import dataclasses

import pytest
import torch

from embodied.core.checkpoint import digest
from embodied.core.trainer import Trainer, TrainerOptions
from embodied.llm.nft import NFT, NFTConfig, nft_loss, question_weight, recipe
from embodied.objectives.advantages import group_advantages
from embodied.objectives.likelihood import sequence_sums
from tests import tiny_language

pytest.importorskip("transformers")
OPTIONS = TrainerOptions(log_every=1000, checkpoint_every=0, tensorboard=False)
SMALL = NFTConfig(
    steps=4, prompts=4, group=4, oversample=1, rounds=3, minibatch=2, lr=1e-2, warm_up=0
)
OLD = torch.tensor([0.4, 0.35, 0.25], dtype=torch.float64)


def test_the_split():
    right = torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64)
    rate = (OLD * right).sum()
    positive, negative = OLD * right / rate, OLD * (1 - right) / (1 - rate)
    assert rate.item() == pytest.approx(0.525)
    assert positive.tolist() == pytest.approx([0.7619048, 0, 0.2380952], abs=1e-6)
    assert negative.tolist() == pytest.approx([0, 0.7368421, 0.2631579], abs=1e-6)
    torch.testing.assert_close(rate * positive + (1 - rate) * negative, OLD, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "rate, weighting, right, wrong",
    [
        (0.25, "dr_grpo", -0.75, 0.25),
        (0.25, "grpo", -1.7320508, 0.5773503),
        (0.9, "dr_grpo", -0.1, 0.9),
        (0.9, "grpo", -0.3333333, 3.0),
    ],
)
def test_coefficients_on_policy(rate, weighting, right, wrong):
    log_ratio = torch.zeros(2, 1, dtype=torch.float64, requires_grad=True)
    rate = torch.full((2,), rate, dtype=torch.float64)
    losses = nft_loss(log_ratio, torch.tensor([True, False]), rate, 1.0)
    (losses * question_weight(rate, weighting)[:, None]).sum().backward()
    assert log_ratio.grad[:, 0].tolist() == pytest.approx([right, wrong], abs=1e-6)


@pytest.mark.parametrize(
    "ratio, epsilon, loss, gradient",
    [
        (0.5, 1.0, -0.4054651, 0.3333333),
        (0.8, 1.0, -0.1823216, 0.6666667),
        (1.2, 1.0, 0.0, 1.2),
        (1.2, 0.1, 0.2231436, 1.5),
        (1.5, 1.0, 0.0, 1.5),
        (1.5, 0.1, 0.6931472, 3.0),
        (8.0, 0.1, 2.3025851, 80.0),  # never zero
    ],
)
def test_a_wrong_token_off_policy(ratio, epsilon, loss, gradient):
    log_ratio = torch.tensor([[ratio]], dtype=torch.float64).log().requires_grad_(True)
    half = torch.tensor([0.5], dtype=torch.float64)
    found = nft_loss(log_ratio, torch.tensor([False]), half, epsilon)
    found.sum().backward()
    assert found.item() == pytest.approx(loss, abs=1e-6)
    assert log_ratio.grad.item() == pytest.approx(gradient, abs=1e-6)
    right = nft_loss(log_ratio, torch.tensor([True]), half, epsilon)
    assert right.item() == pytest.approx(-log_ratio.item())
    assert torch.autograd.grad(right.sum(), log_ratio)[0].item() == -1


def optimum(right, epsilon, positives, negatives):
    """Policy over three answers that minimises the expected loss under the sampler."""
    right = torch.tensor(right, dtype=torch.float64)
    rate = (OLD * right).sum().expand(3)
    logits = OLD.log().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for step in range(900):
        optimizer.param_groups[0]["lr"] = 0.1 if step < 300 else 0.01
        log_ratio = (logits.log_softmax(-1) - OLD.log())[:, None]
        yes = nft_loss(log_ratio, torch.ones(3, dtype=torch.bool), rate, epsilon)[:, 0]
        no = nft_loss(log_ratio, torch.zeros(3, dtype=torch.bool), rate, epsilon)[:, 0]
        loss = (OLD * (positives * right * yes + negatives * (1 - right) * no)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return logits.detach().softmax(-1).tolist()


FIRST, SECOND, NEVER = (0.9, 0.1, 0.5), (0.7, 0.3, 0.5), (1.0, 0.0, 0.5)


@pytest.mark.parametrize(
    "right, epsilon, positives, negatives, expected",
    [
        (FIRST, 1.0, 1, 0, (0.6923077, 0.0673077, 0.2403846)),
        (FIRST, 0.1, 0, 1, (0.6923077, 0.0673077, 0.2403846)),
        (FIRST, 0.1, 1, 1, (0.6923077, 0.0673077, 0.2403846)),
        (FIRST, 1.0, 1, 1, (0.7910201, 0.0413979, 0.1675819)),  # sharper than the right ones
        (SECOND, 1.0, 1, 1, (0.6177097, 0.1704496, 0.2118407)),
        (NEVER, 0.1, 1, 1, (0.8527744, 0.0, 0.1472256)),  # an answer that is never wrong
    ],
)
def test_the_optimum_over_three_answers(right, epsilon, positives, negatives, expected):
    found = optimum(right, epsilon, positives, negatives)
    assert found == pytest.approx(expected, abs=1e-3)


class Same:
    def __init__(self, right):
        n = len(right)
        self.batch = tiny_language.Batches().next(n)
        self.batch["reward"] = torch.tensor(right, dtype=torch.float32)[:, None]

    def next(self, n):
        assert n == len(self.batch["reward"])
        return self.batch


def gradients(config, source):
    learner = NFT(dataclasses.replace(config, clip_norm=1e9), tiny_language.task())
    learner.update(source)
    return learner, torch.cat([p.grad.flatten() for p in learner.optimizer.parameters])


ON_POLICY = dataclasses.replace(SMALL, prompts=2, minibatch=2, divisor=1.0)
RIGHT = [1, 0, 0, 0, 1, 1, 0, 1]


@pytest.mark.parametrize("weighting", ["dr_grpo", "grpo"])
@pytest.mark.parametrize("neg_weight", [1.0, -1.0])
def test_on_policy_it_is_grpo(weighting, neg_weight):
    config = dataclasses.replace(ON_POLICY, weighting=weighting, neg_weight=neg_weight)
    source = Same(RIGHT)
    _, found = gradients(config, source)
    fresh, batch = NFT(config, tiny_language.task()), source.batch
    score = batch["reward"][:, 0]
    advantage = group_advantages(score, 4, "none")
    if weighting == "grpo":
        deviation = score.reshape(2, 4).std(-1, unbiased=False)
        advantage = advantage / deviation.repeat_interleave(4)
    fresh.optimizer.zero_grad()
    (-advantage * sequence_sums(fresh.log_probs(batch), batch["mask"])).sum().backward()
    expected = torch.cat([p.grad.flatten() for p in fresh.optimizer.parameters])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_without_negatives_wrong_answers_change_nothing():
    config = dataclasses.replace(ON_POLICY, neg_weight=0.0)
    one, two = Same(RIGHT), Same(RIGHT)
    wrong = two.batch["reward"][:, 0] < 1
    two.batch["completion"] = two.batch["completion"].clone()
    two.batch["completion"][wrong] = 9
    assert torch.equal(gradients(config, one)[1], gradients(config, two)[1])


def test_uniform_groups_teach_nothing():
    learner = NFT(dataclasses.replace(ON_POLICY, weight_decay=0.0), tiny_language.task())
    before = digest(learner.model.network.state_dict())
    metrics = learner.update(Same(4 * [1] + 4 * [0]))
    assert metrics["uniform"] == 1 and metrics["grad_norm"] == 0
    assert digest(learner.model.network.state_dict()) == before


def test_questions_are_asked_until_enough_are_mixed(tmp_path):
    task = tiny_language.task()
    task.score = lambda prompt, text: float(prompt < sorted(task.prompts)[10] and ord(text[0]) % 2)
    config = dataclasses.replace(SMALL, rounds=9, steps=2)
    trainer = Trainer(recipe(config, task), tmp_path / "run", options=OPTIONS)
    seen = []
    update = trainer.phase.learner.update

    def watching(source):
        metrics = update(source)
        seen.append(float(metrics["uniform"]))
        return metrics

    trainer.phase.learner.update = watching
    trainer.run()
    assert trainer.counters.updates == 2 < trainer.iteration
    assert trainer.counters.episodes == 16 * trainer.iteration
    assert seen == [0, 0]
    task.score = lambda prompt, text: 0.0
    never = Trainer(
        recipe(dataclasses.replace(SMALL, steps=2), task), tmp_path / "never", options=OPTIONS
    )
    never.run()
    assert never.iteration == 6, "three rounds each, then it goes on"


def run(directory, seed=0, **options):
    task = tiny_language.task(seed)
    task.score = lambda prompt, text: float(ord(text[0]) % 8 == 1)
    made = recipe(dataclasses.replace(SMALL, rounds=9), task)
    return Trainer(made, directory, options=dataclasses.replace(OPTIONS, **options))


def test_resumed_to_the_bit_while_groups_wait(tmp_path):
    whole = run(tmp_path / "whole")
    whole.run()
    cut = run(tmp_path / "cut", checkpoint_every=1)
    while cut.counters.updates < 1 or not cut.phase.source.kept:
        cut.step()
    cut.close()
    again = run(tmp_path / "cut", seed=9)
    again.resume()
    assert again.phase.source.kept
    again.run()
    for name, state in whole.state_dict().items():
        if name not in ("trainer", "config"):
            assert digest({"": state}) == digest({"": again.state_dict()[name]}), name


def test_settings_are_checked():
    with pytest.raises(ValueError, match="uniform, dr_grpo, grpo"):
        NFTConfig(weighting="none")
    with pytest.raises(ValueError, match="epsilon > 0"):
        NFTConfig(epsilon=0)
