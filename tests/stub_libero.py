"""A stand-in for LIBERO: stored initial states, an instruction, two cameras, dict observations."""

import numpy as np
from gymnasium.spaces import Box, Dict

from embodied.datasets import make_env
from envs.base import Options
from envs.maze import PointMaze

TASK = "maze/point-v0"
STORED = 4
SIDE = 8  # of a picture


class StubLibero(PointMaze):
    """The maze, begun from one of a few stored positions; the seed moves the rest a little."""

    instruction = "cross the wall and stop at the goal"
    stored_states = STORED

    def __init__(self, options, both):
        super().__init__(TASK, "point-v0", options)
        self._both = both
        if both:
            picture = Box(0, 255, (SIDE, SIDE, 3), np.uint8)
            cameras = dict.fromkeys(("pixels.agentview", "pixels.wrist"), picture)
            self.observation_space = Dict({"state": self.observation_space, **cameras})

    def _reset_task(self, seed):
        self.init_state = seed % STORED
        super()._reset_task(seed)
        self._position[1] += 0.2 * self.init_state
        return self._normalised()

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed, options=options)
        return observation, {**info, "init_state": self.init_state}

    def observation(self):
        state = super().observation()
        if not self._both:
            return state
        view = self._frame(SIDE, SIDE, None)
        return {"state": state, "pixels.agentview": view, "pixels.wrist": view[::-1]}


def make(env_id, env_args):
    """An environment; those of the maze are the stub's."""
    if env_id != TASK:
        return make_env(env_id, env_args)
    args = dict(env_args)
    both = args.get("obs") == "both"
    return StubLibero(Options(**{**args, "obs": "state"}), both)
