"""The twin of a robosuite or LIBERO scene: its Panda as a robot, its task as an environment.

    embodied deploy policy=RUN robot=robosuite/Lift transport=zenoh

    policy -> OSC action -> joint positions, 100 Hz -> control loop -> envelope -> wire -> driver

`SceneArm` has the observations, actions, instruction, reward and success of the environment that a
policy was trained on. What is beneath differs as it will on an arm: nothing reaches the motors but
joint positions that the safety envelope let through, from another process, in real time. The
environment that the policy's process has is a copy that never moves by itself: it is set to what
the adapter says of the arm, and to what `Bench` says of the objects.
"""

import dataclasses
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from envs.base import UnknownTask
from envs.real_arm import Autonomy, Operator, Station, why_broken
from envs.registry import make, split_id
from envs.robosuite import RobosuiteSim, flatten
from envs.scene_arm_driver import Bench, SceneDriver
from envs.scene_arm_motion import OscMotion
from hardware import robots
from hardware.errors import NotReady
from hardware.limits import Limits, load_limits
from hardware.loop import Timing
from hardware.robot import STANDING
from hardware.robots import Arm
from hardware.types import Camera, Lifecycle

SUITES = ("robosuite", "libero")
RATE = 100.0  # Hz, of commands
TIMING = Timing(1.0 / RATE, fade=0.05)
# The maker's full limits of motion, for in training the arm had none. At 100 N libfranka's own
# impedance controller stops (examples/cartesian_impedance_control.cpp); Door takes 83 N without an
# adapter. An arm as compliant as in training lags when it is pushed, and its controller's goals are
# up to 0.5 rad ahead of it; the force is limited all the same.
LIMITS = {"velocity_share": 1.0, "acceleration_share": 1.0, "force": 100.0, "tracking": 0.4}
_PLANNING = 0.005  # s that it takes to plan a path and hand it over
_AHEAD = 0.2  # s of motion handed over with each action
_LAYING = 120.0  # s that laying out a scene may take
_STILL = 1e-3  # rad; between what the wire and the bench say of an arm at rest


@dataclass(frozen=True)
class SceneRobot(Arm):
    """The Panda of a scene, before anything is connected; `name` is the environment's id.

    Attributes:
        task: options of the task, see `envs.make`.
        bench: memory of the `Bench` that the scene is asked for and told at, or None.
    """

    task: Mapping[str, Any] = field(default_factory=dict)
    bench: Any = None

    @property
    def has_twin(self) -> bool:
        """It is one."""
        return True

    def twin(self, clock: Callable[[], float] = time.monotonic, live: bool = True) -> SceneDriver:
        """Makes the simulation; `live` does not matter, it takes no pictures."""
        env = make(self.name, **self.task)
        _check(env)
        env.reset(seed=0)
        bench = None if self.bench is None else Bench(*self.bench)
        return SceneDriver(self.spec, env, bench=bench, clock=clock)

    def with_options(self, options: Mapping[str, Any]) -> "SceneRobot":
        """The same with the task's own among the options of `envs.make`: pictures are not."""
        shared = inspect.signature(make).parameters
        task = {name: value for name, value in options.items() if name not in shared}
        return dataclasses.replace(self, task=task)

    def beside(self, env: gymnasium.Env) -> "SceneRobot":
        """The same with a bench for the model of an environment, in this process or another."""
        model = env.unwrapped._model
        return dataclasses.replace(self, bench=Bench(model.nq, model.nv).memory)


def find_scene(
    robot: str,
    *,
    limits: Any = None,
    cameras: Sequence[Camera] = (),
    changes: Mapping[str, Any] | None = None,
) -> SceneRobot:
    """Looks up the arm of a scene; see `hardware.robots.find`.

    Raises:
        NoSuchRobot: there is no such scene.
        LimitsError: its limits are wrong.
    """
    try:
        split_id(robot)
    except UnknownTask as error:
        raise robots.NoSuchRobot(str(error)) from error
    chosen = load_limits(limits or "panda", **{**LIMITS, **(changes or {})})
    spec = chosen.spec(str(robot), command_rate=RATE, simulated=True)
    fingers = ("panda_finger_joint1", "panda_finger_joint2")
    return SceneRobot(str(robot), spec, chosen, fingers=fingers)


def offer() -> None:
    """Has `hardware.robots.find` know the scenes."""
    for suite in SUITES:
        robots.offer(suite, find_scene)


def _check(env: gymnasium.Env) -> None:
    """Raises UnknownTask unless the scene has one Panda with its gripper under OSC_POSE."""
    sim = getattr(env.unwrapped, "_sim", None)
    kinds = [
        (robot.name, type(robot.gripper).__name__, robot.controller.name)
        for robot in getattr(sim, "robots", ())
    ]
    fits = len(kinds) == 1 and kinds[0][0].endswith("Panda")  # LIBERO has it on other mounts
    if not fits or kinds[0][1:] != ("PandaGripper", "OSC_POSE"):
        raise UnknownTask(
            f"{env.unwrapped.identity['id']}: the adapter needs one Panda with its gripper under "
            f"OSC_POSE, this has {kinds}"
        )


def draw(env: gymnasium.Env, positions: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    """Returns the scene of an environment's episode as it was: uint8 [*size, 3].

    Args:
        env: of the same task, just reset with the episode's seed.
        positions: `info["scene"]` of a step of the episode.
        size: height and width.
    """
    import mujoco

    env = env.unwrapped
    env._data.qpos[:] = positions
    mujoco.mj_forward(env._model, env._data)
    return env.frame(*size)


class SceneArm(gymnasium.Wrapper):
    """An environment of robosuite or LIBERO whose arm is reached through the hardware adapter.

    A reset has the scene laid out, arm included, as people do with a real one, and arms the robot.
    A latched stop ends the episode with `info["broken"]`; resets then raise until an operator
    clears it. There is no state to save.

    Attributes:
        station: where the robot runs.
        autonomy: how much was done, since this was made.
        faults: the stops that ended episodes, oldest first.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        robot: SceneRobot,
        station: Station,
        *,
        operator: Operator | None = None,
        owner: str = "embodied",
    ) -> None:
        """Takes a connected station.

        Args:
            env: of `envs.make`, wrapped or not; its simulation is only looked at from now on.
            robot: made by `SceneRobot.beside` from that environment.
            station: where that robot runs, with `TIMING`.
            operator: who may take over and says what became of an episode, see `RealArm`.
            owner: who commands, for messages to others.

        Raises:
            UnknownTask: the scene has not one Panda under OSC_POSE.
        """
        super().__init__(env)
        _check(env)
        self.station, self.autonomy, self.faults = station, Autonomy(), []
        self._sim: RobosuiteSim = env.unwrapped
        self._limits, self._bench = robot.limits, Bench(*robot.bench)
        self._owner, self._operator = owner, operator
        self._newest = env.reset(seed=0)[0]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts an episode; see `SimEnv.reset`.

        Raises:
            HardwareError: the stop is latched, or the scene is not there in time.
        """
        self.close_episode()
        self._newest, info = self.env.reset(seed=seed, options=options)
        self._lay_out(info["episode_seed"])
        if self._operator is not None:
            self._operator.lay_out()
        stepping = ArmStepping(self._sim, self.station, self._bench, self._limits)
        self.station.arm(self._owner)
        self._sim.step_by(stepping)
        self.autonomy.episodes += 1
        return self._newest, info

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Moves for one step; see `SimEnv.step`.

        Returns:
            As the environment, with these in `info`: `action`, what was executed; `limits`, how
            often each acted; `broken`, whether the robot stopped; `intervened`, whether an operator
            decided; and `scene`, the simulation's positions, for drawing it later.
        """
        asked = self._operator.intervention() if self._operator is not None else None
        action = np.asarray(action, np.float32)
        if asked is not None:
            action = np.where(np.isnan(asked), action, asked)
        before = self.station.observe()
        self._newest, reward, terminated, truncated, info = self.env.step(action)
        status = self.station.observe()
        broken = status.lifecycle != Lifecycle.ACTIVE
        self.autonomy.steps += 1
        if broken:
            self.autonomy.stops += 1
            self.faults.append(f"{self._sim.identity['id']}: {why_broken(status, before)}")
        said = None if self._operator is None or broken else self._operator.verdict()
        if said is not None:
            terminated, truncated = said, truncated or not said
            info = {**info, "success": said}
        self.autonomy.intervened += asked is not None
        limits = {str(c): k - before.counts.get(c, 0) for c, k in status.counts.items()}
        info = {
            **info,
            "success": bool(info["success"] and not broken),
            "action": np.clip(action, -1.0, 1.0),
            "intervened": asked is not None,
            "limits": {name: count for name, count in limits.items() if count},
            "broken": broken,
            "scene": self._sim._data.qpos.copy(),
        }
        return self._newest, reward, terminated and not broken, bool(truncated or broken), info

    def observation(self) -> Any:
        """Returns the newest observation once more."""
        return self._newest

    def state_observation(self) -> np.ndarray:
        """Returns the flat state `float32[state_dim]`, whatever the observations are."""
        return self._sim.state_observation()

    def close_episode(self) -> None:
        """Gives the robot back, if it has it."""
        if self.station.observe().lifecycle == Lifecycle.ACTIVE:
            self.station.disarm()

    def close(self) -> None:
        """Gives the robot back and closes the environment; the station stays."""
        self.close_episode()
        super().close()

    def _lay_out(self, seed: int) -> None:
        """Has the scene laid out, and waits until the arm is seen to be there, at rest."""
        number, station = self._bench.ask(seed), self.station
        joints = self._sim._sim.robots[0]._ref_joint_pos_indexes
        for _ in range(round(_LAYING / 0.05)):
            station.wait(0.05)
            told, state = self._bench.told(), station.observe().state
            off = np.abs(state.position - told["qpos"][joints]).max()
            moving = np.abs(state.velocity).max()
            if told["number"] == number and off < _STILL and moving < STANDING:
                return
        raise NotReady(f"{self._sim.identity['id']}: the scene was not laid out in {_LAYING:.0f} s")


class ArmStepping:
    """Takes an environment's control steps by its arm; see `RobosuiteSim.step_by`."""

    def __init__(self, env: RobosuiteSim, station: Station, bench: Bench, limits: Limits) -> None:
        """Takes a station at rest, and the environment to be set to what is seen."""
        self._sim, self._station, self._bench = env._sim, station, bench
        self._model, self._data = env._model, env._data
        robot = env._sim.robots[0]
        self._joints, self._dofs = robot._ref_joint_pos_indexes, robot._ref_joint_vel_indexes
        self._opening = limits.gripper.opening
        self._period = 1.0 / env._sim.control_freq
        self._slot: float | None = None  # when the present step began
        status = station.observe()
        self._grip, self._counts = status.state.gripper, status.counts
        planned = robots.slackened(limits)  # a late step can then catch up
        self._motion = OscMotion(
            robot.controller,
            status.state.position,
            velocity=planned.velocity,
            acceleration=planned.acceleration,
            period=1.0 / RATE,
        )
        self._motion.follow(np.zeros(6), 0, 1)  # the first time takes longest
        self._begun = station.now()  # when the path begins

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        """Advances one control step; returns state, reward and the package's `done`."""
        sim, station = self._sim, self._station
        self._hand_over(action)
        self._slot += self._period
        station.wait(max(self._slot - station.now(), 0.0))
        self._look()
        sim.timestep += 1
        sim.cur_time += sim.control_timestep
        sim._update_observables(force=True)
        reward, done, _ = sim._post_action(action)
        return flatten(sim._get_observations()), reward, done

    def _hand_over(self, action: np.ndarray) -> None:
        """Sends the joint positions of the next moments."""
        station, period = self._station, 1.0 / RATE
        status, now = self._look(), station.now()
        self._slot = now if self._slot is None else self._slot
        late = now - self._slot
        self._slot += self._period * max(0, round(late / self._period))  # slots that were missed
        # when the path will be there, and one step on: that is where a command leads
        there = max(0.0, now + _PLANNING - self._slot)
        begin = self._slot + period * (1 + np.ceil(there / period))
        if status.counts != self._counts:  # what was not followed is not asked for again
            self._counts = status.counts
            point = (status.state.stamp + period - self._begun) / period
            self._motion.correct(max(point, 0.0), status.sent, status.sent_velocity)
        since, self._begun = round((begin - self._begun) / period), begin
        joints = self._motion.follow(action[:6], since, round(_AHEAD / period))
        if action[6]:  # only its sign counts, and 0 changes nothing, as in the package
            self._grip = self._opening * float(action[6] < 0.0)
        chunk = np.column_stack([joints, np.full(len(joints), self._grip)])
        station.send(chunk, begin - period, status.state.stamp)

    def _look(self) -> Any:
        """Sets the environment to what the adapter says of the arm and the bench of the rest."""
        import mujoco

        told, status = self._bench.told(), self._station.observe()
        data = self._data
        data.time, data.qpos[:], data.qvel[:] = told["time"], told["qpos"], told["qvel"]
        data.qpos[self._joints] = status.state.position
        data.qvel[self._dofs] = status.state.velocity
        mujoco.mj_forward(self._model, data)
        return status
