"""A simulated arm behind a robot's contract, at 1 kHz inside.

The twin follows the clock: whoever reads or writes lets the simulation catch up with now. So it
needs no thread, a test turns its clock by hand, and it runs as fast as it is asked. Joints follow
their set point as a stiff controller with gravity compensation would, within their effort limits;
between two commands the set point moves on a straight line.
"""

import contextlib
import ctypes.util
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hardware.errors import HardwareError, LinkLost
from hardware.limits import Limits, load_limits
from hardware.types import Camera, RobotState, Spec

MODELS = Path(__file__).parent / "models"
HOME = (0.0, -0.3, 0.0, -2.2, 0.0, 2.0, 0.785398)
_BEHIND = 1.0  # s; further behind the clock than this, time is skipped instead of simulated
_FREQUENCY = 40.0  # rad/s, of each joint's critically damped loop
_FINGER = (4000.0, 400.0)  # N/m, N s/m
_MARK = np.array([0.1, 0.7, 0.3, 0.7], np.float32)  # colour


class MujocoTwin:
    """A `Driver` over any MuJoCo model that has the arm's joints.

    Attributes:
        spec: of the arm.
        model: the `mujoco.MjModel`.
        data: its `mujoco.MjData`; objects may be placed in it before activation.
    """

    def __init__(
        self,
        spec: Spec,
        model: Any,
        *,
        data: Any = None,
        joints: Sequence[str] | None = None,
        fingers: Sequence[str] = (),
        tool: str = "tool",
        home: Sequence[float] | None = None,
        clock: Callable[[], float] = time.monotonic,
        live: bool = True,
    ) -> None:
        """Takes a model.

        Args:
            spec: the arm's joints, gripper and cameras.
            model: a compiled `mujoco.MjModel`; the model's own actuators are left alone.
            data: its state; by default a new one.
            joints: their names in the model, in the order of `spec`; by default the same names.
            fingers: the gripper's slide joints.
            tool: a site of the model; forces on its body and what hangs on it are the wrench.
            home: joint positions to begin at, rad; by default those in `data`.
            clock: s.
            live: cameras take pictures in a thread of their own; otherwise `read` takes them, which
                blocks for as long as that lasts.

        Raises:
            HardwareError: the model lacks a joint, the tool or a camera.
        """
        mujoco = import_mujoco()
        self.spec, self.model, self._clock, self._live = spec, model, clock, live
        self.data = mujoco.MjData(model) if data is None else data
        joints = spec.names if joints is None else list(joints)
        self._q, self._v = self._addresses([*joints, *fingers])
        self._arm = slice(0, len(joints))
        self._angles, self._dofs = self._q[self._arm], self._v[self._arm]
        self._effort = np.array([joint.effort for joint in spec.joints])
        self._site = self._find(mujoco.mjtObj.mjOBJ_SITE, tool)
        self._tool_bodies = self._below(int(model.site_bodyid[self._site]))
        for camera in spec.cameras:
            self._find(mujoco.mjtObj.mjOBJ_CAMERA, camera.name)
        if home is not None:
            self.data.qpos[self._q[self._arm]] = home
        mujoco.mj_forward(model, self.data)
        inertia = _inertia(model, self.data)[self._v[self._arm]]
        self._gains = inertia * _FREQUENCY**2, 2.0 * inertia * _FREQUENCY
        self._lock = threading.RLock()
        self._linked = self._active = False
        self._period = 1.0 / spec.command_rate
        self._from = self._to = self.data.qpos[self._q[self._arm]].copy()
        self._begun = self._now = clock()
        self._grip = spec.gripper.opening if spec.gripper else 0.0
        self._pictures = _Pictures(self)

    # ---------------------------------------------------------------- Driver

    def connect(self) -> None:
        """Begins to follow the clock."""
        with self._lock:
            self._now, self._linked = self._clock(), True
        if self._live:
            self._pictures.start()

    def activate(self) -> None:
        """Follows set points from now on."""
        with self._lock:
            self._hold()
            self._active = True

    def deactivate(self) -> None:
        """Holds where it is."""
        with self._lock:
            self._hold()
            self._active = False

    def halt(self) -> None:
        """Holds at once where it is; effort limits are all that bounds the deceleration."""
        with self._lock:
            self._hold()

    def read(self) -> RobotState:
        """Returns the state now."""
        import mujoco

        with self._lock:
            self._catch_up()
            q, v = self.data.qpos[self._q], self.data.qvel[self._v]
            mujoco.mj_rnePostConstraint(self.model, self.data)
            images = self._pictures.newest if self._live else self._pictures.take()
            return RobotState(
                self._now,
                q[self._arm],
                v[self._arm],
                self.data.qfrc_applied[self._v[self._arm]],
                float(q[self._arm.stop :].sum()),
                self._wrench(),
                images,
            )

    def write(self, position: np.ndarray, velocity: np.ndarray, gripper: float | None) -> None:
        """Moves the set point there within one period."""
        with self._lock:
            if not self._active:
                raise HardwareError(f"{self.spec.name}: not active, the set point stays")
            self._catch_up()
            self._from, self._to = self._set_point(self._now)[0], np.array(position)
            self._begun = self._now
            if gripper is not None:
                self._grip = gripper

    def close(self) -> None:
        """Ends the link; the arm goes on holding."""
        self._pictures.stop()
        with self._lock:
            self._hold()
            self._linked = self._active = False

    def describe(self) -> dict[str, Any]:
        """Returns simulator and step."""
        import mujoco

        return {
            "driver": "mujoco",
            "mujoco": mujoco.__version__,
            "timestep": float(self.model.opt.timestep),
        }

    # ---------------------------------------------------------------- only a simulation can

    def place(self, position: np.ndarray, gripper: float | None = None) -> None:
        """Puts the arm somewhere at rest, as nobody can put a real one.

        Args:
            position: rad, [n].
            gripper: m of opening, or None to leave it.
        """
        import mujoco

        with self._lock:
            self.data.qpos[self._q[self._arm]] = position
            self.data.qvel[self._v] = 0.0
            fingers = self._q[self._arm.stop :]
            if gripper is not None and len(fingers):
                self.data.qpos[fingers], self._grip = gripper / len(fingers), gripper
            mujoco.mj_forward(self.model, self.data)
            self._hold()

    def picture(
        self, camera: Camera, marks: Sequence[Sequence[float]] = (), radius: float = 0.015
    ) -> np.ndarray:
        """Draws the scene now, for a person: uint8 [height, width, 3].

        Args:
            camera: which, and how large.
            marks: m, points in the world that are drawn as balls.
            radius: m, of the balls.

        Raises:
            HardwareError: nothing can be drawn here.
        """
        with self._lock:
            return self._pictures.draw(camera, self.data, marks, radius)

    # ---------------------------------------------------------------- inside

    def _catch_up(self) -> None:
        """Simulates up to now."""
        import mujoco

        if not self._linked:
            raise LinkLost(f"{self.spec.name}: not connected")
        now, step = self._clock(), self.model.opt.timestep
        self._now = max(self._now, now - _BEHIND)
        for _ in range(int((now - self._now) / step + 1e-6)):
            self._now += step
            self._push(*self._set_point(self._now))
            mujoco.mj_step2(self.model, self.data)
            mujoco.mj_step1(self.model, self.data)

    def _set_point(self, now: float) -> tuple[np.ndarray, np.ndarray | float]:
        """Position and velocity at a moment on the way to what was written last."""
        done = (now - self._begun) / self._period
        if done >= 1.0:
            return self._to, 0.0
        way = self._to - self._from
        return self._from + done * way, way / self._period

    def _push(self, position: np.ndarray, velocity: np.ndarray | float) -> None:
        """Sets the joints' efforts for the next step."""
        data, dofs = self.data, self._dofs
        stiffness, damping = self._gains
        effort = stiffness * (position - data.qpos[self._angles])
        effort += damping * (velocity - data.qvel[dofs]) + data.qfrc_bias[dofs]
        np.maximum(effort, -self._effort, out=effort)  # np.clip costs more than all the rest
        data.qfrc_applied[dofs] = np.minimum(effort, self._effort, out=effort)
        if len(self._q) > self._arm.stop:
            fingers = slice(self._arm.stop, None)
            count = len(self._q) - self._arm.stop
            error = self._grip / count - np.abs(data.qpos[self._q[fingers]])
            force = _FINGER[0] * error - _FINGER[1] * data.qvel[self._v[fingers]]
            most = self.spec.gripper.effort
            force = np.minimum(np.maximum(force, -most), most)
            data.qfrc_applied[self._v[fingers]] = force

    def _hold(self) -> None:
        """Sets the point at which the critically damped loop comes to rest without overshoot."""
        ahead = self.data.qvel[self._dofs] / _FREQUENCY
        self._from = self._to = self.data.qpos[self._angles] + ahead

    def _wrench(self) -> np.ndarray:
        """What contacts do to the tool, in the world's axes, about the tool's site: [6]."""
        spatial = self.data.cfrc_ext[self._tool_bodies].sum(0)  # torque, force; about a centre
        centre = self.data.subtree_com[self.model.body_rootid[self._tool_bodies[0]]]
        arm = centre - self.data.site_xpos[self._site]
        return np.concatenate([spatial[3:], spatial[:3] + np.cross(arm, spatial[3:])])

    def _addresses(self, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        import mujoco

        ids = [self._find(mujoco.mjtObj.mjOBJ_JOINT, name) for name in names]
        return self.model.jnt_qposadr[ids].copy(), self.model.jnt_dofadr[ids].copy()

    def _find(self, kind: Any, name: str) -> int:
        import mujoco

        found = mujoco.mj_name2id(self.model, kind, name)
        if found < 0:
            what = kind.name.removeprefix("mjOBJ_").lower()
            raise HardwareError(f"{self.spec.name}: the model has no {what} {name!r}")
        return found

    def _below(self, body: int) -> list[int]:
        found = [body]
        for other in range(body + 1, self.model.nbody):
            if self.model.body_parentid[other] in found:
                found.append(other)
        return found


class _Pictures:
    """Takes a twin's pictures at their rates, beside the simulation."""

    def __init__(self, twin: MujocoTwin) -> None:
        self._twin = twin
        self.newest: dict[str, tuple[float, np.ndarray]] = {}
        self._renderers: dict[tuple[int, int], Any] = {}
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def start(self) -> None:
        if self._twin.spec.cameras and self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, daemon=True, name="twin cameras")
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        else:
            self._free()

    def _run(self) -> None:
        with contextlib.closing(_Freed(self)):
            fastest = max(camera.rate for camera in self._twin.spec.cameras)
            while not self._stop.wait(0.25 / fastest):
                self.take()

    def take(self) -> dict[str, tuple[float, np.ndarray]]:
        """Takes the pictures that are due, of one moment."""
        now = self._twin._clock()
        due = [c for c in self._twin.spec.cameras if self._is_due(c, now)]
        if due:
            stamp, data = self._moment()
            taken = {camera.name: (stamp, self.draw(camera, data)) for camera in due}
            self.newest = {**self.newest, **taken}
        return self.newest

    def _is_due(self, camera: Camera, now: float) -> bool:
        last = self.newest.get(camera.name)
        return last is None or now - last[0] >= 1.0 / camera.rate

    def _moment(self) -> tuple[float, Any]:
        import mujoco

        twin = self._twin
        data = mujoco.MjData(twin.model)
        with twin._lock:
            data.qpos[:], stamp = twin.data.qpos, twin._now
            data.mocap_pos[:], data.mocap_quat[:] = twin.data.mocap_pos, twin.data.mocap_quat
        mujoco.mj_kinematics(twin.model, data)
        mujoco.mj_camlight(twin.model, data)
        return stamp, data

    def draw(
        self, camera: Camera, data: Any, marks: Sequence[Sequence[float]] = (), radius: float = 0.0
    ) -> np.ndarray:
        import mujoco

        size = (camera.height, camera.width)
        if size not in self._renderers:
            try:
                self._renderers[size] = mujoco.Renderer(self._twin.model, *size)
            except Exception as error:  # each GL backend raises its own type
                raise HardwareError(f"no picture can be drawn: {error}") from error
        renderer = self._renderers[size]
        renderer.update_scene(data, camera.name)
        for mark in marks:
            ball = renderer.scene.geoms[renderer.scene.ngeom]
            sphere, around = mujoco.mjtGeom.mjGEOM_SPHERE, np.eye(3).ravel()
            mujoco.mjv_initGeom(ball, sphere, np.full(3, radius), np.array(mark), around, _MARK)
            renderer.scene.ngeom += 1
        return renderer.render()

    def _free(self) -> None:
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()


class _Freed:
    """Frees renderers in the thread that made them."""

    def __init__(self, pictures: _Pictures) -> None:
        self._pictures = pictures

    def close(self) -> None:
        self._pictures._free()


def _inertia(model: Any, data: Any) -> np.ndarray:
    import mujoco

    full = np.zeros((model.nv, model.nv))
    mujoco.mj_fullM(model, full, data.qM)
    return np.diag(full).copy()


def import_mujoco() -> Any:
    """Imports the simulator; on a Linux without a screen it draws by EGL unless MUJOCO_GL is set.

    Raises:
        HardwareError: it is not installed.
    """
    without_screen = sys.platform == "linux" and not os.environ.get("DISPLAY")
    if without_screen and "mujoco" not in sys.modules and ctypes.util.find_library("EGL"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        import mujoco
    except ImportError as error:
        raise HardwareError('a twin needs mujoco: pip install "embodied[twin]"') from error
    return mujoco


def panda_twin(
    name: str = "panda twin",
    *,
    limits: Limits | None = None,
    cameras: Sequence[Camera] = (),
    command_rate: float = 100.0,
    clock: Callable[[], float] = time.monotonic,
    live: bool = True,
) -> MujocoTwin:
    """Makes the twin of a Panda on a bench with one cube.

    Args:
        name: of the robot.
        limits: of the arm; by default those of `load_limits("panda")`.
        cameras: of "wrist" and "front".
        command_rate: Hz.
        clock: s.
        live: see `MujocoTwin`.
    """
    mujoco = import_mujoco()
    limits = limits or load_limits("panda")
    spec = limits.spec(name, cameras=tuple(cameras), command_rate=command_rate, simulated=True)
    model = mujoco.MjModel.from_xml_path(str(MODELS / "panda_table.xml"))
    fingers = ("panda_finger_joint1", "panda_finger_joint2")
    return MujocoTwin(spec, model, fingers=fingers, home=HOME, clock=clock, live=live)
