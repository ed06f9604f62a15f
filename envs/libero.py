"""LIBERO (Liu et al. 2023, arXiv 2306.03310): 130 language-conditioned tasks in five suites.

Follows the protocol with which vision-language-action models are evaluated: stored initial states,
ten waiting steps, pictures rotated by 180 degrees, an instruction from the task's file name.
"""

import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import math
import os
import re
import runpy
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from envs.base import EnvsError, MissingExtra, Options
from envs.robosuite import (
    RobosuiteSim,
    check_stepping,
    flatten,
    global_generators,
    import_robosuite,
)

# Somewhat above the longest demonstration of each suite (OpenVLA's evaluation).
CONTROL_STEPS = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
WAIT = np.array([0, 0, 0, 0, 0, 0, -1.0])  # stand still, gripper open
# Over all stored initial states of hf-libero 0.1.4, which are those of the original repository.
INIT_STATES_SHA256 = "3e43926e69859b7b260e8a88fa00eff2803e84952066910d509f667bade8f4ef"
_NO_HORIZON = 10**9  # SimEnv keeps it
_config_folder: tempfile.TemporaryDirectory[str] | None = None  # kept until the process ends


class MissingAssets(EnvsError, FileNotFoundError):
    """LIBERO's models and textures were not found; the message says how to get them."""


class BadInitStates(EnvsError, ValueError):
    """A file of initial states is not what was expected."""


class LiberoEnv(RobosuiteSim):
    """One LIBERO task; reward, dense or sparse, is 1 on a step where the goal holds.

    `reset(seed=s)` starts from stored initial state `s % 50`, so the seeds 0 to 49 are the
    protocol's 50 episodes; `info["init_state"]` says which. The state vector does not contain the
    poses of cabinets, stoves and racks: the seed places these.

    Attributes:
        instruction: what to do, from the task's file name as in vision-language-action papers.
        init_state: index of the present episode's initial state.
    """

    def __init__(
        self,
        env_id: str,
        task: str,
        options: Options,
        *,
        init_state: int | None = None,
        wait_steps: int = 10,
        rotate_images: bool = True,
        assets: str | os.PathLike[str] | None = None,
        assets_hash: str | None = None,
        stepping: str = "lean",
    ) -> None:
        """Makes the task.

        Args:
            env_id: the id under which the environment was made.
            task: `<suite>/<index>`.
            options: the shared options.
            init_state: index of the stored initial state of every episode; by default the seed's.
            wait_steps: control steps without motion, gripper open, at the start of each episode, in
                which objects settle. They are not part of the horizon.
            rotate_images: rotate the package's upside-down pictures by 180 degrees, as in the data
                of vision-language-action models. They are then upright, but left and right are
                exchanged. Otherwise they are flipped vertically: the true view.
            assets: folder with LIBERO's models; by default `$LIBERO_ASSETS`, else where hf-libero
                has them.
            assets_hash: which models these must be; `env.identity` has it for those in use.
            stepping: "lean", the same to the bit in less time (`envs.robosuite_lean`), or
                "package".

        Raises:
            MissingAssets: there are none, or not the ones asked for.
            ValueError: `init_state` or `wait_steps` is out of range.
        """
        suite, index = task.split("/")
        import_libero(env_id)
        name = task_names(env_id)[suite][int(index)]
        self.instruction = instruction(name)
        self._states = _stored_states(init_states_path())[f"{suite}/{name}"]
        if not (init_state is None or 0 <= init_state < len(self._states)):
            raise ValueError(
                f"{env_id}: init_state={init_state}; there are 0 to {len(self._states) - 1}"
            )
        check_stepping(env_id, stepping)
        if wait_steps < 0:
            raise ValueError(f"{env_id}: wait_steps={wait_steps} is negative")
        self._fixed, self._wait, self._rotate = init_state, wait_steps, rotate_images
        self.init_state = init_state or 0
        self._assets, found_hash = _find_assets(assets, assets_hash)
        bddl = package_folder(env_id) / "bddl_files" / suite / f"{name}.bddl"
        self._use_assets()
        with global_generators(0):
            self._adopt(_make_problem(str(bddl)), stepping)
            self._restart()
        if (width := 1 + self._model.nq + self._model.nv) != self._states.shape[1]:
            raise ValueError(
                f"{env_id}: stored states have {self._states.shape[1]} numbers, the model of "
                f"{self._assets} needs {width}"
            )
        super().__init__(
            env_id,
            options,
            state_dim=len(flatten(self._sim._get_observations())),
            action_dim=len(WAIT),
            control_steps=CONTROL_STEPS[suite],
            task_kwargs={
                "init_state": init_state,
                "wait_steps": wait_steps,
                "rotate_images": rotate_images,
                "assets_hash": found_hash,
            },
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode; see `SimEnv.reset`. `info["init_state"]` is the state's index."""
        observation, info = super().reset(seed=seed, options=options)
        return observation, {**info, "init_state": self.init_state}

    @property
    def stored_states(self) -> int:
        """How many initial states the seeds choose from; 0 if one was fixed."""
        return len(self._states) if self._fixed is None else 0

    def robot_state(self) -> np.ndarray:
        """Returns what vision-language-action models get beside the pictures.

        Returns:
            `float32[8]`: the gripper's position in m (3), its orientation as axis times angle in
            rad (3), the positions of its two fingers in m.
        """
        parts = [self._sim._observables[f"robot0_{name}"].obs for name in _ROBOT_STATE]
        return np.concatenate([parts[0], axis_angle(parts[1]), parts[2]]).astype(np.float32)

    def frame(self, height: int, width: int, camera: str | int | None = None) -> np.ndarray:
        """Returns what a camera sees, `agentview` or `robot0_eye_in_hand`; see `rotate_images`."""
        frame = super().frame(height, width, camera)
        return np.ascontiguousarray(frame[:, ::-1]) if self._rotate else frame

    def raw_frame(self, height: int, width: int, camera: str | int | None = None) -> np.ndarray:
        """Returns what a camera sees as the package has it: upside down."""
        return np.ascontiguousarray(super().frame(height, width, camera)[::-1])

    def _use_assets(self) -> None:
        # The package reads one path for the whole process, whenever it builds a model.
        sys.modules["libero.libero"]._assets_path_cache = str(self._assets)

    def _prepare_reset(self) -> None:
        # The package appends to these at each reset, so that resets depend on earlier ones.
        self._sim.object_property_initializers.clear()
        self._sim.visualization_sites_list.clear()

    def _reset_task(self, seed: int) -> np.ndarray:
        self._use_assets()
        self.init_state = seed % len(self._states) if self._fixed is None else self._fixed
        with global_generators(seed):
            self._restart()
        sim = self._sim
        sim.sim.set_state_from_flattened(self._states[self.init_state])
        sim.sim.forward()
        sim._check_success()
        sim._post_process()
        sim._update_observables(force=True)
        for _ in range(self._wait):
            self._advance(WAIT)
        self._remember_reset()
        return flatten(sim._get_observations())

    def _outcome(self, done: bool) -> tuple[bool, bool]:
        # The package's `done` is its success predicate.
        return done if self._lean is None else bool(self._sim._check_success()), False


_ROBOT_STATE = ("eef_pos", "eef_quat", "gripper_qpos")


def axis_angle(quaternion: np.ndarray) -> np.ndarray:
    """Returns axis times angle of a unit quaternion (x, y, z, w), in rad.

    Not canonical: q and -q give different vectors, and angles go up to 2 pi. Datasets have it so.
    """
    w = float(np.clip(quaternion[3], -1.0, 1.0))
    sine = math.sqrt(1.0 - w * w)
    if math.isclose(sine, 0.0):
        return np.zeros(3)
    return np.asarray(quaternion[:3]) * (2.0 * math.acos(w) / sine)


def instruction(name: str) -> str:
    """Returns the instruction of a task from its file name, without the scene's name."""
    return re.sub(r"^[A-Z_]+SCENE\d+_", "", name).replace("_", " ")


def package_folder(env_id: str) -> Path:
    """Returns the installed package's folder, without importing it.

    Raises:
        MissingExtra: it is not installed.
    """
    spec = importlib.util.find_spec("libero")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra(
            f'{env_id} needs LIBERO: pip install "embodied[libero]", then '
            "pip install --no-deps hf-libero==0.1.4"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "libero"


@functools.cache
def task_names(env_id: str) -> dict[str, list[str]]:
    """Returns the names of each suite's tasks, in the benchmark's order."""
    path = package_folder(env_id) / "benchmark" / "libero_suite_task_map.py"
    return runpy.run_path(str(path))["libero_task_map"]  # importing it would import torch


def import_libero(env_id: str) -> None:
    """Imports the package's environments without its question on standard input.

    Raises:
        MissingExtra: it, or a version of robosuite that it works with, is not installed.
    """
    global _config_folder
    folder = package_folder(env_id)
    import_robosuite(env_id, "robosuite", "libero")
    version = importlib.metadata.version("robosuite")
    if not version.startswith("1.4."):
        raise MissingExtra(
            f"{env_id} needs robosuite 1.4, found {version}: pip install robosuite==1.4.0"
        )
    if "libero.libero" in sys.modules:
        return
    # It asks where to put datasets unless this file exists. A folder of our own also keeps two
    # variants of LIBERO from overwriting each other's.
    _config_folder = tempfile.TemporaryDirectory(prefix="embodied-libero-")
    names = ("assets", "bddl_files", "datasets", "init_states")
    paths = {name: str(folder / name.replace("init_states", "init_files")) for name in names}
    config = json.dumps({"benchmark_root": str(folder), **paths})  # JSON is YAML
    (Path(_config_folder.name) / "config.yaml").write_text(config)
    before = os.environ.get("LIBERO_CONFIG_PATH")
    os.environ["LIBERO_CONFIG_PATH"] = _config_folder.name
    try:
        with warnings.catch_warnings():  # it changes the process's filters
            import_robosuite(env_id, "libero.libero.envs", "libero")
    finally:
        if before is None:
            del os.environ["LIBERO_CONFIG_PATH"]
        else:
            os.environ["LIBERO_CONFIG_PATH"] = before


def init_states_digest(states: Mapping[str, np.ndarray]) -> str:
    """Returns the SHA-256 over names, shapes and numbers, in the order of the names."""
    sha = hashlib.sha256()
    for name in sorted(states):
        array = np.ascontiguousarray(states[name], "<f8")
        sha.update(f"{name} {array.shape}\n".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def init_states_path() -> Path:
    """Returns `$LIBERO_INIT_STATES`, else a file in the user's cache."""
    if named := os.environ.get("LIBERO_INIT_STATES"):
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "embodied" / "libero_init_states.npz"


def load_init_states(path: Path) -> dict[str, np.ndarray]:
    """Loads the converted states: `<suite>/<task>` to `float64[50, 1 + nq + nv]`.

    Raises:
        BadInitStates: there is no such file, or its content is not the expected one.
    """
    if not path.is_file():
        raise BadInitStates(
            f"no initial states at {path}; make them once: python -m envs.libero_convert "
            "(LIBERO_INIT_STATES names another file)"
        )
    with np.load(path, allow_pickle=False) as archive:
        states = {name: archive[name] for name in archive.files}
    check_init_states(states, str(path))
    return states


def check_init_states(states: Mapping[str, np.ndarray], where: str) -> None:
    """Compares with the recorded digest.

    Raises:
        BadInitStates: they are not the states of hf-libero 0.1.4; the message names `where`.
    """
    found = init_states_digest(states)
    if found != INIT_STATES_SHA256:
        raise BadInitStates(
            f"{where}: {len(states)} tasks with digest {found}; expected are the 130 of hf-libero "
            f"0.1.4 with {INIT_STATES_SHA256}"
        )


@functools.cache
def _stored_states(path: Path) -> dict[str, np.ndarray]:
    return load_init_states(path)


def _make_problem(bddl: str) -> Any:
    """Makes the package's environment with the options of its own wrapper."""
    from libero.libero.envs import TASK_MAPPING
    from libero.libero.envs.bddl_utils import get_problem_info
    from robosuite import load_controller_config

    return TASK_MAPPING[get_problem_info(bddl)["problem_name"]](
        bddl,
        robots=["Panda"],
        controller_configs=load_controller_config(default_controller="OSC_POSE"),
        initialization_noise=None,
        control_freq=20,
        horizon=_NO_HORIZON,
        ignore_done=True,
        use_camera_obs=False,
        has_renderer=False,
        has_offscreen_renderer=False,
    )


_found: dict[str, Path] = {}  # by hash, so that an identity finds again what was given by path


def _find_assets(given: str | os.PathLike[str] | None, expected: str | None) -> tuple[Path, str]:
    """Returns the folder of models and its hash."""
    downloaded = Path.home() / ".cache" / "libero" / "assets"
    places = [given, _found.get(expected or ""), os.environ.get("LIBERO_ASSETS")]
    places += [package_folder("libero") / "assets", downloaded]
    chosen = next((Path(p) for p in places if p and (given == p or Path(p).is_dir())), None)
    if chosen is None or not (chosen / "scenes").is_dir():
        where = f"in {chosen}" if chosen else "on this machine"
        raise MissingAssets(
            f"LIBERO's models are not {where} (a folder with `scenes` and `articulated_objects`). "
            "Set LIBERO_ASSETS to the folder, or let hf-libero download them: "
            "python -c 'from libero.libero import get_assets_path; get_assets_path()'"
        )
    found = _hash_of(chosen)
    if expected not in (None, found):
        raise MissingAssets(
            f"{chosen}: these are LIBERO models {found}, needed are {expected}; "
            "results on different models do not compare"
        )
    _found[found] = chosen
    return chosen, found


@functools.cache
def _hash_of(assets: Path) -> str:
    """Returns 16 hex digits over the names and sizes of all model files."""
    kinds = (".xml", ".msh", ".stl", ".obj", ".png", ".jpg")
    files = (p for p in assets.rglob("*") if p.suffix in kinds)
    lines = sorted(f"{p.relative_to(assets).as_posix()} {p.stat().st_size}\n" for p in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]
