"""SCoRe: shaped rewards, what each stage moves, the exact bandit, resuming, and that it learns."""

import dataclasses

import numpy as np
import pytest
import torch

from embodied.core.checkpoint import digest
from embodied.core.trainer import Trainer, TrainerOptions
from embodied.llm.score import SCoRe, SCoReConfig, corrections, recipe, score_loss, turn_returns
from embodied.proofs.bandit import ascend
from tests import tiny_language

pytest.importorskip("transformers")
OPTIONS = TrainerOptions(log_every=1000, checkpoint_every=0, tensorboard=False)
SMALL = SCoReConfig(first_steps=2, steps=3, prompts=2, group=2, lr=1e-2)


class Same:
    def __init__(self, n=8):
        self.batch = tiny_language.Batches().next(n)
        first = torch.tensor([1.0, 0, 0, 1, 0, 1, 1, 1])[:n]
        self.batch["reward"] = torch.zeros(n, 4)
        self.batch["reward"][:, 0] = first

    def next(self, n):
        assert n == len(self.batch["reward"])
        return dict(self.batch)


def test_shaped_rewards():
    first = torch.tensor([0.0, 0, 1, 1])
    second = torch.tensor([0.0, 1, 0, 1])
    one, two = turn_returns(first, second, stage=2, alpha=10.0)
    assert one.tolist() == first.tolist() and two.tolist() == [0, 11, -10, 1]
    one, two = turn_returns(first, second, stage=1, alpha=10.0)
    assert not one.any() and two.tolist() == second.tolist()
    one, _ = turn_returns(first, second, stage=2, alpha=10.0, discount=1.0)
    assert one.tolist() == [0, 11, -9, 2]


def test_the_gain_is_what_was_mended_less_what_was_spoilt():
    reward = torch.randint(0, 2, (50, 2), generator=torch.Generator().manual_seed(0)).float()
    found = {name: float(value) for name, value in corrections(reward).items()}
    gain = found["accuracy/2"] - found["accuracy/1"]
    assert gain == pytest.approx(found["mended"] - found["spoilt"], abs=1e-6)


def test_stage_one_rewards_the_second_turn_and_pins_the_first():
    generator = torch.Generator().manual_seed(0)
    log_prob = torch.randn(4, 3, generator=generator, requires_grad=True)
    kl = torch.rand(4, 3, generator=generator).requires_grad_(True)
    returns = turn_returns(torch.ones(2), torch.tensor([1.0, 0.0]), stage=1, alpha=10.0)
    advantage = torch.stack(returns, 1).reshape(-1)
    penalty = torch.tensor([0.5, 0.0]).repeat(2)
    score_loss(log_prob, kl, advantage, penalty, torch.ones(4, 3)).backward()
    assert not log_prob.grad[::2].any() and log_prob.grad[1].any()
    assert not kl.grad[1::2].any() and (kl.grad[::2] == 0.25).all()


def test_without_a_bonus_it_is_plain_reinforcement_learning():
    config = dataclasses.replace(SMALL, first_steps=0, alpha=0.0, lr=0.0)
    learner, source = SCoRe(config, tiny_language.task()), Same()
    batch, reward = source.batch, source.batch["reward"].sum(-1)
    # groups of two dialogues: the other one is the baseline, turn by turn
    other = reward.reshape(-1, 2, 2).flip(1).reshape(-1)
    sums = (learner.log_probs(batch) * batch["mask"]).sum(-1)
    expected = -((reward - other) * sums).sum() / 4
    assert float(learner.update(source)["loss"]) == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("kl", ["exact", "k3"])
def test_at_the_reference_nothing_diverges(kl):
    config = dataclasses.replace(SMALL, kl=kl, beta_first=100.0)
    learner, source = SCoRe(config, tiny_language.task()), Same()
    source.batch["reward"].zero_()
    metrics = learner.update(source)
    assert metrics["grad_norm"] < 1e-4 and abs(metrics["kl/1"]) < 1e-6


def test_a_large_penalty_keeps_the_first_turn():
    moved = []
    for beta in (0.0, 100.0):
        config = dataclasses.replace(SMALL, beta_first=beta, lr=3e-3)
        learner, source = SCoRe(config, tiny_language.task()), Same()
        for _ in range(30):
            metrics = learner.update(source)
        moved.append(float(metrics["kl/1"]))
    assert moved[1] < moved[0] / 10


ARMS = {
    "plain": ([(2, 40)], {"alpha": 0.0}, (0.938, 0.893, 0.241, 0.063), -0.044),
    "score": ([(1, 20), (2, 20)], {}, (0.868, 0.958, 0.756, 0.012), 0.090),
    "no shaping": ([(1, 20), (2, 20)], {"alpha": 0.0}, (0.868, 0.848, 0.383, 0.082), -0.020),
    "no stage I": ([(2, 40)], {}, (0.938, 0.980, 0.763, 0.006), 0.042),
    "wrong credit": ([(2, 40)], {"discount": 1.0}, (0.007, 0.796, 0.795, 0.067), 0.789),
}


@pytest.mark.parametrize("arm", ARMS)
def test_the_exact_bandit(arm):
    stages, settings, expected, delta = ARMS[arm]
    found = ascend(stages, **settings)
    assert found == pytest.approx(expected, abs=6e-4)
    assert found.delta == pytest.approx(delta, abs=6e-4)


def run(directory, seed=0, **options):
    made = recipe(SMALL, tiny_language.task(seed))
    return Trainer(made, directory, options=dataclasses.replace(OPTIONS, **options))


@pytest.mark.parametrize("steps", [1, 3])
def test_resumed_to_the_bit(steps, tmp_path):
    whole = run(tmp_path / "whole")
    whole.run()
    cut = run(tmp_path / "cut", checkpoint_every=1)
    while cut.iteration < steps:
        cut.step()
    cut.close()
    again = run(tmp_path / "cut", seed=9)
    assert again.resume() == steps
    again.run()
    for name, state in whole.state_dict().items():
        if name not in ("trainer", "config"):
            assert digest({"": state}) == digest({"": again.state_dict()[name]}), name
    assert whole.counters.updates == 5 and whole.state_dict()["pin.learner"]["stage"] == 2


def test_it_learns_to_correct(tmp_path):
    """Right is an attempt that begins with a digit; the first turn is kept from learning it."""

    class Again:
        def __init__(self, prompt):
            self.right = []

        def ask(self):
            return 0, "^c12__:" + "?" * len(self.right)

        def take(self, answer):
            self.right.append(answer[0].isdecimal())

        def rewards(self):
            return [float(right) for right in self.right]

    made = tiny_language.task()
    made.begin = Again
    config = SCoReConfig(first_steps=40, steps=0, prompts=4, group=8, lr=3e-2, beta_first=0.5)
    trainer = Trainer(recipe(config, made), tmp_path / "run", options=OPTIONS)
    trainer.run()
    policy = trainer.recipe.phases[0].learner.policy()
    first, second = (
        np.mean([text[0].isdecimal() for text in policy.answer([prompt], 100)[1]])
        for prompt in ("^c12__:", "^c12__:?")
    )
    assert second > 0.7 and first < 0.4


def test_impossible_settings():
    with pytest.raises(ValueError, match="group must be at least 2"):
        SCoReConfig(group=1)
    with pytest.raises(ValueError, match="kl must be"):
        SCoReConfig(kl="k1")
