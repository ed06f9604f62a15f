"""Compares an environment of this package with the released one, driven the same way.

    python -m envs.checker --released --all

The released environments are made and seeded here as a user of the packages would, apart from the
adapters. Compared are the float64 observations, rewards and success of every step, before the
adapters round or add anything, and the simulator's whole state at the end of each episode.
"""

import contextlib
from typing import Any, NamedTuple, Protocol

import numpy as np

from envs import libero, robosuite
from envs.base import Step, UnknownTask
from envs.registry import make, split_id
from envs.scripted import expert


class Difference(NamedTuple):
    """What parted in a comparison; all zero if nothing did."""

    observations: int  # steps whose observation is not the same to the bit
    largest: float  # largest absolute difference of an observation
    reward: float  # largest absolute difference
    successes: int  # steps that one side calls a success
    states: int  # episodes whose final mjSTATE_INTEGRATION is not the same to the bit


class _Released(Protocol):
    @property
    def model(self) -> Any: ...

    @property
    def data(self) -> Any: ...

    def reset(self, seed: int) -> np.ndarray: ...

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]: ...


class _MetaWorld:
    def __init__(self, task: str) -> None:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS

        self._env = env = ALL_V3_ENVIRONMENTS[task]()
        env._partially_observable, env._freeze_rand_vec = False, False
        del env.sawyer_observation_space  # cached while the goal was hidden
        env.seeded_rand_vec = env._set_task_called = True
        self.model, self.data = env.model, env.data

    def reset(self, seed: int) -> np.ndarray:
        self._env.seed(seed)
        return self._env.reset()[0]

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        obs, reward, _, _, info = self._env.step(action)
        return obs, float(reward), bool(info["success"])


class _DMControl:
    def __init__(self, task: str) -> None:
        from dm_control import suite

        from envs.dmcontrol import _repair_sensor_names

        kwargs = {"random": 0, "time_limit": float("inf")}
        self._env = env = suite.load(*task.split("-", 1), task_kwargs=kwargs)
        _repair_sensor_names(env.physics)
        self.model, self.data = env.physics.model.ptr, env.physics.data.ptr
        low, high = env.action_spec().minimum, env.action_spec().maximum
        bounded = np.abs(low) < 1e9
        self._low, self._high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)

    def reset(self, seed: int) -> np.ndarray:
        bits = np.random.MT19937(np.random.SeedSequence(seed))
        self._env.task._random = np.random.RandomState(bits)
        return _flat(self._env.reset().observation)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        if (self._low != -1).any() or (self._high != 1).any():
            action = self._low + (action + 1.0) * 0.5 * (self._high - self._low)
        step = self._env.step(action)
        return _flat(step.observation), float(step.reward), step.reward >= 0.9


class _Robosuite:
    """What robosuite's own tasks and LIBERO's share; the package builds a new model per reset."""

    def __init__(self, task: str) -> None:
        from robosuite import load_controller_config, make

        self._env = make(
            task,
            robots=["Panda"] * (2 if task.startswith("TwoArm") else 1),
            controller_configs=load_controller_config(default_controller="OSC_POSE"),
            reward_shaping=True,
            horizon=robosuite.CONTROL_STEPS,
            ignore_done=True,
            use_camera_obs=False,
            has_renderer=False,
            has_offscreen_renderer=False,
        )

    @property
    def model(self) -> Any:
        return self._env.sim.model._model

    @property
    def data(self) -> Any:
        return self._env.sim.data._data

    def reset(self, seed: int) -> np.ndarray:
        from robosuite.utils.errors import RandomizationError

        with robosuite.global_generators(seed):
            while True:
                with contextlib.suppress(RandomizationError):
                    return robosuite.flatten(self._env.reset())

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        obs, reward, _, _ = self._env.step(action)
        return robosuite.flatten(obs), float(reward), bool(self._env._check_success())


class _Libero(_Robosuite):
    def __init__(self, task: str) -> None:
        suite, index = task.split("/")
        name = libero.task_names("libero")[suite][int(index)]
        path = libero.package_folder("libero") / "bddl_files" / suite / f"{name}.bddl"
        self._env = libero._make_problem(str(path))
        self._states = libero._stored_states(libero.init_states_path())[f"{suite}/{name}"]

    def reset(self, seed: int) -> np.ndarray:
        env = self._env
        env.object_property_initializers.clear()  # they grow with each reset
        env.visualization_sites_list.clear()
        super().reset(seed)
        env.sim.set_state_from_flattened(self._states[seed % len(self._states)])
        env.sim.forward()
        env._check_success()
        env._post_process()
        env._update_observables(force=True)
        for _ in range(10):
            obs = env.step(libero.WAIT)[0]
        return robosuite.flatten(obs)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        obs, reward, done, _ = self._env.step(action)
        return robosuite.flatten(obs), float(reward), bool(done)


RELEASED: dict[str, type[_Released]] = {
    "metaworld": _MetaWorld,
    "dm_control": _DMControl,
    "robosuite": _Robosuite,
    "libero": _Libero,
}
STEPS = {"robosuite": 200, "libero": 200}  # of an episode, where it is not the whole horizon


def compare(env_id: str, *, steps: int | None = None, seed: int = 0) -> Difference:
    """Runs an episode with random actions and, where there is one, one with the expert's.

    Args:
        env_id: of any suite but the maze. Of robosuite this compares with version 1.4.
        steps: length of each episode; by default the environment's whole horizon, 200 of robosuite
            and LIBERO.
        seed: of the first episode and its actions.

    Raises:
        UnknownTask: there is no released environment to compare with.
    """
    suite, task = split_id(env_id)
    if suite not in RELEASED:
        raise UnknownTask(f"{env_id} has no released environment to be compared with")
    env = make(env_id)
    total = Difference(0, 0.0, 0.0, 0, 0)
    for episode, scripted in enumerate((False, True) if suite == "metaworld" else (False,)):
        policy = expert(env) if scripted else None
        length = steps or STEPS.get(suite, env.horizon)
        found = _episode(env, RELEASED[suite](task), policy, length, seed + episode)
        total = Difference(
            total.observations + found.observations,
            max(total.largest, found.largest),
            max(total.reward, found.reward),
            total.successes + found.successes,
            total.states + found.states,
        )
    env.close()
    return total


def _episode(env: Any, released: _Released, policy: Any, steps: int, seed: int) -> Difference:
    rng = np.random.default_rng(seed)
    obs, _ = env.reset(seed=seed)
    observations = int(_bits(released.reset(seed).astype(np.float32)) != _bits(obs))
    reward, largest, successes = 0.0, 0.0, 0
    for _ in range(steps):
        action = rng.uniform(-1, 1, env.action_space.shape) if policy is None else policy.act(obs)
        command = env._check_action(action)
        ours = Step(*env._control(command))
        state, theirs, success = released.step(command)
        obs = ours.state.astype(np.float32)
        observations += _bits(ours.state) != _bits(state)
        largest = max(largest, float(np.abs(ours.state - state).max()))
        reward = max(reward, abs(ours.reward - theirs))
        successes += ours.success != success
    states = _physics(env._model, env._data) != _physics(released.model, released.data)
    return Difference(observations, largest, reward, successes, int(states))


def _physics(model: Any, data: Any) -> bytes:
    import mujoco  # after make() has chosen a renderer

    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(model, kind))
    mujoco.mj_getState(model, data, state, kind)
    return state.tobytes()


def _flat(observation: dict[str, Any]) -> np.ndarray:
    return np.concatenate([np.ravel(value) for value in observation.values()])


def _bits(array: np.ndarray) -> tuple[str, bytes]:
    return array.dtype.str, array.tobytes()
