"""The package's Meta-World tasks with their slow helpers exchanged, the same to the bit.

`lean_task` returns a task of metaworld 3.1 that computes the same trajectories, observations and
rewards, at a fraction of the Python. The 50 reward functions are the package's own code, untouched.
Exchanged below them are

- `LeanSawyer`, which stands between a task's class and the package's `SawyerXYZEnv`. It overrides
  how a step is taken, how an observation is put together, and how touching and caging are computed;
- `NamedData`, simulation data that looks each name up once;
- the names `Rotation`, `reward_utils`, `tolerance` and `np` in the module that defines the task.

The last happens in a private copy of the task's module (`envs.lean`), so that other users of the
package in this process see nothing of it.
"""

import functools
import inspect
import math
import weakref
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.sawyer_xyz_env import SawyerXYZEnv
from metaworld.utils import reward_utils
from scipy.spatial.transform import Rotation

from envs.lean import altered, lean_tolerance, module_copy

FINGERS = ("rightEndEffector", "leftEndEffector")
DOWNWARD = np.array([1.0, 0.0, 1.0, 0.0])  # the package's orientation of the hand
DOUBLE = np.dtype(np.float64)


class Named:
    """A body, geom, site or joint of the simulation; keeps the arrays that were asked for once.

    MuJoCo's own view of it would keep the simulation alive for ever, through a cycle of references
    that Python's collector cannot see; so it is looked up again for each array.
    """

    def __init__(self, data: weakref.ref, kind: str, name: str) -> None:
        self.__dict__["_find"] = lambda: getattr(mujoco.MjData, kind)(data(), name)

    def __getattr__(self, name: str) -> Any:
        value = self.__dict__[name] = getattr(self._find(), name)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._find(), name, value)


class NamedData(mujoco.MjData):
    """Simulation data that finds each name once; MuJoCo takes microseconds to find it again."""

    def __init__(self, model: mujoco.MjModel) -> None:
        super().__init__(model)
        for kind in ("body", "geom", "site", "joint"):
            setattr(self, kind, functools.cache(functools.partial(Named, weakref.ref(self), kind)))


class LeanSawyer(SawyerXYZEnv):
    """The helpers that all tasks share, written for speed; `step` says what it leaves out."""

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        model, _ = super()._initialize_simulation()
        return model, NamedData(model)

    @functools.cached_property
    def _views(self) -> SimpleNamespace:
        """Views into the simulator's memory, which stays where it is as long as the model lives."""
        model, data = self.model, self.data
        mocap = data.body("mocap")
        return SimpleNamespace(
            hand=data.body("hand").xpos,
            claws=(data.body("rightclaw").xpos, data.body("leftclaw").xpos),
            fingers=tuple(data.site(name).xpos for name in FINGERS),
            pad_positions=(data.body("leftpad").xpos, data.body("rightpad").xpos),
            pads=(model.geom("leftpad_geom").id, model.geom("rightpad_geom").id),
            mocap_pos=data.mocap_pos[0],
            mocap_quat=data.mocap_quat[0],
            mocap_body=mocap.xpos,
            mocap_bounds=_indexed(self.mocap_low, self.mocap_high),
            ctrl=data.ctrl,
            forwarded=False,
        )

    def reset(self, *args: Any, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode, which may move bodies after the last `mj_forward`."""
        self._views.forwarded = False
        return super().reset(*args, **kwargs)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advances one control step with `action: float64[4]` in [-1, 1].

        Left out: clipping the action and counting to the horizon, which `SimEnv` has done; placing
        the target's site, which `mj_forward` computes again from the model before anyone reads it;
        the branch for a simulator exception, which nothing in the package raises; and
        `mj_rnePostConstraint`, whose results nothing in the package reads.
        """
        views = self._views
        *delta, effort = action.tolist()
        views.ctrl[0], views.ctrl[1] = effort, -effort
        position, scale = views.mocap_pos.tolist(), self.action_scale
        for i, low, high in views.mocap_bounds:
            position[i] = min(max(position[i] + delta[i] * scale, low), high)
        views.mocap_pos[:] = position
        self._advance(views)
        self.curr_path_length += 1
        obs = self._observe(self._bounds)
        reward, info = self.evaluate_state(obs, action)
        return obs, reward, False, False, info

    def _advance(self, views: SimpleNamespace) -> None:
        """Steps the simulator, without computing twice what the last step's end has computed.

        `mj_forward`, which the package ends a step with, leaves positions, contacts and velocities
        of the present state, and `mj_step` begins with computing them. Since then only the mocap
        body has moved, by which nothing but the weld is affected: it touches nothing and nothing
        hangs on it. So the first sub-step begins with the constraints.
        """
        model, data = self.model, self.data
        if views.forwarded:
            views.mocap_body[:] = views.mocap_pos
            mujoco.mj_makeConstraint(model, data)
            mujoco.mj_projectConstraint(model, data)
            mujoco.mj_referenceConstraint(model, data)
            mujoco.mj_step2(model, data)
            mujoco.mj_step(model, data, self.frame_skip - 1)
        else:
            views.mocap_quat[:] = DOWNWARD
            mujoco.mj_step(model, data, self.frame_skip)
            views.forwarded = True
        mujoco.mj_forward(model, data)

    @functools.cached_property
    def _bounds(self) -> list[tuple[int, float, float]]:
        """Index, lowest and highest value of the numbers in an observation that are bounded."""
        space = self.sawyer_observation_space
        return [b for b in _indexed(space.low, space.high) if math.isfinite(b[1])]

    def _get_obs(self) -> np.ndarray:
        return self._observe(())

    def _observe(self, bounds: Sequence[tuple[int, float, float]]) -> np.ndarray:
        """Returns `float64[39]`: the present, the last step's and the goal, inside the bounds."""
        values = self._current()
        values += self._prev_obs.tolist()
        values += [0.0, 0.0, 0.0] if self._partially_observable else self._target_pos.tolist()
        for i, low, high in bounds:
            if values[i] < low:
                values[i] = low
            elif values[i] > high:
                values[i] = high
        obs = np.array(values)
        self._prev_obs = obs[:18]
        return obs

    def _get_curr_obs_combined_no_goal(self) -> np.ndarray:
        return np.array(self._current())

    def _current(self) -> list[float]:
        views = self._views
        right, left = views.claws
        between = right - left
        values = views.hand.tolist()
        values.append(min(math.sqrt(between.dot(between)) / 0.1, 1.0))
        position, quaternion = self._get_pos_objects().tolist(), self._get_quat_objects().tolist()
        values += position[:3] + quaternion[:4]
        values += position[3:] + quaternion[4:]  # of a second object, if there is one
        values += [0.0] * (18 - len(values))
        return values

    @property
    def tcp_center(self) -> np.ndarray:
        """The point between the fingers."""
        right, left = self._views.fingers
        return (right + left) / 2.0

    def _gripper_caging_reward(
        self,
        action: np.ndarray,
        obj_pos: np.ndarray,
        obj_radius: float,
        pad_success_thresh: float,
        object_reach_radius: float,
        xz_thresh: float,
        desired_gripper_effort: float = 1.0,
        high_density: bool = False,
        medium_density: bool = False,
    ) -> float:
        """The package's formula, number by number instead of in arrays of two."""
        product, views = hamacher_product, self._views
        (x, y, z), tcp = obj_pos.tolist(), self.tcp_center
        x_start, y_start, z_start = self.obj_init_pos.tolist()
        sides = []
        for pad in views.pad_positions:
            y_pad = pad.item(1)
            margin = abs(abs(y_pad - y_start) - pad_success_thresh)
            bounds = (obj_radius, pad_success_thresh)
            sides.append(tolerance(abs(y_pad - y), bounds, margin, "long_tail"))
        across_start = _norm2(x_start - self.init_tcp.item(0), z_start - self.init_tcp.item(2))
        across = _norm2(tcp.item(0) - x, tcp.item(2) - z)
        level = tolerance(across, (0, xz_thresh), across_start - xz_thresh, "long_tail")
        caging = product(product(*sides), level)
        closed = min(max(0, action[-1]), desired_gripper_effort) / desired_gripper_effort
        reward = product(caging, closed if caging > 0.97 else 0.0)
        if high_density:
            reward = (reward + caging) / 2
        if medium_density:
            margin = abs(norm(self.obj_init_pos - self.init_tcp) - object_reach_radius)
            bounds = (0, object_reach_radius)
            reward = (reward + tolerance(norm(obj_pos - tcp), bounds, margin, "long_tail")) / 2
        return reward

    def touching_object(self, object_geom_id: int) -> bool:
        """Tells whether both pads press on the object."""
        contact = self.data.contact
        pairs = contact.geom.tolist()
        for pad in self._views.pads:
            touching = ([pad, object_geom_id], [object_geom_id, pad])
            rows = [i for i, pair in enumerate(pairs) if pair in touching]
            if not sum(self.data.efc_force[contact.efc_address[rows]]) > 0:
                return False
        return True


def _indexed(low: np.ndarray, high: np.ndarray) -> list[tuple[int, float, float]]:
    return list(zip(range(len(low)), low.tolist(), high.tolist(), strict=True))


def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    """`np.linalg.norm`; for one number or vector by the same product, without the dispatch."""
    if axis is None and not keepdims and (ord is None or ord == 2):
        if isinstance(x, float):
            return np.float64(math.sqrt(x * x))
        if isinstance(x, np.ndarray) and x.ndim == 1 and x.dtype is DOUBLE:
            return np.float64(math.sqrt(x.dot(x)))
    return np.linalg.norm(x, ord, axis, keepdims)


def clip(x: Any, low: Any, high: Any) -> Any:
    """`np.clip`; for one number without the dispatch."""
    return np.float64(min(max(x, low), high)) if isinstance(x, float) else np.clip(x, low, high)


def _norm2(a: float, b: float) -> float:
    pair = np.array((a, b))
    return math.sqrt(pair.dot(pair))


def hstack(parts: Any) -> np.ndarray:
    """`np.hstack`; for vectors what it comes to, without turning each into an array first."""
    if all(isinstance(part, np.ndarray) and part.ndim == 1 for part in parts):
        return np.concatenate(parts)
    return np.hstack(parts)


tolerance = lean_tolerance(reward_utils.tolerance)


def hamacher_product(a: float, b: float) -> float:
    """The package's function; on Python's floats, which are quicker than numpy's."""
    a, b = float(a), float(b)
    if not (0.0 <= a <= 1.0 and 0.0 <= b <= 1.0):
        return reward_utils.hamacher_product(a, b)  # raises
    product = a * b
    divisor = a + b - product
    return product / divisor if divisor > 0 else 0.0


class from_matrix:
    """What stands for a rotation in the tasks: they ask for its quaternion."""

    __slots__ = ("_matrix",)

    def __init__(self, matrix: np.ndarray) -> None:
        self._matrix = matrix

    def as_quat(self) -> np.ndarray:
        """Returns [x, y, z, w]."""
        return quaternion(self._matrix)


def quaternion(matrix: np.ndarray) -> np.ndarray:
    """Returns [x, y, z, w] of `matrix: float64[3, 3]` by scipy's formula, in plain floats.

    As scipy: the largest of the diagonal and the trace decides which component is computed from a
    sum and which from differences. A matrix that is not orthogonal, which scipy first replaces by
    the nearest that is, is left to scipy.
    """
    (a, b, c), (d, e, f), (g, h, i) = matrix.tolist()
    if not (
        abs(a * a + b * b + c * c - 1) < 1e-6
        and abs(d * d + e * e + f * f - 1) < 1e-6
        and abs(g * g + h * h + i * i - 1) < 1e-6
        and abs(a * d + b * e + c * f) < 1e-13
        and abs(a * g + b * h + c * i) < 1e-13
        and abs(d * g + e * h + f * i) < 1e-13
    ):
        return Rotation.from_matrix(matrix).as_quat()
    trace = a + e + i
    largest = max(a, e, i, trace)
    if largest == a:
        q = (1 - trace + 2 * a, d + b, g + c, h - f)
    elif largest == e:
        q = (b + d, 1 - trace + 2 * e, h + f, c - g)
    elif largest == i:
        q = (c + g, f + h, 1 - trace + 2 * i, d - b)
    else:
        q = (h - f, c - g, d - b, 1 + trace)
    x, y, z, w = q
    length = math.sqrt(x * x + y * y + z * z + w * w)
    return np.array((x / length, y / length, z / length, w / length))


EXCHANGED = {
    "np": altered(np, hstack=hstack, clip=clip, linalg=altered(np.linalg, norm=norm)),
    "reward_utils": altered(reward_utils, tolerance=tolerance, hamacher_product=hamacher_product),
    "tolerance": tolerance,
    "Rotation": SimpleNamespace(from_matrix=from_matrix),
}
_copy = functools.cache(functools.partial(module_copy, exchanged=EXCHANGED))


@functools.cache
def lean_task(task: str) -> type[LeanSawyer]:
    """Returns the class of `task`, such as "door-open-v3", with the helpers above."""
    package = ALL_V3_ENVIRONMENTS[task]
    lean = getattr(_copy(package.__module__), package.__name__)
    if lean.__bases__ != (SawyerXYZEnv,):
        raise RuntimeError(
            f"{package.__module__}.{package.__name__} derives from {lean.__bases__}, not from "
            "SawyerXYZEnv; this version of metaworld is not supported, install metaworld 3.1.1"
        )
    lean.__bases__ = (LeanSawyer,)
    # without the check in every step that `set_task` was called
    lean.evaluate_state = inspect.getclosurevars(lean.evaluate_state).nonlocals["func"]
    return lean
