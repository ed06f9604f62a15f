"""A table-top to play on, and nine things to ask for there.

Made for learning from play as in Play-LMP (Lynch et al. 2019, arXiv 1903.01973), whose 18 tasks on
a desk these are a smaller version of. A goal is a state: the one in which a scripted expert leaves
the table when it has done what is asked. Success is judged by the one thing that was to change.

    env = envs.make("tabletop/any")           # the task is drawn with the episode
    env = envs.make("tabletop/drawer-open")
"""

from typing import Any

import numpy as np

from envs.base import Options, Step
from envs.physics import MujocoSimEnv, load_simulator
from envs.tabletop_model import (
    BLOCK_Y,
    COLOURS,
    DOOR_SIDE,
    DRAWER_OUT,
    MODEL,
    REACH,
    TRAVEL,
    WALL_Y,
)

MOVE = 0.06  # m; what an action of 1 asks of the finger in a control step
SUBSTEPS = 20  # of 5 ms: 10 control steps a second
CONTROL_STEPS = 60
LONGEST_WAY = 90  # control steps that a goal's expert may take
AFTERWARDS = 3  # control steps that it goes on for when it has done it
PRESSED, RELEASED = -0.6 * TRAVEL, -0.25 * TRAVEL
NAMES = tuple(COLOURS)
BUTTONS = tuple(f"button-{name}" for name in NAMES)
TASKS = (
    *("drawer-open", "drawer-close", "door-left", "door-right"),
    *BUTTONS,
    *("block-left", "block-right"),
)
TWO_WAYS = BUTTONS  # tasks with a wall in the way

Look = dict[str, float]


def achieved(task: str, before: Look, now: Look) -> bool:
    """Whether what a task asks for has happened between two looks at the table."""
    thing, _, what = task.partition("-")
    if thing == "button":
        return now[what] != before[what]
    if thing == "block":
        side = -1.0 if what == "left" else 1.0
        return side * now["block"] > 0.08 and abs(now["block y"] - BLOCK_Y) < 0.2
    if thing == "door":
        return (-1.0 if what == "left" else 1.0) * now["door"] > 0.6 * DOOR_SIDE
    return now["drawer"] > 0.08 if what == "open" else now["drawer"] < 0.02


class TableTop(MujocoSimEnv):
    """A finger among a drawer, a sliding door, three buttons with lamps, and a block.

    Action: how far to move the finger, 6 cm per unit and axis. Observation: 14 numbers of the state
    (finger 3, drawer, door, buttons 3, m; lamps 3; block 3, m), then 14 of the goal. Reward: 1
    where the task is done, else 0.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (gymnasium's name)
    default_camera = "front"

    def __init__(self, env_id: str, task: str, options: Options, *, displaced: float = 0.0) -> None:
        """Builds the table.

        Args:
            env_id: the id under which it was made.
            task: one of `TASKS`, or "any".
            options: the shared options.
            displaced: m; how far the finger is moved aside before an episode begins, at random,
                after the goal was chosen.
        """
        if displaced < 0:
            raise ValueError(f"displaced must not be negative, got {displaced}")
        mujoco = load_simulator(env_id, "mujoco", "twin")
        self._task, self._displaced = task, float(displaced)
        super().__init__(
            env_id,
            options,
            state_dim=28,
            action_dim=3,
            control_steps=CONTROL_STEPS,
            task_kwargs={"displaced": self._displaced},
        )
        model = mujoco.MjModel.from_xml_string(MODEL)
        self._bind(model, mujoco.MjData(model))
        self._advance = lambda: mujoco.mj_step(model, self._data, SUBSTEPS)
        self._forward = lambda: mujoco.mj_forward(model, self._data)
        names = ("drawer", "door", *NAMES)
        self._joints = [int(model.joint(name).qposadr[0]) for name in names]
        self._block = int(model.joint("block").qposadr[0])
        self._lamp_geoms = [model.geom(f"{name} lamp").id for name in NAMES]
        self._low, self._high = np.transpose(REACH)
        self._lamps, self._armed = np.zeros(3), np.ones(3, bool)
        self.asked, self.goal, self._before = "", np.zeros(14), {}

    # ---------------------------------------------------------------- what there is

    @property
    def finger(self) -> np.ndarray:
        """Where the finger's tip is, m, [3]."""
        return self._data.qpos[:3].copy()

    def look(self) -> Look:
        """What can be changed: joints and block (m), lamps by their colour."""
        drawer, door = self._data.qpos[self._joints[:2]]
        x, y, _ = self._data.qpos[self._block : self._block + 3]
        lamps = dict(zip(NAMES, self._lamps.tolist(), strict=True))
        place = {"block": float(x), "block y": float(y)}
        return {"drawer": float(drawer), "door": float(door), **lamps, **place}

    def _now(self) -> np.ndarray:
        """The 14 numbers of the state."""
        qpos = self._data.qpos
        block = qpos[self._block : self._block + 3]
        return np.concatenate([qpos[:3], qpos[self._joints], self._lamps, block])

    def arm(self) -> Any:
        """The finger as `envs.skills` moves it."""
        from envs.play_tabletop import Finger

        return Finger(self)

    # ---------------------------------------------------------------- an episode

    def _reset_task(self, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        drawn = TASKS[rng.integers(len(TASKS))]
        self.asked = drawn if self._task == "any" else self._task
        self._restore_model()
        self._place(rng)
        self._before = self.look()
        start, lamps, armed = self._get_physics(), self._lamps.copy(), self._armed.copy()
        self.goal = self._done_by_expert(rng)
        self._set_physics(start)
        self._lamps, self._armed = lamps, armed
        if self._displaced:
            angle = rng.uniform(0.0, 2 * np.pi)
            aside = self._displaced * np.array([np.cos(angle), np.sin(angle), 0.0])
            place = np.clip(self.finger + aside, self._low, self._high)
            place[1] = min(place[1], WALL_Y - 0.03)  # not into the wall
            self._data.qpos[:3] = place
            self._data.ctrl[:] = self._data.qpos[:3]
            self._forward()
        self._paint()
        return np.concatenate([self._now(), self.goal])

    def _place(self, rng: np.random.Generator) -> None:
        """Puts everything where an episode of the task may begin."""
        qpos, asked = self._data.qpos, self.asked
        qpos[:3] = rng.uniform([-0.1, -0.16, 0.08], [0.06, -0.04, 0.14])
        shut, left = bool(rng.integers(2)), bool(rng.integers(2))
        shut = {"drawer-open": True, "drawer-close": False}.get(asked, shut)
        left = {"door-left": False, "door-right": True}.get(asked, left)
        out = rng.uniform(0.0, 0.015)
        qpos[self._joints[0]] = out if shut else DRAWER_OUT - out
        side = DOOR_SIDE - rng.uniform(0.0, 0.015)
        qpos[self._joints[1]] = -side if left else side
        qpos[self._block : self._block + 2] = rng.uniform([-0.06, -0.13], [0.06, -0.07])
        self._lamps, self._armed = rng.integers(0, 2, 3).astype(float), np.ones(3, bool)
        self._data.ctrl[:] = qpos[:3]
        self._forward()

    def _done_by_expert(self, rng: np.random.Generator) -> np.ndarray:
        """The state in which an expert leaves the table, having done what is asked."""
        from envs.play_tabletop import task_expert

        walk, left = task_expert(self, rng), AFTERWARDS
        for _ in range(LONGEST_WAY):
            self._control(walk.act(self._state).astype(np.float64))
            left -= achieved(self.asked, self._before, self.look())
            if left < 0:
                break
        return self._now()

    def _control(self, action: np.ndarray) -> Step:
        target = np.clip(self._data.qpos[:3] + MOVE * action, self._low, self._high)
        self._data.ctrl[:] = target
        self._advance()
        depth = self._data.qpos[self._joints[2:]]
        pressed = self._armed & (depth < PRESSED)
        self._lamps[pressed] = 1.0 - self._lamps[pressed]
        self._armed = (self._armed & ~pressed) | (depth > RELEASED)
        success = achieved(self.asked, self._before, self.look())
        return Step(np.concatenate([self._now(), self.goal]), float(success), success)

    def _paint(self) -> None:
        """Shows which lamps are on."""
        for geom, lamp in zip(self._lamp_geoms, self._lamps, strict=True):
            self._model.geom_rgba[geom] = (1.0, 0.9, 0.3, 1.0) if lamp else (0.2, 0.2, 0.2, 1.0)

    def _frame(self, height: int, width: int, camera: str | int | None) -> np.ndarray:
        self._paint()
        return super()._frame(height, width, camera)

    # ---------------------------------------------------------------- saving

    def _get_task_state(self) -> dict[str, Any]:
        return {
            "physics": self._get_physics(),
            "lamps": self._lamps.copy(),
            "armed": self._armed.copy(),
        }

    def _set_task_state(self, state: dict[str, Any]) -> None:
        self._set_physics(state["physics"])
        self._lamps = np.array(state["lamps"], np.float64)
        self._armed = np.array(state["armed"], bool)
