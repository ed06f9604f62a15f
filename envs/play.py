"""Play: endless skills in random order, without resets, goals or labels.

Data of this kind is what Play-LMP (Lynch et al. 2019, arXiv 1903.01973) learns from. A scene lists
skills; `PlayExpert` for ever takes one that the present state affords, in one of its variants, and
is as careless as a person: it stops half-way, misses and tries again, wanders and idles.

    env = envs.make("robosuite/Stack", horizon=20_000)
    player = envs.play.expert(env, np.random.default_rng(0))
    action = player.act(obs)

Scenes of other environments are added with `register_scene`.
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.base import UnknownTask
from envs.skills import CLOSED, HERE, OPEN, Arm, SkillExpert, Waypoint, arm_of

Look = Mapping[str, float]


@dataclass(frozen=True)
class Skill:
    """Something to do with the things of a scene.

    Attributes:
        name: unique in its scene.
        affords: whether it can be done now.
        plan: its waypoints, at least one, in a variant drawn from the generator.
        achieved: of the scene's look before and at some step since: whether it has happened.
    """

    name: str
    affords: Callable[[Arm], bool]
    plan: Callable[[Arm, np.random.Generator], list[Waypoint]]
    achieved: Callable[[Look, Look], bool]


@dataclass(frozen=True)
class Scene:
    """What can be played with.

    Attributes:
        skills: what there is to do.
        look: the quantities that skills change, by name.
        wander: an aimless motion that breaks nothing.
        rest: to a neutral pose, for when no skill is afforded.
    """

    skills: tuple[Skill, ...]
    look: Callable[[Arm], dict[str, float]]
    wander: Callable[[Arm, np.random.Generator], list[Waypoint]]
    rest: Callable[[Arm], list[Waypoint]]


@dataclass(frozen=True)
class PlaySettings:
    """How carelessly is played; ranges are drawn from for each skill.

    Attributes:
        wander: probability of an aimless motion in place of a skill.
        half: probability of stopping a skill half-way.
        miss: probability of missing on purpose, and then trying again.
        via: probability of a detour on the way there.
        idle: most control steps of rest before a skill.
        speed: range of the largest action component.
        noise: range of the standard deviation of action noise; the fingers have none.
    """

    wander: float = 0.1
    half: float = 0.15
    miss: float = 0.1
    via: float = 0.5
    idle: int = 4
    speed: tuple[float, float] = (0.5, 1.0)
    noise: tuple[float, float] = (0.05, 0.1)


class PlayExpert:
    """Plays; an `envs.Expert` that takes no notice of success."""

    def __init__(
        self, env: Any, scene: Scene, rng: np.random.Generator, settings: PlaySettings | None = None
    ) -> None:
        """Keeps the environment to look at.

        Args:
            env: the environment that is acted on.
            scene: what can be done in it.
            rng: used only here from now on.
            settings: the defaults are those of `PlaySettings`.
        """
        self.scene, self.settings = scene, settings or PlaySettings()
        self.tally = {skill.name: [0, 0] for skill in scene.skills}  # tried, achieved
        self._skills = {skill.name: skill for skill in scene.skills}
        self._walk = SkillExpert(env, self._next)
        self._arm = arm_of(env.unwrapped)
        self.action_dim: int = self._arm.action_dim
        self.reset(rng)

    def reset(self, rng: np.random.Generator | None = None) -> None:
        """Begins an episode; `rng` replaces the generator. `tally` goes on."""
        self._rng = self._rng if rng is None else rng
        self._walk.reset()
        self._doing, self._again, self._noise = "", "", 0.0
        self._before: dict[str, float] = {}

    def act(self, obs: np.ndarray, info: Mapping[str, Any] | None = None) -> np.ndarray:
        """Returns `float32[action_dim]` in [-1, 1]; `obs` is not looked at."""
        if self._doing:
            self._watch()
        action, moving = self._walk.act(obs, info), self._arm.moving
        action[:moving] += self._noise * self._rng.standard_normal(moving)
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def look(self) -> dict[str, float]:
        """The quantities that the scene's skills change, now."""
        return self.scene.look(self._arm)

    def _watch(self) -> None:
        """Counts the present skill when it is first seen to be achieved."""
        if self._skills[self._doing].achieved(self._before, self.look()):
            self.tally[self._doing][1] += 1
            self._doing = ""

    def _next(self, arm: Arm, attempt: int) -> list[Waypoint]:
        """The next thing to do, with its carelessness."""
        rng, settings = self._rng, self.settings
        self._noise = rng.uniform(*settings.noise)
        self._doing = ""
        afforded = [skill for skill in self.scene.skills if skill.affords(arm)]
        again, self._again = self._again, ""
        if not afforded:
            return self.scene.rest(arm)
        if not again and rng.random() < settings.wander:
            return _paced(self.scene.wander(arm, rng), rng.uniform(*settings.speed))
        skill = afforded[rng.integers(len(afforded))]
        if again in [each.name for each in afforded]:
            skill = self._skills[again]
        self._doing, self._before = skill.name, self.look()
        self.tally[skill.name][0] += 1
        plan = _paced(skill.plan(arm, rng), rng.uniform(*settings.speed))
        fate = rng.random()
        if fate < settings.miss:
            if not again:
                plan, self._again = _missed(plan, rng), skill.name
        elif fate < settings.miss + settings.half:
            plan = _halved(plan, rng)
        if rng.random() < settings.via:
            plan = [*_detour(arm, plan[0], rng), *plan]
        pause = int(rng.integers(settings.idle + 1))
        rest = Waypoint((0.0, 0.0, 0.0), plan[0].grip, HERE, hold=pause, limit=pause)
        return [rest, *plan] if pause else plan

    def get_state(self) -> dict[str, Any]:
        """Returns what later actions depend on, as numbers, lists and dicts."""
        return {
            "rng": self._rng.bit_generator.state,
            "walk": self._walk.get_state(),
            "doing": self._doing,
            "again": self._again,
            "noise": self._noise,
            "before": dict(self._before),
            "tally": {name: list(counts) for name, counts in self.tally.items()},
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues from a state that `get_state` returned.

        Raises:
            ValueError: the state is of a scene with other skills.
        """
        if state["tally"].keys() != self.tally.keys():
            raise ValueError(
                f"saved play has the skills {sorted(state['tally'])}, this scene "
                f"{sorted(self.tally)}"
            )
        self._rng.bit_generator.state = state["rng"]
        self._walk.set_state(state["walk"])
        self._doing, self._again, self._noise = state["doing"], state["again"], state["noise"]
        self._before = dict(state["before"])
        self.tally = {name: list(counts) for name, counts in state["tally"].items()}


def _paced(plan: Sequence[Waypoint], speed: float) -> list[Waypoint]:
    """The plan at a fraction of its speed, with time for it."""
    return [
        dataclasses.replace(point, speed=point.speed * speed, limit=round(point.limit / speed))
        for point in plan
    ]


def _halved(plan: list[Waypoint], rng: np.random.Generator) -> list[Waypoint]:
    """A beginning of the plan, cut somewhere on the way to a waypoint."""
    count = int(rng.integers(1, len(plan) + 1))
    last = dataclasses.replace(plan[count - 1], limit=int(rng.integers(1, 15)), hold=0)
    return [*plan[: count - 1], last]


def _missed(plan: list[Waypoint], rng: np.random.Generator) -> list[Waypoint]:
    """The plan 4 to 6 cm beside; of one that grasps, until the fingers have closed on nothing."""
    closing = next((i for i, point in enumerate(plan) if point.grip == CLOSED), 0)
    angle = rng.uniform(0.0, 2 * np.pi)
    aside = np.array([np.cos(angle), np.sin(angle), 0.0])
    end = []
    if plan[0].grip == OPEN and closing:
        turned = plan[closing].rotation
        if turned is not None:  # across the line of the fingers, for these not to land on it
            aside = np.reshape(turned, (3, 3))[:, 1] * rng.choice([-1.0, 1.0])
        plan = plan[: closing + 1]
        away = (0.0, 0.0, 0.08)
        if turned is not None:
            away = tuple(-0.08 * np.reshape(turned, (3, 3))[:, 2])
        end = [Waypoint(away, OPEN, HERE, tolerance=0.03)]
    shift = rng.uniform(0.04, 0.06) * aside
    moved = [
        point
        if point.body == HERE
        else dataclasses.replace(point, position=tuple(np.asarray(point.position) + shift))
        for point in plan
    ]
    return [*moved, *end]


def _detour(arm: Arm, first: Waypoint, rng: np.random.Generator) -> list[Waypoint]:
    """A point beside and above the way to the first waypoint; none for a short way."""
    if first.body == HERE:
        return []
    goal = np.asarray(first.position) + (arm.body(first.body)[0] if first.body else 0.0)
    way = goal - arm.position
    if np.linalg.norm(way[:2]) < 0.06:
        return []
    aside = np.array([-way[1], way[0], 0.0]) * rng.uniform(-0.6, 0.6)
    point = arm.position + way * rng.uniform(0.3, 0.7) + aside
    point[2] = max(arm.position[2], goal[2]) + rng.uniform(0.0, 0.08)
    return [Waypoint(tuple(point), first.grip, tolerance=0.05, angle=9.0, limit=30)]


SceneMaker = Callable[[Any], Scene]
_SCENES: dict[str, SceneMaker] = {}
_SCENE_MODULES = (
    "envs.play_cubes",
    "envs.play_door",
    "envs.play_libero",
    "envs.play_tabletop",
)  # they call register_scene


def register_scene(prefix: str, make: SceneMaker) -> None:
    """Makes environments playable.

    Args:
        prefix: of their ids, such as "libero/libero_goal/"; the longest that fits is taken.
        make: environment to scene.

    Raises:
        ValueError: the prefix has another scene.
    """
    if _SCENES.setdefault(prefix, make) is not make:
        raise ValueError(f"there already is a scene for {prefix!r}")


def expert(env: Any, rng: np.random.Generator | int, settings: PlaySettings | None = None) -> Any:
    """Returns an expert that plays in an environment of this package for ever.

    Args:
        env: made with a horizon as long as the recording; play needs no resets.
        rng: a generator, used only here from now on, or a seed.
        settings: how carelessly is played.

    Raises:
        UnknownTask: there is no scene for it, or its robot or controller has no skills.
    """
    env = env.unwrapped
    if hasattr(env, "player"):
        return env.player(rng)
    for module in _SCENE_MODULES:
        importlib.import_module(module)
    name = env.identity["id"]
    fits = [prefix for prefix in _SCENES if name.startswith(prefix)]
    if not fits:
        raise UnknownTask(f"{name} has no scene to play in; there are {', '.join(_SCENES)}")
    scene = _SCENES[max(fits, key=len)](env)
    return PlayExpert(env, scene, np.random.default_rng(rng), settings)
