"""The suite's environments with cheaper checks and name look-ups, the same to the bit.

The physics makes the same simulator calls in the same order, and the tasks are the suite's own
code. Exchanged are `physics.step`, the named views `physics.named.data`, and `rewards.tolerance`,
all in objects of our own (`envs.lean`), so that other users of dm_control see nothing of it.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import mujoco
import numpy as np
from dm_control.mujoco import index
from dm_control.rl.control import Environment, PhysicsError
from dm_control.suite import base
from dm_control.utils import rewards

from envs.lean import altered, lean_tolerance, module_copy

EXCHANGED = {"rewards": altered(rewards, tolerance=lean_tolerance(rewards.tolerance))}
_copy = functools.cache(functools.partial(module_copy, exchanged=EXCHANGED))


def load(domain: str, task: str) -> Environment:
    """Returns `suite.load(domain, task)`, with `random=0` and no time limit, made lean."""
    environment = _copy(f"dm_control.suite.{domain}").SUITE[task](random=0, time_limit=float("inf"))
    environment.task.visualize_reward = False
    if type(environment.task).before_step is not base.Task.before_step:
        raise RuntimeError(f"{domain}-{task} changes its actions; this version is unsupported")
    physics = environment.physics
    fields = physics.named.data._asdict()
    physics._data = FixedData(physics.data, fields)
    physics.step = _step(physics)
    named = index.make_struct_indexer({name: NamedField(old) for name, old in fields.items()})
    physics._named = physics._named._replace(data=named)
    return environment


class FixedData:
    """Stands for the package's wrapper of the simulation data, which asks MuJoCo for each array.

    Args:
        data: the wrapper.
        names: arrays that stay where they are as long as the data live.
    """

    def __init__(self, data: Any, names: Iterable[str]) -> None:
        vars(self).update({name: getattr(data, name) for name in names}, _wrapped=data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._wrapped, name, value)


def _step(physics: Any) -> Callable[[int], None]:
    """Returns the package's `physics.step` for this model, without its context manager."""
    model, data, warnings = physics.model.ptr, physics.data.ptr, physics.data.warning.number
    two_halves = model.opt.integrator != mujoco.mjtIntegrator.mjINT_RK4
    if not physics.legacy_step:
        raise RuntimeError("physics.legacy_step is off; this version of dm_control is unsupported")

    def step(nstep: int = 1) -> None:
        before = warnings.tolist()
        if not two_halves:
            mujoco.mj_step(model, data, nstep)
        else:
            mujoco.mj_step2(model, data)
            if nstep > 1:
                mujoco.mj_step(model, data, nstep - 1)
        mujoco.mj_step1(model, data)
        after = warnings.tolist()
        if after != before and physics._warnings_cause_exception:
            names = mujoco.mjtWarning.__members__  # the last counts the others
            new = [n for n, old, now in zip(names, before, after, strict=False) if now > old]
            if new:
                raise PhysicsError(f"the physics state is invalid: MuJoCo warns of {new}")

    return step


class NamedField(index.FieldIndexer):
    """Named access to one field, which remembers where an index expression leads.

    Names and slices lead to a view, which stays the same; lists of names to a copy, taken at known
    places of the flat field.
    """

    __slots__ = ("_known",)

    def __init__(self, field: index.FieldIndexer) -> None:
        self._field_name, self._field, self._axes = field._field_name, field._field, field._axes
        self._known: dict[Any, Callable[[], Any]] = {}

    def __getitem__(self, key: Any) -> Any:
        try:
            return self._known[key if type(key) is str else _frozen(key)]()
        except KeyError:
            getter = self._known[_frozen(key)] = self._getter(self._convert_key(key))
            return getter()
        except TypeError:
            return super().__getitem__(key)

    def _getter(self, place: Any) -> Callable[[], Any]:
        field = self._field
        found = field[place]
        if not isinstance(found, np.ndarray):
            return functools.partial(field.__getitem__, place)
        if np.shares_memory(found, field):
            return lambda: found
        places = np.arange(field.size).reshape(field.shape)[place]
        return functools.partial(field.reshape(-1).take, places)


def _frozen(key: Any) -> Any:
    """Returns a hashable form of an index made of names, integers, slices, lists and tuples.

    A name stands for itself. Everything else is marked with its type, since a list and a tuple mean
    different things, and `True` equals 1.
    """
    kind = type(key)
    if kind is str:
        return key
    if kind is tuple or kind is list:
        return (kind, *[part if type(part) is str else _frozen(part) for part in key])
    if kind is slice:
        return (kind, key.start, key.stop, key.step)
    if kind is int:
        return (kind, key)
    raise TypeError(f"an index of type {kind.__name__} is not remembered")
