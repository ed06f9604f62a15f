"""WSRL: warm-start reinforcement learning, fine-tuning that keeps no offline data.

Zhou et al. 2024, "Efficient Online Reinforcement Learning Fine-Tuning Need Not Retain Offline
Data", https://arxiv.org/abs/2412.07762; code github.com/zhouzypaul/wsrl.

A pre-trained actor and critic are fine-tuned without the data they came from. Done naively, the
first online targets are too pessimistic, are bootstrapped, and Q slides down everywhere. WSRL
first runs the frozen pre-trained policy for K steps, only filling an empty buffer, and then trains
plain SAC with many critics and several updates per step: no pessimism, no offline rows.

    1. offline    any pre-trainer (Cal-QL by default) on the offline data
    2. hand-over  actor, critics, targets, temperature and Adam moments; the data is dropped
    3. warm-up    K steps of a ~ pi_pre(.|s) into an empty buffer, no gradient step
    4. online     per step M critic updates on consecutive slices of one batch of M x 256,
                      y   = r + gamma m min_{i in M} Q_i'(s', a'),  |M| = 2 of 10, no entropy term
                      L_Q = 1/10 sum_i E (Q_i(s, a) - y)^2
                  then one actor and one temperature update on the whole batch,
                      L_pi = E [beta log pi(a|s) - min_{1..10} Q_i(s, a)]
                      L_b  = beta (H - H_target), H_target = -d

Deviations:
1. Networks that are not trained in a step are not stepped. The authors' code gives them a constant
   loss and their Adam still moves (one real in five steps for the actor); for steady gradients
   that multiplies the actor's rate by 2.24: use actor_lr 2.2e-4 where parity matters.
2. H is measured on the actor's own samples at s, not at s'.
3. A time-out bootstraps and a termination does not, also on the very last step of an episode; in
   the authors' code a success on the last step counts as a time-out.
4. Pre-training and fine-tuning are one run with one log; `pretrained` starts from another run.
5. Before fine-tuning the warm-up buffer is checked for successes, which the authors do not do: a
   warm-up without any success cannot help (`require_warmup_success`).
6. Actions of the data are clipped to +-0.99999 only where their density is taken (BC, IQL); the
   authors clip them everywhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from embodied.agents.actor_critic import (
    UPDATES,
    ActorCritic,
    ActorCriticConfig,
)
from embodied.agents.offline_online import PROBE_ROWS, read_pretrained
from embodied.agents.task import RobotTask
from embodied.core import registry
from embodied.core.phase import Phase, Recipe, Until
from embodied.core.registry import register
from embodied.core.replay import ReplaySource
from embodied.core.trainer import Trainer
from embodied.core.types import State, UserError


@dataclass(frozen=True, kw_only=True)
class WSRLConfig(ActorCriticConfig):
    """WSRL; defaults of the authors' wsrl_config.py, sac_config.py and launch scripts.

    Attributes:
        pretrain: the offline method: calql, cql, iql or bc.
        pretrain_args: its settings; those it shares with this config are taken from here, and as
            many critics are regularised per step as are backed up (`conservative.subset`).
        pretrained: a run to take the pre-trained learner from instead of pre-training.
        offline_updates: updates of pre-training.
        warmup_steps: K, frozen-policy steps that only fill the buffer.
        start_rows: rows the buffer must exceed before the first update, warm-up included; None
            means the rows of one update, as in the authors' code (so their K = 0 is not 0).
        online_steps: environment steps in all, warm-up included.
        capacity: rows of the online buffer.
        require_warmup_success: stop with an explanation if the warm-up of a sparse task saw no
            success at all.
        eval_every: environment steps between evaluations online; 0 evaluates at phase ends only.
    """

    actor_lr: float = 1e-4
    temperature_lr: float = 1e-4
    members: int = 10
    subset: int = 2
    subset_replacement: bool = True
    utd: int = 4
    entropy_backup: bool = False
    actor_layer_norm: bool = True
    critic_layer_norm: bool = True
    pretrain: str = "calql"
    pretrain_args: dict[str, Any] = field(default_factory=dict)
    pretrained: str | None = None
    offline_updates: int = 250_000
    warmup_steps: int = 5_000
    start_rows: int | None = None
    online_steps: int = 500_000
    capacity: int = 2_000_000
    require_warmup_success: bool = True
    eval_every: int = 20_000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.online_steps <= self.warmup_steps:
            raise ValueError(
                f"online_steps ({self.online_steps}) includes the warm-up and must exceed "
                f"warmup_steps ({self.warmup_steps})"
            )


def build(config: WSRLConfig, task: RobotTask) -> ActorCritic:
    """The online learner, before hand-over."""
    return ActorCritic(config, task, stream="wsrl")


def pretrainer(config: WSRLConfig, task: RobotTask) -> Any:
    """The offline learner, with the networks, discount and learning rates of this config."""
    method = registry.get(config.pretrain)
    if config.pretrain not in ("calql", "cql", "iql", "bc"):
        raise UserError(f"pretrain must be calql, cql, iql or bc, got {config.pretrain!r}")
    known = {f.name for f in dataclasses.fields(method.config)}
    shared = {f.name for f in dataclasses.fields(ActorCriticConfig)}
    settings = {name: getattr(config, name) for name in shared}
    settings |= {"utd": 1, "squash": True, "offline_updates": config.offline_updates}
    chosen = method.config(**{name: v for name, v in settings.items() if name in known})
    if "conservative" in known:  # the authors regularise as many critics as they back up
        conservative = dataclasses.replace(chosen.conservative, subset=config.subset)
        chosen = dataclasses.replace(chosen, conservative=conservative)
    return method.learner(_override(chosen, config.pretrain_args, "method.pretrain_args"), task)


def _override(config: Any, values: Mapping[str, Any], path: str) -> Any:
    """A config with some fields replaced; a mapping replaces fields of a nested config."""
    known = {f.name for f in dataclasses.fields(config)}
    changes = {}
    for name, value in values.items():
        if name not in known:
            raise UserError(
                f"{path}.{name} is no setting of the pre-trainer; {registry.nearest(name, known)}"
            )
        if isinstance(value, Mapping):
            value = _override(getattr(config, name), value, f"{path}.{name}")
        changes[name] = value
    return dataclasses.replace(config, **changes)


def recipe(config: WSRLConfig, task: RobotTask) -> Recipe:
    """Offline, hand-over, warm-up, online."""
    learner = build(config, task)
    replay = task.replay(min(config.capacity, config.online_steps))
    collector = task.environments()
    rows = config.batch_size * config.utd if config.start_rows is None else config.start_rows
    offline = None
    if config.pretrained is None or task.episodes is not None:
        offline = task.offline(config.discount if config.pretrain == "calql" else None)
    phases = []

    def probe_offline(trainer: Trainer) -> None:
        if offline is not None and "offline" not in trainer.probes:
            trainer.set_probe("offline", offline.next(PROBE_ROWS))

    def hand_over(trainer: Trainer) -> None:
        probe_offline(trainer)
        learner.take_over(pretrained())
        if offline is not None:
            offline.drop()

    def check_and_probe(trainer: Trainer) -> None:
        trainer.set_probe("online", replay.next(PROBE_ROWS))
        if config.require_warmup_success and task.sparse:
            _check_warmup(replay, task)

    if config.pretrained is None:
        offline_learner = pretrainer(config, task)
        pretrained = offline_learner.state_dict
        until = Until("updates", config.offline_updates)
        phases.append(Phase("offline", offline_learner, offline, until, on_enter=probe_offline))
    else:

        def pretrained() -> State:
            return read_pretrained(config.pretrained)

    warmup = Phase(
        "warmup",
        learner,
        replay,
        Until("env_steps", config.warmup_steps),
        collector=collector,
        updates_per_step=Fraction(0),
        on_enter=hand_over,
        eval_at_end=False,
    )
    online = Phase(
        "online",
        learner,
        replay,
        Until("env_steps", config.online_steps - config.warmup_steps),
        collector=collector,
        # the authors update once the step index exceeds max(K, rows of one update)
        start_after=max(1, rows - config.warmup_steps + 1),
        on_enter=check_and_probe if config.warmup_steps else hand_over,
        eval_every=config.eval_every,
    )
    return Recipe([*phases, warmup, online] if config.warmup_steps else [*phases, online])


def _check_warmup(replay: ReplaySource, task: RobotTask) -> None:
    """A warm-up without any success cannot keep Q from sliding (wsrl.md section 8)."""
    rewards = replay.rows.view(0, len(replay))["reward"]
    if not (rewards > task.reward.bias + 1e-6).any():
        raise UserError(
            f"no success in {len(replay)} warm-up steps: the pre-trained policy fails here, and "
            "fine-tuning from it would slide down. Pre-train longer or on better data, extend "
            "method.warmup_steps, or set method.require_warmup_success=false"
        )


register(
    "wsrl",
    config=WSRLConfig,
    learner=build,
    recipe=recipe,
    paper="https://arxiv.org/abs/2412.07762",
    summary="Warm up with the frozen pre-trained policy, then plain SAC without offline data",
    updates=UPDATES,
)
