"""The twin of an arm as an environment: `envs.make("real/panda_twin")`.

It is `RealArm` on a simulated clock, so it runs as fast as it computes and the same every time, and
what is trained on it goes to the arm through the same code (`embodied deploy`). Like an arm it has
no state to save: a resumed run begins the next episode. Unlike at an arm, nobody can be hurt: when
its stop latches or it is stuck, it is put back home and its own latch, which no other robot shares,
is reset.
"""

import tempfile
from typing import Any

import numpy as np

from envs.arm_tasks import make_scene
from envs.base import MissingExtra, Options, RenderError
from envs.real_arm import RealArm
from hardware.action_space import ActionSpace
from hardware.errors import HardwareError
from hardware.latch import Latch
from hardware.loop import LocalLoop, Timing
from hardware.robot import Robot
from hardware.robots import find
from hardware.types import Camera

HORIZON = 50  # steps


class TwinArm(RealArm):
    """A twin and its task."""

    def __init__(
        self,
        env_id: str,
        name: str,
        options: Options,
        *,
        task: str = "reach",
        rate: float = 10.0,
        mode: str = "tool delta",
        limits: str | None = None,
    ) -> None:
        """Makes twin, envelope and control loop.

        Args:
            env_id: the id under which the environment is made.
            name: of the robot, see `hardware.robots`.
            options: the shared options; there is no obs="pixels" and no `action_repeat`.
            task: one of `arm_tasks.TASKS`.
            rate: Hz, of actions.
            mode: what actions mean, see `ActionSpace`.
            limits: what the envelope enforces, see `load_limits`; by default the arm's own.

        Raises:
            MissingExtra: MuJoCo or what `hardware` needs is not installed.
            ValueError: an option does not apply here, or is wrong.
        """
        if options.obs == "pixels" or options.action_repeat != 1:
            raise ValueError(f'{env_id}: obs is "state" or "both", and action_repeat=1')
        size = options.image_size
        names = options.cameras or (options.camera or "front",)
        wanted = [Camera(str(one), size, size, rate) for one in names]
        robot = find(name, limits=limits, cameras=wanted if options.obs == "both" else ())
        self._folder = tempfile.TemporaryDirectory(prefix="embodied-latch-")
        try:
            station = LocalLoop(lambda clock: self._robot(robot, clock), Timing(1.0 / rate))
        except HardwareError as error:
            raise MissingExtra(f"{env_id}: {error}") from error
        scene, self._task = make_scene(
            task,
            robot.limits,
            robot.home,
            dense=options.reward == "dense",
            free=self._free,
            picture=self._picture if options.render_mode else None,
        )
        self._shown = Camera("front", *options.render_size, rate)
        super().__init__(
            station,
            robot.limits,
            scene=scene,
            actions=ActionSpace(mode),
            horizon=options.horizon or HORIZON,
            obs=options.obs,
            terminate_on_success=options.terminate_on_success,
        )
        self.options = options
        chosen: dict[str, Any] = {"limits": limits}
        if options.obs == "both":
            chosen |= {"cameras": list(names), "image_size": size}
        self.identity = {"id": env_id, "kwargs": {**self.identity["kwargs"], **chosen}}

    def close(self) -> None:
        """Ends the simulation."""
        self.station.close()
        self._folder.cleanup()

    def _robot(self, robot: Any, clock: Any) -> Robot:
        self._twin = robot.twin(clock=clock, live=False)
        return Robot(
            self._twin, robot.limits, latch=Latch(robot.name, self._folder.name), clock=clock
        )

    def _free(self) -> None:
        self.station.disarm()
        self._twin.place(np.array(self._home))
        self.station.wait(0.1)
        if self.station.observe().latched:
            self.station.reset_stop("a simulated arm: nobody is near it", by="simulation")

    def _picture(self) -> np.ndarray:
        marks = [] if self._task is None else [self._task.target]
        try:
            return self._twin.picture(self._shown, marks)
        except HardwareError as error:
            raise RenderError(str(error)) from error
