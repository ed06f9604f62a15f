"""Self-rewarding PPO: its reward, its optimum, the hand-over between its phases."""

import dataclasses

import pytest
import torch

from embodied.core.checkpoint import digest
from embodied.core.trainer import Trainer, TrainerOptions
from embodied.core.types import UserError
from embodied.llm.self_rewarding_ppo import (
    SelfRewardingPPO,
    SelfRewardingPPOConfig,
    coherent_reward,
    recipe,
)
from embodied.objectives.advantages import generalised_advantages, token_rewards
from tests import tiny_language

pytest.importorskip("transformers")
OPTIONS = TrainerOptions(log_every=1000, checkpoint_every=0, tensorboard=False)
SMALL = SelfRewardingPPOConfig(
    steps=4, prompts=4, epochs=2, lr=1e-2, critic_lr=1e-2, fit_updates=3, fit_batch=4, fit_lr=1e-2,
    critic_warm_up=1,
)  # fmt: skip
PRETRAINED = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
TUNED = torch.tensor([0.2, 0.5, 0.2, 0.1], dtype=torch.float64)
ONE = torch.ones(4, 1)


def reward():
    return coherent_reward(TUNED.log()[:, None], PRETRAINED.log()[:, None], ONE)


def test_the_reward():
    expected = [-0.9162907, 0.5108256, 0.2876821, 0.6931472]
    assert reward().tolist() == pytest.approx(expected, abs=1e-7)
    assert (TUNED * reward()).sum().item() == pytest.approx(0.1990058, abs=1e-7)
    log = torch.tensor([[-1.0, -2.0, -9.0]])
    before, mask = torch.tensor([[-1.5, -1.0, 0.0]]), torch.tensor([[1, 1, 0]])
    assert coherent_reward(log, before, mask).item() == pytest.approx(-0.5)
    assert coherent_reward(log, before, mask, per_token=True).item() == pytest.approx(-0.25)
    assert coherent_reward(log, None, mask).item() == pytest.approx(-3.0)
    assert coherent_reward(log, log, mask).item() == 0


@pytest.mark.parametrize(
    "reference, beta, expected",
    [
        (PRETRAINED, 1.0, [0.2, 0.5, 0.2, 0.1]),
        (PRETRAINED, 0.5, [0.0579710, 0.6038647, 0.1932367, 0.1449275]),
        (TUNED, 1.0, [0.0579710, 0.6038647, 0.1932367, 0.1449275]),
        (PRETRAINED, 2.0, [0.3337701, 0.4087832, 0.1828134, 0.0746333]),
        (TUNED, 0.5, [0.0147029, 0.6381458, 0.1633653, 0.1837860]),
        (TUNED, 2.0, [0.1105354, 0.5640734, 0.2018090, 0.1235823]),
    ],
)
def test_the_optimum_over_four_answers(reference, beta, expected):
    logits = TUNED.log().clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        log_p = logits.log_softmax(-1)
        p = log_p.exp()
        loss = -(p * (reward() - beta * (log_p - reference.log()))).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    found = logits.detach().softmax(-1)
    torch.testing.assert_close(found, torch.tensor(expected).double(), atol=1e-3, rtol=0)


def test_at_the_end_or_token_by_token_is_the_same_at_the_first_token():
    ratio = torch.tensor([[0.3, -0.2, 0.5]])
    mask, nothing = torch.ones(1, 3), torch.zeros(1, 3)
    at_end = token_rewards(nothing, coherent_reward(ratio, nothing, mask), mask, 0.0)
    advantages = [
        generalised_advantages(each, nothing, mask, 1.0, 1.0)[0][0, 0] for each in (at_end, ratio)
    ]
    assert advantages[0].item() == pytest.approx(advantages[1].item())


def test_an_unchanged_model_is_rewarded_with_nothing():
    learner, batch = SelfRewardingPPO(SMALL, tiny_language.task()), tiny_language.Batches().next(4)
    tuned = learner.log_probs(batch, learner.reference)
    assert (learner._score(batch, tuned) == 0).all()


def weights(network):
    return digest({"": dict(network.state_dict())})


def run(directory, config=SMALL, seed=0, **options):
    made = recipe(config, tiny_language.task(seed))
    return Trainer(made, directory, options=dataclasses.replace(OPTIONS, **options))


def test_the_phases(tmp_path):
    trainer = run(tmp_path / "run")
    learner = trainer.recipe.phases[1].learner
    pretrained = weights(learner.model.network)
    while trainer.phase.name == "fit" or trainer.due:
        trainer.step()
    tuned = weights(learner.model.network)
    assert tuned != pretrained == weights(learner.pretrained.network)
    trainer.step()
    assert weights(learner.reference.network) == tuned
    assert weights(learner.model.network) == tuned, "only the critic learns at first"
    assert weights(learner.critic.body) != weights(learner.model.network.base_model)
    trainer.run()
    assert weights(learner.model.network) != tuned == weights(learner.reference.network)
    assert weights(learner.pretrained.network) == pretrained
    assert trainer.counters.updates == 7 and trainer.counters.episodes == 16


@pytest.mark.parametrize("at", [2, 5])
def test_resumed_to_the_bit(at, tmp_path):
    whole = run(tmp_path / "whole")
    whole.run()
    cut = run(tmp_path / "cut", checkpoint_every=1)
    for _ in range(at):
        cut.step()
    cut.close()
    again = run(tmp_path / "cut", seed=9)
    again.resume()
    again.run()
    for name, state in whole.state_dict().items():
        if name not in ("trainer", "config"):
            assert digest({"": state}) == digest({"": again.state_dict()[name]}), name


def test_what_is_missing_or_wrong_is_said():
    task = tiny_language.task()
    task.prompts = None
    with pytest.raises(UserError, match="answers prompts too"):
        recipe(SMALL, task)
    with pytest.raises(ValueError, match="ratio, likelihood"):
        SelfRewardingPPOConfig(reward="score")
