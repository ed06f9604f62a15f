"""Meta-World v3 (Yu et al. 2019, arXiv 1910.10897), one task with a random goal per episode."""

from typing import Any

import numpy as np

from envs.base import Options, Step
from envs.physics import MujocoSimEnv, load_simulator, owned_array

CONTROL_STEPS = 500
_PLAIN = (bool, int, float, str, np.generic)


class MetaWorldEnv(MujocoSimEnv):
    """One Meta-World task; state is the package's 39 numbers, goal included.

    The initial object and goal positions are drawn per episode from the task's whole reset space
    (the official MT1 benchmark fixes 50 such draws). Success is the package's own flag.
    """

    default_camera = "corner2"
    upside_down_cameras = ("corner", "corner2", "corner3", "corner4")

    def __init__(self, env_id: str, task: str, options: Options) -> None:
        load_simulator(env_id, "metaworld.env_dict", "metaworld")
        from envs.metaworld_lean import lean_task

        self._sim = sim = lean_task(task)()
        # What the package's MT1 sets through a pickled task: the goal is visible, and a new goal is
        # drawn at each reset, here from the environment's own generator.
        sim._partially_observable = False
        sim.__dict__.pop("sawyer_observation_space", None)  # cached for the hidden goal
        sim._freeze_rand_vec = False
        sim.seeded_rand_vec = True
        sim._set_task_called = True
        self._bind(sim.model, sim.data)
        super().__init__(
            env_id,
            options,
            state_dim=sim.sawyer_observation_space.shape[0],
            action_dim=4,
            control_steps=CONTROL_STEPS,
            task_kwargs={},
        )

    def _reset_task(self, seed: int) -> np.ndarray:
        self._restore_model()
        self._sim.seed(seed)  # reset(seed=...) alone does not reproduce
        state, _ = self._sim.reset()
        return state

    def _control(self, action: np.ndarray) -> Step | tuple:
        state, reward, _, _, info = self._sim.step(action)
        return state, float(reward), bool(info["success"]), False

    def _get_task_state(self) -> dict[str, Any]:
        attributes = {
            name: np.array(value) if isinstance(value, np.ndarray | np.generic) else value
            for name, value in vars(self._sim).items()
            if isinstance(value, _PLAIN) or owned_array(value)
        }
        return {"physics": self._get_physics(), "attributes": attributes}

    def _set_task_state(self, state: dict[str, Any]) -> None:
        for name, value in state["attributes"].items():
            if isinstance(value, np.ndarray):
                value = value.copy()[()]  # a 0-d array was a numpy scalar
            setattr(self._sim, name, value)
        self._set_physics(state["physics"])

    def close(self) -> None:
        """Frees the renderers and the simulator."""
        super().close()
        self._sim.close()
