"""The package's Meta-World tasks with their slow helpers exchanged, the same to the bit.

`lean_task` returns a task of metaworld 3.1 that makes the same simulator calls in the same order
and computes the same observations and rewards, at a fraction of the Python. The 50 reward functions
are the package's own code, untouched. Two things are exchanged below them:

- `LeanSawyer` stands between a task's class and the package's `SawyerXYZEnv`. It overrides how an
  observation is put together, how touching and caging are computed, and how names are looked up.
- the names `Rotation`, `reward_utils`, `tolerance` and `np` in the module that defines the task.

Both happen in a private copy of the task's module (`envs.lean`), so that other users of the package
in this process see nothing of it.
"""

import functools
import math
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


class LeanSawyer(SawyerXYZEnv):
    """The helpers that all tasks share, written for speed; `step` says what it leaves out."""

    @functools.cached_property
    def _views(self) -> SimpleNamespace:
        """Views into the simulator's memory, which stays where it is as long as the model lives."""
        model, data = self.model, self.data
        body = functools.cache(lambda name: data.xpos[model.body(name).id])
        site = functools.cache(lambda name: data.site_xpos[model.site(name).id])
        geom = functools.cache(lambda name: model.geom(name).id)
        return SimpleNamespace(
            body=body,
            site=site,
            hand=body("hand"),
            claws=(body("rightclaw"), body("leftclaw")),
            fingers=tuple(map(site, FINGERS)),
            pad_positions=(body("leftpad"), body("rightpad")),
            pads=(geom("leftpad_geom"), geom("rightpad_geom")),
            mocap_pos=data.mocap_pos[0],
            mocap_quat=data.mocap_quat[0],
            ctrl=data.ctrl,
        )

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advances one control step with `action: float64[4]` in [-1, 1].

        Left out: clipping the action and counting to the horizon, which `SimEnv` has done; placing
        the target's site, which `mj_forward` computes again from the model before anyone reads it;
        and the branch for a simulator exception, which nothing in the package raises.
        """
        views = self._views
        position = views.mocap_pos + action[:3] * self.action_scale
        np.minimum(np.maximum(position, self.mocap_low), self.mocap_high, out=views.mocap_pos)
        views.mocap_quat[:] = DOWNWARD
        views.ctrl[0], views.ctrl[1] = action[3], -action[3]
        mujoco.mj_step(self.model, self.data, self.frame_skip)
        mujoco.mj_rnePostConstraint(self.model, self.data)
        mujoco.mj_forward(self.model, self.data)
        self.curr_path_length += 1
        obs, space = self._get_obs(), self.sawyer_observation_space
        np.minimum(np.maximum(obs, space.low, out=obs), space.high, out=obs)
        reward, info = self.evaluate_state(obs, action)
        return obs, reward, False, False, info

    def _get_obs(self) -> np.ndarray:
        current = self._get_curr_obs_combined_no_goal()
        goal = np.zeros(3) if self._partially_observable else self._get_pos_goal()
        obs = np.concatenate((current, self._prev_obs, goal))
        self._prev_obs = current
        return obs

    def _get_curr_obs_combined_no_goal(self) -> np.ndarray:
        right, left = self._views.claws
        between = right - left
        obs = np.zeros(4 + self._obs_obj_max_len)
        obs[:3] = self._views.hand
        obs[3] = min(math.sqrt(between.dot(between)) / 0.1, 1.0)
        position, quaternion = self._get_pos_objects(), self._get_quat_objects()
        for i in range(len(position) // 3):
            at = 4 + 7 * i
            obs[at : at + 3] = position[3 * i : 3 * i + 3]
            obs[at + 3 : at + 7] = quaternion[4 * i : 4 * i + 4]
        return obs

    def get_body_com(self, body_name: str) -> np.ndarray:
        """Returns the view of a body's position."""
        return self._views.body(body_name)

    def _get_site_pos(self, site_name: str) -> np.ndarray:
        return self._views.site(site_name).copy()

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
        product, views = reward_utils.hamacher_product, self._views
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


def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    """`np.linalg.norm`; for one vector of doubles by the same product, without the dispatch."""
    plain = ord in (None, 2) and axis is None and not keepdims
    if plain and isinstance(x, np.ndarray) and x.ndim == 1 and x.dtype is DOUBLE:
        return np.float64(math.sqrt(x.dot(x)))
    return np.linalg.norm(x, ord, axis, keepdims)


def _norm2(a: float, b: float) -> float:
    pair = np.array((a, b))
    return math.sqrt(pair.dot(pair))


def hstack(parts: Any) -> np.ndarray:
    """`np.hstack`; for vectors what it comes to, without turning each into an array first."""
    if all(isinstance(part, np.ndarray) and part.ndim == 1 for part in parts):
        return np.concatenate(parts)
    return np.hstack(parts)


tolerance = lean_tolerance(reward_utils.tolerance)


def from_matrix(matrix: np.ndarray) -> SimpleNamespace:
    """Stands for `Rotation.from_matrix`: what it returns has `as_quat()`."""
    return SimpleNamespace(as_quat=lambda: quaternion(matrix))


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
    "np": altered(np, hstack=hstack, linalg=altered(np.linalg, norm=norm)),
    "reward_utils": altered(reward_utils, tolerance=tolerance),
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
    return lean
