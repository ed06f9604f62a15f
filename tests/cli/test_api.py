"""The ten lines of Python."""

import numpy as np
import pytest
from cli_runs import RUN, TINY

import embodied as package
from embodied.core.log import read_log
from embodied.core.types import UserError


def test_stepping_by_hand(place):
    run = package.build(*TINY, "seed=5", "method.offline_updates=3", "method.online_steps=45")
    trainer = run.trainer
    assert (trainer.phase.name, trainer.counters.updates) == ("offline", 0)
    trainer.step()
    assert (trainer.phase.name, trainer.counters.updates) == ("offline", 1)
    trainer.step()
    trainer.step()
    assert trainer.phase.name == "warmup"
    while trainer.counters.env_steps < 2:
        trainer.step()
    assert trainer.counters.updates == 3
    trainer.run()
    assert trainer.done
    assert read_log(run.directory)[-1]["phase"] == "done"
    assert str(run.directory) == "runs/wsrl-maze-point-v0-5"


def test_policy_and_evaluation(place):
    policy = package.load_policy(RUN)
    observation = np.zeros((4, 2), np.float32)
    action = policy.act(observation)
    assert action.shape == (4, 2)
    assert np.array_equal(action, policy.act(observation))
    result = package.evaluate(RUN, episodes=2)
    assert len(result.episodes) == 2
    assert (place / RUN / "ledger-2-seed0.jsonl").is_file()


def test_resume(place):
    run = package.build(f"resume={RUN}", "trainer.keep=5")
    assert run.changed == {"trainer.keep": (2, 5)}
    assert run.trainer.done


def test_errors_are_exceptions():
    with pytest.raises(UserError, match="unknown setting 'seeed'"):
        package.build("seeed=1")
    with pytest.raises(UserError, match="not a run directory"):
        package.load_policy("nowhere")
