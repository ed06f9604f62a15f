import json

import numpy as np
import pytest

import envs
from embodied.agents import wsrl  # noqa: F401 - registers the method
from embodied.agents.task import RobotTask
from embodied.core import registry
from embodied.core.collector import EnvCollector
from embodied.core.evaluate import Evaluator
from embodied.core.log import read_log
from embodied.core.replay import RewardTransform
from embodied.core.seeding import Streams
from embodied.core.trainer import Trainer, TrainerOptions

MAZE = {"reward": "sparse", "terminate_on_success": True}
COLUMNS = ("observation", "action", "reward", "next_observation", "mask")


def _episodes(n=8):
    env = envs.make("maze/point-v0", **MAZE)
    expert = envs.NoisyExpert(envs.expert(env), noise=0.3, rng=np.random.default_rng(0))
    episodes = []
    for seed in range(n):
        observation, _ = env.reset(seed=seed)
        expert.reset()
        rows, ended = [], False
        while not ended:
            action = expert.act(observation)
            following, reward, terminated, truncated, _ = env.step(action)
            rows.append((observation, action, reward, following, 1.0 - terminated))
            observation, ended = following, terminated or truncated
        columns = [np.asarray(c, np.float32) for c in zip(*rows, strict=True)]
        episodes.append(dict(zip(COLUMNS, columns, strict=True)))
    return episodes


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run directory written by the trainer: offline, warm-up, online, on the maze."""
    directory = tmp_path_factory.mktemp("runs") / "wsrl"
    data, streams = _episodes(), Streams(0)
    collector = EnvCollector(envs.make_vec("maze/point-v0", 1, **MAZE), streams.numpy("env"))
    task = RobotTask((2,), 2, streams, collector, lambda: data, "f", RewardTransform(1, -1), True)
    method = registry.get("wsrl")
    config = method.config(
        hidden=(16, 16),
        members=2,
        batch_size=16,
        utd=1,
        offline_updates=60,
        warmup_steps=60,
        online_steps=180,
        eval_every=60,
        require_warmup_success=False,
        pretrain_args={"conservative": {"actions": 2}},
    )
    trainer = Trainer(
        method.recipe(config, task),
        directory,
        evaluator=Evaluator(envs.make("maze/point-v0", **MAZE), 4),
        options=TrainerOptions(tensorboard=False, log_every=20, checkpoint_every=0),
    )
    trainer.run()
    info = {
        "command": "embodied train method=wsrl env=maze/point-v0 'note=<b>&'",
        "method": "wsrl",
        "env": "maze/point-v0",
        "seed": 0,
        "threads": 1,
        "thread_reason": "small networks",
        "versions": {"numpy": np.__version__},
        "env_hash": "abc123",
        "dataset": {
            "path": "d",
            "fingerprint": "f00d",
            "episodes": 8,
            "frames": 99,
            "success": 0.75,
        },
    }
    (directory / "run.json").write_text(json.dumps(info))
    (directory / "config.json").write_text(json.dumps({"method": {"discount": 0.99}, "seed": 0}))
    return directory


@pytest.fixture
def make_run(tmp_path):
    """Write a run directory of given log lines."""

    def make(lines, name="run"):
        directory = tmp_path / name
        directory.mkdir()
        with open(directory / "log.jsonl", "w") as stream:
            for line in lines:
                stream.write(json.dumps(line) + "\n")
        return directory

    return make


@pytest.fixture
def events(trained):
    """The lines the trainer logged."""
    return read_log(trained)
