"""F7, learning half: numbers that are not finite are met with the right reaction, everywhere."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from embodied.agents.actor_critic import ActorCritic, ActorCriticConfig, ConservativeConfig
from embodied.core.collector import EnvCollector
from embodied.core.guards import Limits, NonFinite, TooManyFaults, check_batch
from embodied.core.log import read_log
from embodied.core.phase import Phase, Recipe, Until
from embodied.core.replay import ReturnSpec
from tests.support import make_dataset, make_replay, make_task, make_trainer

BAD = (math.nan, math.inf, -math.inf)
SETTINGS = {"hidden": (8, 8), "members": 2, "batch_size": 8, "utd": 2}
RETURNS = ReturnSpec(0.99, -1.0)


def make_learner(task, **conservative):
    config = ConservativeConfig(actions=2, **conservative) if conservative else None
    return ActorCritic(ActorCriticConfig(**SETTINGS), task, conservative=config)


def parameters(learner):
    return [*learner.actor.parameters(), learner.critic.weight, learner.target, learner.temperature]


def all_finite(learner):
    return all(bool(torch.isfinite(p).all()) for p in parameters(learner))


class FaultyVector:
    """A vector of environments that spoils one number of stream 0 at chosen steps."""

    def __init__(self, envs, what, value, at):
        self.envs, self.what, self.value, self.at = envs, what, value, set(at)
        self.steps = 0

    def __getattr__(self, name):
        return getattr(self.envs, name)

    def step(self, action):
        observation, reward, terminated, truncated, info = self.envs.step(action)
        if self.steps in self.at:
            if self.what == "observation":
                observation[0, 0] = self.value
            else:
                reward[0] = self.value
        self.steps += 1
        return observation, reward, terminated, truncated, info


def online(
    tmp_path, what=None, value=math.nan, at=(), *, steps=60, num=2, whole=False, limits=None
):
    """Collects on the maze with episodes of 8 steps; updates by a small actor-critic."""
    task = make_task(num=num)
    task.collector.envs = FaultyVector(task.collector.envs, what, value, at)
    learner = make_learner(task)
    replay = make_replay(40, returns=RETURNS if whole else None)
    phase = Phase(
        "online",
        learner,
        replay,
        Until("env_steps", steps),
        collector=task.collector,
        updates_per_step=Fraction(1, 4),
        start_rows=8,
        eval_at_end=False,
    )
    options = {"limits": limits or Limits(), "log_every": 1}
    return make_trainer(Recipe([phase]), tmp_path, **options), learner, replay


def offline(tmp_path, learner, source, updates=10, **options):
    phase = Phase("offline", learner, source, Until("updates", updates), eval_at_end=False)
    return make_trainer(Recipe([phase]), tmp_path, log_every=1, **options)


def fault_lines(directory):
    return [e["what"] for e in read_log(directory, "fault")]


def assert_rows_finite(replay):
    for name, column in replay.rows.view(0, len(replay)).items():
        assert torch.isfinite(column).all(), name


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("what", ["observation", "reward"])
@pytest.mark.parametrize("at", [4, 7])  # inside the episode, and its last step
def test_spoilt_episode_is_dropped_and_training_goes_on(tmp_path, what, value, whole, at):
    trainer, learner, replay = online(tmp_path, what, value, [at], whole=whole)
    while trainer.iteration <= at:
        trainer.step()
    assert len(replay) == (8 if at == 7 else 0 if whole else 5)  # stream 1 only
    trainer.run()
    assert fault_lines(tmp_path) == [
        "1 episode(s) dropped: an observation or reward was not finite"
    ]
    assert trainer.faults.dropped == 1
    assert trainer.done and trainer.counters.updates > 0 and trainer.faults.skipped == 0
    assert_rows_finite(replay)
    assert all_finite(learner)
    # 30 steps per stream: three whole episodes each, one of stream 0 spoilt (and cut, if inside)
    assert trainer.counters.episodes == 6 + (at == 4)
    metrics = [v for e in read_log(tmp_path, "train") for v in e["metrics"].values()]
    assert all(math.isfinite(v) for v in metrics)


def test_more_than_one_percent_stops(tmp_path):
    trainer, learner, _ = online(tmp_path, "reward", math.nan, [3, 12])
    with pytest.raises(TooManyFaults, match=r"2 of \d episodes") as caught:
        trainer.run()
    assert caught.value.exit_code == 13
    assert len(fault_lines(tmp_path)) == 2
    assert all_finite(learner)


def test_below_one_percent_goes_on(tmp_path):
    limits = Limits(dropped_share=0.5)
    trainer, _, _ = online(tmp_path, "reward", math.nan, [3, 12, 21], limits=limits)
    trainer.run()
    assert trainer.faults.dropped == 3


class BadActor:
    """Lends the learner's policy, and now and then an action that is not finite."""

    def __init__(self, policy, at):
        self.policy, self.at, self.calls = policy, set(at), 0

    def act(self, observation):
        self.calls += 1
        if self.calls - 1 in self.at:
            raise NonFinite("action of the policy")
        return self.policy.act(observation)


def test_action_that_is_not_finite_reaches_no_environment(tmp_path):
    trainer, learner, replay = online(tmp_path, num=1)
    phase = trainer.phase
    phase.policy = BadActor(learner.policy(), at=[11])
    seen = []
    step = phase.collector.envs.step
    phase.collector.envs.step = lambda action: (seen.append(action.copy()), step(action))[1]
    for _ in range(12):
        trainer.step()
    assert len(replay) == 8  # the 3 steps of the second episode are gone
    trainer.run()
    assert fault_lines(tmp_path) == ["1 episode(s) dropped: action of the policy is not finite"]
    assert np.isfinite(np.concatenate(seen)).all()
    assert trainer.done and all_finite(learner)


def test_policy_of_broken_weights_raises_instead_of_acting():
    task = make_task()
    learner = make_learner(task)
    with torch.no_grad():
        next(learner.actor.parameters())[0, 0] = math.nan
    for deterministic in (False, True):
        with pytest.raises(NonFinite, match="action"):
            learner.policy(deterministic).act(np.ones((1, 2), np.float32))


def test_broken_actor_stops_the_run(tmp_path):
    trainer, learner, _ = online(tmp_path, num=1)
    with torch.no_grad():
        next(learner.actor.parameters())[0, 0] = math.nan
    with pytest.raises(TooManyFaults) as caught:
        trainer.run()
    assert caught.value.exit_code == 13
    assert trainer.counters.env_steps == 0


def test_broken_actor_stops_an_evaluation(tmp_path):
    task = make_task()
    learner = make_learner(task)
    trainer = make_trainer(
        Recipe([Phase("offline", learner, make_dataset(), Until("updates", 2))]),
        tmp_path,
        evaluate=1,
    )
    trainer.step()
    trainer.step()
    with torch.no_grad():
        next(learner.actor.parameters())[0, 0] = math.nan
    with pytest.raises(TooManyFaults, match="evaluation"):
        trainer.run()
    assert fault_lines(tmp_path) == ["evaluation stopped: action of the policy is not finite"]


class FaultySource:
    """Spoils one number of a column in chosen batches."""

    def __init__(self, source, column, value, at):
        self.source, self.column, self.value, self.at = source, column, value, set(at)
        self.calls = 0

    def next(self, n):
        batch = {k: v.clone() for k, v in self.source.next(n).items()}
        if self.calls in self.at:
            batch[self.column].view(-1)[-1] = self.value
        self.calls += 1
        return batch

    def state_dict(self):
        return self.source.state_dict()

    def load_state_dict(self, state):
        self.source.load_state_dict(state)


COLUMNS = ("observation", "next_observation", "action", "reward", "mask", "mc_return", "extra")


class ExtraColumn:
    """Adds a column such as a normaliser might make."""

    def __init__(self, source):
        self.source = source

    def next(self, n):
        batch = dict(self.source.next(n))
        return {**batch, "extra": batch["reward"] * 2.0}

    def state_dict(self):
        return self.source.state_dict()

    def load_state_dict(self, state):
        self.source.load_state_dict(state)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("column", COLUMNS)
def test_bad_batch_is_skipped_and_kept(tmp_path, column, value):
    learner = make_learner(make_task(), calibrated=True)
    source = FaultySource(ExtraColumn(make_dataset(returns=RETURNS)), column, value, [2, 3])
    trainer = offline(tmp_path, learner, source, updates=6)
    for _ in range(2):
        trainer.step()
    before = [p.detach().clone() for p in parameters(learner)]
    trainer.step()
    after = parameters(learner)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    trainer.run()
    assert trainer.faults.skipped == 2 and trainer.faults.skipped_in_a_row == 0
    assert fault_lines(tmp_path) == [f"update skipped: batch column {column!r} is not finite"] * 2
    kept = sorted((tmp_path / "faults").iterdir())
    assert [p.name for p in kept] == [f"update_{i:012d}.safetensors" for i in (2, 3)]
    batch = load_file(kept[0])
    assert set(batch) == set(COLUMNS) and not torch.isfinite(batch[column]).all()
    assert len(batch["reward"]) == 16
    assert trainer.counters.updates == 6 and all_finite(learner)


@pytest.mark.parametrize("column", ["reward", "mc_return"])
def test_three_in_a_row_stop_the_run(tmp_path, column):
    learner = make_learner(make_task(), calibrated=True)
    source = FaultySource(
        ExtraColumn(make_dataset(returns=RETURNS)), column, math.inf, [1, 3, 4, 5]
    )
    trainer = offline(tmp_path, learner, source)
    with pytest.raises(TooManyFaults, match="3 updates in a row") as caught:
        trainer.run()
    assert caught.value.exit_code == 13
    assert trainer.faults.skipped == 4
    assert len(list((tmp_path / "faults").iterdir())) == 4
    assert all_finite(learner)


def spoil(function, value, at):
    """Make a function's result, or the first of them, not finite in chosen calls."""
    calls = []

    def spoilt(*args, **kwargs):
        result = function(*args, **kwargs)
        calls.append(0)
        if len(calls) - 1 not in at:
            return result
        return (result[0] * value, *result[1:]) if isinstance(result, tuple) else result * value

    return spoilt


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("loss", ["td_loss", "td_gradient", "cql_gap_gradient", "actor_loss"])
@pytest.mark.parametrize(
    "at", [0, 1]
)  # of the two critic slices; the actor has one loss per update
def test_bad_loss_is_skipped(tmp_path, monkeypatch, loss, value, at):
    module = "actor_critic" if loss == "actor_loss" else "critic_losses"
    module = f"embodied.agents.{module}"
    function = getattr(__import__(module, fromlist=[loss]), loss)
    monkeypatch.setattr(f"{module}.{loss}", spoil(function, value, [at]))
    learner = make_learner(make_task(), calibrated=True)
    trainer = offline(tmp_path, learner, make_dataset(returns=RETURNS), updates=4)
    while not trainer.done:
        trainer.step()
        assert all_finite(learner)
    assert trainer.faults.skipped == 1
    (line,) = fault_lines(tmp_path)
    what = "gradient" if loss == "td_gradient" else "loss"
    assert line.startswith(f"update skipped: {what}")


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("of", ["critic", "actor", "temperature", "multiplier"])
def test_bad_gradient_is_skipped(tmp_path, of, value):
    learner = make_learner(make_task(), lagrange_threshold=1.0)
    optimizer = getattr(
        learner, "_multiplier_optimizer" if of == "multiplier" else f"{of}_optimizer"
    )
    step, calls = optimizer.step, []

    def spoilt():
        calls.append(0)
        if len(calls) == 2:
            optimizer.parameters[0].grad.view(-1)[0] = value
        return step()

    optimizer.step = spoilt
    trainer = offline(tmp_path, learner, make_dataset(), updates=4)
    while not trainer.done:
        trainer.step()
        assert all_finite(learner)
        assert torch.isfinite(learner._multiplier)
    assert trainer.faults.skipped == 1
    (line,) = fault_lines(tmp_path)
    assert "update skipped: gradient of" in line
    moments = [v for entry in optimizer.state_dict().values() for v in entry.values()]
    assert all(torch.isfinite(m).all() for m in moments)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("weight", ["critic", "target", "actor", "temperature"])
def test_bad_weight_stops_before_it_spreads(tmp_path, weight, value):
    learner = make_learner(make_task())
    own = {
        "critic": learner.critic.weight,
        "target": learner.target,
        "actor": next(learner.actor.parameters()),
        "temperature": learner._temperature,
    }
    trainer = offline(tmp_path, learner, make_dataset())
    trainer.step()
    with torch.no_grad():
        own[weight].view(-1)[:4] = value
    with pytest.raises(TooManyFaults) as caught:
        trainer.run()
    assert caught.value.exit_code == 13
    assert trainer.faults.skipped == 3
    for name, tensor in own.items():
        assert name == weight or torch.isfinite(tensor).all(), name


def test_check_batch_does_not_mistake_an_overflowing_sum():
    check_batch({"features": torch.full((8,), 60000.0, dtype=torch.float16)})
    check_batch({"index": torch.tensor([2**62, 2**62])})
    with pytest.raises(NonFinite, match="'features'"):
        check_batch({"features": torch.tensor([math.inf, -math.inf])})


def test_collector_without_saved_simulators_forgets_open_episodes(tmp_path):
    class Opaque:
        """A vector of environments that cannot give its state, as a real arm."""

        def __init__(self, envs):
            self._envs = envs

        def __getattr__(self, name):
            if name in ("get_state", "set_state"):
                raise AttributeError(name)
            return getattr(self._envs, name)

    def build():
        task = make_task()
        collector = EnvCollector(Opaque(task.collector.envs), np.random.default_rng(0))
        replay = make_replay(40, returns=RETURNS)
        until = Until("env_steps", 24)
        learner = make_learner(task)
        phase = Phase("online", learner, replay, until, collector, Fraction(0), eval_at_end=False)
        return make_trainer(Recipe([phase]), tmp_path), replay

    trainer, replay = build()
    for _ in range(11):
        trainer.step()
    trainer.save()
    trainer.close()
    trainer, replay = build()
    trainer.resume()
    trainer.run()
    assert [end - begin for begin, end in replay._episodes] == [8, 8]
