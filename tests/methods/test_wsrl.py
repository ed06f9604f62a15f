"""WSRL: hand-over, warm-up without a gradient step, no offline rows, the authors' start rule."""

import gc
import math
import weakref

import numpy as np
import pytest
import tiny
import torch

from embodied.agents import calql, cql, wsrl
from embodied.core.replay import RewardTransform
from embodied.core.types import UserError

K = 50
SETTINGS = {
    **tiny.NETWORK,
    "members": 3,
    "batch_size": 2,
    "utd": 4,
    "offline_updates": 3,
    "warmup_steps": K,
    "online_steps": K + 20,
    "eval_every": 0,
    "require_warmup_success": False,
    "pretrain_args": {"conservative": {"actions": 2}},
}
SHARED = ("actor", "critic", "target", "temperature")
OPTIMIZERS = tuple(f"{name}_optimizer" for name in ("actor", "critic", "temperature"))


def settings(**changes):
    if changes.get("pretrain") in ("iql", "bc"):
        changes = {"pretrain_args": {}, **changes}
    return wsrl.WSRLConfig(**{**SETTINGS, **changes})


def start(tmp_path, *, task=None, env=None, **changes):
    """A trainer at the end of pre-training, with its recipe."""
    task = task or tiny.task(collector=tiny.collector(**(env or {})))
    recipe = wsrl.recipe(settings(**changes), task)
    trainer = tiny.train(recipe, tmp_path, checkpoint_every=0)
    tiny.run_phase(trainer, "offline")
    return trainer, recipe


def phase(recipe, name):
    return next(p for p in recipe.phases if p.name == name)


def updates_at(trainer):
    """(env_steps, updates in this phase) after every step to the end of the run."""
    first = trainer.counters.updates
    while not trainer.done:
        trainer.step()
        yield trainer.counters.env_steps, trainer.counters.updates - first


def test_hand_over_is_the_pretrained_state(tmp_path):
    trainer, recipe = start(tmp_path)
    pretrained = tiny.frozen(phase(recipe, "offline").learner)
    assert pretrained["critic_optimizer"]["0"]["step"] == 3
    trainer.step()  # evaluation of the offline phase
    trainer.step()
    assert trainer.phase.name == "warmup"
    learner = phase(recipe, "warmup").learner
    state = learner.state_dict()
    for name in (*SHARED, *OPTIMIZERS):
        assert tiny.equal(state[name], pretrained[name]), name
    for optimizer in OPTIMIZERS:
        for moments in state[optimizer].values():
            assert set(moments) == {"step", "exp_avg", "exp_avg_sq"}
    assert state["critic"]["weight"] is not phase(recipe, "offline").learner.critic.weight


def test_nothing_moves_in_the_warm_up(tmp_path):
    trainer, recipe = start(tmp_path)
    for _ in range(2):
        trainer.step()
    learner = phase(recipe, "warmup").learner
    before, actions = tiny.frozen(learner), learner.exploration.get_state()
    tiny.run_phase(trainer, "warmup")
    assert trainer.counters.env_steps == K
    assert trainer.counters.updates == 3
    after = learner.state_dict()
    for name in before.keys() - {"exploration"}:
        assert tiny.equal(before[name], after[name]), name
    assert not torch.equal(actions, after["exploration"])  # it samples, and not the mode


@pytest.mark.parametrize("warmup, batch", [(50, 2), (50, 15), (0, 3), (5, 2)])
def test_the_first_update_comes_by_the_authors_rule(tmp_path, warmup, batch):
    """Update k counts from 0 and only k > max(K, rows of an update) updates."""
    rows = 4 * batch
    steps = max(warmup, rows) + 10
    trainer, recipe = start(tmp_path, warmup_steps=warmup, online_steps=steps, batch_size=batch)
    learner, source = recipe.phases[-1].learner, recipe.phases[-1].source
    handed, seen = None, None
    for env_steps, updates in updates_at(trainer):
        if handed is None and env_steps:
            handed = tiny.frozen(learner)
        index = env_steps - 1
        if index <= max(warmup, rows):
            assert updates == 0
            if handed is not None:
                assert tiny.equal(handed["critic"], dict(learner.critic.state_dict()))
        elif seen is None:
            seen = env_steps
            assert updates == 1
            assert index == max(warmup, rows) + 1
            assert len(source) == max(warmup, rows) + 2
            assert not tiny.equal(handed["critic"], dict(learner.critic.state_dict()))
    assert seen is not None
    assert trainer.counters.env_steps == steps


def digest_rows(rows):
    return {np.asarray(row).tobytes() for row in rows}


def test_no_offline_row_is_ever_trained_on(tmp_path):
    data = tiny.episodes()
    trainer, recipe = start(tmp_path, task=tiny.task(data=data, collector=tiny.collector()))
    offline, replay = phase(recipe, "offline").source, phase(recipe, "online").source
    hashes = digest_rows(np.concatenate([e["observation"] for e in data]))
    rows = weakref.ref(offline._replay.rows)
    first = rows().view(0, 1)["observation"]
    assert digest_rows(first) <= hashes
    del first
    trainer.step()
    trainer.step()
    gc.collect()
    assert offline.dropped
    assert rows() is None
    with pytest.raises(RuntimeError, match="dropped"):
        offline.next(1)
    while not trainer.done:
        trainer.step()
        stored = replay.rows.view(0, len(replay))["observation"]
        assert not digest_rows(stored) & hashes
    assert len(replay) == K + 20


@pytest.mark.parametrize("method", ["calql", "cql", "iql", "bc"])
def test_any_pretrainer(tmp_path, method):
    trainer, recipe = start(tmp_path, pretrain=method)
    pretrained = tiny.frozen(phase(recipe, "offline").learner)
    fresh = wsrl.build(settings(), tiny.task()).state_dict()
    trainer.step()
    trainer.step()
    state = phase(recipe, "warmup").learner.state_dict()
    assert tiny.equal(state["actor"], pretrained["actor"])
    for name in SHARED:
        assert tiny.equal(state[name], pretrained.get(name, fresh[name])), name
    while not trainer.done:
        trainer.step()
    assert trainer.counters.updates > 3


def test_the_pretrainer_has_this_networks_settings():
    config = settings(discount=0.9, members=4, hidden=(6,), actor_lr=1e-5)
    learner = wsrl.pretrainer(config, tiny.task())
    assert isinstance(learner.config, calql.CalQLConfig)
    assert learner.config.utd == 1
    for name in ("discount", "members", "hidden", "actor_lr", "subset", "critic_layer_norm"):
        assert getattr(learner.config, name) == getattr(config, name)
    assert learner.conservative.calibrated
    assert learner.conservative.subset == config.subset
    assert learner.conservative.actions == 2


def test_pretrain_args_win():
    args = {"critic_lr": 1e-2, "conservative": {"weight": 1.0, "subset": 0}}
    learner = wsrl.pretrainer(settings(pretrain="cql", pretrain_args=args), tiny.task())
    assert isinstance(learner.config, cql.CQLConfig)
    assert learner.config.critic_lr == 1e-2
    assert (learner.conservative.weight, learner.conservative.subset) == (1.0, 0)


@pytest.mark.parametrize(
    "args, message",
    [
        ({"critc_lr": 1.0}, "pretrain_args.critc_lr.*critic_lr"),
        ({"conservative": {"wieght": 1.0}}, "conservative.wieght.*weight"),
    ],
)
def test_unknown_pretrain_args(args, message):
    with pytest.raises(UserError, match=message):
        wsrl.pretrainer(settings(pretrain_args=args), tiny.task())


def test_other_pretrainers_are_refused():
    with pytest.raises(UserError, match="calql, cql, iql or bc"):
        wsrl.pretrainer(settings(pretrain="sac"), tiny.task())


@pytest.mark.parametrize("data", [True, False])
def test_pretrained_reads_another_run(tmp_path, data):
    config = calql.CalQLConfig(
        **tiny.NETWORK,
        members=3,
        batch_size=2,
        offline_updates=3,
        actor_layer_norm=True,
        critic_layer_norm=True,
    )
    before = calql.recipe(config, tiny.task(seed=7))
    tiny.train(before, tmp_path / "calql").run()
    task = tiny.task(collector=tiny.collector())
    if not data:
        task.episodes = None
    trainer, recipe = start(tmp_path / "wsrl", task=task, pretrained=str(tmp_path / "calql"))
    trainer.step()
    assert [p.name for p in recipe.phases] == ["warmup", "online"]
    state, pretrained = recipe.phases[0].learner.state_dict(), before.phases[0].learner.state_dict()
    for name in (*SHARED, *OPTIMIZERS):
        assert tiny.equal(state[name], pretrained[name]), name
    assert ("offline" in trainer.probes) == data


def test_a_run_without_an_offline_phase_is_refused(tmp_path):
    from embodied.agents import sac

    config = sac.SACConfig(**tiny.NETWORK, batch_size=2, online_steps=4, random_steps=2)
    tiny.train(sac.recipe(config, tiny.task(collector=tiny.collector())), tmp_path / "sac").run()
    trainer, _ = start(tmp_path / "wsrl", pretrained=str(tmp_path / "sac"))
    with pytest.raises(UserError, match="no offline phase"):
        trainer.step()


UNREACHABLE = {"step_size": 1e-3}


def test_a_warm_up_without_success_stops(tmp_path):
    trainer, _ = start(tmp_path, require_warmup_success=True, env=UNREACHABLE)
    with pytest.raises(UserError, match=rf"no success in {K} warm-up steps.*warmup_steps"):
        trainer.run()
    assert trainer.counters.updates == 3


@pytest.mark.parametrize("reward", [RewardTransform(), RewardTransform(10.0, -5.0)])
def test_a_success_in_the_warm_up_is_enough(tmp_path, reward):
    task = tiny.task(collector=tiny.collector(**UNREACHABLE), reward=reward)
    trainer, recipe = start(tmp_path, require_warmup_success=True, task=task)
    tiny.run_phase(trainer, "offline")
    tiny.run_phase(trainer, "warmup")
    replay = phase(recipe, "warmup").source
    replay.rows.view(0, 1)["reward"].fill_(float(reward(1.0)))
    while not trainer.done:
        trainer.step()
    assert trainer.counters.updates > 3


def test_dense_tasks_need_no_success(tmp_path):
    task = tiny.task(collector=tiny.collector(**UNREACHABLE), sparse=False)
    trainer, _ = start(tmp_path, require_warmup_success=True, task=task)
    while not trainer.done:
        trainer.step()
    assert trainer.counters.updates > 3


def test_probes_are_of_both_kinds(tmp_path):
    trainer, _ = start(tmp_path)
    while not trainer.done:
        trainer.step()
    assert set(trainer.probes) == {"offline", "online"}


def test_defaults_are_the_authors():
    config = wsrl.WSRLConfig()
    assert (config.members, config.subset, config.subset_replacement) == (10, 2, True)
    assert (config.actor_lr, config.critic_lr, config.temperature_lr) == (1e-4, 3e-4, 1e-4)
    assert (config.discount, config.tau, config.init_temperature) == (0.99, 0.005, 1.0)
    assert (config.warmup_steps, config.utd, config.batch_size) == (5000, 4, 256)
    assert (config.online_steps, config.capacity) == (500_000, 2_000_000)
    assert (config.actor_reduce, config.actor_rows) == ("min", "all")
    assert config.actor_layer_norm and config.critic_layer_norm and not config.entropy_backup
    assert config.target_entropy_per_dim == -1.0 and config.pretrain == "calql"


def test_warm_up_within_the_budget():
    with pytest.raises(ValueError, match="must exceed"):
        wsrl.WSRLConfig(online_steps=10, warmup_steps=10)


def test_the_online_loss_has_no_pessimism():
    learner = wsrl.build(settings(), tiny.task())
    metrics = learner.update(tiny.Fixed(tiny.batch(8)))
    assert learner.conservative is None and not any("cql" in name for name in metrics)
    assert all(math.isfinite(float(v)) for v in metrics.values())
