"""A table seen from above: a gripper pushes a puck. Two numbers each, no simulator, many at once.

The gripper moves by 0.06 a per step; a puck nearer than 0.12 is pushed out of contact. The table is
the square |x|, |y| <= 0.8, the gripper's workspace |x|, |y| <= 1; nothing ends where they are left,
which is for the learner to avoid. `push-v0` has no task; `push-goal-v0` asks for the puck at one of
eight places.
"""

from typing import Any

import numpy as np

from envs.base import Options, SimEnv, Step, bounded
from envs.vector import SavedVector

STEP, CONTACT, APART = 0.06, 0.12, 0.5  # of the gripper; of its edge; from the puck at first
TABLE, WORKSPACE, LIMIT = 0.8, 1.0, 1.5  # half sides; beyond the last the gripper stands still
START, MOVED = 0.2, 0.1  # the puck begins in +-0.2, and has been moved beyond 0.1
GOALS, RING, TOLERANCE = 8, 0.5, 0.15
CONTROL_STEPS = 50


def push(hand: np.ndarray, puck: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moves grippers and pucks: [..., 2] each; a gripper in a puck's centre pushes along x."""
    hand = np.minimum(np.maximum(hand + STEP * action, -LIMIT), LIMIT)
    apart = puck - hand
    distance = length(apart)[..., None]
    away = np.where(distance > 1e-9, apart, (1.0, 0.0)) / np.maximum(distance, 1e-9)
    away = np.where(distance > 1e-9, away, (1.0, 0.0))
    return hand, np.where(distance < CONTACT, hand + CONTACT * away, puck)


def length(vectors: np.ndarray) -> np.ndarray:
    """Lengths [...] of [..., 2]; the same to the bit for one and for many."""
    x, y = vectors[..., 0], vectors[..., 1]
    return np.sqrt(x * x + y * y)


class PushTable(SimEnv):
    """State: gripper, puck and, if there is one, goal, two numbers each.

    Without a goal the reward is by how much the puck's distance from its start grows, and an
    episode succeeds once that is 0.1. With one it is by how much nearer to the goal the puck gets,
    and 1 on each step within 0.15, which is success.
    """

    def __init__(self, env_id: str, task: str, options: Options) -> None:
        self.with_goal = task == "push-goal-v0"
        super().__init__(
            env_id,
            options,
            state_dim=6 if self.with_goal else 4,
            action_dim=2,
            control_steps=CONTROL_STEPS,
            task_kwargs={},
        )
        self.hand, self.puck, self.start, self.goal = np.zeros((4, 2))

    def _reset_task(self, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        self.puck = rng.uniform(-START, START, 2)
        self.hand = self.puck + APART * _direction(rng.uniform(0, 2 * np.pi))
        self.start = self.puck.copy()
        self.goal = RING * _direction(2 * np.pi * rng.integers(GOALS) / GOALS)
        return self._look()

    def _control(self, action: np.ndarray) -> Step | tuple:
        before = self.puck
        self.hand, self.puck = push(self.hand, self.puck, action)
        reward, success = judge(self.with_goal, before, self.puck, self.start, self.goal)
        return self._look(), float(reward), bool(success), False

    def _look(self) -> np.ndarray:
        parts = [self.hand, self.puck, self.goal] if self.with_goal else [self.hand, self.puck]
        return np.concatenate(parts)

    def _get_task_state(self) -> dict[str, Any]:
        return {"hand": self.hand.copy(), "puck": self.puck.copy()}

    def _set_task_state(self, state: dict[str, Any]) -> None:
        self.hand, self.puck = (np.array(state[key], np.float64) for key in ("hand", "puck"))

    def _frame(self, height: int, width: int, camera: str | int | None) -> np.ndarray:
        """Draws the table from above: brown, the goal green, the puck blue, the gripper red."""
        x = (2 * (np.arange(width) + 0.5) / width - 1) * 1.2
        y = (1 - 2 * (np.arange(height)[:, None] + 0.5) / height) * 1.2
        frame = np.full((height, width, 3), 255, np.uint8)
        frame[(np.abs(x) <= TABLE) & (np.abs(y) <= TABLE)] = (222, 203, 178)
        things = [(self.puck, CONTACT / 2, (40, 90, 200)), (self.hand, CONTACT / 2, (200, 40, 40))]
        if self.with_goal:
            things.insert(0, (self.goal, TOLERANCE, (120, 200, 120)))
        for at, radius, colour in things:
            frame[np.hypot(x - at[0], y - at[1]) < radius] = colour
        return frame


def judge(
    with_goal: bool, before: np.ndarray, puck: np.ndarray, start: np.ndarray, goal: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Reward and success of pucks that moved: [..., 2] each -> [...] twice."""
    if with_goal:
        distance = length(puck - goal)
        success = distance < TOLERANCE
        return length(before - goal) - distance + success, success
    distance = length(puck - start)
    return distance - length(before - start), distance > MOVED


def _direction(angle: float) -> np.ndarray:
    return np.array([np.cos(angle), np.sin(angle)])


class PushVector(SavedVector):
    """Many tables, moved together: the trajectories of `SavedVector` at a fraction of the time.

    Resets and states are those of the single environments; between them the positions are here.
    """

    def __init__(self, make_one: Any, num: int) -> None:
        super().__init__(make_one, num)
        self._tables = [env.unwrapped for env in self.envs]
        self._extra = self.observation_space.shape[1] - len(self._tables[0]._state)
        self._positions = np.zeros((4, num, 2))  # hand, puck, start, goal
        self._shown = np.zeros(self.observation_space.shape, np.float32)
        self._elapsed, self._over = np.zeros(num, np.int64), np.ones(num, bool)

    def _take(self, which: Any) -> None:
        """Takes over what single environments hold."""
        for i in which:
            table = self._tables[i]
            self._positions[:, i] = table.hand, table.puck, table.start, table.goal
            self._elapsed[i], self._over[i] = table._elapsed, table._over
            self._shown[i] = self._last[i]

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        """Resets all environments, or those where `options["reset_mask"]` is true."""
        mask = np.asarray((options or {}).get("reset_mask", self._everyone))
        out = super().reset(seed=seed, options=options)
        self._take(np.flatnonzero(mask))
        return out

    def step(self, actions: np.ndarray) -> Any:
        """Steps all environments with `actions: [num, 2]`."""
        commands = bounded(actions, self._actions_shape, self.identity["id"])
        if self._over.any():
            raise RuntimeError(f"{self.identity['id']}: an episode is over; call reset() first")
        options, (hand, before, start, goal) = self.options, self._positions
        hand, puck = push(hand, before, commands)
        reward, success = judge(self._tables[0].with_goal, before, puck, start, goal)
        self._positions[0], self._positions[1] = hand, puck
        state = np.concatenate([hand, puck, goal], 1).astype(np.float32)
        width = self._shown.shape[1] - self._extra
        self._shown = self._shown.copy()  # the caller keeps the old one
        self._shown[:, :width] = state[:, :width]
        self._last = list(self._shown)
        self._elapsed += 1
        terminated = success & options.terminate_on_success
        truncated = self._elapsed >= self._tables[0].horizon
        self._over = terminated | truncated
        reward = success.astype(np.float64) if options.reward == "sparse" else reward
        no = np.zeros(self.num_envs, bool)
        infos = {"success": success, "_success": self._everyone.copy()}
        infos |= {"diverged": no, "_diverged": self._everyone.copy()}
        return self._shown.copy(), reward, terminated, truncated, infos

    def get_state(self) -> list[dict[str, Any]]:
        """Returns one state per environment."""
        for i, table in enumerate(self._tables):
            table.hand, table.puck = self._positions[0, i].copy(), self._positions[1, i].copy()
            table._elapsed, table._over = int(self._elapsed[i]), bool(self._over[i])
            table._state = self._shown[i, : len(table._state)].copy()
        return super().get_state()

    def set_state(self, states: list[dict[str, Any]]) -> None:
        """Continues from states that `get_state` returned."""
        super().set_state(states)
        self._take(range(self.num_envs))
