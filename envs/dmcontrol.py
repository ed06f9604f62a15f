"""The DeepMind Control Suite (Tassa et al. 2018, arXiv 1801.00690)."""

from typing import Any

import numpy as np

from envs.base import Diverged, Options, Step
from envs.physics import MujocoSimEnv, load_simulator

CONTROL_STEPS = 1000
SUCCESS_REWARD = 0.9
# Camera 0 is the ball's view for one of the dog's tasks, and far from the quadruped.
CAMERAS = {"dog": "y-axis", "quadruped": "y"}


class DMControlEnv(MujocoSimEnv):
    """One task of the suite; state is all observations flattened, in the suite's order.

    The suite defines no success, so here a control step succeeds if its reward is at least 0.9 of
    the suite's maximum of 1. Actions are scaled from [-1, 1] to the actuators' ranges. The two LQR
    tasks draw their model when loaded: it is always the one of `random=0`.
    """

    def __init__(self, env_id: str, task: str, options: Options) -> None:
        load_simulator(env_id, "dm_control.suite", "dmcontrol")
        from envs import dmcontrol_lean as lean

        self._physics_error = lean.PhysicsError
        domain, name = task.split("-", 1)
        self.default_camera = CAMERAS.get(domain, 0)
        self._sim = sim = lean.load(domain, name)
        self._task, self._physics, self._substeps = sim.task, sim.physics, sim._n_sub_steps
        self._controls = sim.physics.data.ctrl
        spec = sim.action_spec()
        bounded = np.abs(spec.minimum) < 1e9  # MuJoCo's stand-in for infinity is 1e10
        self._low = np.where(bounded, spec.minimum, -1.0)
        self._half = 0.5 * (np.where(bounded, spec.maximum, 1.0) - self._low)
        self._scaled = bool((self._low != -1).any() or (self._half != 1).any())
        _repair_sensor_names(sim.physics)
        self._bind(sim.physics.model.ptr, sim.physics.data.ptr)
        shapes = [item.shape for item in sim.observation_spec().values()]
        self._vectors = all(len(shape) == 1 for shape in shapes)
        super().__init__(
            env_id,
            options,
            state_dim=int(sum(np.prod(shape) for shape in shapes)),
            action_dim=spec.shape[0],
            control_steps=CONTROL_STEPS,
            task_kwargs={},
        )

    def _reset_task(self, seed: int) -> np.ndarray:
        self._restore_model()
        bits = np.random.MT19937(np.random.SeedSequence(seed))
        self._sim.task._random = np.random.RandomState(bits)
        return np.concatenate([*map(_vector, self._sim.reset().observation.values())])

    def _control(self, action: np.ndarray) -> Step | tuple:
        command = self._low + (action + 1.0) * self._half if self._scaled else action
        task, physics = self._task, self._physics
        try:  # what the suite's Environment.step does, without its TimeStep and its horizon
            self._controls[:] = command
            physics.step(self._substeps)
            task.after_step(physics)
            reward = float(task.get_reward(physics))
            observation = task.get_observation(physics)
        except self._physics_error as error:
            raise Diverged(str(error)) from error
        parts = [*observation.values()]
        state = np.concatenate(parts if self._vectors else [*map(_vector, parts)])
        terminated = task.get_termination(physics) == 0.0
        return state, reward, reward >= SUCCESS_REWARD, terminated

    def _get_task_state(self) -> dict[str, Any]:
        _, keys, position, has_gauss, gauss = self._sim.task._random.get_state()
        return {
            "physics": self._get_physics(),
            "random": {
                "keys": keys,
                "position": int(position),
                "has_gauss": int(has_gauss),
                "gauss": float(gauss),
            },
        }

    def _set_task_state(self, state: dict[str, Any]) -> None:
        saved = state["random"]
        self._sim.task._random.set_state(
            ("MT19937", saved["keys"], saved["position"], saved["has_gauss"], saved["gauss"])
        )
        self._set_physics(state["physics"])

    def close(self) -> None:
        """Frees the renderers and the simulator."""
        super().close()
        self._sim.close()


def _repair_sensor_names(physics: Any) -> None:
    """Fills the quadruped's table of sensor names, which dm_control 1.0.28 finds with `np.in1d`.

    numpy 2.4 has removed that function; without this the four quadruped tasks do not load.
    """
    if not hasattr(physics, "_sensor_types_to_names"):
        return
    from dm_control.mujoco.wrapper.mjbindings import enums

    kinds = enums.mjtSensor
    for wanted in (
        (kinds.mjSENS_GYRO, kinds.mjSENS_ACCELEROMETER),
        (kinds.mjSENS_FORCE, kinds.mjSENS_TORQUE),
        (kinds.mjSENS_RANGEFINDER,),
    ):
        ids = np.flatnonzero(np.isin(physics.model.sensor_type, wanted))
        names = [physics.model.id2name(i, "sensor") for i in ids]
        physics._sensor_types_to_names[wanted] = names


def _vector(part: np.ndarray) -> np.ndarray:
    """Returns `np.ravel(part)` in a fifth of the time."""
    return part if part.ndim == 1 else part[None] if part.ndim == 0 else part.ravel()
