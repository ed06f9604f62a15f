"""Tests an environment's promises and names in plain words each one that it breaks.

    python -m envs.checker maze/point-v0 metaworld/door-open-v3
    python -m envs.checker --all
    python -m envs.checker --obs both --steps 8 robosuite/Lift
    python -m envs.checker --released --all

In the manner of gymnasium's own checker and of dm_control's tests over its whole suite.
"""

import argparse
import copy
import functools
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from envs.base import EnvsError, MissingExtra, SimEnv
from envs.registry import make, tasks
from envs.wrappers import layer

SHORT_HORIZON = 5
REWARD_TOLERANCE = 1e-12  # against the released package
LONGEST_HORIZON = 2000  # declared horizons above this are not run to their end


class EnvCheckError(EnvsError, AssertionError):
    """The environment breaks promises; `problems` lists them."""

    def __init__(self, name: str, problems: list[str]) -> None:
        self.problems = problems
        lines = "".join(f"\n  - {problem}" for problem in problems)
        super().__init__(f"{name} breaks {len(problems)} promise(s):{lines}")


def check_env(
    env_or_id: gymnasium.Env | Callable[[], gymnasium.Env] | str,
    *,
    steps: int = 50,
    seed: int = 0,
    render: bool = False,
) -> list[str]:
    """Checks any gymnasium environment against the contract of this package.

    Args:
        env_or_id: an id of this package, a function that makes a new environment, or an
            environment (fewer checks are possible if it cannot be made again).
        steps: length of each trial run.
        seed: for the resets and the random actions.
        render: also check `render()`.

    Returns:
        Notes, such as a promise that could not be checked or is weaker than exact.

    Raises:
        EnvCheckError: with every broken promise.
    """
    fresh = _factory(env_or_id)
    given = isinstance(env_or_id, gymnasium.Env)
    env = env_or_id if given else fresh()
    trial = _Trial(env, fresh, steps, seed)
    checks = [trial.spaces, trial.reset, trial.steps_are_sound, trial.bounds, trial.determinism]
    checks += [trial.global_generators, trial.saving, trial.horizon]
    checks += [trial.rendering] if render else []
    problems: list[str] = []
    for check in checks:
        try:
            problems += check()
        except Exception as error:  # a stranger's environment may raise anything
            name = check.__name__.replace("_", " ")
            problems.append(f"the check of {name} stopped: {type(error).__name__}: {error}")
    trial.close(keep=env if given else None)
    if problems:
        raise EnvCheckError(_name(env), list(dict.fromkeys(problems)))
    return trial.notes


class _Trial:
    """The checks, each a generator of problems."""

    def __init__(
        self, env: gymnasium.Env, fresh: Callable[[], Any] | None, steps: int, seed: int
    ) -> None:
        self.env, self.steps, self.seed = env, steps, seed
        self.notes: list[str] = []
        self._fresh, self._made = fresh, [env]
        space = copy.deepcopy(env.action_space)
        space.seed(seed)
        self.actions = [space.sample() for _ in range(steps)]
        self.ours = isinstance(env.unwrapped, SimEnv)

    def another(self) -> gymnasium.Env | None:
        """Makes a second environment, if that is possible."""
        if self._fresh is None:
            return None
        self._made.append(self._fresh())
        return self._made[-1]

    def close(self, keep: gymnasium.Env | None) -> None:
        """Closes all environments but `keep`."""
        for env in self._made:
            if env is not keep:
                env.close()

    def note(self, text: str) -> None:
        """Adds a note once."""
        if text not in self.notes:
            self.notes.append(text)

    def spaces(self) -> Iterator[str]:
        """Spaces are gymnasium's, actions bounded."""
        for name in ("observation_space", "action_space"):
            if not isinstance(getattr(self.env, name, None), gymnasium.Space):
                yield f"{name} is not a gymnasium space"
        space = self.env.action_space
        if isinstance(space, Box):
            if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
                yield "the action space has infinite bounds; actions cannot be scaled to it"
            if not ((space.low == -1).all() and (space.high == 1).all()):
                self.note("actions are not in [-1, 1]: wrap with gymnasium's RescaleAction")

    def reset(self) -> Iterator[str]:
        """`reset` returns a sound observation and a dict."""
        result = self.env.reset(seed=self.seed)
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
            yield "reset does not return (observation, info dict)"
            return
        yield from self._observation(result[0], "reset")

    def _observation(self, obs: Any, where: str) -> Iterator[str]:
        space = self.env.observation_space
        for name, value, part in _leaves(obs, space):
            at = f"{where}: observation{name}"
            if isinstance(part, Box) and getattr(value, "dtype", None) != part.dtype:
                yield (
                    f"{at} has dtype {getattr(value, 'dtype', type(value).__name__)}, "
                    f"its space says {part.dtype}"
                )
            elif np.asarray(value).dtype.kind == "f" and not np.isfinite(value).all():
                yield f"{at} is not finite"
        if not space.contains(obs):
            yield f"{where}: observation is outside the observation space"

    def steps_are_sound(self) -> Iterator[str]:
        """Types, finiteness, success flag, untouched inputs and earlier observations."""
        obs, _ = self.env.reset(seed=self.seed)
        with_success = 0
        for action in self.actions:
            passed, before = copy.deepcopy(action), copy.deepcopy(obs)
            new, reward, terminated, truncated, info = self.env.step(passed)
            if not _same(passed, action):
                yield "step changes the action array it was given"
            if not _same(obs, before):
                yield "step changes the observation returned before: it reuses its memory"
            elif _shared(obs, new):
                yield "two successive observations share memory"
            yield from self._observation(new, "step")
            number = isinstance(reward, float | int | np.floating | np.integer)
            if not number or isinstance(reward, bool):
                yield f"reward is a {type(reward).__name__}, not a number"
            elif not np.isfinite(reward):
                yield "reward is not finite"
            for name, flag in (("terminated", terminated), ("truncated", truncated)):
                if not isinstance(flag, bool | np.bool_):
                    yield f"{name} is a {type(flag).__name__}, not a bool"
            if not isinstance(info, dict):
                yield f"info is a {type(info).__name__}, not a dict"
            elif "success" in info:
                with_success += 1
                if not isinstance(info["success"], bool):
                    kind = type(info["success"]).__name__
                    yield f'info["success"] is a {kind}, not a bool'
            obs = new
            if terminated or truncated:
                obs, _ = self.env.reset()
        if 0 < with_success < self.steps:
            yield 'info["success"] is missing in some steps'
        if not with_success:
            message = 'no info["success"]: success rates cannot be reported'
            if self.ours:
                yield message
            self.note(message)

    def bounds(self) -> Iterator[str]:
        """Extreme actions are sound; beyond the bounds is clipped and NaN refused."""
        space = self.env.action_space
        if not isinstance(space, Box):
            return
        for name, action in (("lowest", space.low), ("highest", space.high)):
            self.env.reset(seed=self.seed)
            obs, *_ = self.env.step(action.copy())
            yield from self._observation(obs, f"step with the {name} action")
        if self.ours:
            runs = []
            for action in (space.high, 3 * space.high):
                self.env.reset(seed=self.seed)
                runs.append(self.env.step(action))
            if not _same(*runs):
                yield "actions beyond the bounds are not clipped to them"
        self.env.reset(seed=self.seed)
        try:
            self.env.step(np.full(space.shape, np.nan, space.dtype))
        except Exception:  # any refusal will do
            return
        message = "a NaN action is accepted"
        if self.ours:
            yield message
        self.note(message)

    def determinism(self) -> Iterator[str]:
        """`reset(seed)` determines the episode and the resets after it, in any object."""
        first = self._run(self.env, self.env.reset(seed=self.seed))
        self.env.reset(seed=self.seed + 1)
        self.env.step(self.actions[0])
        again = self._run(self.env, self.env.reset(seed=self.seed))
        if at := _difference(first, again):
            yield f"the same object, reset twice with one seed, differs at {at}"
        other = self.another()
        if other is None:
            self.note("only one object was available: seeding across objects was not checked")
        elif at := _difference(first, self._run(other, other.reset(seed=self.seed))):
            yield f"two objects, reset with the same seed, differ at {at}"

    def _run(self, env: gymnasium.Env, *records: Any) -> list[Any]:
        """Plays the actions, resetting without a seed after each episode and at the end."""
        records = list(copy.deepcopy(records))
        for action in self.actions:
            records.append(copy.deepcopy(env.step(copy.deepcopy(action))))
            if records[-1][2] or records[-1][3]:
                records.append(copy.deepcopy(env.reset()))
        records.append(copy.deepcopy(env.reset()))
        records.append(copy.deepcopy(env.step(copy.deepcopy(self.actions[0]))))
        return records

    def global_generators(self) -> Iterator[str]:
        """The process's generators are left alone, and nothing is drawn from them."""
        before = random.getstate(), np.random.get_state()  # noqa: NPY002
        env = self.another() or self.env
        env.reset(seed=self.seed)
        for action in self.actions[:3]:
            if any(env.step(copy.deepcopy(action))[2:4]):
                break
        after = random.getstate(), np.random.get_state()  # noqa: NPY002
        for name, old, new in zip(("random", "numpy.random"), before, after, strict=True):
            if not _same(old, new):
                yield f"it uses or changes the global generator of {name}"

    def saving(self) -> Iterator[str]:
        """`set_state(get_state())` continues exactly, in the middle of an episode."""
        env = layer(self.env, "get_state")
        if not hasattr(env, "set_state"):
            self.note("no get_state/set_state: a run can be resumed at an episode's start only")
            return
        self.env.reset(seed=self.seed)
        for action in self.actions[: self.steps // 2]:
            if any(self.env.step(copy.deepcopy(action))[2:4]):
                self.env.reset()
        state = env.get_state()
        yield from (f"get_state contains {found}" for found in _not_plain(state))
        expected = self._run(self.env)
        other = self.another()
        if other is not None:
            layer(other, "get_state").set_state(state)
            if at := _difference(expected, self._run(other)):
                yield f"a fresh object continued from a saved state differs at {at}"
        env.set_state(state)
        if at := _difference(expected, self._run(self.env)):
            yield f"the same object set back to a saved state differs at {at}"
        self.note("save and restore: exact")

    def horizon(self) -> Iterator[str]:
        """Episodes are truncated at the declared horizon, not earlier and not later."""
        env = self.env
        identity = layer(env, "identity").identity if self.ours else {"wrappers": []}
        if "wrappers" not in identity:
            env = make(identity["id"], **{**identity["kwargs"], "horizon": SHORT_HORIZON})
            self._made.append(env)
            limit = SHORT_HORIZON
        elif self.ours:
            limit = layer(env, "horizon").horizon
        else:
            limit = getattr(env.spec, "max_episode_steps", None)
            limit = limit or getattr(env.unwrapped, "horizon", None)
        if not isinstance(limit, int) or limit > LONGEST_HORIZON:
            self.note("no declared horizon of a length to try")
            return
        env.reset(seed=self.seed)
        for step in range(1, limit + 1):
            _, _, terminated, truncated, _ = env.step(self.actions[step % self.steps])
            if truncated and step < limit:
                yield f"truncated at step {step}, before its horizon of {limit}"
            if terminated or truncated:
                return
        yield f"not truncated at its horizon of {limit}"

    def rendering(self) -> Iterator[str]:
        """`render()` gives an image, if there is a render mode."""
        if self.env.render_mode != "rgb_array":
            self.note(f"render mode {self.env.render_mode!r}: images were not checked")
            return
        self.env.reset(seed=self.seed)
        frame = np.asarray(self.env.render())
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            yield f"render() gives {frame.dtype}{list(frame.shape)}, not uint8[height, width, 3]"
        elif frame.min() == frame.max():
            yield "render() gives an image of one colour"


def _factory(env_or_id: Any) -> Callable[[], gymnasium.Env] | None:
    if isinstance(env_or_id, str):
        return lambda: make(env_or_id)
    if isinstance(env_or_id, gymnasium.Env):
        if env_or_id.spec is not None:
            return lambda: gymnasium.make(env_or_id.spec)
        if isinstance(env_or_id, SimEnv):
            identity = env_or_id.identity
            return lambda: make(identity["id"], **identity["kwargs"])
        return None
    if callable(env_or_id):
        return env_or_id
    raise TypeError(f"need an id, an environment or a function that makes one, got {env_or_id!r}")


def _name(env: gymnasium.Env) -> str:
    env = env.unwrapped
    return env.identity["id"] if isinstance(env, SimEnv) else type(env).__name__


def _leaves(obs: Any, space: gymnasium.Space, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields (path, value, space) of every part of an observation."""
    if isinstance(space, gymnasium.spaces.Dict) and isinstance(obs, dict):
        for key in space.keys() & obs.keys():
            yield from _leaves(obs[key], space[key], f"{name}[{key!r}]")
    elif isinstance(space, gymnasium.spaces.Tuple) and isinstance(obs, tuple):
        for i, (value, part) in enumerate(zip(obs, space, strict=False)):
            yield from _leaves(value, part, f"{name}[{i}]")
    else:
        yield name, obs, space


def _same(a: Any, b: Any) -> bool:
    """Compares nested values bit for bit (NaN equals NaN)."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        a, b = np.asarray(a), np.asarray(b)
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b) or (a != a and b != b)


def _difference(first: list[Any], second: list[Any]) -> str | None:
    """Says where two recorded runs part, or returns None."""
    names = ("observation", "reward", "terminated", "truncated", "info")
    for i, (a, b) in enumerate(zip(first, second, strict=False)):
        for name, x, y in zip(
            names if len(a) == 5 else ("observation", "info"), a, b, strict=False
        ):
            if not _same(x, y):
                return f"record {i} of {len(first)}, in its {name}"
    return None if len(first) == len(second) else "the end of an episode"


def _shared(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return np.shares_memory(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return any(_shared(a[key], b[key]) for key in a.keys() & b.keys())
    if isinstance(a, tuple) and isinstance(b, tuple):
        return any(_shared(x, y) for x, y in zip(a, b, strict=False))
    return False


def _not_plain(value: Any, path: str = "state") -> Iterator[str]:
    """Finds what a checkpoint could not hold: objects other than arrays, numbers, text, dicts."""
    if isinstance(value, dict):
        for key, part in value.items():
            if not isinstance(key, str):
                yield f"the key {key!r} in {path}, which is not a string"
            yield from _not_plain(part, f"{path}[{key!r}]")
    elif isinstance(value, list):
        for i, part in enumerate(value):
            yield from _not_plain(part, f"{path}[{i}]")
    elif isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf":
            yield f"an array of dtype {value.dtype} at {path}"
    elif type(value) not in (bool, int, float, str):
        yield f"a {type(value).__name__} at {path}"


def main(argv: list[str] | None = None) -> int:
    """Checks ids given on the command line; returns the number of those that fail."""
    parser = argparse.ArgumentParser(prog="python -m envs.checker", description=__doc__)
    parser.add_argument("ids", nargs="*", help="ids, such as maze/point-v0")
    parser.add_argument("--all", action="store_true", help="every known id")
    parser.add_argument(
        "--released", action="store_true", help="compare with the released package, bit for bit"
    )
    parser.add_argument(
        "--steps",
        type=int,
        help="by default 50; with --released whole episodes, 200 of robosuite and LIBERO",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--render", action="store_true", help="check images too")
    parser.add_argument("--obs", default="state", choices=("state", "pixels", "both"))
    args = parser.parse_args(argv)
    ids = tasks() if args.all else args.ids
    if args.released:
        ids = [env_id for env_id in ids if env_id.split("/")[0] != "maze"]  # it is no package's
    if not ids:
        parser.error("name at least one id, or --all")
    failed = absent = 0
    for env_id in ids:
        start = time.perf_counter()
        try:
            verdict = _verdict(env_id, args)
        except MissingExtra as error:
            absent, verdict = absent + 1, f"left out: {error}"
        except EnvsError as error:
            failed, verdict = failed + 1, f"FAILED: {error}"
        print(f"{env_id:45s} {time.perf_counter() - start:5.1f} s  {verdict}", flush=True)
    promise = "compute what the released package does" if args.released else "keep the contract"
    print(f"{len(ids) - absent - failed} of {len(ids) - absent} {promise}, {absent} left out")
    return int(failed > 0 or absent == len(ids))


def _verdict(env_id: str, args: argparse.Namespace) -> str:
    if not args.released:
        kwargs = {} if args.obs == "state" else {"obs": args.obs, "render": "fast"}
        fresh = functools.partial(make, env_id, **kwargs)
        notes = check_env(fresh, steps=args.steps or 50, seed=args.seed, render=args.render)
        return "; ".join(notes)
    from envs.identity import compare

    found = compare(env_id, steps=args.steps, seed=args.seed)
    if found.observations or found.successes or found.states or found.reward > REWARD_TOLERANCE:
        raise EnvCheckError(env_id, [str(found)])
    return f"observations and states identical, rewards within {found.reward:.0e}"


if __name__ == "__main__":
    sys.exit(main())
