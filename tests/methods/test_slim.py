"""SLIM: rewards and critics apart, units that do not matter, baselines, resuming, its skills."""

import dataclasses
import json

import numpy as np
import pytest
import tiny
import torch

import envs
from embodied import assemble, evaluation, settings, skills
from embodied.agents import slim
from embodied.agents.on_policy import OnPolicySource, stretches
from embodied.agents.task import RobotTask
from embodied.core.checkpoint import digest
from embodied.core.collector import EnvCollector
from embodied.core.seeding import Streams
from embodied.core.types import Rollout, UserError
from policies.running import RunningMean, RunningScale
from policies.value_ensemble import ValueEnsemble

COLUMNS = {
    "hand": (0, 1),
    "thing": (2, 3),
    "safe": (0, 1, 2, 3),
    "safe_low": (-1.0, -1.0, -0.8, -0.8),
    "safe_high": (1.0, 1.0, 0.8, 0.8),
}
SMALL = {"hidden": (8,), "critic_hidden": (8,), "skill_hidden": (8,), "horizon": 5}
SMALL |= {"online_steps": 60, "minibatches": 2, "epochs": 2, "skill_steps": 2}


def task(seed=0, num=4, env_id="puck/push-v0", **options):
    options = {"prior": "sphere-2", "horizon": 7} | options
    vector = envs.make_vec(env_id, num, **{k: v for k, v in options.items() if v is not None})
    streams = Streams(seed)
    collector = EnvCollector(vector, streams.numpy("episodes"))
    shape = vector.single_observation_space.shape
    return RobotTask(shape, vector.single_action_space.shape[0], streams, collector=collector)


def build(**changes):
    made = task()
    return slim.SLIM(slim.SLIMConfig(**SMALL | COLUMNS | changes), made)


def batch(seed=0, n=4, t=5):
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.rand(n, t, *shape, generator=g) * 2.4 - 1.2

    found = {"observation": draw(6), "next_observation": draw(6), "action": draw(2) / 1.3}
    ended = torch.zeros(n, t)
    ended[1, 2] = 1
    found["observation"][..., 4:] = torch.nn.functional.normalize(
        found["observation"][..., 4:], dim=-1
    )
    return {**found, "reward": draw(), "mask": torch.ones(n, t), "ended": ended}


class Given:
    def __init__(self, rows):
        self.rows = rows

    def next(self, n):
        return self.rows


def test_the_rewards_of_a_batch():
    learner, rows = build(), batch()
    found = learner.rewards(rows)
    assert learner.names == ("skill", "reach", "safe") and found.shape == (3, 4, 5)
    after = rows["next_observation"]
    with torch.no_grad():
        moved = learner.phi(after[..., 2:4]) - learner.phi(rows["observation"][..., 2:4])
    skill = (moved * rows["observation"][..., 4:]).sum(-1)
    torch.testing.assert_close(found[0].float(), skill)
    distance = (after[..., :2] - after[..., 2:4]).norm(dim=-1)
    reach = torch.exp(-5 * (distance - 0.12).clamp(min=0))
    torch.testing.assert_close(found[1].float(), reach)
    out = (after[..., :2].abs() > 1).any(-1) | (after[..., 2:4].abs() > 0.8).any(-1)
    assert torch.equal(found[2] < 0, out) and 0 < out.float().mean() < 1


def test_critics_are_apart():
    """Another third reward leaves the gradients of the other critics as they were, to the bit."""
    critic = ValueEnsemble(6, 3, (8, 8), generator=torch.Generator().manual_seed(0))
    obs, target = torch.randn(9, 6), torch.randn(3, 9)
    gradients = []
    for change in (0.0, 5.0):
        changed = target.clone()
        changed[2] += change
        loss = slim.critics_loss(critic(obs), changed)
        gradients.append(torch.autograd.grad(loss, list(critic.parameters())))
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one[:2], other[:2]) and not torch.equal(one[2], other[2])
    shared = ValueEnsemble(6, 3, (8, 8), shared=True, generator=torch.Generator().manual_seed(0))
    assert shared(obs.view(3, 3, 6)).shape == (3, 3, 3)
    for i in range(3):  # in one product what each does alone
        h = obs
        for k, (weight, bias) in enumerate(zip(critic.weights, critic.biases, strict=True)):
            h = h @ weight[i] + bias[i]
            h = h.relu() if k < 2 else h
        torch.testing.assert_close(critic(obs)[i], h[:, 0])


@pytest.mark.parametrize("unit", [(30.0, 1.0, 1.0), (1.0, 100.0, 0.1)])
def test_units_leave_no_trace(unit):
    """To the bit: the same parameters after several updates."""
    states = []
    for units in ((1.0, 1.0, 1.0), unit):
        learner = build(units=units)
        for i in range(3):
            learner.update(Given(batch(i)))
        states.append(learner.state_dict())
    for part in ("actor", "critic", "phi"):
        assert tiny.equal(states[0][part], states[1][part]), part


def test_units_change_the_sum():
    states = []
    for units in ((1.0, 1.0, 1.0), (30.0, 1.0, 1.0)):
        learner = build(units=units, critics="sum")
        learner.update(Given(batch()))
        states.append(learner.state_dict()["actor"])
    assert not tiny.equal(*states)


def test_phi_comes_first_and_climbs():
    learner, rows = build(skill_steps=20, skill_lr=1e-2), batch()
    before = learner.rewards(rows)[0].mean()
    learner._discover(stretches(rows))
    assert learner.rewards(rows)[0].mean() > before + 1e-3


def test_the_advantage_is_what_the_paper_says():
    learner, rows = build(floor=0.0, epochs=0), stretches(batch())
    with torch.no_grad():
        learner._judge(rows)
        size = learner.rewards(rows).square().mean((1, 2)).sqrt() / 0.02
        reward = learner.rewards(rows) / size[:, None, None]
        value = learner.critic(rows["observation"]).double()
        after = learner.critic(rows["next_observation"]).double()
    total = 0
    for i, weight in enumerate(learner.config.weights):
        advantage = torch.zeros(4, 5, dtype=torch.float64)
        for n in range(4):
            later = 0.0
            for t in reversed(range(5)):
                delta = reward[i, n, t] + 0.98 * after[i, n, t] - value[i, n, t]
                later = delta + 0.98 * 0.95 * (1 - rows["ended"][n, t]) * later
                advantage[n, t] = later
        torch.testing.assert_close(
            rows["target"][i].double(), advantage + value[i], atol=1e-4, rtol=1e-3
        )
        total = total + weight * (advantage - advantage.mean()) / advantage.std(unbiased=False)
    total = (total - total.mean()) / total.std(unbiased=False)
    torch.testing.assert_close(rows["advantage"].double(), total, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("changes", [
    {"critics": "shared"}, {"critics": "sum"}, {"standardise": False}, {"clip_each": True},
    {"skill_reward": "diayn"}, {"rewards": ("skill",)}, {"normalise": True},
    {"rewards": ("task", "reach", "skill")},
])  # fmt: skip
def test_baselines_and_options_learn(changes):
    learner = build(**changes)
    before = tiny.frozen(learner)
    metrics = learner.update(Given(batch()))
    assert all(np.isfinite(float(v)) for v in metrics.values())
    after = learner.state_dict()
    assert not tiny.equal(before["actor"], after["actor"])
    assert not tiny.equal(before["critic"], after["critic"])
    assert tiny.equal(before["phi"], after["phi"]) == ("skill" not in learner.names)


def test_discrete_skills_are_centred_for_lsd_only():
    config = slim.SLIMConfig(**SMALL | COLUMNS)
    learner = slim.SLIM(config, task(prior="one-hot-4"))
    assert (learner.skill_dim, learner.discrete) == (4, True)
    observation = torch.cat([torch.zeros(1, 4), torch.eye(4)[:1]], -1)
    assert learner._skill(observation)[0].tolist() == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])
    learner = slim.SLIM(dataclasses.replace(config, skill_reward="diayn"), task(prior="one-hot-4"))
    assert learner._skill(observation)[0].tolist() == [1, 0, 0, 0]


def test_without_skills_it_is_plain_ppo():
    made = slim.SLIM(slim.SLIMConfig(**SMALL), task(prior=None))
    assert made.names == ("task",) and made.weights.tolist() == [1.0]


def step(t, n=2, dropped=None, terminated=False, truncated=False):
    full = np.full((n, 1), bool(0))
    return Rollout(
        np.full((n, 1, 3), t, np.float32), np.zeros((n, 1, 2)), np.full((n, 1), t, np.float32),
        np.full((n, 1, 3), t + 1, np.float32), full | terminated, full | truncated,
        meta={} if dropped is None else {"dropped": np.array(dropped)},
    )  # fmt: skip


def test_the_source_hands_out_whole_stretches():
    source = OnPolicySource(3)
    for t in range(3):
        source.add(step(t, terminated=t == 1))
        if t < 2:
            with pytest.raises(RuntimeError, match="steps were asked for"):
                source.next(6)
    found = source.next(6)
    assert found["reward"].tolist() == [[0, 1, 2]] * 2 and found["mask"].tolist() == [[1, 0, 1]] * 2
    assert found["ended"].tolist() == [[0, 1, 0]] * 2 and found["real"].all()
    source.add(step(7))
    assert len(source) == 2


def test_what_was_dropped_is_not_learnt_from():
    source = OnPolicySource(4)
    source.add(step(0, truncated=True))
    source.add(step(1))
    source.add(step(float("nan"), dropped=[True, False]))
    source.add(step(3))
    found = source.next(8)
    assert found["real"][0].tolist() == [1, 0, 0, 1] and found["ended"][0].tolist() == [1, 0, 1, 0]
    assert found["observation"][0].isfinite().all()


def test_dropped_steps_change_nothing():
    """Whatever stands in them."""
    states = []
    for junk in (0.0, 0.7):
        rows = batch()
        rows["real"] = torch.ones(4, 5)
        rows["real"][2, 3:] = 0
        rows["ended"][2, 2] = 1
        for name in ("observation", "next_observation", "action", "reward"):
            rows[name][2, 3:] = junk
        learner = build(normalise=False)
        learner.update(Given(rows))
        states.append(learner.state_dict())
    for name in ("actor", "critic", "phi"):
        for one, other in zip(states[0][name].values(), states[1][name].values(), strict=True):
            torch.testing.assert_close(one, other)


def test_running_moments():
    rows = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * 3 + 2
    scale = RunningScale(4, fixed=1)
    assert torch.equal(scale(rows.clamp(-9, 9)), rows.clamp(-9, 9))
    for part in rows.split(20):
        scale.add(part)
    expected = (rows - rows.mean(0)) / rows.std(0, unbiased=False)
    torch.testing.assert_close(scale(rows)[:, :3], expected[:, :3])
    assert torch.equal(scale(rows)[:, 3], rows[:, 3].clamp(-10, 10))
    mean = RunningMean(1, 0.9)
    assert mean.mean.item() == 0
    mean.add(torch.tensor([4.0]))
    assert mean.mean.item() == pytest.approx(4.0)
    mean.add(torch.tensor([1.0]))
    assert mean.mean.item() == pytest.approx((0.9 * 4 + 1) / 1.9)


def run(directory, seed=0, **options):
    made = slim.recipe(slim.SLIMConfig(**SMALL | COLUMNS), task(seed))
    return tiny.train(made, directory, log_every=1000, **options)


def contents(trainer):
    return digest({name: part.state_dict() for name, part in trainer.recipe.parts()})


def test_updates_and_resuming_in_the_middle(tmp_path):
    whole = run(tmp_path / "whole", checkpoint_every=0)
    whole.run()
    assert (whole.counters.env_steps, whole.counters.updates) == (60, 3)
    first = run(tmp_path / "parts", checkpoint_every=0)
    for _ in range(8):  # in the second stretch, inside an episode
        first.step()
    first.save()
    first.close()
    second = run(tmp_path / "parts", seed=5, checkpoint_every=0)
    assert second.resume() == 8
    second.run()
    assert contents(second) == contents(whole)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"rewards": ("grasp",)}, "rewards must be some of"),
        ({"rewards": ()}, "rewards must be some of"),
        ({"weights": (1.0,)}, "as many weights"),
        ({"critics": "two"}, "critics must be"),
        ({"skill_reward": "x"}, "skill_reward"),
        ({"safe": (1,)}, "equally long"),
        ({"discount": (1.0,)}, "discount"),
        ({"clip_each": True, "critics": "sum"}, "clip_each"),
    ],
)
def test_settings_are_checked(wrong, message):
    with pytest.raises(ValueError, match=message):
        slim.SLIMConfig(**wrong)


def test_metrics_by_hand():
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False) + 0.1
    z = np.c_[np.cos(angle), np.sin(angle)]
    turned = 0.5 * z @ np.array([[0.0, -1], [1, 0]])  # known up to a rotation
    safe = np.arange(24) % 4 > 0
    found = skills.Measured(z, turned, turned, safe)
    assert found.interaction == 1 and found.controllability == pytest.approx(1)
    assert found.safety == 0.75 and found.score == pytest.approx(0.75)
    assert found.directions == 12 and found.cells > 8
    still = skills.Measured(z, 0 * z, 0 * z, safe)
    assert (still.interaction, still.controllability, still.directions) == (0, 0, 0)
    assert still.cells == 1
    same = skills.Measured(z, np.ones_like(z) + 1e-3 * z[::-1] ** 2, 0 * z, safe)
    assert same.directions == 1


def test_planning_finds_the_cheapest():
    goal = np.array([[0.3, -0.8], [1.2, 0.4]])
    found = skills.cross_entropy(
        lambda x: np.square(x - goal).sum((1, 2)), (2, 2), np.random.default_rng(0), rounds=8
    )
    assert np.abs(found - goal).max() < 0.2


OVERRIDES = ("experiment=push", "num_envs=4", "method.online_steps=400", "method.hidden=[8]",
             "evaluation.episodes=2", "report=false", "trainer.tensorboard=false",
             "device=cpu")  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("slim") / "run"
    made = assemble.build(settings.compose([*OVERRIDES, f"run={directory}"]))
    assemble.begin(made)
    made.trainer.run()
    made.trainer.close()
    return directory


def test_skills_are_measured_frozen_and_used(trained, tmp_path):
    metrics = skills.measure(trained, episodes=8).metrics()
    assert set(metrics) >= {"interaction", "controllability", "safety", "cells", "score"}
    assert all(np.isfinite(v) for v in metrics.values())
    path = skills.export(trained)
    from embodied.loading import load

    learnt, env = load(trained), envs.make("puck/push-v0", prior="sphere-2")
    seen, _ = env.reset(seed=0)
    theirs = envs.make("puck/push-v0", skills=str(path)).policy.act(seen[:4], seen[4:])
    mine = learnt.policy().act(seen[None])[0]
    assert np.allclose(theirs, mine, atol=1e-5)
    planner = skills.SkillPlanner(
        path, "puck/push-goal-v0", lambda o: np.linalg.norm(o[:, 2:4] - o[:, 4:], axis=1),
        lambda o: np.zeros(len(o)), population=8, steps=3,
    )  # fmt: skip
    goal = envs.make("puck/push-goal-v0")
    goal.reset(seed=0)
    assert planner.plan(goal.get_state(), 2).shape == (2, 2)
    over = assemble.build(settings.compose([
        "method=slim", "env=puck/push-goal-v0", f"env_args.skills={path}", "num_envs=2",
        "method.horizon=5", "method.online_steps=20", f"run={tmp_path / 'high'}",
        "evaluation.episodes=2", "report=false", "trainer.tensorboard=false",
    ]))  # fmt: skip
    assemble.begin(over)
    over.trainer.run()
    over.trainer.close()


def test_evaluation_from_the_command_line(trained, capsys):
    assert evaluation.command([f"policy={trained}", "episodes=3"]) == 0
    ledger = [
        json.loads(line) for line in (trained / "ledger-3-seed0.jsonl").read_text().splitlines()
    ]
    assert len(ledger) == 4 and "3 = " in capsys.readouterr().out


def test_only_skills_are_measured(tmp_path):
    made = assemble.build(settings.compose([
        "method=slim", "env=puck/push-v0", "num_envs=2", "method.horizon=5",
        "method.online_steps=10", f"run={tmp_path / 'r'}", "evaluation.episodes=1",
        "report=false", "trainer.tensorboard=false",
    ]))  # fmt: skip
    assemble.begin(made)
    made.trainer.run()
    made.trainer.close()
    with pytest.raises(UserError, match="no skills"):
        skills.measure(tmp_path / "r")
