"""Whole episodes with every step kept, as a collection's workers play them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np

import envs
from embodied.actors import Actor, make_actor
from embodied.columns import (
    camera_name,
    following,
    is_picture,
    observation_columns,
    task_text,
)
from embodied.core.evaluate import fingerprint
from embodied.core.seeding import Streams
from embodied.core.types import UserError
from embodied.data import Feature
from embodied.datasets import make_env
from embodied.settings import CollectSettings
from envs import demonstrations

MakeEnv: TypeAlias = Callable[[str, Mapping[str, Any]], Any]


class Job(NamedTuple):
    """Episode `index` of a task."""

    task: str
    index: int


class Played(NamedTuple):
    """An episode as it was played.

    Attributes:
        columns: [T, ...] each.
        text: what it was meant to do.
        meta: its seed, environment and initial state.
        success: whether any step succeeded.
    """

    columns: dict[str, np.ndarray]
    text: str
    meta: dict[str, Any]
    success: bool


@dataclass
class Recorder:
    """Plays episodes and keeps every step; a copy lives in each worker.

    Attributes:
        policy: see `make_actor`.
        tasks: id -> options.
        settings: seed and noise.
        layout: "robomimic" or "libero" to keep what these formats have beside observations, such
            as the simulator's state before each step; otherwise "".
        make: makes an environment.
        timeout: seconds a policy server may take to answer.
        actor: who acts, instead of the policy of that name.
    """

    policy: str
    tasks: Mapping[str, Mapping[str, Any]]
    settings: CollectSettings
    layout: str = ""
    make: MakeEnv = make_env
    timeout: float = 60.0
    actor: Actor | None = None
    _actor: Actor | None = field(default=None, init=False)
    _task: str = field(default="", init=False)
    _env: Any = field(default=None, init=False)

    def enter(self, task: str) -> Any:
        """The environment of a task, the policy made too."""
        if self._actor is None:
            self._actor = self.actor or make_actor(self.policy, self.timeout)
        if task != self._task:
            self._leave()
            self._env, self._task = self.make(task, self.tasks[task]), task
        return self._env

    @property
    def description(self) -> dict[str, Any]:
        """What the policy says of itself."""
        return self._actor.description

    def __call__(self, job: Job) -> Played:
        """Play an episode."""
        env, stream = self.enter(job.task), Streams(self.settings.seed)
        rng = stream.numpy(f"episode/{job.index}")
        policy = envs.NoisyExpert(
            _InSlot(self._actor, env.action_space.shape[0]),
            offset=self.settings.offset,
            noise=self.settings.noise,
            noise_correlation=self.settings.noise_correlation,
            random_prob=self.settings.random_prob,
            failure_prob=self.settings.failure_prob,
            rng=rng,
        )
        seed = int(rng.integers(2**31))
        stored = getattr(env.unwrapped, "stored_states", 0)
        if stored:  # all of them in turn
            seed += job.index % stored - seed % stored
        observation, info = env.reset(seed=seed)
        self._actor.begin(0, env, stream.numpy(f"policy/{job.index}"))
        meta = {
            "env": job.task,
            "index": job.index,
            "seed": seed,
            "env_hash": envs.describe(env)["hash"],
            "initial_state": fingerprint(observation),
        }
        if "init_state" in info:
            meta["init_state_index"] = int(info["init_state"])
        if self.layout:
            meta |= demonstrations.episode(env)
        rows = list(self._steps(env, policy, observation))
        columns = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        return Played(columns, task_text(env), meta, bool(columns["next.success"].any()))

    def _beside(self, env: Any) -> dict[str, np.ndarray]:
        """What the layout keeps beside the observation, before a step."""
        return demonstrations.row(env, self.layout) if self.layout else {}

    def _steps(self, env: Any, policy: Any, observation: Any) -> Iterator[dict[str, Any]]:
        """The rows of an episode; row t holds o_t, a_t and what that action caused."""
        camera, ended = camera_name(env), False
        while not ended:
            row = observation_columns(observation, camera) | self._beside(env)
            row["action"] = np.asarray(policy.act(observation), np.float32)
            observation, reward, terminated, truncated, info = env.step(row["action"])
            row["action"] = np.asarray(info.get("action", row["action"]), np.float32)
            ended = bool(terminated or truncated)
            yield (
                row
                | following(observation, camera)
                | {
                    "next.reward": np.float32(reward),
                    "next.terminated": np.bool_(terminated),
                    "next.truncated": np.bool_(truncated),
                    "next.success": np.bool_(info["success"]),
                    "next.done": np.bool_(ended),
                }
            )

    def features(self, env: Any, video: bool) -> dict[str, Feature]:
        """The columns that its episodes have.

        Raises:
            UserError: there is to be video, but there are no pictures.
        """
        sample, camera = env.observation_space.sample(), camera_name(env)
        observed = observation_columns(sample, camera)
        if video and not any(is_picture(value) for value in observed.values()):
            raise UserError("video=true needs pictures; give env_args.obs=pixels, or both")
        columns = observed | {"action": np.zeros(env.action_space.shape, np.float32)}
        columns |= following(sample, camera) | {"next.reward": np.float32(0)}
        names = ("terminated", "truncated", "success", "done")
        columns |= {f"next.{name}": np.bool_(False) for name in names}
        columns |= self._beside(env)
        return {
            name: Feature(str(value.dtype), value.shape, video=video and is_picture(value))
            for name, value in columns.items()
        }

    def _leave(self) -> None:
        if self._env is not None:
            self._env.close()
        self._env, self._task = None, ""

    def close(self) -> None:
        """Close environment and policy."""
        self._leave()
        if self._actor is not None:
            self._actor.close()
        self._actor = None


class _InSlot:
    """An actor's first slot as an `envs.Expert`; an episode begins after the environment's reset,
    which is not when `NoisyExpert` resets it."""

    def __init__(self, actor: Actor, action_dim: int) -> None:
        self.actor, self.action_dim = actor, action_dim

    def reset(self, rng: np.random.Generator | None = None) -> None:
        return

    def act(self, obs: Any, info: dict[str, Any] | None = None) -> np.ndarray:
        return self.actor.act([0], [obs])[0]
