"""robosuite (Zhu et al. 2020, arXiv 2009.12293): its tasks with any of its robots and controllers.

Version 1.4 and 1.5 differ in how controllers are configured; trajectories of the two do not compare
(`envs.describe` names the version).
"""

import contextlib
import importlib.metadata
import logging
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from envs.base import Diverged, EnvsError, Options, Step
from envs.physics import MujocoSimEnv, load_simulator, owned_array

CONTROL_STEPS = 500  # of robosuite's own benchmark (section 5 of the paper)
CONTROLLERS = ("OSC_POSE", "OSC_POSITION", "JOINT_POSITION", "JOINT_VELOCITY", "JOINT_TORQUE")
STEPPING = ("lean", "package")
_PLACEMENT_TRIES = 100

# The package's objects that hold numbers which change in an episode; models and simulators do not.
_FOLLOWED = (
    "robosuite.robots.",
    "robosuite.controllers.",
    "robosuite.models.grippers.",
    "robosuite.utils.buffers",
    "robosuite.utils.observables",
)
# What a picture depends on. MuJoCo computes it before it integrates, so it lags the state by one
# simulation step, and is not what mj_forward makes of that state.
_VIEW = "xpos xmat xquat geom_xpos geom_xmat site_xpos site_xmat cam_xpos cam_xmat light_xpos"
_VIEW = (*_VIEW.split(), "light_xdir")
_LOOK = ("geom_rgba", "site_rgba")  # fields of the model that tasks edit to show progress


class PlacementError(EnvsError, RuntimeError):
    """The package did not find a place for every object."""


class RobosuiteSim(MujocoSimEnv):
    """What robosuite's own tasks and LIBERO's share; state is `[object-state, robot states]`."""

    default_camera = "agentview"
    metadata = {**MujocoSimEnv.metadata, "render_fps": 20}  # noqa: RUF012 (gymnasium's name)

    def _adopt(self, sim: Any, stepping: str) -> None:
        """Takes over an environment of the package; adapters call this once.

        The package rebuilds everything at each reset. This is kept, for it makes a reset
        independent of earlier episodes, except for compiling a model that did not change.
        """
        self._sim = sim
        self._wanted = stepping
        self._lean: Any = None
        self._compile = sim._initialize_sim
        sim._initialize_sim = self._initialize_sim
        sim._destroy_sim = lambda: None
        self._bind_compiled(sim.model.get_xml())

    def _bind_compiled(self, xml: str) -> None:
        self._xml = xml
        self._bind(self._sim.sim.model._model, self._sim.sim.data._data)

    @property
    def stepping(self) -> str:
        """How it is stepped: "lean", or "package" if asked for or needed by the configuration."""
        return "package" if self._lean is None else "lean"

    @property
    def source(self) -> str:
        """The MJCF that the present model was compiled from."""
        return self._xml

    def _initialize_sim(self, xml_string: str | None = None) -> None:
        xml = xml_string or self._sim.model.get_xml()
        if xml == self._xml:
            self._restore_model()
            self._sim.sim.forward()
            self._sim.initialize_time(self._sim.control_freq)
        else:
            self._compile(xml)
            self._bind_compiled(xml)

    def _reset_task(self, seed: int) -> np.ndarray:
        with global_generators(seed):
            state = flatten(self._restart())
        self._remember_reset()
        return state

    def _restart(self) -> dict[str, np.ndarray]:
        """Resets the package's environment; draws again if the objects found no room."""
        from robosuite.utils.errors import RandomizationError

        for _ in range(_PLACEMENT_TRIES):
            self._prepare_reset()
            with contextlib.suppress(RandomizationError):
                observation = self._sim.reset()
                self._lean = self._choose_stepping()  # for robots that are new too
                return observation
        raise PlacementError(f"no room for the objects found in {_PLACEMENT_TRIES} tries")

    def _choose_stepping(self) -> Any:
        """Returns what steps the environment instead of the package, or None."""
        if self._wanted == "package" or not _is_1_4():
            return None
        from envs import robosuite_lean

        possible = not robosuite_lean.obstacle(self._sim)
        return robosuite_lean.LeanStepping(self._sim) if possible else None

    def step_by(self, stepping: Any) -> None:
        """Has control steps taken by something else until the next reset.

        Args:
            stepping: its `step(action)` returns state, reward and the package's `done`.
        """
        self._lean = stepping

    def _prepare_reset(self) -> None:
        """Puts right what the package's reset does not."""

    def _remember_reset(self) -> None:
        """Notes what a reset determines, for saving to leave it out."""
        self._at_reset = _numbers(self._sim, set())

    def _outcome(self, done: bool) -> tuple[bool, bool]:
        """Returns success and termination after a step that the package called done or not."""
        return bool(self._sim._check_success()), done

    def _advance(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        """Takes one control step; returns state, reward and the package's `done`."""
        if self._lean is not None:
            return self._lean.step(action)
        observation, reward, done, _ = self._sim.step(action)
        return flatten(observation), reward, done

    def _control(self, action: np.ndarray) -> Step:
        import mujoco

        try:
            state, reward, done = self._advance(action)
        except np.linalg.LinAlgError as error:  # a controller met what is not finite
            raise Diverged(str(error)) from error
        warning = mujoco.mjtWarning
        for kind in (warning.mjWARN_BADQPOS, warning.mjWARN_BADQVEL, warning.mjWARN_BADQACC):
            if self._data.warning[kind].number:
                raise Diverged(self.identity["id"])
        return Step(state, float(reward), *self._outcome(bool(done)))

    def _get_task_state(self) -> dict[str, Any]:
        return {
            "physics": self._get_physics(),
            "view": {name: np.array(getattr(self._data, name)) for name in _VIEW},
            "look": {name: np.array(getattr(self._model, name)) for name in _LOOK},
            "package": _changed(self._at_reset, _numbers(self._sim, set())),
        }

    def _set_task_state(self, state: dict[str, Any]) -> None:
        self._set_physics(state["physics"])
        for name, value in state["view"].items():
            getattr(self._data, name)[...] = value
        for name, value in state["look"].items():
            getattr(self._model, name)[...] = value
        _set_numbers(self._sim, state["package"])

    def _scene_option(self) -> Any:
        import mujoco

        option = mujoco.MjvOption()
        option.geomgroup[0] = 0  # collision shapes, which the package does not show
        return option


class RobosuiteEnv(RobosuiteSim):
    """One robosuite task. Success is the package's own, dense reward is its shaped reward.

    Only Wipe ends episodes by itself: when all is wiped, or the arm collides or nears its limits.
    """

    def __init__(
        self,
        env_id: str,
        task: str,
        options: Options,
        *,
        robots: str | Sequence[str] | None = None,
        controller: str | dict[str, Any] = "OSC_POSE",
        control_freq: int = 20,
        stepping: str = "lean",
    ) -> None:
        """Makes the task.

        Args:
            env_id: the id under which the environment was made.
            task: the package's name of the task.
            options: the shared options.
            robots: one name, or two for a two-arm task; by default Panda. (The Sawyer of 1.4 does
                not compile under MuJoCo 3.3.)
            controller: one of `CONTROLLERS`, or a controller's whole configuration.
            control_freq: control steps per second; at most 500, MuJoCo's step being 2 ms.
            stepping: "lean", the same to the bit in less time (`envs.robosuite_lean`), or
                "package". The attribute `stepping` says which it is: version 1.5, other than
                operational-space controllers and interpolation need the package's.

        Raises:
            ValueError: a robot or controller is unknown or does not fit the task.
        """
        package = import_robosuite(env_id, "robosuite", "robosuite")
        two = task.startswith("TwoArm")
        robots = robots or (["Panda"] * 2 if two else "Panda")
        robots = robots if isinstance(robots, str) else list(robots)
        if unknown := {*([robots] if isinstance(robots, str) else robots)} - {*package.ALL_ROBOTS}:
            raise ValueError(
                f"{env_id}: no robot {', '.join(sorted(unknown))}; "
                f"there are {', '.join(sorted(package.ALL_ROBOTS))}"
            )
        check_stepping(env_id, stepping)
        if not 0 < control_freq <= 500:
            raise ValueError(f"{env_id}: control_freq={control_freq}; allowed is 1 to 500")
        kwargs = {"robots": robots, "controller": controller, "control_freq": control_freq}
        horizon = options.horizon or -(-CONTROL_STEPS // options.action_repeat)
        with global_generators(0):
            try:
                sim = package.make(
                    task,
                    robots=robots,
                    controller_configs=controller_configs(package, env_id, robots, controller),
                    control_freq=control_freq,
                    reward_shaping=True,
                    horizon=horizon * options.action_repeat,  # Wipe scales its reward by it
                    ignore_done=True,  # the horizon is kept by SimEnv
                    use_camera_obs=False,
                    has_renderer=False,
                    has_offscreen_renderer=False,
                )
            except (AssertionError, ValueError) as error:  # of the package or of MuJoCo
                raise ValueError(f"{env_id}: {kwargs} is refused: {error}") from error
            self._adopt(sim, stepping)
            first = self._restart()
        low, high = sim.action_spec
        self._centre, self._scale = (low + high) / 2, (high - low) / 2
        super().__init__(
            env_id,
            options,
            state_dim=len(flatten(first)),
            action_dim=len(low),
            control_steps=CONTROL_STEPS,
            task_kwargs=kwargs,
        )
        self.metadata = {**self.metadata, "render_fps": control_freq}

    def _control(self, action: np.ndarray) -> Step:
        return super()._control(self._centre + self._scale * action)

    def _get_task_state(self) -> dict[str, Any]:
        state = super()._get_task_state()
        if hasattr(self._sim, "wiped_markers"):
            markers = self._sim.model.mujoco_arena.markers
            wiped = [markers.index(marker) for marker in self._sim.wiped_markers]
            state["wiped"] = np.array(wiped, np.int64)
        return state

    def _set_task_state(self, state: dict[str, Any]) -> None:
        super()._set_task_state(state)
        if "wiped" in state:
            markers = self._sim.model.mujoco_arena.markers
            self._sim.wiped_markers = [markers[i] for i in state["wiped"]]


def check_stepping(env_id: str, stepping: str) -> None:
    """Raises a ValueError unless there is such a way of stepping."""
    if stepping not in STEPPING:
        raise ValueError(f"{env_id}: stepping={stepping!r}; allowed are {STEPPING}")


def _is_1_4() -> bool:
    return importlib.metadata.version("robosuite").startswith("1.4.")


def import_robosuite(env_id: str, module: str, extra: str) -> Any:
    """Imports a module over robosuite without its advice about a private macro file."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        return load_simulator(env_id, module, extra)
    finally:
        logging.disable(level)


@contextlib.contextmanager
def global_generators(seed: int) -> Iterator[None]:
    """Seeds the process's generators, from which robosuite draws; then puts them back."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002


def flatten(observation: dict[str, np.ndarray]) -> np.ndarray:
    """Returns object state, then each robot's state, as one vector."""
    robots = sorted(name for name in observation if name.endswith("_proprio-state"))
    return np.concatenate([observation["object-state"], *(observation[name] for name in robots)])


def controller_configs(
    package: Any, env_id: str, robots: str | list[str], controller: str | dict[str, Any]
) -> list[dict[str, Any]]:
    """One configuration per robot, in the form of the installed version."""
    names = [robots] if isinstance(robots, str) else robots
    if isinstance(controller, str) and controller not in CONTROLLERS:
        raise ValueError(f"{env_id}: controller={controller!r}; allowed are {CONTROLLERS}")
    if hasattr(package, "load_controller_config"):  # 1.4
        load = package.load_controller_config
        return [
            load(default_controller=controller) if isinstance(controller, str) else {**controller}
            for _ in names
        ]
    from robosuite.controllers import load_part_controller_config as load_part
    from robosuite.controllers.composite.composite_controller_factory import (
        refactor_composite_controller_config as compose,
    )

    part = load_part(default_controller=controller) if isinstance(controller, str) else controller
    arms = ["right", "left"] if isinstance(robots, str) and "TwoArm" in env_id else ["right"]
    return [compose(dict(part), name, arms) for name in names]


def _items(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        yield from ((key, value) for key, value in node.items() if isinstance(key, str))
    elif isinstance(node, list | tuple):
        yield from ((str(i), value) for i, value in enumerate(node))
    else:
        yield from vars(node).items()


def _numbers(node: Any, seen: set[int]) -> dict[str, Any]:
    """Returns all numbers and arrays that an object holds, by itself or in what it owns."""
    found: dict[str, Any] = {}
    seen.add(id(node))
    for name, value in _items(node):
        if owned_array(value) or isinstance(value, np.number | np.bool_):
            found[name] = np.array(value)
        elif isinstance(value, bool | int | float):
            found[name] = value
        elif id(value) not in seen and _is_followed(value):
            inner = _numbers(value, seen)
            if inner:
                found[name] = inner
    return found


def _is_followed(value: Any) -> bool:
    return isinstance(value, dict | list) or type(value).__module__.startswith(_FOLLOWED)


def _changed(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Returns the part of `new` that is not in `old`, to the bit."""
    found: dict[str, Any] = {}
    for name, value in new.items():
        before = old.get(name)
        if isinstance(value, dict):
            value = _changed(before if isinstance(before, dict) else {}, value)
            if value:
                found[name] = value
        elif not (
            type(value) is type(before)
            and (
                (value.dtype, value.shape, value.tobytes())
                == (before.dtype, before.shape, before.tobytes())
                if isinstance(value, np.ndarray)
                else value == before
            )
        ):
            found[name] = value
    return found


def _set_numbers(node: Any, saved: dict[str, Any]) -> None:
    """Puts back what `_numbers` found."""
    items = dict(_items(node))
    for name, value in saved.items():
        if isinstance(value, dict):
            _set_numbers(items[name], value)
            continue
        if isinstance(value, np.ndarray):
            value = value.copy()[()]  # a 0-d array was a numpy scalar
        if isinstance(node, dict):
            node[name] = value
        elif isinstance(node, list):
            node[int(name)] = value
        else:
            setattr(node, name, value)
