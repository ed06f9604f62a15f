"""A real arm, or its twin, as an environment: the same collector trains in simulation and on it.

What the policy sees is what the robot senses; what is learnt from is what was really sent: `step`
returns in `info["action"]` the action that was executed, whoever decided it. A reset moves the arm
home through the same safety envelope and then asks whoever lays out the scene. A latched stop ends
the episode as broken, and the next reset waits for an operator; nothing here can clear it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

from envs.base import EnvsError, Options, RenderError
from hardware.action_space import ActionSpace
from hardware.limits import Limits
from hardware.loop import Timing
from hardware.robot import STANDING
from hardware.status import Status
from hardware.types import Lifecycle, Spec

_ARRIVED = 0.02  # rad
_PATIENCE = 0.5  # s between looks at a latched stop
_REST = 2.0  # s to come to rest


class ResetFailed(EnvsError, RuntimeError):
    """The arm did not get home, or the stop stayed latched; the message says why."""


class Station(Protocol):
    """Where the robot runs: `hardware.loop.LoopProcess` or `LocalLoop`."""

    spec: Spec
    timing: Timing  # its action period is that of the environment

    def now(self) -> float:
        """s on the robot's clock."""

    def wait(self, seconds: float) -> None:
        """Lets the robot run."""

    def observe(self) -> Status:
        """Returns what the robot said last."""

    def send(self, chunk: np.ndarray, first: float, observed: float) -> None:
        """Hands over joint positions."""

    def arm(self, owner: str) -> None:
        """Activates the robot."""

    def disarm(self) -> None:
        """Gives the robot back."""

    def close(self) -> None:
        """Ends the link."""


class Operator(Protocol):
    """A person at the arm, by keyboard, gamepad or space mouse."""

    def intervention(self) -> np.ndarray | None:
        """The action the operator wants now, in the policy's action space; None leaves it alone.

        Numbers that are NaN are left to the policy.
        """

    def verdict(self) -> bool | None:
        """What the operator said of the episode: True done, False not done, None nothing."""

    def lay_out(self) -> None:
        """Returns when the scene is ready for the next episode."""


@dataclass
class Autonomy:
    """How much was done without help.

    Attributes:
        steps: control steps.
        intervened: of these, steps that an operator decided.
        episodes: begun.
        stops: episodes that a latched stop ended.
    """

    steps: int = 0
    intervened: int = 0
    episodes: int = 0
    stops: int = 0

    @property
    def share(self) -> float:
        """Share of the steps that the policy decided."""
        return 1.0 - self.intervened / self.steps if self.steps else 1.0


@dataclass(frozen=True)
class Scene:
    """What a station's task adds to the arm.

    Attributes:
        home: rad, [n], where each episode begins; by default where the arm is when it is made.
        success: tells from a status whether the task is done; None never.
        sense: more numbers of the scene for the state, [k] (an object's pose, from a tracker or
            the simulator); None adds none.
        prepare: lays out the scene from an episode's seed, once the arm is home.
        reward: of a step, from a status; None is 1 on success and else 0.
        free: brings back a simulated arm whose stop latched, or that is stuck; None leaves it to a
            person, as it must be where there is an arm.
        picture: draws the scene; None shows the first camera's newest picture.
        instruction: what to do, in words.
        task: its name.
    """

    home: np.ndarray | None = None
    success: Callable[[Status], bool] | None = None
    sense: Callable[[], np.ndarray] | None = None
    prepare: Callable[[np.random.Generator], None] | None = None
    reward: Callable[[Status], float] | None = None
    free: Callable[[], None] | None = None
    picture: Callable[[], np.ndarray] | None = None
    instruction: str = ""
    task: str = "none"


class RealArm(gymnasium.Env):
    """A robot as a gymnasium environment.

    The state is joint positions and velocities, the tool's position and rotation (its first two
    columns), the gripper's opening and what the scene adds. There is no `get_state`: a real arm
    cannot be put back, so a resumed run begins the next episode.

    Attributes:
        autonomy: how much was done without help, since this was made.
        faults: the latched stops that ended episodes, oldest first.
        instruction: what to do, in words.
        options: those all environments share, as far as they apply.
        identity: what results from here depend on.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (gymnasium's name)

    def __init__(
        self,
        station: Station,
        limits: Limits,
        *,
        scene: Scene | None = None,
        actions: ActionSpace | None = None,
        horizon: int = 100,
        obs: str = "state",
        terminate_on_success: bool = True,
        operator: Operator | None = None,
        patience: float = 0.0,
        owner: str = "embodied",
    ) -> None:
        """Takes a connected station.

        Args:
            station: where the robot runs.
            limits: of the arm.
            scene: what the task adds.
            actions: what actions mean; tool deltas by default.
            horizon: steps until truncation.
            obs: "state", or "both" for a dict with the pictures of all cameras besides.
            terminate_on_success: end the episode at its first success.
            operator: who may intervene, says what became of an episode, and lays out the scene.
            patience: s that a reset waits for a latched stop to be cleared.
            owner: who commands, for messages to others.
        """
        if obs not in ("state", "both"):
            raise ValueError(f'obs={obs!r}; allowed are "state" and "both"')
        self.station, self.limits, self.horizon = station, limits, horizon
        period = station.timing.action_period
        self.scene, self.actions = scene or Scene(), actions or ActionSpace()
        self.autonomy, self.instruction = Autonomy(), self.scene.instruction
        self.faults: list[str] = []
        drawn = station.spec.cameras or self.scene.picture
        self.render_mode = "rgb_array" if drawn else None
        self.metadata = {**self.metadata, "render_fps": round(1.0 / period)}
        self.options = Options(obs=obs, horizon=horizon, terminate_on_success=terminate_on_success)
        self.identity = {
            "id": f"real/{station.spec.name.replace(' ', '_')}",
            "kwargs": {
                "task": self.scene.task,
                "obs": obs,
                "reward": "sparse" if self.scene.reward is None else "dense",
                "terminate_on_success": terminate_on_success,
                "mode": self.actions.mode,
                "period": period,
                "horizon": horizon,
            },
        }
        self._period, self._obs, self._operator = period, obs, operator
        self._slot = 0.0  # when the present action began
        self._patience, self._owner = patience, owner
        self._status = station.observe()
        home = self._status.state.position if self.scene.home is None else self.scene.home
        self._home = np.array(home, float)
        self._target, self._elapsed, self._over = self._home, 0, True
        state = Box(-np.inf, np.inf, self.state_observation().shape, np.float32)
        self.observation_space: Box | Dict = state
        if obs == "both":
            pictures = {
                f"pixels.{c.name}": Box(0, 255, (c.height, c.width, 3), np.uint8)
                for c in station.spec.cameras
            }
            self.observation_space = Dict({"state": state, **pictures})
        self.action_space = Box(-1.0, 1.0, (self.actions.width(limits),), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Moves the arm home and lets the scene be laid out.

        Args:
            seed: for what is random in the scene; the arm itself is not.
            options: not used.

        Raises:
            ResetFailed: the stop is latched and was not cleared in time, or the arm is stuck.
        """
        super().reset(seed=seed)
        self._bring_home()
        if self._operator is not None:
            self.station.disarm()  # nothing moves while hands are in the scene
            self._operator.lay_out()
        if self.scene.prepare is not None:
            self.scene.prepare(self.np_random)
        if self.station.observe().lifecycle != Lifecycle.ACTIVE:
            self._arm()
        self._status = self.station.observe()
        self._target, self._elapsed, self._over = self._status.state.position.copy(), 0, False
        self.autonomy.episodes += 1
        return self.observation(), {"success": False, "instruction": self.instruction}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Moves for one period.

        Args:
            action: [width] in [-1, 1]; an operator who intervenes decides instead. An operator's
                "done" ends the episode with success and reward 1, "not done" truncates it.

        Returns:
            Observation, reward, terminated, truncated and an info with `success`; `action`, what
            was executed; `intervened`; `limits`, those that acted; and `broken`, whether the robot
            stopped: such a step must not be learnt from.

        Raises:
            ValueError: the action is not finite or has the wrong shape.
            RuntimeError: the episode is over.
        """
        if self._over:
            raise RuntimeError(f"{self.identity['id']}: the episode is over; call reset() first")
        asked = self._operator.intervention() if self._operator is not None else None
        action = np.asarray(action, np.float32)
        if asked is not None:
            action = np.where(np.isnan(asked), action, asked)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise ValueError(
                f"{self.identity['id']}: an action is finite and {self.action_space.shape}, got "
                f"{action.tolist()}"
            )
        before = self._status
        targets = self.actions.joints(action[None], self._target, self.limits)
        self._move(targets[0])
        self._status = status = self.station.observe()
        self._elapsed += 1
        self.autonomy.steps += 1
        self.autonomy.intervened += asked is not None
        broken = status.lifecycle != Lifecycle.ACTIVE
        if broken:
            self.autonomy.stops += 1
            self.faults.append(f"{self.identity['id']}: {why_broken(status, before)}")
        # what the envelope did not follow is not asked for again at the next step
        self._target = status.sent if status.counts != before.counts else targets[0, : self._joints]
        said = None if self._operator is None or broken else self._operator.verdict()
        success = not broken and self.scene.success is not None and self.scene.success(status)
        terminated = bool(success and self.options.terminate_on_success) or said is True
        success = success or said is True
        truncated = broken or self._elapsed >= self.horizon or (said is False and not terminated)
        self._over = bool(terminated or truncated)
        reward = float(success)
        if self.scene.reward is not None and not broken and not said:
            reward = float(self.scene.reward(status))
        info = {
            "success": bool(success),
            "action": np.clip(action, -1.0, 1.0),
            "intervened": asked is not None,
            "limits": {str(c): k - before.counts.get(c, 0) for c, k in status.counts.items()},
            "broken": bool(broken),
        }
        return self.observation(), reward, terminated, bool(truncated), info

    def render(self) -> np.ndarray:
        """Returns the scene's picture, or the newest one of the first camera.

        Raises:
            RenderError: there is neither.
        """
        if self.scene.picture is not None:
            return self.scene.picture()
        images = self.station.observe().state.images
        if not images:
            raise RenderError(f"{self.identity['id']} has no camera")
        return next(iter(images.values()))[1]

    def close(self) -> None:
        """Gives the robot back; the station stays."""
        if self.station.observe().lifecycle == Lifecycle.ACTIVE:
            self.station.disarm()

    @property
    def _joints(self) -> int:
        return len(self.limits.joints)

    def _move(self, target: np.ndarray) -> None:
        """Hands over the way to a target one period from now, and lets the robot run."""
        late = self.station.now() - self._slot
        self._slot += self._period * max(0, round(late / self._period))  # slots that were missed
        start = np.append(self._target, target[self._joints :])
        # one step more than needed: a late next action must not make the arm brake
        chunk = np.stack([start, target, target])
        self.station.send(chunk, self._slot, self._status.state.stamp)
        self._slot += self._period
        self.station.wait(max(self._slot - self.station.now(), 0.0))

    def _arm(self) -> None:
        """Arms the robot, as soon as it stands."""
        waited = 0.0
        while waited < _REST and np.abs(self.station.observe().state.velocity).max() > STANDING:
            self.station.wait(self._period)
            waited += self._period
        self.station.arm(self._owner)
        self._slot = self.station.now()

    def state_observation(self) -> np.ndarray:
        """Returns the flat state `float32[state_dim]` of this moment."""
        state = self._status.state
        position, rotation = self.limits.chain.tool(state.position)
        parts = [state.position, state.velocity, position, rotation[:, :2].T.ravel()]
        parts.append([state.gripper])
        if self.scene.sense is not None:
            parts.append(self.scene.sense())
        return np.concatenate(parts).astype(np.float32)

    def observation(self) -> Any:
        """Returns the present observation once more."""
        if self._obs == "state":
            return self.state_observation()
        pictures = self._status.state.images
        return {
            "state": self.state_observation(),
            **{f"pixels.{c.name}": pictures[c.name][1] for c in self.station.spec.cameras},
        }

    def _bring_home(self) -> None:
        """Leads the arm home, once it may move; a simulated one that is stuck is freed."""
        self._status = self.station.observe()
        free = self.scene.free
        if free is not None and self._status.latched:
            free()
        self._wait_for_operator()
        if self._status.lifecycle != Lifecycle.ACTIVE:
            self._arm()
        try:
            self._go_home()
        except ResetFailed:
            if free is not None:
                free()
            elif self._status.latched:
                raise
            else:  # the watchdog beside the robot may have disarmed it, which is not told here
                self.station.disarm()
                self.station.wait(_PATIENCE)
            self._arm()
            self._go_home()

    def _wait_for_operator(self) -> None:
        """Waits while the stop is latched; only a person can clear it."""
        waited = 0.0
        self._status = self.station.observe()
        while self._status.latched:
            if waited >= self._patience:
                raise ResetFailed(
                    f"{self.identity['id']}: the stop is latched. Look at the arm, then clear it, "
                    "giving a reason: embodied hardware reset robot=... reason=... "
                    "(`Robot.reset_stop`)"
                )
            time.sleep(_PATIENCE)
            waited += _PATIENCE
            self.station.wait(_PATIENCE)
            self._status = self.station.observe()

    def _go_home(self) -> None:
        """Leads the arm home, slowly, with its gripper open."""
        self._status = self.station.observe()
        start = self._status.state.position.copy()
        slowest = np.abs(self._home - start) / (0.5 * self.limits.velocity)
        steps = max(1, int(np.ceil(slowest.max() / self._period)))
        opening = [self.limits.gripper.opening] if self.limits.gripper is not None else []
        self._target = start
        for k in range(1, steps + 11):
            share = min(k / steps, 1.0)
            goal = start + share * (self._home - start)
            self._move(np.concatenate([goal, opening]))
            self._target = goal
            self._status = self.station.observe()
            off = np.abs(self._status.state.position - self._home).max()
            if share == 1.0 and off < _ARRIVED:
                return
            if self._status.latched:
                break
        raise ResetFailed(
            f"{self.identity['id']}: the arm is {off:.3f} rad from home"
            + ("; its stop is latched" if self._status.latched else " and does not get nearer")
        )


def why_broken(status: Status, before: Status) -> str:
    """Which limits acted in the step that ended an episode, in words."""
    acted = [str(c) for c, k in status.counts.items() if k > before.counts.get(c, 0)]
    what = "its stop latched" if status.latched else "it stopped and must be armed again"
    return f"{what} ({', '.join(acted) or 'nobody said why'})"
