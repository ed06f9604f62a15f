"""Names of all environments, and how to make and identify one."""

import difflib
import hashlib
import importlib
import json
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import gymnasium

from envs.base import Options, UnknownTask
from envs.rendering import FAST_LOOK, gl
from envs.skill_prior import RunSkill, SkillPrior
from envs.wrappers import ActionChunk, FrameStack, layer

# Raise this when a change here alters trajectories; results of different revisions do not compare.
REVISION = 1

_METAWORLD = """
assembly basketball bin-picking box-close button-press button-press-topdown
button-press-topdown-wall button-press-wall coffee-button coffee-pull coffee-push dial-turn
disassemble door-close door-lock door-open door-unlock drawer-close drawer-open faucet-close
faucet-open hammer hand-insert handle-press handle-press-side handle-pull handle-pull-side
lever-pull peg-insert-side peg-unplug-side pick-out-of-hole pick-place pick-place-wall plate-slide
plate-slide-back plate-slide-back-side plate-slide-side push push-back push-wall reach reach-wall
shelf-place soccer stick-pull stick-push sweep sweep-into window-close window-open
"""
_DM_CONTROL = """
acrobot-swingup acrobot-swingup_sparse ball_in_cup-catch cartpole-balance cartpole-balance_sparse
cartpole-swingup cartpole-swingup_sparse cartpole-three_poles cartpole-two_poles cheetah-run
dog-fetch dog-run dog-stand dog-trot dog-walk finger-spin finger-turn_easy finger-turn_hard
fish-swim fish-upright hopper-hop hopper-stand humanoid-run humanoid-run_pure_state humanoid-stand
humanoid-walk humanoid_CMU-run humanoid_CMU-stand humanoid_CMU-walk lqr-lqr_2_1 lqr-lqr_6_2
manipulator-bring_ball manipulator-bring_peg manipulator-insert_ball manipulator-insert_peg
pendulum-swingup point_mass-easy point_mass-hard quadruped-escape quadruped-fetch quadruped-run
quadruped-walk reacher-easy reacher-hard stacker-stack_2 stacker-stack_4 swimmer-swimmer15
swimmer-swimmer6 walker-run walker-stand walker-walk
"""
_ROBOSUITE = """
Lift Stack Door NutAssembly NutAssemblySingle NutAssemblySquare NutAssemblyRound PickPlace
PickPlaceSingle PickPlaceMilk PickPlaceBread PickPlaceCereal PickPlaceCan Wipe TwoArmLift
TwoArmPegInHole TwoArmHandover
"""
_TABLETOP = """
drawer-open drawer-close door-left door-right button-red button-green button-blue block-left
block-right
"""
_LIBERO = {
    "libero_spatial": 10,
    "libero_object": 10,
    "libero_goal": 10,
    "libero_10": 10,
    "libero_90": 90,
}
_TASKS = {
    "metaworld": tuple(f"{name}-v3" for name in _METAWORLD.split()),
    "dm_control": tuple(_DM_CONTROL.split()),
    "robosuite": tuple(_ROBOSUITE.split()),
    "libero": tuple(f"{suite}/{i}" for suite, count in _LIBERO.items() for i in range(count)),
    "maze": ("point-v0",),
    "puck": ("push-v0", "push-goal-v0"),
    "corridors": ("point-v0",),
    "tabletop": ("any", *_TABLETOP.split()),
}
_ARMS = {"real": ("panda_twin",)}
"""They cannot be put back into a state, and an episode of theirs begins where the arm came to rest:
of the contract they keep all but exact seeding and saving."""
_ADAPTERS = {
    "metaworld": ("envs.metaworld", "MetaWorldEnv"),
    "dm_control": ("envs.dmcontrol", "DMControlEnv"),
    "robosuite": ("envs.robosuite", "RobosuiteEnv"),
    "libero": ("envs.libero", "LiberoEnv"),
    "maze": ("envs.maze", "PointMaze"),
    "puck": ("envs.push", "PushTable"),
    "corridors": ("envs.corridors", "Corridors"),
    "tabletop": ("envs.tabletop", "TableTop"),
    "real": ("envs.twin_arm", "TwinArm"),
}
_PACKAGES = {
    "metaworld": ("metaworld", "mujoco", "gymnasium"),  # Meta-World stands on gymnasium's MujocoEnv
    "dm_control": ("dm_control", "mujoco"),
    "robosuite": ("robosuite", "mujoco"),
    "libero": ("hf-libero", "robosuite", "mujoco"),
    "maze": (),
    "puck": (),
    "corridors": (),
    "tabletop": ("mujoco",),
    "real": ("mujoco",),
}


def tasks(suite: str | None = None) -> list[str]:
    """Returns the known ids, all simulated ones or those of one suite ("real": the arms).

    Raises:
        UnknownTask: there is no such suite.
    """
    known = _TASKS | _ARMS
    if suite is not None and suite not in known:
        raise UnknownTask(f"no suite {suite!r}; there are {', '.join(known)}")
    return [f"{s}/{name}" for s in (_TASKS if suite is None else (suite,)) for name in known[s]]


def split_id(env_id: str) -> tuple[str, str]:
    """Returns suite and task name of a known id.

    Raises:
        UnknownTask: with the nearest known ids in the message.
    """
    suite, _, task = env_id.partition("/")
    if task in (_TASKS | _ARMS).get(suite, ()):
        return suite, task
    near = difflib.get_close_matches(env_id, [*tasks(), *tasks("real")], n=3, cutoff=0.0)
    raise UnknownTask(
        f"no environment {env_id!r}; nearest are {', '.join(near)} (envs.tasks() lists all)"
    )


def make(
    env_id: str,
    *,
    obs: str = "state",
    reward: str = "dense",
    horizon: int | None = None,
    terminate_on_success: bool = False,
    action_repeat: int = 1,
    image_size: int = 84,
    camera: str | int | None = None,
    cameras: Sequence[str] | None = None,
    render: str = "package",
    render_mode: str | None = "rgb_array",
    render_size: tuple[int, int] = (240, 320),
    frame_stack: int | None = None,
    action_chunk: int | None = None,
    prior: str | None = None,
    skills: str | None = None,
    skill_steps: int = 10,
    **task_kwargs: Any,
) -> gymnasium.Env:
    """Makes an environment.

    Args:
        env_id: `metaworld/<task>-v3`, `dm_control/<domain>-<task>`, `robosuite/<Task>`,
            `libero/<suite>/<index>`, `tabletop/<task>`, `maze/point-v0`, `corridors/point-v0`,
            `puck/push-v0`, `puck/push-goal-v0` or `real/panda_twin`.
        obs: "state", a flat float32 vector; "pixels", uint8 `[image_size, image_size, 3]`; or
            "both", a dict with these as `state` and `pixels`.
        reward: "dense", the simulator's own, summed over `action_repeat`; or "sparse", 1 on a step
            with success, else 0.
        horizon: calls of `step` until truncation. By default the simulator's own episode length
            (Meta-World 500, dm_control 1000, robosuite 500, LIBERO 220 to 520 by suite, the
            table-top 60, maze 30, corridors 20, puck 50 control steps) divided by
            `action_repeat`.
        terminate_on_success: end the episode at its first success.
        action_repeat: control steps per call of `step`.
        image_size: side of a pixel observation.
        camera: name or number; by default one that shows the whole scene.
        cameras: with obs="both", several cameras: the pictures are then `pixels.<camera>` each.
        render: "package", the simulator's own look, or "fast", without shadows, reflections and
            multisampling and with meshes no finer than the picture (`envs.rendering`). Applies to
            pixel observations and to `render()`.
        render_mode: "rgb_array" or None.
        render_size: height and width of the image from `render()`.
        frame_stack: observe so many observations at once; see `envs.wrappers.FrameStack`.
        action_chunk: take so many actions at once; see `envs.wrappers.ActionChunk`.
        prior: show a skill with each observation, "sphere-N" or "one-hot-N"; see
            `envs.skill_prior.SkillPrior`.
        skills: file of frozen skills to take as actions; see `envs.skill_prior.RunSkill`.
        skill_steps: steps that each of them runs.
        **task_kwargs: options of one suite; the maze has `wall_height` and `step_size`, the
            table-top `displaced`, robosuite, LIBERO and the twin those of `RobosuiteEnv`,
            `LiberoEnv` and `TwinArm`.

    Raises:
        UnknownTask: the id is unknown.
        MissingExtra: its simulator is not installed.
        ValueError: an option is out of range.
    """
    suite, task = split_id(env_id)
    options = Options(
        obs=obs,
        reward=reward,
        horizon=horizon,
        terminate_on_success=terminate_on_success,
        action_repeat=action_repeat,
        image_size=image_size,
        camera=camera,
        cameras=None if cameras is None else tuple(cameras),
        render=render,
        render_mode=render_mode,
        render_size=tuple(render_size),
    )
    module, name = _ADAPTERS[suite]
    env = getattr(importlib.import_module(module), name)(env_id, task, options, **task_kwargs)
    if frame_stack is not None:
        env = FrameStack(env, frame_stack)
    if skills is not None:
        env = RunSkill(env, skills, skill_steps)
    if prior is not None:
        env = SkillPrior(env, prior)
    return env if action_chunk is None else ActionChunk(env, action_chunk)


def describe(env: Any) -> dict[str, Any]:
    """Returns what a result from this environment depends on.

    Args:
        env: an environment or vector environment of this package, wrapped or not.

    Returns:
        `id`, `kwargs`, `wrappers` if there are any, `versions` of the simulator's packages,
        `revision` of this one, and `hash`: 16 hex digits over all these. Results compare only
        under equal hashes. Also `look`, how pictures are drawn: `render`, and where observations
        have pictures, the `gl` that draws them and its `device`. These last two depend on the
        machine and are not in the hash.
    """
    env = layer(env, "identity") or env.unwrapped  # a vector environment has wrappers of its own
    identity = env.identity
    suite = identity["id"].partition("/")[0]
    known = identity["id"] in tasks(suite)  # an arm of a lab's own is in no list
    packages = _PACKAGES[suite] if known else ()
    described = {
        **identity,
        "versions": {package: metadata.version(package) for package in packages},
        "revision": REVISION,
    }
    look: dict[str, Any] = {"render": env.options.render}
    pictures = env.options.obs != "state"
    if look["render"] == "fast":
        look["revision"] = FAST_LOOK
    text = json.dumps({**described, "look": look} if pictures else described, sort_keys=True)
    if pictures and suite not in ("maze", "corridors", "puck"):  # which draw themselves
        look |= gl()
    return {**described, "look": look, "hash": hashlib.sha256(text.encode()).hexdigest()[:16]}


def register_gymnasium() -> None:
    """Registers each id with gymnasium as `embodied/<id with / as ->`; imports no simulator."""
    for env_id in tasks():
        name = f"embodied/{env_id.replace('/', '-')}"
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point="envs.registry:make", kwargs={"env_id": env_id})
