"""What the tests of the loop and of its faults share: tasks and learners that cost little."""

import functools
import json
import os
import signal
import traceback
from pathlib import Path

import numpy as np
import torch

import envs
from embodied.agents import wsrl
from embodied.agents.task import RobotTask
from embodied.core.checkpoint import digest
from embodied.core.collector import EnvCollector, UniformPolicy
from embodied.core.evaluate import Evaluator
from embodied.core.log import read_log
from embodied.core.phase import Phase, Recipe, Until
from embodied.core.replay import ReplaySource, RewardTransform, transition_columns
from embodied.core.seeding import Streams
from embodied.core.sources import DatasetSource
from embodied.core.trainer import Trainer, TrainerOptions

MAZE = "maze/point-v0"
QUIET = {"log_every": 5, "checkpoint_every": 0, "tensorboard": False}


@functools.cache
def episodes(env_id=MAZE, horizon=8, count=4, seed=7):
    """A few random episodes, rewards as the environment gives them."""
    vector = envs.make_vec(env_id, 1, reward="sparse", horizon=horizon)
    collector = EnvCollector(vector, Streams(seed).numpy("data"))
    policy = UniformPolicy(vector.single_action_space.shape[0], Streams(seed).numpy("policy"))
    found = []
    for _ in range(count):
        steps = []
        while not steps or not (steps[-1].terminated | steps[-1].truncated).all():
            steps.append(collector.collect(policy))
        join = np.concatenate
        found.append(
            {
                "observation": join([s.observation[0] for s in steps]),
                "next_observation": join([s.next_observation[0] for s in steps]),
                "action": join([s.action[0] for s in steps]),
                "reward": join([s.reward[0] for s in steps]),
                "mask": 1.0 - join([s.terminated[0] for s in steps]).astype(np.float32),
            }
        )
    return found


def make_task(env_id=MAZE, *, seed=0, num=1, horizon=8):
    streams = Streams(seed)
    vector = envs.make_vec(env_id, num, reward="sparse", horizon=horizon)
    return RobotTask(
        observation_shape=vector.single_observation_space.shape,
        action_dim=vector.single_action_space.shape[0],
        streams=streams,
        collector=EnvCollector(vector, streams.numpy("episodes")),
        episodes=functools.partial(episodes, env_id, horizon),
        fingerprint="f" * 64,
        reward=RewardTransform(1.0, -1.0),
    )


def make_wsrl(env_id=MAZE, *, num=1, horizon=8, offline=40, warmup=40, online=40, **settings):
    """The three phases of WSRL with tiny networks."""
    config = wsrl.WSRLConfig(
        hidden=(8, 8),
        members=3,
        batch_size=8,
        utd=2,
        offline_updates=offline,
        pretrain_args={"conservative": {"actions": 2}},
        warmup_steps=warmup,
        online_steps=warmup + online,
        require_warmup_success=False,
        eval_every=16,
        **settings,
    )
    return wsrl.recipe(config, make_task(env_id, num=num, horizon=horizon))


def make_trainer(recipe, directory, *, files=None, evaluate=0, env_id=MAZE, horizon=8, **options):
    evaluator = None
    if evaluate:
        evaluator = Evaluator(envs.make(env_id, reward="sparse", horizon=horizon), evaluate)
    return Trainer(
        recipe,
        directory,
        evaluator=evaluator,
        options=TrainerOptions(**{**QUIET, **options}),
        config={"method": "test"},
        files=files,
    )


class StubLearner:
    """Keeps a running sum of what it is shown; acts with noise from its own generator."""

    def __init__(self, rows=2, seed=0, action_dim=2):
        self.rows = rows
        self.weight = torch.zeros(3)
        self.generator = Streams(seed).numpy("stub")
        self.uniform = UniformPolicy(action_dim, self.generator)
        self.updates = []  # counts of rows; not part of the state

    def policy(self, deterministic=False):
        return UniformPolicy(2, np.random.Generator(np.random.PCG64(3))) if deterministic else self

    def act(self, observation):
        return self.uniform.act(observation)

    def update(self, source):
        batch = source.next(self.rows)
        self.weight += batch["observation"].sum() * torch.tensor([1.0, 2.0, 3.0])
        self.updates.append(len(batch["reward"]))
        return {"stub/weight": self.weight[0]}

    def state_dict(self):
        return {"weight": self.weight.clone(), "rng": self.generator.bit_generator.state}

    def load_state_dict(self, state):
        self.weight = state["weight"].clone()
        self.generator.bit_generator.state = state["rng"]


def make_replay(capacity=64, *, seed=0, observation=(2,), action=(2,), **kwargs):
    columns = transition_columns(observation, action, returns=kwargs.get("returns") is not None)
    return ReplaySource(columns, capacity, Streams(seed).torch("replay"), **kwargs)


def make_dataset(load=None, fingerprint="f" * 64, **kwargs):
    columns = transition_columns((2,), (2,), returns=kwargs.get("returns") is not None)
    return DatasetSource(
        load or episodes, columns, Streams(0).torch("dataset"), fingerprint=fingerprint, **kwargs
    )


def stub_recipe(*, steps=20, num=1, horizon=8, learner=None, replay=None, **phase):
    """One online phase on the maze with a learner that computes nothing."""
    collector = make_task(num=num, horizon=horizon).collector
    settings = {"start_rows": 1, "eval_at_end": False, **phase}
    return Recipe(
        [
            Phase(
                "online",
                learner or StubLearner(),
                make_replay() if replay is None else replay,  # an empty one is false
                Until("env_steps", steps),
                collector=collector,
                **settings,
            )
        ]
    )


def without_time(value):
    """A copy without what may differ between two equal runs: wall time and the log position."""
    if isinstance(value, dict):
        return {k: without_time(v) for k, v in value.items() if k not in ("wall_time", "log")}
    if isinstance(value, list):
        return [without_time(v) for v in value]
    return value


def run_digest(trainer):
    """Digest of every tensor, counter, generator and the last 100 logged metrics."""
    metrics = [without_time(event) for event in read_log(trainer.directory)][-100:]
    return digest(without_time({**trainer.state_dict(), "metrics": metrics}))


def in_child(work):
    """Run work() in a forked child: ("ok", its JSON value), ("error", text) or ("killed", signal).

    Sharing the imports makes a process cheap enough to kill by the dozen.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        code = 1
        try:
            torch.set_num_threads(1)
            message = ["ok", work()]
            code = 0
        except BaseException:
            message = ["error", traceback.format_exc()]
        with os.fdopen(writer, "w") as stream:
            json.dump(message, stream)
        os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as stream:
        text = stream.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "killed", os.WTERMSIG(status)
    return tuple(json.loads(text))


def kill_myself():
    os.kill(os.getpid(), signal.SIGKILL)


def leftovers(directory: Path, pattern="*.tmp"):
    return sorted(p.name for p in (directory / "checkpoints").glob(pattern))
