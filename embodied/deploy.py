"""`embodied deploy`: a policy through the whole stack, onto a twin or an arm.

    policy (here) -> RealArm -> control process: timeline, safety envelope -> wire -> robot

The control process reads and commands the robot on time whatever the policy does, and writes the
flight recording; this one thinks, shows a line, and makes the report.
"""

from __future__ import annotations

import itertools
import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from embodied import operators
from embodied.actors import Actor, is_run, make_actor
from embodied.core import registry
from embodied.core.evaluate import fingerprint
from embodied.core.seeding import Streams
from embodied.core.types import UserError
from embodied.settings import free_arguments
from embodied.stations import SCENES, opened

DIRECTORY = Path("runs") / "deploy"

OF_ARMS = {"task", "rate", "horizon", "mode", "obs", "cameras", "image_size"}
"""What a scene brings itself, or takes as env_args."""

BREAKS = 3  # episodes in a row that end by a stop of the robot, after which deploying ends


class Stopped(UserError):
    """The robot's stop latched."""


@dataclass(frozen=True)
class Deployment:
    """What `embodied deploy` takes.

    Attributes:
        policy: a run directory, "scripted", "random" or a websocket address.
        robot: see `hardware.robots.find`; or the id of a robosuite or LIBERO task, for the arm of
            its scene, which brings the fields from `task` to `image_size` itself.
        transport: "local", "zenoh", "rosbridge" or "rclpy".
        address: of a robot that is there; empty starts the twin.
        task: see `envs.arm_tasks`.
        episodes: how many.
        seconds: end after so long, even inside an episode; 0 for no end.
        seed: of the episodes' scenes.
        rate: Hz, of actions.
        horizon: steps of an episode.
        mode: what actions mean, see `hardware.action_space`.
        obs: "state", or "both" with pictures.
        cameras: of a twin, with obs=both.
        image_size: of their pictures, in pixels.
        limits: what the envelope enforces instead of the robot's own; see `load_limits`.
        changes: fields of the limits.
        env_args: of a scene: options of `envs.make`.
        record: directory of recording and report; by default a new one in runs/deploy.
        timeout: s a policy server may take to answer.
        operator: who may take over and judges episodes: "keyboard", "gamepad" or "spacemouse", see
            `embodied.operators`; empty for nobody.
        report: whether to write report.html.
    """

    policy: str
    robot: str = "panda_twin"
    transport: str = "local"
    address: str = ""
    task: str = "reach"
    episodes: int = 5
    seconds: float = 0.0
    seed: int = 0
    rate: float = 10.0
    horizon: int = 50
    mode: str = "tool delta"
    obs: str = "state"
    cameras: str = "front"
    image_size: int = 84
    limits: str = ""
    changes: dict[str, Any] = field(default_factory=dict)
    env_args: dict[str, Any] = field(default_factory=dict)
    record: str = ""
    timeout: float = 60.0
    operator: str = ""
    report: bool = True

    def __post_init__(self) -> None:
        for name in ("episodes", "rate", "horizon", "image_size"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} must be positive, got {getattr(self, name)}")
        if self.obs not in ("state", "both"):
            raise UserError(f"obs={self.obs}: say state or both")

    @property
    def robot_options(self) -> dict[str, Any]:
        """Further arguments of `hardware.robots.find`."""
        from hardware.types import Camera

        options: dict[str, Any] = {"changes": self.changes}
        if self.limits:
            options["limits"] = self.limits
        if self.obs == "both":
            size, names = self.image_size, self.cameras.strip("[]").split(",")
            options["cameras"] = [Camera(name.strip(), size, size, self.rate) for name in names]
        return options


@dataclass
class Outcome:
    """What came of a deployment.

    Attributes:
        directory: of recording and report.
        episodes: one dict each: seed, success, length, why it ended.
        interrupted: by Ctrl-C.
        problem: what ended it early, or an empty text.
        latched: whether the stop is latched.
    """

    directory: Path
    episodes: list[dict[str, Any]] = field(default_factory=list)
    interrupted: bool = False
    problem: str = ""
    latched: bool = False

    @property
    def successes(self) -> int:
        """Episodes with success."""
        return sum(episode["success"] for episode in self.episodes)


def parse(overrides: Sequence[str], policy: str = "") -> Deployment:
    """A deployment from `key=value` words.

    A run that was trained on an arm says task, rate, mode and horizon itself; one that was trained
    in a scene says which, and all its options.

    Args:
        overrides: the words.
        policy: instead of the word `policy=`, for one that is none.

    Raises:
        UserError: an unknown key, or a value of the wrong type.
    """
    changes, rest = free_arguments(overrides, "limits")
    env_args, rest = free_arguments(rest, "env_args")
    types = {f.name: type(f.default) for f in fields(Deployment)} | {"policy": str}
    del types["changes"], types["env_args"]
    values: dict[str, Any] = {"changes": changes, "env_args": env_args}
    for word in rest:
        key, _, text = word.partition("=")
        if key not in types:
            raise UserError(f"embodied deploy has no {key!r}; {registry.nearest(key, types)}")
        values[key] = _value(key, text, types[key])
    if "policy" not in values and not policy:
        raise UserError("say which policy: embodied deploy policy=RUN robot=panda_twin")
    trained = {} if policy else _trained(values["policy"])
    found = {**trained, **values, "policy": policy or values["policy"]}
    if found.get("robot", "").startswith(SCENES):
        if given := sorted(values.keys() & OF_ARMS):
            raise UserError(f"{given[0]}=: a scene takes its task's options, env_args.KEY=VALUE")
        found["env_args"] = trained.get("env_args", {}) | env_args
    elif env_args:
        raise UserError(f"env_args are of scenes, robot={SCENES[0]}TASK, not of arms")
    return Deployment(**found)


def _value(key: str, text: str, kind: type) -> Any:
    if kind is bool:
        if text not in ("true", "false"):
            raise UserError(f"{key}={text}: say true or false")
        return text == "true"
    try:
        return kind(text)
    except ValueError as error:
        raise UserError(f"{key}={text}: a number is needed") from error


def _trained(policy: str) -> dict[str, Any]:
    """What the run of a policy was trained under, if it was trained on an arm or in a scene."""
    if not is_run(policy):
        return {}
    from embodied.assemble import read_run

    about, _ = read_run(policy)
    if about["env"].startswith(SCENES):
        return {"robot": about["env"], "env_args": about["env_args"]}
    if not about["env"].startswith("real/"):
        return {}
    known = ("task", "rate", "horizon", "mode", "obs")
    return {key: value for key, value in about["env_args"].items() if key in known}


def deploy(deployment: Deployment) -> Outcome:
    """Run the policy and record it.

    Raises:
        UserError: the policy does not fit, or the robot is not there. What goes wrong later is in
            the outcome: its recording is worth a look.
    """
    from hardware.errors import HardwareError

    outcome = Outcome(_directory(deployment))
    actor = make_actor(deployment.policy, deployment.timeout)
    try:
        with ExitStack() as stack:
            stack.callback(actor.close)
            person = _attended(deployment, stack)
            about = actor.description
            env = stack.enter_context(opened(deployment, outcome.directory, about, person))
            _fits(actor, env)
            _play(deployment, env, actor, outcome)
    except HardwareError as error:
        raise UserError(str(error)) from error
    return outcome


def _attended(deployment: Deployment, stack: ExitStack) -> operators.Person | None:
    """The person whom a deployment names, who lays out the scenes of arms that are no twins."""
    if not deployment.operator:
        return None
    from hardware.robots import find

    if deployment.mode != "tool delta":
        raise UserError(
            f"an operator moves the tool; that needs mode='tool delta', not {deployment.mode!r}"
        )
    scene = deployment.robot.startswith(SCENES)
    real = not (scene or find(deployment.robot, **deployment.robot_options).spec.simulated)
    return stack.enter_context(operators.attended(deployment.operator, lays_out=real))


def _directory(deployment: Deployment) -> Path:
    """A directory without a recording."""
    if deployment.record:
        directory = Path(deployment.record)
        if (directory / "run.mcap").exists():
            raise UserError(f"{directory} holds a recording; choose another directory, record=DIR")
        return directory
    policy = Path(deployment.policy).name if is_run(deployment.policy) else deployment.policy
    slug = re.sub(r"[^\w.-]+", "-", f"{policy}-{Path(deployment.robot).stem}").strip("-")
    numbers = itertools.count(1)
    return next(d for n in numbers if not (d := DIRECTORY / f"{slug}-{n}").exists())


def _fits(actor: Actor, env: Any) -> None:
    """Ask for one action before the arm moves: shapes are checked, and the first is the slowest."""
    actor.begin(0, env, np.random.default_rng(0))
    action = np.asarray(actor.act([0], [env.observation()])[0])
    if action.shape != env.action_space.shape:
        raise UserError(
            f"{actor.description['name']} answers actions {action.shape} to observations "
            f"{env.observation_space}; the robot takes {env.action_space.shape}"
        )


def _play(deployment: Deployment, env: Any, actor: Actor, outcome: Outcome) -> None:
    from embodied.report.live import StatusLine
    from envs.real_arm import ResetFailed
    from hardware.errors import HardwareError

    streams, broken = Streams(deployment.seed), 0
    end = time.monotonic() + (deployment.seconds or float("inf"))
    try:
        with _stoppable(), StatusLine(env.station) as line:
            for index in range(deployment.episodes):
                episode = _episode(deployment, env, actor, index, streams, end, line)
                outcome.episodes.append(episode)
                broken = broken + 1 if episode["end"] == "stopped" else 0
                latched = env.station.observe().latched
                if latched or broken >= BREAKS or time.monotonic() >= end:
                    break
    except (ResetFailed, HardwareError) as error:
        outcome.problem = str(error)
    except KeyboardInterrupt:
        outcome.interrupted = True
    finally:
        note_loop(env.station)
    outcome.latched = env.station.observe().latched
    if env.faults and (outcome.latched or broken >= BREAKS):
        outcome.problem = outcome.problem or env.faults[-1]


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGINT and SIGTERM raise KeyboardInterrupt, also in a job that a shell made deaf to them."""
    previous = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _episode(
    deployment: Deployment,
    env: Any,
    actor: Actor,
    index: int,
    streams: Streams,
    end: float,
    line: Any,
) -> dict[str, Any]:
    """One episode, each step noted in the recording."""
    station = env.station
    seed = int(streams.numpy(f"episode/{index}").integers(2**31))
    observation, info = env.reset(seed=seed)
    actor.begin(0, env, streams.numpy(f"policy/{index}"))
    about = {"episode": index, "seed": seed, "task": info["instruction"]}
    state = env.state_observation()
    station.note("/episode", {"event": "begin", **about, "initial_state": fingerprint(state)})
    success, length, why = False, 0, ""
    while not why:
        observed = station.observe().state.stamp
        action = actor.act([0], [observation])[0]
        latency = station.now() - observed
        observation, reward, terminated, truncated, info = env.step(action)
        before, state = state, env.state_observation()
        length, success = length + 1, success or info["success"]
        if terminated or truncated or time.monotonic() >= end:
            why = "stopped" if info["broken"] else "success" if terminated else "time"
        step = {
            "observation": before.tolist(),
            "action": info["action"].tolist(),
            "next": state.tolist(),
            "observed": time.time() - (station.now() - observed),
            "latency": latency,
            "reward": reward,
            "success": info["success"],
            "terminated": terminated,
            "truncated": bool(why) and not terminated,
            "broken": info["broken"],
            "intervened": info["intervened"],
        }
        if "scene" in info:
            step["scene"] = info["scene"].tolist()
        station.note("/step", step)
        line.update(index, deployment.episodes, latency)
    line.ended(success)
    result = {**about, "success": bool(success), "length": length, "end": why}
    station.note("/episode", {"event": "end", **result})
    return result


def note_loop(station: Any) -> None:
    """Write into the recording how the control loop fared."""
    from hardware.errors import LinkLost

    status = station.observe()
    about = {key: getattr(status, key) for key in ("steps", "overruns", "dropped", "latched")}
    with suppress(LinkLost):  # it has ended by itself
        station.note("/loop", about)


def command(overrides: Sequence[str]) -> int:
    """Deploy as the command line asks, and say what came of it."""
    deployment = parse(overrides)
    outcome = deploy(deployment)
    directory = outcome.directory
    print(f"embodied: recording: {directory / 'run.mcap'}")
    if deployment.report:
        from embodied.report.deployment import write_report

        print(f"embodied: report: {write_report(directory)}")
    count = len(outcome.episodes)
    print(f"embodied: success {outcome.successes}/{count}")
    if outcome.interrupted:
        raise KeyboardInterrupt(f"stopped after {count} whole episodes; the arm is at rest")
    if outcome.latched:
        why = outcome.problem or "the stop latched"
        raise Stopped(
            f"{why}. Look at the arm; when it is safe: embodied hardware reset "
            f'robot={deployment.robot} reason="what happened, and why it is safe now"'
        )
    if outcome.problem:
        raise UserError(outcome.problem)
    return 0
