"""The checker passes sound environments of strangers and names each planted fault."""

import random

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

import envs
from envs import checker


class Sound(gymnasium.Env):
    """A stranger's environment: a noisy point that never heard of this package."""

    observation_space = Box(-10, 10, (2,), np.float32)
    action_space = Box(-1, 1, (2,), np.float32)
    horizon = 12

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.x = 0, self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self.x.copy(), {}

    def step(self, action):
        self.t += 1
        self.x = np.clip(self.x + 0.1 * np.nan_to_num(action), -10, 10).astype(np.float32)
        return self.x.copy(), 0.0, False, self.t >= self.horizon, {"success": self.t > 3}


class Savable(Sound):
    def get_state(self):
        return {"t": self.t, "x": self.x.copy(), "rng": self.np_random.bit_generator.state}

    def set_state(self, state):
        self.t, self.x = state["t"], state["x"].copy()
        self.np_random.bit_generator.state = state["rng"]


def changed(index, value, base=Sound):
    """An environment whose step returns `value(self, result)` at `index`."""

    class Changed(base):
        def step(self, action):
            result = list(super().step(action))
            result[index] = value(self, result[index])
            return tuple(result)

    return Changed


class SameMemory(Sound):
    def step(self, action):
        result = list(super().step(action))
        self.out = getattr(self, "out", np.zeros(2, np.float32))
        self.out[:] = result[0]
        return (self.out, *result[1:])


class Unseeded(Sound):
    def reset(self, *, seed=None, options=None):
        _, info = super().reset(seed=seed)
        self.x += np.random.default_rng().uniform(-0.1, 0.1, 2).astype(np.float32)
        return self.x.copy(), info


class Remembers(Sound):
    def reset(self, *, seed=None, options=None):
        _, info = super().reset(seed=seed)
        self.count = getattr(self, "count", -1) + 1
        self.x += np.float32(0.01 * self.count)
        return self.x.copy(), info


class GlobalRandom(Sound):
    def step(self, action):
        random.random()
        return super().step(action)


class ForgetsTime(Savable):
    def get_state(self):
        return {**super().get_state(), "t": 0}


class ForgetsGenerator(Savable):
    def get_state(self):
        return {**super().get_state(), "rng": np.random.default_rng(0).bit_generator.state}


class SavesObject(Savable):
    def get_state(self):
        return {**super().get_state(), "object": object()}


class AliasedState(Savable):
    def get_state(self):
        return {**super().get_state(), "x": self.x}

    def step(self, action):
        self.t += 1
        self.x += 0.1 * np.nan_to_num(action)
        return self.x.copy(), 0.0, False, self.t >= self.horizon, {"success": False}


class ChangesAction(Sound):
    def step(self, action):
        action *= 0.5
        return super().step(action)


class Unbounded(Sound):
    action_space = Box(-np.inf, np.inf, (2,), np.float32)


class Raises(Sound):
    def step(self, action):
        if self.t == 4:
            raise ZeroDivisionError("planted")
        return super().step(action)


class ResetsWithoutInfo(Sound):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


FAULTS = [
    (changed(0, lambda env, obs: obs.astype(np.float64)), "dtype float64"),
    (changed(0, lambda env, obs: obs * np.float32(np.nan)), "is not finite"),
    (changed(0, lambda env, obs: obs + np.float32(50)), "outside the observation space"),
    (changed(1, lambda env, reward: np.zeros(1)), "reward is a ndarray"),
    (changed(1, lambda env, reward: float("nan")), "reward is not finite"),
    (changed(2, lambda env, flag: 0), "terminated is a int"),
    (changed(3, lambda env, flag: False), "not truncated at its horizon of 12"),
    (changed(3, lambda env, flag: env.t >= 9), "truncated at step 9, before its horizon"),
    (changed(4, lambda env, info: {"success": 1.0}), 'info["success"] is a float, not a bool'),
    (changed(4, lambda env, info: info if env.t > 5 else {}), "missing in some steps"),
    (SameMemory, "reuses its memory"),
    (Unseeded, "two objects, reset with the same seed, differ"),
    (Remembers, "the same object, reset twice with one seed, differs"),
    (GlobalRandom, "global generator of random"),
    (ForgetsTime, "continued from a saved state differs"),
    (ForgetsGenerator, "continued from a saved state differs"),
    (SavesObject, "a object at state['object']"),
    (AliasedState, "set back to a saved state differs"),
    (ChangesAction, "changes the action"),
    (Unbounded, "infinite bounds"),
    (Raises, "ZeroDivisionError: planted"),
    (ResetsWithoutInfo, "does not return (observation, info dict)"),
]


@pytest.mark.parametrize(("broken", "words"), FAULTS, ids=[words for _, words in FAULTS])
def test_planted_fault_is_named(broken, words):
    with pytest.raises(envs.EnvCheckError) as caught:
        envs.check_env(broken, steps=30)
    assert any(words in problem for problem in caught.value.problems), str(caught.value)


def test_sound_strangers_pass_with_the_weaker_promises_named():
    notes = envs.check_env(Sound, steps=30)
    assert any("no get_state/set_state" in note for note in notes)
    assert "save and restore: exact" in envs.check_env(Savable, steps=30)
    single = envs.check_env(Sound(), steps=30)
    assert any("only one object" in note for note in single)


def test_gymnasium_environment_without_success():
    env = gymnasium.make("CartPole-v1")
    notes = envs.check_env(env, steps=30)
    assert any("success" in note for note in notes)
    env.reset(seed=0)  # the caller's own environment is not closed
    env.close()


def test_command_line(capsys, monkeypatch):
    assert checker.main(["maze/point-v0", "--steps", "20", "--render"]) == 0
    assert "1 of 1 keep the contract" in capsys.readouterr().out
    monkeypatch.setattr(checker, "make", lambda env_id, **kwargs: Unseeded())
    assert checker.main(["maze/point-v0", "--steps", "20"]) == 1
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("env_id", ["metaworld/soccer-v3", "dm_control/stacker-stack_2"])
def test_longer_runs(env_id):
    pytest.importorskip(env_id.split("/")[0])
    assert "save and restore: exact" in envs.check_env(env_id, steps=120, seed=7)
