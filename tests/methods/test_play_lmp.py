"""Play-LMP: what each network sees, what plain cloning it contains, and how a plan is followed."""

import dataclasses
import itertools

import numpy as np
import pytest
import tiny
import torch

from embodied.agents import play_lmp
from embodied.core.types import UserError
from policies.play_latent import Mixture, Plan, Recogniser

SMALL = {
    "batch_size": 6,
    "shortest": 3,
    "longest": 5,
    "latent": 4,
    "goal": 3,
    "width": 8,
    "goal_width": 8,
    "components": 2,
    "beta": 0.1,
    "lr": 1e-2,
}


def task(seed=0, obs=4):
    data = tiny.episodes(n=4, length=12, obs=obs)
    return dataclasses.replace(tiny.task(seed, data=data), observation_shape=(obs,))


def make(seed=0, **changes):
    return play_lmp.PlayLMP(play_lmp.PlayLMPConfig(**SMALL | changes), task(seed))


class Windows:
    """The same windows every time, cut to the length asked for."""

    def __init__(self, seed=0, rows=6, steps=5):
        g = torch.Generator().manual_seed(seed)
        self.batch = {
            "observation": torch.randn(rows, steps, 4, generator=g),
            "action": torch.rand(rows, steps, 2, generator=g) * 1.8 - 0.9,
        }

    def windows(self, n, length):
        return {name: column[:n, :length] for name, column in self.batch.items()}


def test_the_goal_is_the_last_state_and_the_goal_half_is_not_looked_at():
    one, two = make(), make()
    plain, other = Windows(), Windows()
    other.batch["observation"] = other.batch["observation"].clone()
    other.batch["observation"][..., 2:] = 9.0
    assert tiny.equal(
        {k: float(v) for k, v in one.update(plain).items()},
        {k: float(v) for k, v in two.update(other).items()},
    )


def test_the_recogniser_sees_every_state_at_both_ends():
    states = torch.randn(3, 6, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    plan = Recogniser(2, 8, 4, generator=torch.Generator().manual_seed(1))(states)
    grad = torch.autograd.grad(plan.mean.sum(), states)[0]
    assert bool((grad.abs().sum((0, 2)) > 0).all())


def test_its_backward_half_has_seen_the_whole_window():
    """What is read off at the last step, as calvin does, has seen one state only."""
    recogniser = Recogniser(2, 8, 4, generator=torch.Generator().manual_seed(1))
    states = torch.randn(1, 6, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    outputs, ends = recogniser.rnn(states)
    torch.testing.assert_close(ends[-1], outputs[:, 0, 8:])
    torch.testing.assert_close(ends[-2], outputs[:, -1, :8])
    grad = torch.autograd.grad(ends[-1].sum(), states)[0]
    assert bool((grad.abs().sum((0, 2)) > 0).all())


def test_the_prior_sees_the_first_state_and_the_goal_only():
    learner = make()
    states = torch.randn(3, 5, 2, requires_grad=True)
    prior = learner.networks.prior(states[:, 0], learner.networks.goal(states[:, -1]))
    grad = torch.autograd.grad(prior.mean.sum() + prior.std.sum(), states)[0].abs().sum((0, 2))
    assert grad[0] > 0 and grad[-1] > 0 and float(grad[1:-1].sum()) == 0.0


def test_the_decoder_does_not_see_the_future():
    learner = make()
    states = torch.randn(1, 5, 2, requires_grad=True)
    mixture, _ = learner.networks.decoder(torch.zeros(1, 4), states, torch.zeros(1, 3))
    grad = torch.autograd.grad(mixture.mean[:, 2].sum(), states)[0].abs().sum((0, 2))
    assert grad[2] > 0 and float(grad[3:].sum()) == 0.0


def test_equal_plans_do_not_diverge_and_balancing_keeps_the_value():
    plan = Plan(torch.randn(5, 3), torch.rand(5, 3) + 0.1)
    other = Plan(torch.randn(5, 3), torch.rand(5, 3) + 0.1)
    assert float(play_lmp.plan_divergence(plan, plan, 0.8)) == 0.0
    plain = play_lmp.plan_divergence(plan, other, -1)
    torch.testing.assert_close(play_lmp.plan_divergence(plan, other, 0.8), plain)


def test_without_width_and_kl_it_is_gcbc():
    """Plans of width 0 and beta 0: the loss and gradients of Play-GCBC."""
    empty, gcbc = make(latent=0, beta=0.0), make(planning="none", beta=0.0)
    losses = [float(each.update(Windows())["play/nll"]) for each in (empty, gcbc)]
    assert losses[0] == losses[1]
    for name, value in gcbc.networks.state_dict().items():
        assert torch.equal(value, empty.networks.state_dict()[name]), name
    assert gcbc.networks.recogniser is None and gcbc.networks.latent == 0


def test_a_plan_explains_what_the_state_does_not():
    """Two ways from the same states to the same goals, each with its own actions."""
    windows, rows, steps = Windows(), 8, 3
    way = torch.arange(rows) % 2 * 2.0 - 1.0
    states = torch.zeros(rows, steps, 4)
    states[:, 1, 0] = way  # seen by the recogniser, not by the proposer
    windows.batch["observation"] = states
    windows.batch["action"] = 0.5 * way[:, None, None].expand(rows, steps, 2)
    settings = dict(
        batch_size=rows, shortest=steps, longest=steps, recurrent=False, components=1, beta=1e-3
    )
    settings |= dict(lr=5e-3, width=16, least_log_scale=-4.0)
    loss = {}
    for planning in ("proposed", "none"):
        learner = make(planning=planning, **settings)
        for _ in range(300):
            learner.update(windows)
        loss[planning] = float(learner.probe(windows.batch)["nll_posterior"])
    assert loss["proposed"] < loss["none"] - 1.0


def test_the_kl_weight_warms_up():
    learner = make(warmup=4)
    found = [learner.update(Windows())["play/beta"] for _ in range(6)]
    assert found == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])


def test_a_fixed_prior_is_a_standard_normal():
    prior = make(planning="standard").networks.prior(torch.randn(3, 2), torch.randn(3, 3))
    assert torch.equal(prior.mean, torch.zeros(3, 4)) and torch.equal(prior.std, torch.ones(3, 4))


def test_samples_follow_the_mixture():
    g = torch.Generator().manual_seed(0)
    shape = (40_000, 1, 2)
    logits = torch.tensor([0.25, 0.75]).log().expand(shape)
    mixture = Mixture(logits, torch.tensor([-0.5, 0.5]).expand(shape), torch.full(shape, -4.0))
    found = mixture.sample(torch.rand(shape, generator=g), torch.rand(shape[:2], generator=g))
    assert float((found > 0).float().mean()) == pytest.approx(0.75, abs=0.01)
    near = found[found > 0]
    assert float(near.mean()) == pytest.approx(0.5, abs=0.01)
    expected = np.pi / np.sqrt(3) * np.exp(-4.0)  # deviation of a logistic
    assert float(near.std()) == pytest.approx(expected, rel=0.05)
    assert float(mixture.mode()[0]) == 0.5


def obs(rows=1, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (rows, 4)).astype(np.float32)


def test_an_episode_keeps_its_plan_and_memory_for_a_while():
    learner = make(replan=3)
    episode = learner.policy(deterministic=True).begin(np.random.default_rng(0))
    plans, memories = [], []
    for _ in range(7):
        episode.act(obs())
        plans.append(episode._plan.clone())
        memories.append(episode._memory.clone())
    same = [torch.equal(a, b) for a, b in itertools.pairwise(plans)]
    assert same == [True, True, False, True, True, False]
    fresh = learner.networks.decoder(
        plans[3], learner.halves(torch.tensor(obs()))[0][:, None],
        learner.networks.goal(learner.halves(torch.tensor(obs()))[1]),
    )[1]  # fmt: skip
    torch.testing.assert_close(memories[3], fresh.detach())  # cleared with the plan
    assert not torch.equal(memories[4], memories[3])


def test_steps_of_an_episode_are_those_of_training():
    """Acting one step at a time sees what the decoder saw over a window."""
    learner = make(replan=5)
    states, goal = torch.randn(1, 5, 2), torch.randn(1, 2)
    episode = learner.policy(deterministic=True).begin(np.random.default_rng(0))
    episode.generator = None  # likeliest actions and mean plans
    found = [episode.act(torch.cat((states[:, t], goal), -1).numpy())[0] for t in range(5)]
    encoded = learner.networks.goal(goal)
    plan = learner.networks.prior(states[:, 0], encoded).mean
    mixture, _ = learner.networks.decoder(plan, states, encoded)
    np.testing.assert_allclose(found, mixture.mode()[0].detach().numpy(), rtol=1e-5, atol=1e-6)


def test_an_episode_depends_on_its_generator_alone():
    policy = make().policy(deterministic=True)

    def played(seed):
        episode = policy.begin(np.random.default_rng(seed))
        return np.concatenate([episode.act(obs(seed=t)) for t in range(4)])

    assert np.array_equal(played(3), played(3)) and not np.array_equal(played(3), played(4))


def test_scale_comes_from_the_play_and_is_saved():
    learner, source = make(), task().windows()
    learner.measure(source)
    seen = torch.cat([learner.halves(source.windows(500, 5)["observation"])[0]]).flatten(0, 1)
    assert float(seen.mean(0).abs().max()) < 0.1 and float((seen.std(0) - 1).abs().max()) < 0.1
    fresh = make(seed=1)
    fresh.load_state_dict(learner.state_dict())
    assert torch.equal(fresh.shift, learner.shift) and torch.equal(fresh.scale, learner.scale)


@pytest.mark.parametrize(
    "wrong", [{"planning": "some"}, {"shortest": 9}, {"alpha": 2.0}, {"beta": -1.0}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        play_lmp.PlayLMPConfig(**SMALL | wrong)


def test_observations_need_two_halves():
    with pytest.raises(UserError, match="have no halves"):
        play_lmp.PlayLMP(play_lmp.PlayLMPConfig(**SMALL), task(obs=3))


def test_recipe_resumes_exactly(tmp_path):
    def trainer(where, updates):
        config = play_lmp.PlayLMPConfig(**SMALL, offline_updates=updates)
        return tiny.train(play_lmp.recipe(config, task()), tmp_path / where, checkpoint_every=0)

    whole, half = trainer("a", 8), trainer("b", 8)
    whole.run()
    for _ in range(4):
        half.step()
    half.save()
    half.close()
    again = trainer("b", 8)
    again.resume()
    again.run()
    one, two = (t.recipe[0].learner.state_dict() for t in (whole, again))
    assert whole.counters.updates == again.counters.updates == 8
    assert tiny.equal(one, two)
