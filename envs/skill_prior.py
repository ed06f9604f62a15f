"""Skills as an environment shows and takes them.

`SkillPrior` draws a skill for each episode and shows it with the observation: what unsupervised
skill discovery learns from. `RunSkill` takes a skill as its action and carries it out with a frozen
policy: what is learnt or planned over the skills afterwards, by whatever method.

    env = envs.make("puck/push-v0", prior="sphere-2")
    env = envs.make("puck/push-goal-v0", skills="runs/slim/skills.npz", skill_steps=10)
"""

import hashlib
import io
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from envs.wrappers import Wrapper

KINDS = ("sphere", "one-hot")


class SkillSpace:
    """Skills: the unit sphere in `dim` dimensions, or one of `dim`.

    Attributes:
        kind: sphere or one-hot.
        dim: length of a skill.
    """

    def __init__(self, kind: str, dim: int) -> None:
        if kind not in KINDS or dim < 2:
            raise ValueError(f"skills are sphere-N or one-hot-N, N at least 2, not {kind}-{dim}")
        self.kind, self.dim = kind, dim

    @classmethod
    def parse(cls, name: str) -> "SkillSpace":
        """Reads "sphere-2" or "one-hot-8".

        Raises:
            ValueError: it is neither.
        """
        kind, _, dim = str(name).rpartition("-")
        return cls(kind or str(name), int(dim) if dim.isdecimal() else 0)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """A uniform skill, float32[dim]."""
        if self.kind == "one-hot":
            return np.eye(self.dim, dtype=np.float32)[rng.integers(self.dim)]
        return self.nearest(rng.standard_normal(self.dim))

    def nearest(self, vectors: np.ndarray) -> np.ndarray:
        """The skills nearest to vectors [..., dim], float32."""
        vectors = np.asarray(vectors, np.float64)
        if self.kind == "one-hot":
            return np.eye(self.dim, dtype=np.float32)[vectors.argmax(-1)]
        lengths = np.sqrt(np.square(vectors).sum(-1, keepdims=True))
        first = np.eye(self.dim)[0]
        unit = np.where(lengths > 1e-9, vectors / np.maximum(lengths, 1e-9), first)
        return unit.astype(np.float32)


class SkillPrior(Wrapper):
    """Shows a skill after the observation, another one in each episode, drawn from its seed."""

    def __init__(self, env: gymnasium.Env, prior: str) -> None:
        """Wraps an environment that observes a vector; `prior` as in `SkillSpace.parse`."""
        self.space = SkillSpace.parse(prior)
        if len(env.observation_space.shape or ()) != 1:
            raise ValueError("a skill is shown with a vector: prior needs obs=state")
        super().__init__(env, kind=self.space.kind, dim=self.space.dim)
        size = env.observation_space.shape[0] + self.space.dim
        self.observation_space = Box(-np.inf, np.inf, (size,), np.float32)
        self.skill = np.zeros(self.space.dim, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Starts an episode; see `SimEnv.reset`."""
        observation, info = self.env.reset(seed=seed, options=options)
        # 1 keeps it apart from what the environment draws with the same seed
        self.skill = self.space.draw(np.random.default_rng([info["episode_seed"], 1]))
        return np.concatenate([observation, self.skill]), info

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Takes a step; see `SimEnv.step`."""
        observation, *rest = self.env.step(action)
        return (np.concatenate([observation, self.skill]), *rest)

    def observation(self) -> np.ndarray:
        """Returns the present observation once more."""
        return np.concatenate([self.env.observation(), self.skill])

    def get_state(self) -> dict[str, Any]:
        """Returns all that later steps and resets depend on."""
        return {**super().get_state(), "skill": self.skill.copy()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from a state that `get_state` returned."""
        super().set_state(state)
        self.skill = np.array(state["skill"], np.float32)


class FrozenSkills:
    """The policy of learnt skills, tanh of an MLP with ReLU, in numpy.

    Attributes:
        space: the skills.
        hash: 16 hex digits that identify the policy.
    """

    def __init__(self, path: str | Path) -> None:
        """Reads what `embodied.skills` wrote.

        Raises:
            ValueError: the file is not there, or is something else.
        """
        try:
            content = Path(path).read_bytes()
            with np.load(io.BytesIO(content), allow_pickle=False) as found:
                arrays = {name: found[name] for name in found.files}
            self.space = SkillSpace(str(arrays["kind"]), int(arrays["dim"]))
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(
                f"skills={path}: {error}; write them with python -m embodied.skills RUN"
            ) from error
        self.hash = hashlib.sha256(content).hexdigest()[:16]
        self._shift, self._scale = arrays["shift"], arrays["scale"]
        count = sum(name.startswith("weight") for name in arrays)
        self._layers = [(arrays[f"weight{i}"], arrays[f"bias{i}"]) for i in range(count)]
        self.state_dim = len(self._shift) - self.space.dim
        self.action_dim = len(self._layers[-1][1])

    def act(self, state: np.ndarray, skill: np.ndarray) -> np.ndarray:
        """Actions [..., A] of skills [..., dim] in states of which the first numbers are known."""
        x = np.concatenate([state[..., : self.state_dim], skill], -1)
        x = np.clip((x - self._shift) * self._scale, -10.0, 10.0)
        for i, (weight, bias) in enumerate(self._layers):
            x = x @ weight + bias
            if i < len(self._layers) - 1:
                x = np.maximum(x, 0.0)
        return np.tanh(x)


class RunSkill(Wrapper):
    """Takes a skill and carries it out for some steps; rewards are summed.

    An action is a vector in [-1, 1]; the skill nearest to it is run. It stops where the episode
    ends. `trail` holds the states passed through since the last call of `step`.
    """

    def __init__(self, env: gymnasium.Env, skills: str, steps: int = 10) -> None:
        """Wraps an environment whose state begins with what the skills were learnt on.

        Raises:
            ValueError: the skills are of another environment, or `steps` is less than 1.
        """
        self.policy = FrozenSkills(skills)
        fits = len(env.observation_space.shape or ()) == 1
        if (
            steps < 1
            or not fits
            or env.observation_space.shape[0] < self.policy.state_dim
            or env.action_space.shape != (self.policy.action_dim,)
        ):
            raise ValueError(
                f"skills={skills} with skill_steps={steps}: made for at least "
                f"{self.policy.state_dim} numbers of state and {self.policy.action_dim} of action, "
                f"here are {env.observation_space.shape} and {env.action_space.shape}"
            )
        super().__init__(env, skills=self.policy.hash, steps=steps)
        self.steps = steps
        self.action_space = Box(-1.0, 1.0, (self.policy.space.dim,), np.float32)
        self.trail: list[np.ndarray] = []

    @property
    def horizon(self) -> int:
        """Length of an episode in skills; the last one may be cut short."""
        return -(-self.env.horizon // self.steps)

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Runs a skill.

        Raises:
            ValueError: the action has the wrong shape or is not finite.
            RuntimeError: the episode is over.
        """
        action = np.asarray(action, np.float32)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise ValueError(
                f"{self.identity['id']}: a skill must be finite and {self.action_space.shape}, "
                f"got {action.shape}: {action.tolist()}"
            )
        skill = self.policy.space.nearest(action)
        observation, total, success, self.trail = self.env.observation(), 0.0, False, []
        for _ in range(self.steps):
            command = self.policy.act(observation, skill)
            observation, reward, terminated, truncated, info = self.env.step(command)
            self.trail.append(observation)
            total, success = total + reward, success or bool(info["success"])
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, {**info, "success": success}
