"""Where a policy is deployed: an arm, its twin or a simulated scene, reached and recorded.

    control process: timeline, safety envelope -> wire -> robot

The control process reads and commands the robot on time whatever the policy does, and writes the
flight recording. A twin, or a scene, runs in it, or behind a wire in a process of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embodied.core.types import UserError

SCENES = ("robosuite/", "libero/")  # what the ids of those tasks begin with
REST = 1.0  # s for the arm to come to rest


@contextmanager
def opened(
    deployment: Any, directory: Path, policy: Mapping[str, Any], operator: Any = None
) -> Iterator[Any]:
    """The robot as an environment, its recording begun; a twin's server too if one is needed.

    Args:
        deployment: an `embodied.deploy.Deployment`.
        directory: of the recording.
        policy: who acts, for the recording.
        operator: see `envs.real_arm.Operator`.
    """
    from hardware.loop import LoopProcess
    from hardware.recorder import record
    from hardware.robots import make_robot
    from hardware.serving import TwinProcess

    find = _scene if deployment.robot.startswith(SCENES) else _arm
    place = find(deployment, f"embodied deploy {policy['name']}")
    arm, address = place.arm, deployment.address
    with ExitStack() as stack:
        if deployment.transport != "local" and arm.has_twin and not address:
            address = stack.enter_context(TwinProcess(arm, deployment.transport)).address
        meta = {"policy": dict(policy), "deployment": place.about, "fps": place.rate}
        station = LoopProcess(
            functools.partial(make_robot, arm, deployment.transport, address),
            arm.spec,
            place.timing,
            functools.partial(record, directory / "run.mcap", meta),
        )
        stack.enter_context(station)
        env = place.make_env(station, operator=operator)
        stack.callback(come_to_rest, env)
        yield env


@dataclass(frozen=True)
class Place:
    """What a policy is deployed onto, before anything is started.

    Attributes:
        arm: the robot.
        timing: of its control loop.
        rate: Hz, of actions.
        make_env: makes an environment of a station, and of an operator if there is one.
        about: for the recording.
    """

    arm: Any
    timing: Any
    rate: float
    make_env: Callable[..., Any]
    about: dict[str, Any]


def _arm(deployment: Any, owner: str) -> Place:
    """An arm or its twin."""
    from envs.arm_tasks import make_scene
    from envs.real_arm import RealArm
    from hardware.action_space import ActionSpace
    from hardware.loop import Timing
    from hardware.robots import find

    arm = find(deployment.robot, **deployment.robot_options)
    try:
        scene, _ = make_scene(deployment.task, arm.limits, arm.home)
        actions = ActionSpace(deployment.mode)
    except ValueError as error:
        raise UserError(str(error)) from error
    make_env = functools.partial(
        RealArm,
        limits=arm.limits,
        scene=scene,
        actions=actions,
        horizon=deployment.horizon,
        obs=deployment.obs,
        owner=owner,
    )
    about = {k: v for k, v in asdict(deployment).items() if k not in ("record", "env_args")}
    return Place(arm, Timing(1.0 / deployment.rate), deployment.rate, make_env, about)


def _scene(deployment: Any, owner: str) -> Place:
    """The arm of a simulated scene."""
    import envs
    from envs.scene_arm import TIMING, SceneArm, find_scene

    if deployment.address:
        raise UserError("a scene is started here, behind the transport; leave out address=")
    arm = find_scene(deployment.robot, limits=deployment.limits, changes=deployment.changes)
    options = {"terminate_on_success": True, **deployment.env_args}
    env = envs.make(arm.name, **options)
    arm = arm.with_options(options).beside(env)
    make_env = functools.partial(SceneArm, env, arm, owner=owner)
    rate = env.metadata["render_fps"] / env.unwrapped.options.action_repeat
    kept = ("policy", "robot", "transport", "episodes", "seconds", "seed", "limits", "changes")
    about = {key: getattr(deployment, key) for key in kept} | {"env_args": options}
    return Place(arm, TIMING, rate, make_env, about)


def env_id(robot: str) -> str:
    """Under which id data of a robot is kept: the task's where it is a scene's arm."""
    from hardware.robots import find

    return robot if robot.startswith(SCENES) else f"real/{find(robot).name.replace(' ', '_')}"


def come_to_rest(env: Any) -> None:
    """Hands nothing over any more, waits until the arm has braked, and gives the robot back."""
    from hardware.errors import HardwareError, LinkLost
    from hardware.robot import STANDING
    from hardware.types import Lifecycle

    station = env.station
    try:
        for _ in range(round(REST / 0.02)):
            status = station.observe()
            moving = np.abs(status.state.velocity).max() > STANDING
            if status.lifecycle != Lifecycle.ACTIVE or not moving:
                break
            station.wait(0.02)
        env.close()
    except LinkLost:
        return  # the control process has ended; the robot's own watchdog stops it
    except HardwareError as error:
        raise UserError(f"the robot could not be given back: {error}") from error
