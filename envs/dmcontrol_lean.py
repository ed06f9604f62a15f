"""The suite's environments with cheaper checks and name look-ups, the same to the bit.

The physics makes the same simulator calls in the same order, and the tasks are the suite's own
code. Exchanged are `physics.step` and `set_control`, the named views `physics.named.data`, and
`rewards.tolerance`, all in objects of our own (`envs.lean`), so that other users of dm_control see
nothing of it.
"""

import functools
from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np
from dm_control.mujoco import index
from dm_control.rl.control import Environment, PhysicsError
from dm_control.utils import rewards

from envs.lean import altered, lean_tolerance, module_copy

EXCHANGED = {"rewards": altered(rewards, tolerance=lean_tolerance(rewards.tolerance))}
_copy = functools.cache(functools.partial(module_copy, exchanged=EXCHANGED))


def load(domain: str, task: str) -> Environment:
    """Returns `suite.load(domain, task)`, with `random=0` and no time limit, made lean."""
    environment = _copy(f"dm_control.suite.{domain}").SUITE[task](random=0, time_limit=float("inf"))
    environment.task.visualize_reward = False
    physics = environment.physics
    physics.step = _step(physics)
    physics.set_control = functools.partial(np.copyto, physics.data.ctrl)
    fields = physics.named.data._asdict()
    named = index.make_struct_indexer({name: NamedField(old) for name, old in fields.items()})
    physics._named = physics._named._replace(data=named)
    return environment


def _step(physics: Any) -> Callable[[int], None]:
    """Returns the package's `physics.step` for this model, without its context manager."""
    model, data, warnings = physics.model.ptr, physics.data.ptr, physics.data.warning.number
    two_halves = model.opt.integrator != mujoco.mjtIntegrator.mjINT_RK4
    if not physics.legacy_step:
        raise RuntimeError("physics.legacy_step is off; this version of dm_control is unsupported")

    def step(nstep: int = 1) -> None:
        before = warnings.tolist()
        if two_halves:
            mujoco.mj_step2(model, data)
            if nstep > 1:
                mujoco.mj_step(model, data, nstep - 1)
        else:
            mujoco.mj_step(model, data, nstep)
        mujoco.mj_step1(model, data)
        after = warnings.tolist()
        if after != before and physics._warnings_cause_exception:
            names = list(mujoco.mjtWarning.__members__)
            new = [n for n, a, b in zip(names, after, before, strict=False) if a > b]
            if new:
                raise PhysicsError(f"the physics state is invalid: MuJoCo warns of {new}")

    return step


class NamedField(index.FieldIndexer):
    """Named access to one field, which remembers what an index expression meant."""

    __slots__ = ("_known",)

    def __init__(self, field: index.FieldIndexer) -> None:
        self._field_name, self._field, self._axes = field._field_name, field._field, field._axes
        self._known: dict[Any, Any] = {}

    def _convert_key(self, key: Any) -> Any:
        try:
            return self._known[key]  # at once for names alone: other keys are stored frozen
        except (KeyError, TypeError):
            pass
        try:
            frozen = _frozen(key)
        except TypeError:
            return super()._convert_key(key)
        if frozen not in self._known:
            self._known[frozen] = super()._convert_key(key)
        return self._known[frozen]


def _frozen(key: Any) -> Any:
    """Returns a hashable form of an index made of names, integers, slices, lists and tuples.

    A name or a tuple of names stands for itself. Everything else is marked with its type, since
    a list and a tuple mean different things, and `True` equals 1.
    """
    kind = type(key)
    if kind is str or (kind is tuple and all(type(part) is str for part in key)):
        return key
    if kind is tuple or kind is list:
        return (kind, *map(_frozen, key))
    if kind is slice:
        return (kind, key.start, key.stop, key.step)
    if kind is int:
        return (kind, key)
    raise TypeError(f"an index of type {kind.__name__} is not remembered")
