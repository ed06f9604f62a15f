"""What the lean Meta-World and dm_control adapters share; imports no simulator.

A package's task code looks its helpers up in the module that defines the task. To give it faster
helpers, that module is executed a second time, outside `sys.modules`, and the names are exchanged
in this copy: other users of the package in the process keep the original.
"""

import functools
import importlib.util
from collections.abc import Callable, Mapping
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np


def module_copy(name: str, exchanged: Mapping[str, Any]) -> ModuleType:
    """Executes the module `name` once more and exchanges those of the names that it has."""
    spec = importlib.util.find_spec(name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    names = vars(module)
    names.update({key: value for key, value in exchanged.items() if key in names})
    return module


def altered(namespace: Any, **names: Any) -> SimpleNamespace:
    """Returns the contents of a module or namespace with some names replaced."""
    return SimpleNamespace(**{**vars(namespace), **names})


def lean_tolerance(package: Callable[..., Any]) -> Callable[..., Any]:
    """Returns dm_control's `rewards.tolerance`, or Meta-World's copy of it, for single numbers.

    The same operations on Python floats, so the same bits; about a tenth of the time. Anything but
    a float, a usual sigmoid and sound bounds goes to the package's function.
    """

    def tolerance(
        x: Any,
        bounds: tuple[float, float] = (0.0, 0.0),
        margin: float = 0.0,
        sigmoid: str = "gaussian",
        value_at_margin: float = 0.1,
    ) -> Any:
        lower, upper = bounds
        slope = _slope(sigmoid, value_at_margin)
        if slope is None or not isinstance(x, float) or lower > upper or not margin >= 0:
            return package(x, bounds, margin, sigmoid, value_at_margin)
        x = float(x)  # faster than numpy's float64
        if lower <= x <= upper:
            return 1.0
        if margin == 0:
            return 0.0
        beyond = lower - x if x < lower else x - upper
        scaled = float(beyond) / float(margin) * slope
        if sigmoid == "long_tail":
            return 1 / (scaled * scaled + 1)
        if sigmoid == "gaussian":
            return float(np.exp(-0.5 * (scaled * scaled)))
        return 1 - scaled if abs(scaled) < 1 else 0.0

    return tolerance


@functools.cache
def _slope(sigmoid: str, value: float) -> float | None:
    """The factor at which the sigmoid falls to `value` at the margin; None for other sigmoids."""
    if sigmoid == "linear" and 0 <= value < 1:
        return float(1 - value)
    if sigmoid == "long_tail" and 0 < value < 1:
        return float(np.sqrt(1 / value - 1))
    if sigmoid == "gaussian" and 0 < value < 1:
        return float(np.sqrt(-2 * np.log(value)))
    return None
