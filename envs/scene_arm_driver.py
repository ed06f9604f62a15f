"""The Panda of a robosuite or LIBERO scene as a `Driver`: joint positions in, joint torques out.

The simulation follows the clock, as the twin's does. The arm's motors are a joint impedance with
the model's own inertia, gravity and Coriolis forces compensated:

    torque = M(q) (a' + 2 w (v' - v) + w^2 (q' - q)) + c(q, v) + g(q)

with q', v', a' the set point and how it moves, and w^2 the stiffness of the package's controller
(150 / s^2). It is critically damped, follows a smooth motion without lag, and gives way to contact
as the arm does under that controller.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from hardware.errors import HardwareError, LinkLost
from hardware.shared import Block
from hardware.types import RobotState, Spec

HAND = "robot0_right_hand"  # the body that the gripper hangs on
SITE = "gripper0_grip_site"
FINGER_SPEED = 0.2  # m/s of opening, as fast as the package's gripper
_COAST = 3.0  # periods that a step goes on for if the next one is late
_BEHIND = 0.5  # s; further behind the clock than this, time is skipped instead of simulated


class Bench:
    """What a simulated scene and whoever uses it tell each other beside the robot's own wire.

    At a real bench these are people, who lay out the objects, and cameras, which see where they
    are. Here it is shared memory: the user asks for an episode by its seed; the scene answers with
    its number and from then on with the simulator's state.

    Attributes:
        memory: to hand to another process, which makes its `Bench` of it.
    """

    def __init__(self, nq: int, nv: int, memory: tuple[Any, Any] = (None, None)) -> None:
        """Makes a bench for a model with `nq` positions and `nv` velocities, or opens one."""
        self._asked = Block({"number": ("i8", ()), "seed": ("i8", ())}, memory[0])
        told = {"number": ("i8", ()), "time": ("f8", ()), "qpos": ("f8", (nq,))}
        self._told = Block({**told, "qvel": ("f8", (nv,))}, memory[1])
        self.memory = nq, nv, (self._asked.memory, self._told.memory)

    def ask(self, seed: int) -> int:
        """Asks for an episode's scene; returns the number that will tell that it is there."""
        number = int(self._asked.read()["number"]) + 1
        self._asked.write(number=number, seed=seed)
        return number

    def asked(self) -> tuple[int, int]:
        """Number and seed of the newest scene that was asked for; number 0 is none."""
        found = self._asked.read()
        return int(found["number"]), int(found["seed"])

    def tell(self, number: int, data: Any) -> None:
        """Tells the state of an `MjData`, and of which scene it is."""
        self._told.write(number=number, time=data.time, qpos=data.qpos, qvel=data.qvel)

    def told(self) -> dict[str, np.ndarray]:
        """Returns `number`, `time` in s, `qpos` and `qvel`, of one moment."""
        return self._told.read()


class SceneDriver:
    """A `Driver` that steps the simulation of one environment of robosuite or LIBERO.

    Attributes:
        spec: of the arm.
    """

    def __init__(
        self,
        spec: Spec,
        env: Any,
        *,
        bench: Bench | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes over the simulation.

        Args:
            spec: of the Panda.
            env: a `RobosuiteSim` with one Panda and its gripper, just reset.
            bench: who asks for scenes and is told their state; None is nobody.
            clock: s; the simulation follows it.
        """
        self.spec, self._env, self._bench, self._clock = spec, env, bench, clock
        self._period = 1.0 / spec.command_rate
        self._lock = threading.RLock()
        self._linked = self._active = False
        self._scene, self._now = 0, clock()
        self._take_over()

    def connect(self) -> None:
        """Begins to follow the clock."""
        with self._lock:
            self._now, self._linked = self._clock(), True

    def activate(self) -> None:
        """Follows set points from now on."""
        with self._lock:
            self._hold()
            self._active = True

    def deactivate(self) -> None:
        """Holds where it comes to rest."""
        with self._lock:
            self._hold()
            self._active = False

    def halt(self) -> None:
        """Brakes at once, as fast as the impedance does."""
        with self._lock:
            self._hold()

    def read(self) -> RobotState:
        """Returns the state now. Lays out the scene first if one is asked for and it is at rest."""
        with self._lock:
            if not self._linked:
                raise LinkLost(f"{self.spec.name}: not connected")
            self._lay_out()
            self._catch_up()
            data = self._data
            if self._bench is not None:
                self._bench.tell(self._scene, data)
            return RobotState(
                self._now,
                data.qpos[self._q],
                data.qvel[self._v],
                data.ctrl[self._motors],
                float(np.abs(data.qpos[self._fingers]).sum()),
                self._wrench(),
            )

    def write(self, position: np.ndarray, velocity: np.ndarray, gripper: float | None) -> None:
        """Moves the set point there within one period."""
        with self._lock:
            if not self._active:
                raise HardwareError(f"{self.spec.name}: not active, the set point stays")
            self._catch_up()
            self._from = self._set_point(self._now)[0]
            self._to, self._begun = np.array(position), self._now
            self._rate = (velocity - self._speed) / self._period
            self._speed = np.array(velocity)
            if gripper is not None:
                self._grip = gripper

    def close(self) -> None:
        """Ends the link."""
        with self._lock:
            self._hold()
            self._linked = self._active = False
            self._env.close()

    def describe(self) -> dict[str, Any]:
        """Returns simulator, scene and stiffness."""
        import mujoco

        return {
            "driver": "scene",
            "mujoco": mujoco.__version__,
            "scene": self._env.identity,
            "timestep": float(self._model.opt.timestep),
            "stiffness": self._frequency**2,
        }

    # ---------------------------------------------------------------- inside

    def _take_over(self) -> None:
        """Finds joints, motors and hand in the model of this episode, and holds the arm."""
        import mujoco

        env, robot = self._env, self._env._sim.robots[0]
        self._model, self._data = model, data = env._model, env._data
        self._frequency = float(np.sqrt(robot.controller.kp[0]))
        self._q = np.array(robot._ref_joint_pos_indexes)
        self._v = np.array(robot._ref_joint_vel_indexes)
        self._motors = np.array(robot._ref_joint_actuator_indexes)
        self._most = model.actuator_ctrlrange[self._motors].T.copy()
        self._fingers = np.array(robot._ref_gripper_joint_pos_indexes)
        self._finger_motors = np.array(robot._ref_joint_gripper_actuator_indexes)
        reach = model.actuator_ctrlrange[self._finger_motors]
        self._open = np.where(np.abs(reach[:, 0]) > reach[:, 1], reach[:, 0], reach[:, 1])
        hand = model.body(HAND).id
        self._hand = [hand]
        for body in range(hand + 1, model.nbody):
            if model.body_parentid[body] in self._hand:
                self._hand.append(body)
        self._site = model.site(SITE).id
        self._inertia, self._block = np.zeros((model.nv, model.nv)), np.ix_(self._v, self._v)
        command = float(np.ravel(robot.gripper.current_action)[0])  # -1 closed to 1 open
        self._spread = self._grip = self._opening * (1.0 + command) / 2.0
        self._pushes, self._pushed = np.zeros(6), 0
        mujoco.mj_step1(model, data)
        self._hold()

    @property
    def _opening(self) -> float:
        return float(np.abs(self._open).sum())

    def _lay_out(self) -> None:
        if self._bench is None or self._active:
            return
        number, seed = self._bench.asked()
        if number != self._scene:
            self._env.reset(seed=seed)
            self._take_over()
            self._scene, self._now = number, self._clock()

    def _catch_up(self) -> None:
        """Simulates up to now."""
        import mujoco

        model, data, now = self._model, self._data, self._clock()
        step = model.opt.timestep
        self._now = max(self._now, now - _BEHIND)
        count = int((now - self._now) / step + 1e-6)
        if count:
            self._pushes, self._pushed = np.zeros(6), count
        for _ in range(count):
            self._now += step
            self._push(self._now)
            mujoco.mj_step2(model, data)
            mujoco.mj_rnePostConstraint(model, data)
            self._pushes += data.cfrc_ext[self._hand].sum(0)
            mujoco.mj_step1(model, data)

    def _set_point(self, now: float) -> tuple[np.ndarray, Any, Any]:
        """Position, velocity and acceleration on the way to what was written last."""
        done = (now - self._begun) / self._period
        way = min(done, _COAST) * (self._to - self._from)
        if done > _COAST:
            return self._from + way, 0.0, 0.0
        return self._from + way, self._speed, self._rate

    def _push(self, now: float) -> None:
        """Sets the motors for the next step."""
        import mujoco

        data, dofs, w = self._data, self._v, self._frequency
        position, speed, rate = self._set_point(now)
        mujoco.mj_fullM(self._model, self._inertia, data.qM)
        wanted = (
            rate + 2.0 * w * (speed - data.qvel[dofs]) + w * w * (position - data.qpos[self._q])
        )
        torque = self._inertia[self._block] @ wanted + data.qfrc_bias[dofs]
        data.ctrl[self._motors] = np.minimum(np.maximum(torque, self._most[0]), self._most[1])
        most = FINGER_SPEED * self._model.opt.timestep
        self._spread += min(max(self._grip - self._spread, -most), most)
        data.ctrl[self._finger_motors] = self._open * (self._spread / self._opening)

    def _hold(self) -> None:
        """Sets the point at which the critically damped arm comes to rest without overshoot."""
        ahead = self._data.qvel[self._v] / self._frequency
        self._from = self._to = self._data.qpos[self._q] + ahead
        self._speed = self._rate = np.zeros(len(self._q))
        self._begun = self._now

    def _wrench(self) -> np.ndarray:
        """What contacts did to hand and fingers together since the last look, [6] about the site.

        The mean, in the world's axes. What the fingers do to each other, as through what they grip,
        is none.
        """
        spatial = self._pushes / max(self._pushed, 1)  # torque, force; about a centre
        centre = self._data.subtree_com[self._model.body_rootid[self._hand[0]]]
        arm = centre - self._data.site_xpos[self._site]
        return np.concatenate([spatial[3:], spatial[:3] + np.cross(arm, spatial[3:])])
