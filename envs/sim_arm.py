"""The twin of a robosuite or LIBERO scene: its Panda behind the hardware contract.

    env = SimArm(envs.make("robosuite/Lift"))   # instead of envs.make("robosuite/Lift")

Observations, pictures, instruction, reward and success are those of the environment, and so is the
action, an OSC pose delta. What is beneath differs as it will on a real arm: nothing reaches the
motors but joint positions that the safety envelope let through.

    policy -> action -> OscMotion -> joint positions, 100 Hz -> control loop -> envelope -> driver

`OscMotion` is what the package's controller would do in free space; the driver holds the joints
where they were sent, with gravity compensation, within their effort limits. An arm that is
position controlled, as a Panda by ros2_control is, thus moves as the policy was trained to expect.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np

from envs.base import UnknownTask
from envs.robosuite import RobosuiteSim, flatten
from hardware.kinematics import Chain, rotation_of, turn
from hardware.latch import Latch
from hardware.limits import Limits, load_limits
from hardware.loop import LocalLoop, Timing
from hardware.robot import Robot
from hardware.twin import MujocoTwin
from hardware.types import Camera, Lifecycle

JOINTS = tuple(f"robot0_joint{i}" for i in range(1, 8))
FINGERS = ("gripper0_finger_joint1", "gripper0_finger_joint2")
FINGER_SPEED = 0.1  # m/s, as fast as the package's gripper opens and closes
RATE = 100.0  # Hz, of commands
_INTEGRATION = 5  # steps of the motion per command
LEAD, LEAD_TURN = 0.03, 0.15  # m, rad; how far the motion may be ahead of the arm, as in contact


class SimDriver(MujocoTwin):
    """A `Driver` of the Panda in a robosuite or LIBERO simulation, which it steps."""

    def __init__(
        self,
        env: RobosuiteSim,
        limits: Limits,
        name: str,
        *,
        cameras: tuple[Camera, ...] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes over the simulation until the environment's next reset.

        Args:
            env: just reset.
            limits: of a Panda.
            name: of the robot.
            cameras: of the scene, by the package's names.
            clock: s; the simulation follows it.

        Raises:
            HardwareError: the scene's robot is not one Panda, or lacks a camera.
        """
        super().__init__(
            limits.spec(name, cameras=cameras, command_rate=RATE, simulated=True),
            env._model,
            data=env._data,
            joints=JOINTS,
            fingers=FINGERS,
            tool="gripper0_grip_site",
            clock=clock,
            live=False,
        )
        self.scene_option = env._scene_option()
        motors = [self.model.actuator(f"gripper0_gripper_{f[9:]}").id for f in FINGERS]
        self._fingers = np.array(motors)
        self._grip = float(np.abs(self.data.qpos[self._q[self._arm.stop :]]).sum())
        self.data.ctrl[:] = 0.0  # the arm's own motors rest
        self._spread = self._grip
        self._push_fingers()

    def _push_fingers(self) -> None:
        most = FINGER_SPEED * 2.0 * self.model.opt.timestep
        self._spread += min(max(self._grip - self._spread, -most), most)
        self.data.ctrl[self._fingers] = self._spread / 2.0, -self._spread / 2.0

    def close(self) -> None:
        """Ends the link and takes the hands off the simulation."""
        super().close()
        self.data.qfrc_applied[:] = 0.0


class OscMotion:
    """Where an operational-space controller's gripper goes in free space.

    A goal is the pose at the beginning of the action plus its delta; pose x and goal g obey
    x'' = kp (g - x) - kd x', in each direction by itself, for the controller decouples them. Where
    something holds the arm up, the pose waits for it: the package's goals begin at the measured
    pose too, so that pressing does not wind up.
    """

    def __init__(self, controller: Any, chain: Chain, base: np.ndarray, joints: np.ndarray) -> None:
        """Begins at rest.

        Args:
            controller: the package's, of OSC_POSE, for its gains and scales.
            chain: the arm's, with the same tool.
            base: [3, 3], the arm's base in the world.
            joints: rad, [n].
        """
        self._kp = np.broadcast_to(controller.kp, 6).astype(float)
        self._kd = np.broadcast_to(controller.kd, 6).astype(float)
        self._scale = np.asarray(controller.output_max, float)
        self._chain, self._base = chain, base
        self._velocity = np.zeros(6)
        self.begin(joints)

    def begin(self, joints: np.ndarray) -> None:
        """Goes on from joint positions, rad, [n], with the present velocity of the gripper."""
        self._joints = np.array(joints, float)
        self._position, self._rotation = self._chain.tool(self._joints)

    def follow(
        self, action: np.ndarray, measured: np.ndarray, steps: int, period: float, limits: Limits
    ) -> np.ndarray:
        """Joint positions, rad, [steps + 1, n], `period` s apart; the last one is for lateness.

        Args:
            action: [6], in [-1, 1].
            measured: rad, [n], where the arm is.
            steps: of the action.
            period: s.
            limits: of the arm.
        """
        self._wait_for(measured)
        delta = (self._scale * action).reshape(2, 3) @ self._base  # in the base's axes
        goal, facing = self._position + delta[0], rotation_of(delta[1]) @ self._rotation
        found, step = [], period / _INTEGRATION
        for _ in range(steps):
            for _ in range(_INTEGRATION):
                way = np.concatenate([goal - self._position, turn(self._rotation, facing)])
                self._velocity += step * (self._kp * way - self._kd * self._velocity)
                self._position = self._position + step * self._velocity[:3]
                self._rotation = rotation_of(step * self._velocity[3:]) @ self._rotation
            found.append(self._solve(limits))
        return np.stack([*found, found[-1]])

    def _wait_for(self, measured: np.ndarray) -> None:
        position, rotation = self._chain.tool(measured)
        lead, ahead = self._position - position, turn(rotation, self._rotation)
        lead *= LEAD / max(float(np.linalg.norm(lead)), LEAD)
        ahead *= LEAD_TURN / max(float(np.linalg.norm(ahead)), LEAD_TURN)
        self._position, self._rotation = position + lead, rotation_of(ahead) @ rotation

    def _solve(self, limits: Limits) -> np.ndarray:
        chain = self._chain
        self._joints, off = chain.solve(
            self._position, self._rotation, self._joints, limits.lower, limits.upper, iterations=5
        )
        if off > 0.02:  # out of reach
            self.begin(self._joints)
        return self._joints


class ArmStepping:
    """Control steps of an environment, taken by its arm's station; see `RobosuiteSim.step_by`."""

    def __init__(
        self, env: RobosuiteSim, station: LocalLoop, motion: OscMotion, limits: Limits
    ) -> None:
        """Takes an armed station and the motion that begins where the arm is."""
        self._sim, self._station, self._motion, self._limits = env._sim, station, motion, limits
        self._grip = station.observe().state.gripper
        self._steps = round(RATE / env._sim.control_freq)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        """Advances one control step; returns state, reward and the package's `done`."""
        sim, station = self._sim, self._station
        state = station.observe().state
        joints = self._motion.follow(
            action[:6], state.position, self._steps, 1.0 / RATE, self._limits
        )
        if action[6]:  # only its sign counts, and 0 changes nothing, as in the package
            self._grip = self._limits.gripper.opening * float(action[6] < 0.0)
        chunk = np.column_stack([joints, np.full(len(joints), self._grip)])
        station.send(chunk, station.now() + 1.0 / RATE, state.stamp)
        station.wait(self._steps / RATE)
        sim.timestep += 1
        sim.cur_time += sim.control_timestep
        sim._update_observables(force=True)
        reward, done, _ = sim._post_action(action)
        return flatten(sim._get_observations()), reward, done


class SimArm(gymnasium.Wrapper):
    """An environment of robosuite or LIBERO whose arm is moved through the hardware adapter.

    A reset puts the simulation back as the environment does, which on a real arm people do; then a
    new link is made. `info` of a step has `limits`, how often each acted, and `broken` if the stop
    latched: the episode is then over, and resets raise until an operator clears it
    (`Robot.reset_stop`).

    Attributes:
        limits: what the envelope enforces.
        station: the control loop of this episode.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        *,
        limits: Limits | None = None,
        latch: Latch | None = None,
        cameras: tuple[Camera, ...] = (),
    ) -> None:
        """Takes an environment.

        Args:
            env: of `envs.make`, with one Panda under OSC_POSE.
            limits: of the arm; by default those of `load_limits("panda")`.
            latch: by default the one under the robot's name on this machine.
            cameras: what the driver takes pictures with, beside the environment's own.

        Raises:
            UnknownTask: its robot or controller is another.
        """
        super().__init__(env)
        self._env: RobosuiteSim = env.unwrapped
        robots = getattr(getattr(self._env, "_sim", None), "robots", ())
        kinds = [(robot.name, robot.controller.name) for robot in robots]
        # LIBERO has Pandas on other mounts
        if len(kinds) != 1 or not kinds[0][0].endswith("Panda") or kinds[0][1] != "OSC_POSE":
            raise UnknownTask(f"the adapter needs one Panda under OSC_POSE, this has {kinds}")
        self._name = self._env.identity["id"].replace("/", " ") + " twin"
        self._latch, self._cameras = latch or Latch(self._name), cameras
        given = limits or load_limits("panda")
        self.limits = replace(given, chain=self._chain(given.chain))
        self.station: LocalLoop | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts an episode; see `SimEnv.reset`.

        Raises:
            Latched: the stop is latched.
        """
        self._leave()
        observation, info = self.env.reset(seed=seed, options=options)
        self.station = LocalLoop(self._robot, Timing(1.0 / RATE, fade=0.0))
        self.station.arm("policy")
        joints = self.station.observe().state.position
        base = self._env._data.body("robot0_base").xmat.reshape(3, 3)
        controller = self._env._sim.robots[0].controller
        motion = OscMotion(controller, self.limits.chain, base, joints)
        self._counts: dict[str, int] = {}
        self._env.step_by(ArmStepping(self._env, self.station, motion, self.limits))
        return observation, info

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Takes one control step through the adapter; `action` is the environment's own."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        status = self.station.observe()
        counts = {str(cause): count for cause, count in status.counts.items() if count}
        new = {name: count - self._counts.get(name, 0) for name, count in counts.items()}
        info = {**info, "limits": {name: count for name, count in new.items() if count}}
        self._counts = counts
        if status.lifecycle != Lifecycle.ACTIVE:
            info["broken"], truncated = True, True
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Ends the link and closes the environment."""
        self._leave()
        super().close()

    def _leave(self) -> None:
        if self.station is not None:
            self.station.close()
            self.station = None

    def _robot(self, clock: Callable[[], float]) -> Robot:
        driver = SimDriver(self._env, self.limits, self._name, cameras=self._cameras, clock=clock)
        return Robot(driver, self.limits, latch=self._latch, clock=clock)

    def _chain(self, chain: Chain) -> Chain:
        """The same arm with the tool where the package's controller has it."""
        data = self._env._data
        length = np.linalg.norm(
            data.site("gripper0_grip_site").xpos - data.body("robot0_link7").xpos
        )
        return chain.with_tool((0.0, 0.0, float(length)))
