"""What the MuJoCo adapters share: exact state, a clean model at each reset, and pictures."""

import atexit
import contextlib
import ctypes
import functools
import importlib
import os
import sys
import weakref
from types import ModuleType
from typing import Any

import numpy as np

from envs.base import MissingExtra, RenderError, SimEnv
from envs.rendering import light_model, only_in_view

# Geometry that no task edits; leaving it out keeps the copy small.
_LARGE_FIELDS = ("mesh_", "tex_", "skin_", "flex", "bvh_", "oct_")


def prepare_gl() -> None:
    """Chooses EGL for offscreen rendering; call before a simulator is imported.

    Does nothing if MUJOCO_GL is set, if mujoco is already imported, off Linux, or without an EGL
    library (mujoco then imports and runs, and only rendering fails).
    """
    if "MUJOCO_GL" in os.environ or "mujoco" in sys.modules or sys.platform != "linux":
        return
    try:
        ctypes.CDLL("libEGL.so.1")
    except OSError:
        return
    os.environ["MUJOCO_GL"] = "egl"


def load_simulator(env_id: str, module: str, extra: str) -> ModuleType:
    """Imports a simulator's module, with offscreen rendering prepared.

    Raises:
        MissingExtra: it is not installed.
        RenderError: mujoco does not import because the library that MUJOCO_GL names is missing.
    """
    prepare_gl()
    try:
        importlib.import_module("mujoco")
        return importlib.import_module(module)
    except ImportError as error:
        if "OpenGL" not in str(error):
            raise MissingExtra(
                f'{env_id} needs {module.split(".")[0]}: pip install "embodied[{extra}]" ({error})'
            ) from error
        raise RenderError(_gl_message(str(error))) from error
    except AttributeError as error:  # PyOpenGL's way of saying that a library is missing
        if "mujoco" in sys.modules and "eglQuery" not in str(error):
            raise
        raise RenderError(_gl_message(str(error))) from error


def _gl_message(cause: str) -> str:
    return (
        f"{cause}. Offscreen rendering needs a working OpenGL: on Debian or Ubuntu install "
        "libegl1 libgles2 libgl1-mesa-dri, and set MUJOCO_GL=egl before mujoco is first imported "
        f"(present value: {os.environ.get('MUJOCO_GL')!r})"
    )


class MujocoSimEnv(SimEnv):
    """A `SimEnv` over one `mujoco.MjModel` and `mujoco.MjData`."""

    default_camera: str | int = 0
    upside_down_cameras: tuple[str | int, ...] = ()  # their images are turned by 180 degrees

    def _bind(self, model: Any, data: Any) -> None:
        """Remembers the model as constructed; adapters call this again if they compile another."""
        self._model, self._data = model, data
        if not hasattr(self, "_renderers"):
            self._renderers = Renderers()
            _every.add(self._renderers)
            weakref.finalize(self, _close_all, self._renderers).atexit = False
        _close_all(self._renderers)
        self._pristine = {
            name: value.copy()
            for name in dir(model)
            if not name.startswith(("_", *_LARGE_FIELDS))
            and isinstance(value := getattr(model, name), np.ndarray)
            and value.dtype.kind == "f"
        }

    def _restore_model(self) -> None:
        """Undoes what earlier episodes did to the model and to the simulation data."""
        import mujoco

        for name, value in self._pristine.items():
            getattr(self._model, name)[...] = value
        mujoco.mj_resetData(self._model, self._data)
        if self._model.nhfield:  # the GPU's copy of a terrain is stale now
            _close_all(self._renderers)

    def simulator_state(self) -> np.ndarray:
        """Returns `float64[1 + nq + nv]`: time, positions, velocities, as robomimic's `states`.

        It is what datasets keep; only `get_state` continues an episode to the bit.
        """
        return np.concatenate([[self._data.time], self._data.qpos, self._data.qvel])

    def _get_physics(self) -> np.ndarray:
        """Returns mjSTATE_INTEGRATION, the only state that includes the solver's warm start."""
        import mujoco

        spec = mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(mujoco.mj_stateSize(self._model, spec))
        mujoco.mj_getState(self._model, self._data, state, spec)
        return state

    def _set_physics(self, state: np.ndarray) -> None:
        import mujoco

        spec = mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.asarray(state, np.float64)
        size = mujoco.mj_stateSize(self._model, spec)
        if state.shape != (size,):
            raise ValueError(
                f"{self.identity['id']}: the saved physics state has shape {state.shape}, this "
                f"model needs ({size},); was it saved with another simulator version?"
            )
        mujoco.mj_setState(self._model, self._data, state, spec)
        mujoco.mj_forward(self._model, self._data)  # derived quantities: positions, contacts
        mujoco.mj_setState(self._model, self._data, state, spec)  # forward moved the warm start

    def _frame(self, height: int, width: int, camera: str | int | None) -> np.ndarray:
        return self.frame(height, width, camera)

    def frame(self, height: int, width: int, camera: str | int | None = None) -> np.ndarray:
        """Returns what a camera sees, as `uint8[height, width, 3]`, upright.

        Args:
            height: in pixels.
            width: in pixels.
            camera: name or number; by default the suite's own view.

        Raises:
            ValueError: there is no such camera.
            RenderError: nothing can be rendered here.
        """
        import mujoco

        fast = self.options.render == "fast"
        camera = self.default_camera if camera is None else camera
        try:
            if (height, width) not in self._renderers:
                self._renderers[height, width] = self._make_renderer(height, width, fast)
            renderer, option = self._renderers[height, width], self._scene_option()
            renderer.update_scene(self._data, camera, option)
        except ValueError as error:
            names = [self._model.camera(i).name for i in range(self._model.ncam)]
            raise ValueError(
                f"{self.identity['id']}: no camera {camera!r}; there are {names}"
            ) from error
        if fast:
            view = renderer.scene.camera[0]
            with only_in_view(self._model, self._data, view, width / height):
                renderer.update_scene(self._data, camera, option)
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        frame = renderer.render()
        return frame[::-1, ::-1].copy() if camera in self.upside_down_cameras else frame

    def _scene_option(self) -> Any:
        """Returns which groups of geoms are drawn, as an MjvOption; None for MuJoCo's choice."""
        return None

    def _make_renderer(self, height: int, width: int, fast: bool) -> Any:
        import mujoco
        from mujoco import gl_context

        display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        backend = getattr(gl_context, "GLContext", None)
        windowed = backend is not None and backend.__module__ == "mujoco.glfw"
        if backend is None or (windowed and sys.platform == "linux" and not display):
            # Trying anyway aborts the whole process inside MuJoCo.
            raise RenderError(_gl_message("mujoco cannot render here"))
        visual = self._model.vis
        visual.global_.offheight = max(visual.global_.offheight, height)
        visual.global_.offwidth = max(visual.global_.offwidth, width)
        try:
            with light_model(self._model, height) if fast else contextlib.nullcontext():
                renderer = mujoco.Renderer(self._model, height, width)
        except Exception as error:  # each GL backend raises its own type
            raise RenderError(_gl_message(str(error))) from error
        _close_at_exit()
        return renderer

    def close(self) -> None:
        """Frees the renderers."""
        _close_all(self._renderers)


def owned_array(value: Any) -> bool:
    """Tells a task's own numbers from views into the simulator's memory, which follow it."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        return False
    while isinstance(value.base, np.ndarray):
        value = value.base
    return value.base is None


class Renderers(dict):
    """An environment's renderers by height and width; a dict that can be in a WeakSet."""

    __hash__ = object.__hash__


_every: weakref.WeakSet[Renderers] = weakref.WeakSet()


@functools.cache
def _close_at_exit() -> None:
    """Has all renderers closed before mujoco ends OpenGL, which it arranges at the first one.

    Afterwards they print errors about a lost context.
    """
    atexit.register(lambda: [_close_all(renderers) for renderers in list(_every)])


def _close_all(renderers: Renderers) -> None:
    for renderer in renderers.values():
        renderer.close()
    renderers.clear()
